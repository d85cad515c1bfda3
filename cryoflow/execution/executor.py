"""Run a picker's commands: on this machine, in a Docker or Apptainer image, or as a SLURM job.

A command is a list of arguments until the last moment; only the text of a job script is quoted for a shell. Paths of a
work folder are relative to it, and commands run with it as their working folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution.containers import OWN_PYTHON, Mounts, apptainer_exec, docker_run, real_paths
from cryoflow.execution.job_script import slurm_script
from cryoflow.execution.resources import JobRequest, Resources
from cryoflow.execution.slurm import Scheduler
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.system import programs

OnLine = Callable[[str], None]
logger = logging.getLogger(__name__)

_FOLLOW_EVERY_S = 0.5
_SHOWN_LINES = 40


@dataclass(frozen=True)
class Step:
    """One command, run in a work folder. `argv[0]` is the program's usual name."""

    title: str
    argv: tuple[str, ...]
    makes: tuple[str, ...] = ()
    """Files, relative to the folder, that must be there and not empty when it is done."""
    wants_gpu: bool = False


@dataclass(frozen=True)
class WorkFolder:
    """The folder that commands work in.

    Attributes
    ----------
    path
        Absolute path.
    marker
        File in it whose first line no other folder has: by it a job script finds the folder after a move.
    read_only
        Folders and files elsewhere that the commands read: a container must see them.
    """

    path: Path
    marker: str
    read_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Executor:
    """Where commands run, and what they may use.

    Attributes
    ----------
    container, image
        `docker` or `apptainer`, and the image; without, the program is one of this machine.
    slurm
        Submit the commands as one job, and wait for its end.
    sbatch_options
        Handed to sbatch as they are, such as `--partition=gpu`; nothing of a site is built in.
    programs
        Folder in which the programs are looked for before PATH.
    """

    container: Literal["", "docker", "apptainer"] = ""
    image: str = ""
    slurm: bool = False
    sbatch_options: tuple[str, ...] = ()
    programs: Path | None = None
    resources: Resources = field(default_factory=Resources)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if bool(self.container) != bool(self.image):
            raise BadInput("image", "and `container` (docker or apptainer) need each other.")


def run_steps(
    steps: Sequence[Step], executor: Executor, folder: WorkFolder, log: Path, on_line: OnLine | None = None
) -> float:
    """Run commands one after the other, check the files that each makes, and return the seconds that it took.

    Raises
    ------
    ToolFailed
        Where one exits with an error; carries the end of its output.
    BadInput
        Where a program is missing, or one ended well but did not write its files.
    """
    started = time.time()
    write_atomically(log, "")
    begun = log.stat().st_mtime  # by the clock of the file server, like all that the program writes
    if executor.slurm:
        _submit(steps, executor, folder, log, on_line)
        for step in steps:
            _check(step, folder.path, begun, log)
    for step in () if executor.slurm else steps:
        programs.run(
            command(step, executor, folder),
            cwd=folder.path,
            env=_environment(),
            log_file=log,
            on_line=on_line,
            timeout_s=executor.timeout_s,
        )
        _check(step, folder.path, begun, log)
    return time.time() - started


def command(step: Step, executor: Executor, folder: WorkFolder) -> list[str]:
    """Return the whole argument list of a step."""
    if not executor.container:
        return [_program(step.argv[0], executor.programs), *step.argv[1:]]
    return [*_in_container(step, executor, folder), *step.argv[1:]]


