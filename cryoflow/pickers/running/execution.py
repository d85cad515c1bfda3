"""Where a picker's commands run: on this machine, in a Docker or Apptainer image, or as a SLURM job.

A command is a list of arguments until the last moment; only the text of a job script is quoted for a shell. Every path
in a picker's folder is relative to it, and commands run with it as their working folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.pickers.base import Hardware, Step
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.links import folders_to_bind
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.system import programs

OnLine = Callable[[str], None]
logger = logging.getLogger(__name__)

_FOLLOW_EVERY_S = 0.5
_SHOWN_LINES = 40


@dataclass(frozen=True)
class Place:
    """Where commands run.

    Attributes
    ----------
    container, image
        `docker` or `apptainer`, and the image; without, the program is one of this machine.
    slurm
        Submit the commands as one job, and wait for its end.
    sbatch_options
        Handed to sbatch as they are, such as `--partition=gpu`; nothing of a site is built in.
    programs
        Folder in which the picker's programs are looked for before PATH.
    """

    container: Literal["", "docker", "apptainer"] = ""
    image: str = ""
    slurm: bool = False
    sbatch_options: tuple[str, ...] = ()
    programs: Path | None = None
    hardware: Hardware = field(default_factory=Hardware)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if bool(self.container) != bool(self.image):
            raise BadInput("image", "needs --container docker or apptainer, and that needs --image.")


def run_steps(steps: Sequence[Step], place: Place, home: Path, log: Path, on_line: OnLine | None = None) -> float:
    """Run commands one after the other, and check what each was to write. Returns the seconds that it took.

    Raises
    ------
    ToolFailed
        Where one exits with an error; carries the end of its output.
    BadInput
        Where a program is not there, or one ended well but did not write what it should.
    """
    started = time.time()
    write_atomically(log, "")
    begun = log.stat().st_mtime  # by the clock of the file server, like all that the program writes
    if place.slurm:
        _submit(steps, place, home, log, on_line)
        for step in steps:
            _check(step, home, begun, log)
    for step in () if place.slurm else steps:
        programs.run(
            command(step, place, home),
            cwd=home,
            env=_environment(),
            log_file=log,
            on_line=on_line,
            timeout_s=place.timeout_s,
        )
        _check(step, home, begun, log)
    return time.time() - started


def command(step: Step, place: Place, home: Path) -> list[str]:
    """The whole argument list of a step."""
    if not place.container:
        return [_program(step.argv[0], place.programs), *step.argv[1:]]
    return [*container(place, home, step), *step.argv[1:]]


def container(place: Place, home: Path, step: Step) -> list[str]:
    """The arguments up to and with the program: the folder is mounted writable, where its links point to read-only.

    In the image the program runs as who runs cryoflow, and takes no Python packages from outside it.
    """
    read_only = [f for f in folders_to_bind(home) if not f.is_relative_to(home)]
    for word in (*step.argv[1:], *_settings(home)):  # a model that lies elsewhere
        if word.startswith("/") and Path(word).exists() and not Path(word).is_relative_to(home):
            read_only.append(Path(word))
    ro = "readonly" if place.container == "docker" else "ro"
    mounts = [f"type=bind,{_csv('source', home)},{_csv('destination', home)}"]
    mounts += [f"type=bind,{_csv('source', f)},{_csv('destination', f)},{ro}" for f in dict.fromkeys(read_only)]
    flags = [part for mount in mounts for part in ("--mount", mount)]
    gpus = place.hardware.gpus if step.wants_gpu else ()
    own_python = ["--env", "PYTHONNOUSERSITE=1", "--env", "PYTHONUNBUFFERED=1"]
    if place.container == "apptainer":
        program = next((name for name in ("apptainer", "singularity") if shutil.which(name)), "apptainer")
        own_python += ["--env", "PYTHONPATH="]  # Apptainer hands on our environment
        nv = ["--nv"] if gpus else []
        image = str(Path(place.image).absolute()) if Path(place.image).exists() else place.image  # it runs elsewhere
        return [program, "exec", *nv, *own_python, *flags, "--pwd", str(home), image, step.argv[0]]
    devices = ["--gpus", "all"] if gpus else []  # which of them, the picker's own arguments say
    user = ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/tmp"]
    at = ["--workdir", str(home), "--entrypoint", step.argv[0]]
    # With --init the program is ended when we are: as the first process of a container it would take no notice.
    # Docker's 64 MB of shared memory are too few for PyTorch's loaders; this is a limit, nothing is taken.
    return [
        "docker",
        "run",
        "--rm",
        "--init",
        "--shm-size",
        "8g",
        *user,
        *own_python,
        *devices,
        *flags,
        *at,
        place.image,
    ]


def _settings(home: Path) -> list[str]:
    return list(manifest.read_settings(home).values()) if (home / manifest.SETTINGS).exists() else []


def write_script(steps: Sequence[Step], place: Place, home: Path, name: str, log: str) -> Path:
    """Write a job script into the folder: `sbatch NAME.sbatch` from anywhere, or `bash NAME.sbatch` without SLURM.

    It names no partition, no account and no folder outside its own, but for the images' mounts.
    """
    gpus = len(place.hardware.gpus) if any(s.wants_gpu for s in steps) else 0
    options = [f"--job-name=cryoflow-{name}", f"--cpus-per-task={place.hardware.cpus}"]
    options += [f"--gres=gpu:{gpus}"] if gpus else []
    lines = ["#!/bin/bash", rf"#SBATCH --output=\\{log}"]  # the backslash: a % in the folder's name stays one
    lines += [*(f"#SBATCH {_directive(o)}" for o in [*options, *place.sbatch_options]), ""]
    lines += ["set -euo pipefail", *_go_home(home, log, may_move=not place.container), ""]
    for step in steps:
        argv = [*container(place, home, step), *step.argv[1:]] if place.container else list(step.argv)
        if not place.container and place.programs:
            argv[0] = _program(argv[0], place.programs)
        lines += [f"echo {shlex.quote(step.title)}", shlex.join(argv)]
        if step.makes:
            missing = f'{shlex.quote(step.title)}": $made was not written"'
            lines += [f"for made in {shlex.join(step.makes)}; do"]
            lines += [f'    test -s "$made" || {{ echo {missing} >&2; exit 1; }}', "done"]
        lines.append("")
    path = home / f"{name}.sbatch"
    write_atomically(path, "\n".join(lines))
    return path


def _go_home(home: Path, log: str, *, may_move: bool) -> list[str]:
    """Lines that change into the folder, known by the first line of its manifest, wherever it is now.

    sbatch runs a copy of the script, so that the script's own place is of no use there. An image's mounts are of the
    place where the folder was when the script was written.
    """
    elsewhere = ['"$(dirname -- "$0")"', '"${SLURM_SUBMIT_DIR:-.}"'] if may_move else []
    remedy = "submit it from there" if may_move else "write the script anew"
    mark = inputs.read_text(home / manifest.NAME, errors="surrogateescape").partition("\n")[0]
    return [
        f"mark={shlex.quote(mark)}",
        'is_home() { [ "$(head -n 1 -- "$1/manifest.tsv" 2> /dev/null)" = "$mark" ]; }',
        f"for folder in {' '.join([*elsewhere, shlex.quote(str(home))])}; do",
        '    if is_home "$folder"; then break; fi',
        "done",
        f'is_home "$folder" || {{ echo "the folder of this script has moved: {remedy}" >&2; exit 1; }}',
        'cd -- "$folder"',
        'if ! [ . -ef "${SLURM_SUBMIT_DIR:-.}" ]; then',  # then sbatch's log is elsewhere
        f'    echo "the log is $PWD/{log}"',
        f"    exec > {log} 2>&1",
        "fi",
    ]


def _submit(steps: Sequence[Step], place: Place, home: Path, log: Path, on_line: OnLine | None) -> None:
    """Submit one job and wait for it; its output is followed meanwhile. Who stops waiting stops the job."""
    script = write_script(steps, place, home, log.stem, log.name)
    over = threading.Event()
    follower = threading.Thread(target=_follow, args=(log, over, on_line), daemon=True)
    follower.start()
    job_ids: list[int] = []
    argv = ["sbatch", "--wait", "--parsable", script.name]

    def hear(line: str) -> None:
        if found := re.fullmatch(r"(\d+)(;\S+)?", line.strip()):
            job_ids.append(int(found[1]))
            logger.info("SLURM job %s", found[1])

    try:
        programs.run(argv, cwd=home, env=_environment(), on_line=hear, timeout_s=place.timeout_s)
    except ToolFailed as error:
        _cancel(job_ids)  # out of our time; a job that has ended does not mind
        last = "\n".join(inputs.read_text(log, errors="replace").splitlines()[-_SHOWN_LINES:])
        raise ToolFailed(argv, error.returncode, "\n".join(part for part in (error.tail, last) if part)) from error
    except BaseException:
        _cancel(job_ids)
        raise
    finally:
        over.set()
        follower.join()


def _cancel(job_ids: Sequence[int]) -> None:
    """End jobs; not `Scheduler.cancel`, whose package brings Prefect along."""
    for job_id in job_ids:
        with contextlib.suppress(ToolFailed):  # it has ended by itself
            programs.run(["scancel", "--quiet", str(job_id)], timeout_s=60)


def _follow(log: Path, over: threading.Event, on_line: OnLine | None) -> None:
    """Hand on the lines of a growing file until it is over, and then what is left."""
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
    """A program by its usual name, with or without the `.py` or `.sh` that it may have."""
    for candidate in (name, name.removesuffix(".py").removesuffix(".sh")):
        if folder is not None and os.access(folder / candidate, os.X_OK):
            return str((folder / candidate).absolute())
    for candidate in (name, name.removesuffix(".py").removesuffix(".sh")):
        if found := shutil.which(candidate):
            return found
    raise BadInput(
        name,
        "is not installed on this machine" + (f", and not in {folder}." if folder else "."),
        "Give --programs FOLDER, or --container and --image, or write a script for another machine: --script-only.",
    )


_OF_OUR_TENSORFLOW = (
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
    """Ours, without what our TensorFlow left there, and with output that comes line by line."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_OUR_TENSORFLOW}
    return kept | {"PYTHONUNBUFFERED": "1"}


def _csv(key: str, value: object) -> str:
    """A field of a mount: a line of CSV, so that a comma in a path does no harm."""
    text = f"{key}={value}"
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"') else text


def _directive(option: str) -> str:
    if any(c in option for c in "\n\r\0"):
        raise BadInput("sbatch", f"the option {option!r} has a line break in it.")
    return option if not set(option) & set(" \"\\'") else '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'
