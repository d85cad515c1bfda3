"""What the viewer holds in memory: entries that were opened, their reviews, and pictures, each within a bound."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cryoflow.database import Database
from cryoflow.detector.masks import mask_of
from cryoflow.errors import BadInput
from cryoflow.pickers.comparing.compare import same_micrographs
from cryoflow.view import pictures
from cryoflow.view.bounded_cache import BoundedCache
from cryoflow.view.candidates import Candidates, Float, open_candidates
from cryoflow.view.journal import journal_of
from cryoflow.view.pyramid import Pyramid, read_pyramid
from cryoflow.view.review import Review

if TYPE_CHECKING:
    from cryoflow.view.background_scoring import Scoring

ENTRIES_BYTES, PYRAMIDS_BYTES, TILES_BYTES = 600 << 20, 400 << 20, 64 << 20
"""Bounds of the caches."""
_BYTES_PER_PICK = 160
SAME_PICK_DIAMETERS = 0.25
"""Two entries agree on a pick where theirs lie within this share of the diameter: the radius of `cryoflow evaluate`."""
UNKNOWN_DIAMETER_A = 150.0
"""Diameter of circles and patches where no job of the project says one."""


@dataclass
class Opened:
    """An entry that somebody looks at, and its review."""

    name: str
    review: Review
    scoring: Scoring | None = None
    partners: dict[str, Mapping[int, int]] = field(default_factory=dict)
    """Micrograph of another entry that is the same, by the other entry's name and fingerprint."""

    @property
    def candidates(self) -> Candidates:
        """Return the entry's picks."""
        return self.review.candidates

    def path(self, micrograph: int) -> Path:
        """Return the file of a micrograph.

        Raises
        ------
        BadInput
            Where it is missing.
        """
        row = self.candidates.picks.micrographs.iloc[micrograph]
        if row["path"] is None:
            raise BadInput(str(row["name"]), "the image of this micrograph is missing.", "Was it moved or archived?")
        return Path(row["path"])

    def pixel_size_A(self, micrograph: int) -> float | None:
        """Return the pixel size of a micrograph, None where unknown."""
        size = float(self.candidates.picks.micrographs["pixel_size_A"].iloc[micrograph])
        return size if math.isfinite(size) and size > 0 else None

    @property
    def diameter_A(self) -> float:
        """Return the diameter of the circles."""
        return self.candidates.picks.diameter_A or UNKNOWN_DIAMETER_A

    def diameter_px(self, micrograph: int) -> float:
        """Return the diameter of the circles in pixels; where no pixel size is known, 40."""
        size = self.pixel_size_A(micrograph)
        return self.diameter_A / size if size else 40.0


