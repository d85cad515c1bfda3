"""Learning material: prepared micrographs, or parts of them, with labels; and the files that hold some of them.

Both networks learn from items. An item of the detector is a prepared image with labeled points, one of the unpicker a
stack of patches with a label each. Files of items are `.npz` archives of plain arrays, never pickled.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le, MaxLen, MinLen, Predicate

from cryoflow.errors import BadInput
from cryoflow.learning.item_rules import Array, ItemRule, problem_of_pixels
from cryoflow.preparation.model_folder import npz_bytes
from cryoflow.storage import inputs
from cryoflow.storage.files import replacing
from cryoflow.storage.fingerprints import fingerprint_of
from cryoflow.storage.parsing import parse_record
from cryoflow.storage.write_errors import clear_errors

PIXELS = "pixels"
DESCRIBED = "described"
ContentName = Annotated[str, MinLen(1), MaxLen(64), Predicate(str.isascii), Predicate(str.isalnum)]
"""Fingerprint of a micrograph's file in records: files of held-out micrographs are named by it."""
_FORMAT = 1
_HINT = "Restore it from a copy of the model."


@dataclass(frozen=True)
class Item:
    """One labeled piece of a project; pixels stay on disk.

    Attributes
    ----------
    content
        Fingerprint of the micrograph's file.
    pixels
        `.npy` file, float16.
    labels
        Small arrays by name; which ones is the network's matter.
    defocus_A
        NaN where unknown.
    diameter_A
        Of the project's particle.
    """

    project: str
    content: str
    pixels: Path
    labels: Mapping[str, Array]
    defocus_A: float
    diameter_A: float

    def map_pixels(self) -> npt.NDArray[np.float16]:
        """Map the pixels; only what is read of them is loaded."""
        return inputs.load_npy(self.pixels, mapped=True)


def labels_fingerprint(item: Item) -> str:
    """Return a fingerprint of an item's labels, the same for an item that was written to a file and read again."""
    pieces = [(name, np.ascontiguousarray(array)) for name, array in sorted(item.labels.items())]
    return fingerprint_of(
        *(p for name, array in pieces for p in (f"{name} {array.dtype.str} ", array.tobytes())), digits=16
    )


