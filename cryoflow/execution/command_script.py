"""Write a picker's commands as a job script, which works with SLURM and without."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from cryoflow.execution.commands import (
    Executor,
    Step,
    WorkFolder,
    arguments_in_container,
    of_our_environment,
    program_path,
)
from cryoflow.execution.job_script import slurm_script
from cryoflow.execution.resources import JobRequest
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically


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
    argv = [*arguments_in_container(step, executor, folder), *step.argv[1:]] if executor.container else list(step.argv)
    if not executor.container and executor.programs:
        argv[0] = program_path(argv[0], executor.programs)
    elif not executor.container and not shutil.which(argv[0]):
        argv[0] = of_our_environment(argv[0]) or argv[0]
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