def _in_container(step: Step, executor: Executor, folder: WorkFolder) -> list[str]:
    """Return the arguments up to and with the program: the folder is writable, what it reads elsewhere is read-only."""
    home = str(folder.path)
    mounts = Mounts((*folder.read_only, *real_paths(step.argv[1:], folder.path)), (home,))
    gpu = step.wants_gpu and bool(executor.resources.gpus)
    if executor.container == "docker":
        # With --init the program ends when we do: as the first process of a container it would ignore SIGTERM.
        # Docker's 64 MB of shared memory are too few for PyTorch's loaders; this is a limit, nothing is taken.
        options = ("--init", "--shm-size", "8g")
        env = {"HOME": "/tmp", **OWN_PYTHON}  # noqa: S108  # the one folder of an image that any user may write to
        return docker_run(
            executor.image, mounts, gpu=gpu, program=step.argv[0], environment=env, folder=home, options=options
        )
    program = next((name for name in ("apptainer", "singularity") if shutil.which(name)), "apptainer")
    image = executor.image
    image = str(Path(image).absolute()) if Path(image).exists() else image  # the command runs in another folder
    env = {**OWN_PYTHON, "PYTHONPATH": ""}  # Apptainer passes our environment on
    words = apptainer_exec(image, mounts, gpu=gpu, program=program, isolated=False, environment=env, folder=home)
    return [*words, step.argv[0]]


def write_script(steps: Sequence[Step], executor: Executor, folder: WorkFolder, name: str, log: str) -> Path:
    """Write a job script into the folder: `sbatch NAME.sbatch` from anywhere, or `bash NAME.sbatch` without SLURM.

    It names no partition, no account and no folder outside its own, except the mounts of images.
    """
    gpus = len(executor.resources.gpus) if any(s.wants_gpu for s in steps) else 0
    request = JobRequest(
        f"cryoflow-{name}",
        log=f"\\{log}",  # the backslash: a % in the folder's name stays one
        cpus=executor.resources.cpus,
        gpus=gpus,
        extra=executor.sbatch_options,
    )
    parts = ["set -euo pipefail", *_go_home(folder, log, may_move=not executor.container), ""]
    for step in steps:
        parts += _script_of_step(step, executor, folder)
    path = folder.path / f"{name}.sbatch"
    write_atomically(path, slurm_script(request.sbatch_options(), "\n".join(parts)))
    return path


def _script_of_step(step: Step, executor: Executor, folder: WorkFolder) -> list[str]:
    argv = [*_in_container(step, executor, folder), *step.argv[1:]] if executor.container else list(step.argv)
    if not executor.container and executor.programs:
        argv[0] = _program(argv[0], executor.programs)
    elif not executor.container and not shutil.which(argv[0]):
        argv[0] = _of_our_environment(argv[0]) or argv[0]
    lines = [f"echo {shlex.quote(step.title)}", shlex.join(argv)]
    if step.makes:
        missing = f'{shlex.quote(step.title)}": $made was not written"'
        lines += [f"for made in {shlex.join(step.makes)}; do"]
        lines += [f'    test -s "$made" || {{ echo {missing} >&2; exit 1; }}', "done"]
    return [*lines, ""]


def _go_home(folder: WorkFolder, log: str, *, may_move: bool) -> list[str]:
    """Return lines that change into the folder, wherever it is now; its marker's first line identifies it.

    sbatch runs a copy of the script, so that the script's own place is of no use there. An image's mounts name the
    place where the folder was when the script was written.
    """
    elsewhere = ['"$(dirname -- "$0")"', '"${SLURM_SUBMIT_DIR:-.}"'] if may_move else []
    remedy = "submit it from there" if may_move else "write the script anew"
    mark = inputs.read_text(folder.path / folder.marker, errors="surrogateescape").partition("\n")[0]
    return [
        f"mark={shlex.quote(mark)}",
        f'is_home() {{ [ "$(head -n 1 -- "$1"/{shlex.quote(folder.marker)} 2> /dev/null)" = "$mark" ]; }}',
        f"for folder in {' '.join([*elsewhere, shlex.quote(str(folder.path))])}; do",
        '    if is_home "$folder"; then break; fi',
        "done",
        f'is_home "$folder" || {{ echo "the folder of this script has moved: {remedy}" >&2; exit 1; }}',
        'cd -- "$folder"',
        'if ! [ . -ef "${SLURM_SUBMIT_DIR:-.}" ]; then',  # then sbatch's log is elsewhere
        f'    echo "the log is $PWD/{log}"',
        f"    exec > {log} 2>&1",
        "fi",
    ]