def set_apart(items: Sequence[Item], one_of: int) -> frozenset[str]:
    """Return the contents that are not learned from, but end or calibrate a training: about one of so many.

    Of a project that has two at least one is set apart, and never more than half. The content of a micrograph decides,
    so that exemplars of one that was set apart in an earlier training are set apart again, as are its copies in other
    projects: scores of micrographs that a model learned from are too good to estimate anything. Give all items of an
    update at once: new ones, and exemplars of all earlier projects.
    """
    projects: dict[str, set[str]] = {}
    for item in items:
        projects.setdefault(item.project, set()).add(item.content)
    apart = {c for contents in projects.values() for c in contents if _place(c) < 1 / one_of}
    for contents in projects.values():
        ordered = sorted(contents, key=_place)
        if len(ordered) > 1 and not contents & apart:
            apart.add(ordered[0])
        apart -= set(ordered[len(ordered) // 2 :])
    return frozenset(apart)


def _place(content: str) -> float:
    """Return a number in [0, 1) by content; not the content's own digits, by which held-out micrographs are drawn."""
    return int(fingerprint_of(content, digits=8), 16) / 16**8


@dataclass(frozen=True)
class Piece:
    """The content of an item in memory, on its way into a file."""

    content: str
    pixels: npt.NDArray[np.float16]
    labels: Mapping[str, Array]
    defocus_A: float
    diameter_A: float


def piece_of(item: Item) -> Piece:
    """Return a whole item as a piece."""
    return Piece(item.content, np.asarray(item.map_pixels()), item.labels, item.defocus_A, item.diameter_A)


def pieces_to_keep(new: Sequence[Piece], old: Sequence[Piece], replaced: Collection[str]) -> list[Piece]:
    """Return the pieces to keep of a changed project: as many as half of the new and half of the old ones.

    These are the first half of the new ones, and old ones of other micrographs. Where too few of those are left, more
    new ones take their places.

    Parameters
    ----------
    replaced
        Contents whose old pieces are not kept: micrographs that have new labels, or are held out by now.
    """
    n_new, n_old = max(1, len(new) // 2), len(old) // 2
    kept = [p for p in old if p.content not in replaced][:n_old]
    more = new[n_new : n_new + n_old - len(kept)]
    return [*new[:n_new], *more, *kept]


def write_pieces(path: Path, project: str, pieces: Sequence[Piece], learned: Iterable[str] = ()) -> None:
    """Write pieces of a project as one file, complete or not at all.

    Parameters
    ----------
    learned
        Fingerprints of all micrographs that the model learned from, those without a piece included.
    """
    described = {
        "format": _FORMAT,
        "project": project,
        "learned": sorted(set(learned)),
        "pieces": [[p.content, p.defocus_A if np.isfinite(p.defocus_A) else None, p.diameter_A] for p in pieces],
    }
    arrays: dict[str, Array] = {DESCRIBED: np.frombuffer(json.dumps(described).encode(), np.uint8)}
    for i, piece in enumerate(pieces):
        arrays |= {f"{i:04d}/{name}": np.asarray(array) for name, array in piece.labels.items()}
        arrays[f"{i:04d}/{PIXELS}"] = piece.pixels.astype(np.float16)
    with clear_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as hidden:
        hidden.write_bytes(npz_bytes(arrays))


def read_pieces(path: Path, folder: Path, rule: ItemRule | None = None) -> list[Item]:
    """Read a file of pieces; their pixels are unpacked into `folder` once, so that they can be mapped.

    Parameters
    ----------
    rule
        Rule for the items of this network; None checks only that the pixels are finite and of float16.

    Raises
    ------
    BadInput
        Where the file was changed, is of another version, or holds no items of this network.
    """
    arrays, described = _read(path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        items = []
        for i, (content, defocus_A, diameter_A) in enumerate(described.pieces):
            start = f"{i:04d}/"
            labels = {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}
            pixels = labels.pop(PIXELS)
            # Check the arrays before they are unpacked: the unpacked pixels are mapped later without a check.
            if problem := problem_of_pixels(pixels) or (rule.problem(labels, pixels) if rule else ""):
                raise BadInput(path, f"holds no learning material: of piece {i}, {problem}.", _HINT)
            file = folder / f"{i:04d}.npy"
            if not file.is_file():
                raw = io.BytesIO()
                np.save(raw, pixels, allow_pickle=False)
                with replacing(file) as hidden:
                    hidden.write_bytes(raw.getvalue())
            defocus = float("nan") if defocus_A is None else defocus_A
            items.append(Item(described.project, content, file, labels, defocus, diameter_A))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(path, f"holds no learning material ({error!r}).", _HINT) from error
    return items


def read_named_pieces(path: Path, folder: Path, rule: ItemRule, name_of: Callable[[Item], str]) -> list[Item]:
    """Read a file of pieces as `read_pieces` does, and check that it has the name that the file of its items has.

    Parameters
    ----------
    name_of
        Returns the name that the file of an item has: a file of another name is not that of its project.
    """
    items = read_pieces(path, folder, rule)
    for item in items:
        if Path(name_of(item)).name != path.name:
            raise BadInput(
                path,
                f"holds micrograph {item.content} of {item.project}, whose file is {Path(name_of(item)).name}.",
                _HINT,
            )
    return items


def read_learned(path: Path) -> frozenset[str]:
    """Return the fingerprints of the micrographs that a file lists as learned from."""
    return frozenset(_read(path, DESCRIBED)[1].learned)


@dataclass(frozen=True)
class _PiecesRecord:
    """Description of the arrays: content, defocus and diameter in angstrom of each piece."""

    __pydantic_config__ = {"allow_inf_nan": False}  # read by pydantic

    format: Annotated[int, Ge(_FORMAT), Le(_FORMAT)]
    project: str
    pieces: list[tuple[ContentName, float | None, Annotated[float, Gt(0)]]]
    learned: list[str] = field(default_factory=list)


def _read(path: Path, only: str | None = None) -> tuple[dict[str, Array], _PiecesRecord]:
    try:
        arrays = dict(inputs.read_npz(path, only))
        raw = arrays.pop(DESCRIBED).tobytes()
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(path, f"cannot be read as learning material: {error}.", _HINT) from error
    return arrays, parse_record(path, raw, _PiecesRecord, _HINT)
