"""The STAR tables of a simulated RELION project, in the words of each generation.

Numbers come from the dataset; what RELION would have computed besides (figures of CTF fits, refined defoci) is made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.formats.star import write_star
from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph

BINNING = 2
"""Of boxes at extraction, and of movies at motion correction."""

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Tables:
    """Tables of micrographs and particles in the words of a generation."""

    dataset: SimulatedDataset
    generation: tuple[int, int]
    optics_last: bool = False
    optics_groups: int = 1
    keeps_micrograph_pixel_size: bool = False

    @property
    def box_px(self) -> int:
        """Return the box in micrograph pixels; half of it is even."""
        pixel_size_A = self.dataset.micrographs[0].pixel_size_A
        return 4 * round(1.6 * self.dataset.diameter_A / pixel_size_A / 4)

    def group(self, i: int) -> int:
        """Return optics group of micrograph `i`."""
        return 1 + i % self.optics_groups

    def write_micrographs(self, path: Path, names: list[str], comment: str, *, with_ctf: bool) -> None:
        """Write a table of micrographs."""
        mics = self.dataset.micrographs
        columns: dict[str, npt.ArrayLike] = {"rlnMicrographName": names}
        if self.generation >= (3, 1):
            columns["rlnOpticsGroup"] = [self.group(i) for i in range(len(mics))]
        else:
            columns |= self._old_optics(len(mics), mics[0].pixel_size_A)
        if with_ctf:
            columns["rlnDefocusU"] = [m.defocus_u_A for m in mics]
            columns["rlnDefocusV"] = [m.defocus_v_A for m in mics]
            columns["rlnDefocusAngle"] = [m.defocus_angle_deg for m in mics]
            columns["rlnCtfMaxResolution"] = [4.0 + 0.1 * (i % 7) for i in range(len(mics))]
        self._write(path, "micrographs", columns, comment, {"rlnMicrographPixelSize": mics[0].pixel_size_A})

    def write_particles(self, path: Path, columns: Columns, comment: str) -> None:
        """Write a table of particles; origins come in micrograph pixels."""
        pixel_size_A = self.dataset.micrographs[0].pixel_size_A
        columns = dict(columns)
        group = columns.pop("group")
        origins = [columns.pop(name) for name in ("origin_x", "origin_y") if name in columns]
        if self.generation >= (3, 1):
            columns["rlnOpticsGroup"] = group
            names, factor = ("rlnOriginXAngst", "rlnOriginYAngst"), pixel_size_A
        else:
            columns |= self._old_optics(len(group), BINNING * pixel_size_A)  # type: ignore[arg-type]
            names, factor = ("rlnOriginX", "rlnOriginY"), 1 / BINNING
        columns |= {name: origin * factor for name, origin in zip(names, origins, strict=False)}  # type: ignore[operator]
        optics: dict[str, float] = {
            "rlnImagePixelSize": BINNING * pixel_size_A,
            "rlnImageSize": self.box_px // BINNING,
            "rlnImageDimensionality": 2,
        }
        if self.keeps_micrograph_pixel_size:
            optics["rlnMicrographPixelSize"] = pixel_size_A
        self._write(path, "particles", columns, comment, optics)

    def _write(
        self, path: Path, block: str, columns: Mapping[str, npt.ArrayLike], comment: str, optics: Mapping[str, float]
    ) -> None:
        if self.generation < (3, 1):
            write_star(path, {"": columns}, comment=comment)
            return
        numbers = list(range(1, self.optics_groups + 1))
        table: dict[str, npt.ArrayLike] = {
            "rlnOpticsGroupName": [f"opticsGroup{n}" for n in numbers],
            "rlnOpticsGroup": numbers,
            "rlnMicrographOriginalPixelSize": [self.dataset.micrographs[0].pixel_size_A / BINNING for _ in numbers],
            "rlnVoltage": [self.dataset.voltage_kV for _ in numbers],
            "rlnSphericalAberration": [self.dataset.cs_mm for _ in numbers],
            "rlnAmplitudeContrast": [self.dataset.amplitude_contrast + 0.01 * (n - 1) for n in numbers],
            **{name: [value for _ in numbers] for name, value in optics.items()},
        }
        blocks: list[tuple[str, Mapping[str, npt.ArrayLike]]] = [("optics", table), (block, columns)]
        write_star(path, dict(reversed(blocks) if self.optics_last else blocks), comment=comment)

    def _old_optics(self, n: int, pixel_size_A: float) -> dict[str, npt.ArrayLike]:
        """Return the optics before 3.1: a detector of 5 um, and the magnification that gives the pixel size."""
        return {
            "rlnVoltage": np.full(n, self.dataset.voltage_kV),
            "rlnSphericalAberration": np.full(n, self.dataset.cs_mm),
            "rlnAmplitudeContrast": np.full(n, self.dataset.amplitude_contrast),
            "rlnMagnification": np.full(n, 5e4 / pixel_size_A),
            "rlnDetectorPixelSize": np.full(n, 5.0),
        }

    def particles(self, names: list[str], extract: str) -> tuple[Columns, npt.NDArray[np.bool_]]:
        """Return all picks of the dataset as particles, and which of them are right."""
        mics = self.dataset.micrographs
        index = np.repeat(np.arange(len(mics)), [len(m.picks_xy_px) for m in mics])
        xy = np.concatenate([m.picks_xy_px for m in mics])
        is_right = np.concatenate([m.pick_is_right for m in mics])
        n_classes = max((int(m.pick_class.max(initial=0)) for m in mics), default=0)
        classes = np.concatenate([m.pick_class for m in mics])
        classes = np.where(is_right, np.maximum(classes, 1), n_classes + 1 + np.arange(len(classes)) % 2)
        origins = np.concatenate([_origins(m, self.dataset.diameter_A) for m in mics])
        within = np.concatenate([np.arange(1, len(m.picks_xy_px) + 1) for m in mics])
        stacks = [f"{extract}/Movies/{Path(name).stem}.mrcs" for name in names]
        rng = np.random.default_rng(self.dataset.seed)
        columns: Columns = {
            "rlnCoordinateX": xy[:, 0],
            "rlnCoordinateY": xy[:, 1],
            "rlnAutopickFigureOfMerit": np.concatenate([m.pick_scores for m in mics]),
            "rlnAnglePsi": np.concatenate([m.pick_psi_deg for m in mics]),
            "rlnImageName": np.array([f"{k:06d}@{stacks[i]}" for i, k in zip(index, within, strict=True)], object),
            "rlnMicrographName": np.array(names, object)[index],
            "rlnDefocusU": np.array([m.defocus_u_A for m in mics])[index] + rng.normal(0, 100, len(index)),
            "rlnDefocusV": np.array([m.defocus_v_A for m in mics])[index] + rng.normal(0, 100, len(index)),
            "rlnDefocusAngle": np.array([m.defocus_angle_deg for m in mics])[index],
            "rlnClassNumber": classes.astype(np.int32),
            "origin_x": origins[:, 0],
            "origin_y": origins[:, 1],
            "group": np.array([self.group(i) for i in range(len(mics))], np.int32)[index],
        }
        return columns, is_right


def _origins(micrograph: SimulatedMicrograph, diameter_A: float) -> npt.NDArray[np.float64]:
    """Return what a refinement finds, (n, 2) micrograph pixels: coordinate minus origin is the true center."""
    picks, truth = micrograph.picks_xy_px, micrograph.true_xy_px
    if not len(picks) or not len(truth):
        return np.zeros((len(picks), 2))
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree(truth).query(picks)
    near = micrograph.pick_is_right & (distance < diameter_A / micrograph.pixel_size_A / 2)
    return np.where(near[:, None], picks - truth[nearest], 0.0)