class Library:
    """Entries and pictures of one database.

    Parameters
    ----------
    database
        The database.
    state_folder
        Where journals lie if the database cannot be written; see `journal_of`.
    model
        Unpicker that scores the picks of entries that have no probabilities, or none for what un-picking removed.
    masks
        Folders with masks of micrographs; see `cryoflow.detector.masks.mask_of`.
    """

    def __init__(
        self,
        database: Database,
        *,
        state_folder: Path | None = None,
        model: Path | None = None,
        masks: Sequence[Path] = (),
    ) -> None:
        self.database, self.state_folder, self.model, self.masks = database, state_folder, model, tuple(masks)
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._entries: BoundedCache[Opened] = BoundedCache(
            ENTRIES_BYTES, lambda o: _BYTES_PER_PICK * len(o.candidates) + (1 << 16)
        )
        self._pyramids: BoundedCache[Pyramid] = BoundedCache(PYRAMIDS_BYTES, lambda p: p.n_bytes)
        self._tiles: BoundedCache[bytes] = BoundedCache(TILES_BYTES, len)
        # Weak: a review holds its entry's picks, and goes with the last entry that was opened with it.
        self._reviews: WeakValueDictionary[tuple[str, str], Review] = WeakValueDictionary()
        self._lock = threading.Lock()

    def opened(self, name: str) -> Opened:
        """Return an entry, loaded again where its files have changed.

        Raises
        ------
        BadInput
            Where there is no such entry, or it is damaged.
        """
        entry = self.database.entry(name)
        key = (entry.name, _version(entry.folder / "data.txt"))
        opened = self._entries.get(key, lambda: self._open(entry.name))
        if opened.scoring is not None:
            opened.review.candidates = opened.scoring.candidates
        return opened

    def _open(self, name: str) -> Opened:
        candidates = open_candidates(self.database, name)
        with self._lock:  # one review for one journal, or the locks of its file would not exclude each other
            key = (name, candidates.fingerprint)
            review = self._reviews.get(key)
            if review is None:
                journal = journal_of(self.database.root, name, candidates.fingerprint, state_folder=self.state_folder)
                review = self._reviews[key] = Review(candidates, journal)
            opened = Opened(name, review)
        unscored = not candidates.calibrated or candidates.removed_without_score.any()
        if self.model is not None and unscored and len(candidates):
            from cryoflow.view.background_scoring import Scoring  # brings the unpicker along

            opened.scoring = Scoring(candidates, self.model, self._scorer)
        return opened

    def partner(self, opened: Opened, other: Opened, micrograph: int) -> int | None:
        """Return the micrograph of another entry that is the same, None where it has none."""
        key = f"{other.name} {other.candidates.fingerprint}"
        if key not in opened.partners:
            opened.partners[key] = dict(same_micrographs(opened.candidates.picks, other.candidates.picks))
        return opened.partners[key].get(micrograph)

    def picks_of_partner(self, opened: Opened, other: Opened, micrograph: int) -> Float:
        """Return the kept picks of another entry in pixels of this entry's micrograph, (n, 2), x first."""
        partner = self.partner(opened, other, micrograph)
        if partner is None:
            return np.zeros((0, 2))
        rows = other.candidates.rows(partner)
        kept = other.review.kept(other.candidates.threshold)[rows]
        return _in_pixels_of(opened, micrograph, other, partner, other.candidates.centers_xy_px[rows][kept])

    def disagreement(self, opened: Opened, other: Opened, threshold: float) -> npt.NDArray[np.int64]:
        """Return how many picks only one of two entries has, for each micrograph; -1 where only one has the micrograph.

        Parameters
        ----------
        threshold
            Of this entry.
        """
        kept, theirs = opened.review.kept(threshold), other.review.kept(other.candidates.threshold)
        c = opened.candidates
        found = np.full(len(c.picks.micrographs), -1, np.int64)
        for i in range(len(found)):
            partner = self.partner(opened, other, i)
            if partner is None:
                continue
            rows, their_rows = c.rows(i), other.candidates.rows(partner)
            mine = c.centers_xy_px[rows][kept[rows]]
            them = other.candidates.centers_xy_px[their_rows][theirs[their_rows]]
            them = _in_pixels_of(opened, i, other, partner, them)
            reach = SAME_PICK_DIAMETERS * opened.diameter_px(i)
            found[i] = _lonely(mine, them, reach) + _lonely(them, mine, reach)
        return found

    def pyramid(self, path: Path) -> Pyramid:
        """Return a micrograph at all levels.

        Raises
        ------
        BadInput
            Where it cannot be read.
        """
        return self._pyramids.get((str(path), _version(path)), lambda: read_pyramid(path))

    def tile(self, opened: Opened, micrograph: int, level: int, row: int, column: int, lowpass_A: float) -> bytes:
        """Return a tile of a micrograph as JPEG.

        Raises
        ------
        BadInput
            Where the micrograph cannot be read.
        IndexError
            Where there is no such tile.
        """
        path, size = opened.path(micrograph), opened.pixel_size_A(micrograph)

        def make() -> bytes:
            return pictures.tile(self.pyramid(path), level, row, column, lowpass_A, size)

        return self._tiles.get((str(path), _version(path), size, level, row, column, lowpass_A), make)

    def prepare(self, name: str, micrograph: int) -> None:
        """Load an entry and the tiles that show one of its micrographs, before the page asks for them.

        Raises
        ------
        BadInput
            Where the entry or the micrograph cannot be read.
        IndexError
            Where there is no such micrograph.
        """
        opened = self.opened(name)
        pyramid = self.pyramid(opened.path(micrograph))
        for level, row, column in pictures.tiles_on_screen(pyramid.shape_yx):
            self.tile(opened, micrograph, level, row, column, pictures.FIRST_LOWPASS_A)

    def mask_path(self, opened: Opened, micrograph: int) -> Path | None:
        """Return the file with the mask of a micrograph, of the first folder that has one; None where none has."""
        name = str(opened.candidates.picks.micrographs["name"].iloc[micrograph])
        return next((path for folder in self.masks if (path := mask_of(folder, name))), None)

    def mask(self, opened: Opened, micrograph: int, shape_yx: tuple[int, int]) -> bytes:
        """Return the mask of a micrograph as PNG.

        Raises
        ------
        BadInput
            Where there is none, or it cannot be used.
        """
        path = self.mask_path(opened, micrograph)
        if path is None:
            raise BadInput(str(opened.candidates.picks.micrographs["name"].iloc[micrograph]), "has no mask.")
        key = (str(path), _version(path), shape_yx, "mask")
        return self._tiles.get(key, lambda: pictures.mask(path, shape_yx))


def _version(path: Path) -> tuple[int, int, int]:
    """Return what changes where a file does; zeros where it is not there: whoever reads it says so."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino


def _in_pixels_of(opened: Opened, micrograph: int, other: Opened, partner: int, xy_px: Float) -> Float:
    """Return positions of another entry in pixels of this one's micrograph, where the two differ in pixel size."""
    mine, theirs = opened.pixel_size_A(micrograph), other.pixel_size_A(partner)
    if mine is None or theirs is None or abs(mine / theirs - 1) < 0.01:
        return xy_px
    return np.asarray((xy_px + 0.5) * (theirs / mine) - 0.5, np.float64)  # edges coincide, as after binning


def _lonely(xy_px: Float, others_xy_px: Float, reach_px: float) -> int:
    """Return how many positions have none of the others within reach."""
    if not len(xy_px) or not len(others_xy_px):
        return len(xy_px)
    distance, _ = cKDTree(others_xy_px).query(xy_px, distance_upper_bound=reach_px)
    return int(np.isinf(distance).sum())
