"""What the attacks share: small projects, watching and failing changes to files, children that are killed."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parents[1]))  # scripts of this folder run without pytest, which knows all folders

from killed import in_child

from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.storage import stale_files

SHAPE_YX = (180, 260)
PIXEL_SIZE_A, DIAMETER_A = 6.0, 120.0
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = frozenset(
    {
        *("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.truncate", "os.chmod"),
        *("os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree", "shutil.move", "os.lockf"),
    }
)
"""Audit events of calls that change files. `open` is one of them where it opens for writing."""


def simulated_project(folder: Path) -> Path:
    """Write one finished project of four micrographs; return the root to crawl."""
    from cryosparc_projects import write_cryosparc_project

    from cryoflow.simulate.simulation import simulate_dataset

    dataset = simulate_dataset(
        folder / "raw", specimen="barrel", n_micrographs=4, shape_yx=(360, 480), pixel_size_A=4.0, seed=3, workers=1
    )
    write_cryosparc_project(folder / "projects" / "CS-barrel", dataset)
    return folder / "projects"


def blob_image(centers_xy: np.ndarray, rng: np.random.Generator, shape_yx: tuple[int, int] = SHAPE_YX) -> np.ndarray:
    """Noise of deviation 1 with dark discs of depth 4."""
    image = rng.normal(0, 1, shape_yx).astype(np.float32)
    yy, xx = np.ogrid[: shape_yx[0], : shape_yx[1]]
    for x, y in centers_xy:
        image -= 4 * np.exp(-((((xx - x) ** 2 + (yy - y) ** 2) / 81) ** 2))
    return image


def make_entry(
    folder: Path,
    project: str = "P1",
    *,
    names: list[str] | None = None,
    n: int = 3,
    seed: int = 0,
    job: str = "J5",
    kind: Kind = Kind.HOMO,
    labels: bool = False,
) -> PickSet:
    """Picks on the dark discs of small non-square micrographs on disk; with labels every third is said to be wrong."""
    rng = np.random.default_rng(seed)
    names = names or [f"mics/mic_{i}.mrc" for i in range(n)]
    picks = []
    for i in range(len(names)):
        xy = np.array([(x, y) for x in range(30, 240, 45) for y in range(28, 160, 45) if rng.random() < 0.6])
        xy = xy + rng.uniform(-6, 6, xy.shape)
        path = folder / project / "files" / f"{i}.mrc"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mrc(path, blob_image(xy, rng), PIXEL_SIZE_A)
        picks.append(pd.DataFrame({"micrograph": i, "x_px": xy[:, 0], "y_px": xy[:, 1], "score": rng.random(len(xy))}))
    table = pd.concat(picks, ignore_index=True)
    if labels:
        table["label"] = np.where(np.arange(len(table)) % 3, 1, -1).astype(np.int8)
    k = len(names)
    micrographs = micrograph_table(
        {
            "name": names,
            "path": [str(folder / project / "files" / f"{i}.mrc") for i in range(k)],
            "status": ["found"] * k,
            "uid": [str(10**18 + i) for i in range(k)],
            "ny": [SHAPE_YX[0]] * k,
            "nx": [SHAPE_YX[1]] * k,
            "pixel_size_A": [PIXEL_SIZE_A] * k,
            "voltage_kV": [300.0] * k,
            "cs_mm": [2.7] * k,
            "amplitude_contrast": [0.1] * k,
            "defocus_u_A": [1e4 + 500 * i for i in range(k)],
            "defocus_v_A": [1e4 + 500 * i for i in range(k)],
        }
    )
    who = Provenance("cryosparc", folder / project, project, job, kind)
    return PickSet.build(who, micrographs, table, diameter_A=DIAMETER_A)


def tree(root: Path, *, ignore: Callable[[str], bool] = lambda name: False) -> dict[str, str]:
    """Everything below a folder: checksums of files, targets of links, folders."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if ignore(name):
            continue
        if path.is_symlink():
            found[name] = "-> " + str(path.readlink())
        elif path.is_dir():
            found[name + "/"] = ""
        else:
            found[name] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return found


def has_times(name: str) -> bool:
    """Files of a database that say when they were written, and what a lock leaves."""
    return name.endswith("manifest.json") or name.startswith((".jobs", ".lock"))


def snapshot(root: Path) -> dict[str, tuple[int, int, int, int, int]]:
    """Name, size, times, mode and number of links of everything below a folder, and of the folder itself."""
    found = {}
    for path in [root, *sorted(root.rglob("*"))]:
        s = path.lstat()
        found[str(path)] = (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_mode, s.st_nlink)
    return found


def on_each_change(root: Path, act: Callable[[str, str], None]) -> None:
    """Call `act` with the event and the path before each change below `root`, from now to the process's end.

    It hangs on Python's audit events, so it also sees what does not go through `cryoflow.storage.files`. Hooks cannot
    be taken off again: call it in a child.
    """
    below = os.path.abspath(root)  # noqa: PTH100

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & _WRITES:
                return
            paths: tuple[object, ...] = args[:1]
        elif event in _CHANGES:
            paths = args[:2] if event in ("os.rename", "os.link", "shutil.move") else args[:1]
            paths = args[1:2] if event == "os.symlink" else paths  # what it points to is not changed
        else:
            return
        # Calls relative to an open folder give its number last; `open` does not give it.
        numbers = [a for a in args[1:] if isinstance(a, int) and a > 2][-1:]
        folder_numbers = _last_opened_folder() if event == "open" else numbers
        for path in paths:
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            elif isinstance(path, int):
                path = _name_of(path)
            if not isinstance(path, str | os.PathLike):
                continue
            where = os.fspath(path)
            if not where.startswith(os.sep) and folder_numbers:  # rmtree names files by their folder's number
                where = os.path.join(_name_of(folder_numbers[0]), where)
            where = os.path.abspath(where)  # noqa: PTH100
            if where == below or where.startswith(below.rstrip(os.sep) + os.sep):
                act(event, where)
                return

    sys.addaudithook(hook)


def _last_opened_folder() -> list[int]:
    """The folder that was opened last, in which `os.open(name, dir_fd=...)` most likely creates a file."""
    numbers = sorted((int(n) for n in os.listdir("/proc/self/fd") if n.isdigit()), reverse=True)
    return [n for n in numbers if os.path.isdir(f"/proc/self/fd/{n}") and n > 2][:1]  # noqa: PTH112


def _name_of(number: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return ""


def changes_of(work: Callable[[], object], root: Path, log: Path) -> list[str]:
    """The changes that some work makes below `root`, in order, as `event path`."""

    def run() -> None:
        number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        on_each_change(root, lambda event, path: os.write(number, f"{event} {path}\n".encode()) and None)
        work()

    assert in_child(run) == 0
    return log.read_text().splitlines()


def leftovers(root: Path) -> list[str]:
    """Hidden files of unfinished writes."""
    return [
        str(p)
        for p in root.rglob("*")
        if p.name.startswith(".") and (".tmp-" in p.name or p.name.endswith(stale_files.ASIDE))
    ]