def _submit(steps: Sequence[Step], executor: Executor, folder: WorkFolder, log: Path, on_line: OnLine | None) -> None:
    """Submit one job and wait for it, following its output. Whoever stops waiting stops the job."""
    script = write_script(steps, executor, folder, log.stem, log.name)
    over = threading.Event()
    follower = threading.Thread(target=_follow, args=(log, over, on_line), daemon=True)
    follower.start()
    job_ids: list[int] = []
    argv = ["sbatch", "--wait", "--parsable", script.name]

    def note_number(line: str) -> None:
        if found := re.fullmatch(r"(\d+)(;\S+)?", line.strip()):
            job_ids.append(int(found[1]))
            logger.info("SLURM job %s", found[1])

    try:
        programs.run(argv, cwd=folder.path, env=_environment(), on_line=note_number, timeout_s=executor.timeout_s)
    except BaseException as stop:
        with contextlib.suppress(ToolFailed):
            Scheduler().cancel(job_ids)  # it may run on where the time for it was over, or somebody pressed Ctrl-C
        if not isinstance(stop, ToolFailed):
            raise
        last = "\n".join(inputs.read_text(log, errors="replace").splitlines()[-_SHOWN_LINES:])
        raise ToolFailed(argv, stop.returncode, "\n".join(part for part in (stop.tail, last) if part)) from stop
    finally:
        over.set()
        follower.join()


def _follow(log: Path, over: threading.Event, on_line: OnLine | None) -> None:
    """Call `on_line` with the lines of a growing file until `over` is set, and then with the rest."""
    position, rest = 0, ""
    while True:
        last_round = over.is_set()
        try:
            with inputs.text_lines(log, errors="replace") as file:
                file.seek(position)
                text = rest + file.read()
                position = file.tell()
        except FileNotFoundError:
            text = rest
        *lines, rest = text.split("\n")
        for line in lines:
            if on_line:
                on_line(line)
        if last_round:
            return
        over.wait(_FOLLOW_EVERY_S)


def _check(step: Step, home: Path, begun: float, log: Path) -> None:
    for made in step.makes:
        path = home / made
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            raise BadInput(path, f"was not written, though `{step.argv[0]}` ended without an error.", f"See {log}.")
        if path.is_file() and path.stat().st_mtime < begun - 2:
            raise BadInput(path, f"is older than this run: `{step.argv[0]}` did not write it anew.", f"See {log}.")


def _program(name: str, folder: Path | None) -> str:
    """Return the path of a program by its usual name, with or without the `.py` or `.sh` that it may have."""
    for candidate in (name, name.removesuffix(".py").removesuffix(".sh")):
        if folder is not None and os.access(folder / candidate, os.X_OK):
            return str((folder / candidate).absolute())
    for candidate in (name, name.removesuffix(".py").removesuffix(".sh")):
        if found := shutil.which(candidate):
            return found
    if own := _of_our_environment(name):
        return own
    raise BadInput(
        name,
        "is not installed on this machine" + (f", and not in {folder}." if folder else "."),
        "Name the folder of its programs (`programs`), or an image (`container` and `image`). On the command line, "
        "--script-only writes a script for another machine.",
    )


def _of_our_environment(name: str) -> str | None:
    """Return the path of a program of the environment that cryoflow runs in; it need not be on PATH."""
    path = Path(sys.executable).parent / name
    return str(path) if os.access(path, os.X_OK) else None


_SET_BY_TENSORFLOW = (
    "TF2_BEHAVIOR",
    "TPU_ML_PLATFORM",
    "TPU_ML_PLATFORM_VERSION",
    "ENABLE_RUNTIME_UPTIME_TELEMETRY",
    "HDF5_PLUGIN_PATH",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "KERAS_BACKEND",
)
"""What `import tensorflow` leaves in our environment. crYOLO's own, older TensorFlow fails where it inherits them."""


def _environment() -> dict[str, str]:
    """Return our environment without what our TensorFlow left there, and with output that comes line by line."""
    kept = {name: value for name, value in os.environ.items() if name not in _SET_BY_TENSORFLOW}
    return kept | {"PYTHONUNBUFFERED": "1"}
