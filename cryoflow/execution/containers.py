"""Command lines of containers: `apptainer exec` and `docker run`, up to and with the image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from cryoflow.execution.quoting import mount

OWN_PYTHON = {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
"""A program in an image takes no packages of the user's home, and shows its output line by line."""


@dataclass(frozen=True)
class Mounts:
    """Folders that a container sees at their own paths."""

    read_only: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()

    def outer_first(self) -> Iterator[tuple[str, bool]]:
        """Yield each folder and whether it is read-only. An inner folder must be mounted after the outer one."""
        folders = dict.fromkeys(self.read_only, True) | dict.fromkeys(self.read_write, False)
        yield from sorted(folders.items(), key=lambda item: (len(PurePath(item[0]).parts), item[0]))

    def words(self, read_only_flag: str) -> list[str]:
        """Return the `--mount` options."""
        return [
            word
            for folder, read_only in self.outer_first()
            for word in ("--mount", mount(folder, read_only_flag=read_only_flag if read_only else ""))
        ]

    def show(self, path: str) -> bool:
        """Return whether a container with these mounts sees a path."""
        return any(PurePath(path).is_relative_to(folder) for folder in (*self.read_only, *self.read_write))


def apptainer_exec(
    image: str,
    mounts: Mounts,
    *,
    gpu: bool,
    program: str = "apptainer",
    isolated: bool = True,
    environment: Mapping[str, str] | None = None,
    folder: str = "/",
    options: Sequence[str] = (),
) -> list[str]:
    """Return `apptainer exec` with everything up to the image.

    Parameters
    ----------
    isolated
        Hide the caller's environment, home and working folder.
    folder
        Working folder in the image.
    options
        Further options of a site, one each.
    """
    words = [program, "exec", *(["--cleanenv", "--no-home", "--no-mount", "cwd"] if isolated else [])]
    words += [*(["--nv"] if gpu else []), *_variables(environment or {}), "--pwd", folder]
    return [*words, *mounts.words("ro"), *options, image]


def docker_run(
    image: str,
    mounts: Mounts,
    *,
    gpu: bool,
    program: str,
    environment: Mapping[str, str] | None = None,
    folder: str = "/",
    options: Sequence[str] = (),
) -> list[str]:
    """Return `docker run` of a program as the calling user, with everything up to the image."""
    words = ["docker", "run", "--rm", "--user", f"{os.getuid()}:{os.getgid()}"]
    words += [*_variables(environment or {}), *(["--gpus", "all"] if gpu else [])]
    return [*words, *mounts.words("readonly"), *options, "--workdir", folder, "--entrypoint", program, image]


def real_paths(words: Iterable[str], home: Path) -> list[str]:
    """Return the words that are absolute paths of existing files outside a folder: a container must see them."""
    return [w for w in words if w.startswith("/") and Path(w).exists() and not Path(w).is_relative_to(home)]


def _variables(environment: Mapping[str, str]) -> list[str]:
    return [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
