"""Micrographs for a picker: a link or a copy if it reads the file rightly, a converted copy if it would not."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, NotWritten
from cryoflow.micrographs.header import MicrographHeader
from cryoflow.pickers.base import Needs
from cryoflow.pickers.training_sets.contents import REPLACED
from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
from cryoflow.pickers.training_sets.each_micrograph import each_micrograph
from cryoflow.pickers.training_sets.training_set import TIFF_SUFFIXES, TrainingSet
from cryoflow.storage import budgets, inputs

LINK_AS = ("link", "copy", "reflink")
"""How a picker gets a micrograph that is not converted. A reflink shares its blocks until one of both is edited."""
_FICLONE = 0x40049409
_NO_REFLINK = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


def why_convert(header: MicrographHeader | None, needs: Needs) -> str:
    """Return why a picker must not get this very file, empty where it may."""
    if header is None:
        return "TIFF: pickers disagree about which row is the first"
    if header.mode not in needs.modes:
        return f"MRC mode {header.mode}"
    if header.dtype == np.dtype("u1"):
        return "unsigned bytes in MRC mode 0"
    if not header.little_endian:
        return "big-endian MRC"
    if header.ispg != 0 and not needs.ispg:
        return f"space group {header.ispg} in its header: an image that claims to be a volume"
    return ""


def note_conversions(training: TrainingSet, settings: DerivedSettings) -> None:
    """Note among the settings how many micrographs are converted, and why."""
    reasons = training.micrographs["convert"]
    for reason, count in Counter(reasons[reasons != ""]).items():
        settings.note(f"converted ({reason})", count, "copied as MRC mode 2; the others are links")


def link_micrographs(some: TrainingSet, targets: Sequence[Path]) -> None:
    """Link, copy or convert each micrograph to its target.

    A micrograph is converted if its column `convert` has a reason, else linked or copied by its column `link_as`. Links
    point to the real file, so that the database they came through may move.

    Raises
    ------
    BadInput
        If micrographs cannot be converted or copied; the others exist then.
    """
    for folder in sorted({t.parent for t in targets}):
        folder.mkdir(parents=True, exist_ok=True)
    to_write: list[tuple[str, Path, float, str]] = []
    columns = (some.micrographs[name] for name in ("path", "pixel_size_A", "convert", "link_as"))
    for path, pixel_A, reason, link_as, target in zip(*columns, targets, strict=True):
        if reason or link_as != "link":
            to_write.append((path, target, pixel_A, "convert" if reason else link_as))
        else:
            target.symlink_to(os.path.realpath(path))
    each_micrograph(lambda job: _write(*job), to_write)


def read_any(path: str) -> npt.NDArray[np.float32]:
    """Return a micrograph in MRC or in one-page TIFF, rows in the order of the file.

    Returns
    -------
    (ny, nx) float32

    Raises
    ------
    BadInput
        Where the file cannot be read, or holds more than one image.
    """
    from cryoflow.micrographs.image import read_micrograph

    if not path.lower().endswith(TIFF_SUFFIXES):
        return read_micrograph(path)
    import tifffile

    try:
        with inputs.opened(path) as file, tifffile.TiffFile(file) as tiff:
            n_bytes = tiff.series[0].nbytes if tiff.series else 0
            budgets.check_expansion(path, os.fstat(file.fileno()).st_size, n_bytes)
            image = tiff.asarray()
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise BadInput(path, f"cannot be read as TIFF: {error}") from error
    if image.ndim != 2:
        raise BadInput(path, f"is no single image, its shape is {image.shape}.", "Movies are not picked.")
    return np.asarray(image, np.float32)


def _write(source: str, target: Path, pixel_size_A: float, how: str) -> None:
    from cryoflow.micrographs.image import write_mrc

    if how == "convert":
        write_mrc(target, read_any(source), 0.0 if np.isnan(pixel_size_A) else pixel_size_A)
        return
    try:
        with inputs.unbuffered(source) as old, target.open("xb") as new:
            if how == "reflink":
                fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
            else:
                shutil.copyfileobj(old, new, 1 << 23)
    except OSError as error:
        if how == "reflink" and error.errno in _NO_REFLINK:
            raise NotWritten(  # not `BadInput`, which would be repeated for each micrograph
                source,
                "cannot be reflinked into this export: the file system does not do that, or they are on two.",
                "Use --copy.",
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no fault of this micrograph: the export stops
        raise BadInput(source, f"cannot be copied: {error.strerror or error}.") from error


def folders_to_bind(training_folder: Path) -> list[Path]:
    """Return folders that the links of an exported folder point into: a container must see them."""
    found: set[str] = set()
    for link in links(training_folder):
        found.add(str(Path(os.path.realpath(link)).parent))
    shortest: list[Path] = []
    for folder in sorted(Path(f) for f in found):
        if not any(folder.is_relative_to(s) for s in shortest):
            shortest.append(folder)
    return shortest


def links(folder: Path) -> Iterator[str]:
    """Yield all symbolic links of a folder and those in it, in a sorted order."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_symlink():
                yield entry.path
            elif entry.is_dir() and entry.name != REPLACED:
                yield from links(Path(entry.path))
