"""Commands of pickers as argument lists: what one is, where it runs, and where its program is found.

A command is a list of arguments until the last moment; only the text of a job script is quoted for a shell. Paths of a
work folder are relative to it, and commands run with it as their working folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryoflow.errors import BadInput
from cryoflow.execution.containers import OWN_PYTHON, Mounts, apptainer_exec, docker_run, real_paths
from cryoflow.execution.resources import Resources


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
    """Executor of commands, and the resources that it may use.

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


def command(step: Step, executor: Executor, folder: WorkFolder) -> list[str]:
    """Return the whole argument list of a step."""
    if not executor.container:
        return [program_path(step.argv[0], executor.programs), *step.argv[1:]]
    return [*arguments_in_container(step, executor, folder), *step.argv[1:]]


def arguments_in_container(step: Step, executor: Executor, folder: WorkFolder) -> list[str]:
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


def program_path(name: str, folder: Path | None) -> str:
    """Return the path of a program by its usual name, with or without the `.py` or `.sh` that it may have."""
    for candidate in (name, name.removesuffix(".py").removesuffix(".sh")):
        if folder is not None and os.access(folder / candidate, os.X_OK):
            return str((folder / candidate).absolute())
    for candidate in (name, name.removesuffix(".py").removesuffix(".sh")):
        if found := shutil.which(candidate):
            return found
    if own := of_our_environment(name):
        return own
    raise BadInput(
        name,
        "is not installed on this machine" + (f", and not in {folder}." if folder else "."),
        "Name the folder of its programs (`programs`), or an image (`container` and `image`). On the command line, "
        "--script-only writes a script for another machine.",
    )


def of_our_environment(name: str) -> str | None:
    """Return the path of a program of the environment that cryoflow runs in; it need not be on PATH."""
    path = Path(sys.executable).parent / name
    return str(path) if os.access(path, os.X_OK) else None
