"""Run a picker's commands: on this machine, in a Docker or Apptainer image, or as a SLURM job."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution.command_script import write_script
from cryoflow.execution.commands import Executor, Step, WorkFolder, command
from cryoflow.execution.slurm import Scheduler
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.system import programs

__all__ = ["Executor", "OnLine", "Step", "WorkFolder", "command", "run_steps", "write_script"]

OnLine = Callable[[str], None]
logger = logging.getLogger(__name__)

_FOLLOW_EVERY_S = 0.5
_SHOWN_LINES = 40


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
