"""The columns of CryoSPARC's datasets that carry a simulated dataset's picks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.simulate.cryosparc_files import Columns
from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph


class PickColumns:
    """Makes them, slot by slot, in the words of a version; one generator serves all, in the order of the calls."""

    binning: int = 2

    def __init__(
        self, project: Path, dataset: SimulatedDataset, rng: np.random.Generator, version: tuple[int, ...]
    ) -> None:
        self.project, self.dataset, self.rng, self.version = project, dataset, rng, version
        self.exposure_uids = rng.integers(1, 2**63, len(dataset.micrographs), dtype=np.uint64)
        self.paths = [
            f"J1/imported/{uid:021d}_{micrograph.path.name}"
            for uid, micrograph in zip(self.exposure_uids.tolist(), dataset.micrographs, strict=True)
        ]

    @property
    def box_pixel_size_A(self) -> float:
        """Return the pixel size of extracted boxes."""
        return self.dataset.micrographs[0].pixel_size_A * self.binning

    def link_micrographs(self) -> None:
        """Link the micrographs where an import job puts them."""
        (self.project / "J1" / "imported").mkdir(parents=True)
        for path, micrograph in zip(self.paths, self.dataset.micrographs, strict=True):
            (self.project / path).symlink_to(os.path.abspath(micrograph.path))  # noqa: PTH100 (links stay)

    def uids(self, n: int) -> npt.NDArray[np.uint64]:
        """Return random uids, (n,)."""
        return self.rng.integers(1, 2**63, n, dtype=np.uint64)

    def exposures(self) -> Columns:
        """Return columns of the micrographs: `uid`, `micrograph_blob/*`, `mscope_params/*`."""
        micrographs, n = self.dataset.micrographs, len(self.dataset.micrographs)
        return {
            "uid": self.exposure_uids,
            "micrograph_blob/path": texts(self.paths),
            "micrograph_blob/idx": np.zeros(n, np.uint32),
            "micrograph_blob/shape": np.array([m.shape_yx for m in micrographs], np.uint32),
            "micrograph_blob/psize_A": np.array([m.pixel_size_A for m in micrographs], np.float32),
            "micrograph_blob/format": texts(["MRC/1"] * n),
            "mscope_params/accel_kv": np.full(n, self.dataset.voltage_kV, np.float32),
            "mscope_params/cs_mm": np.full(n, self.dataset.cs_mm, np.float32),
            "mscope_params/exp_group_id": np.ones(n, np.uint32),
        }

    def exposure_ctf(self) -> Columns:
        """Return `ctf/*` of all micrographs."""
        return self.ctf(list(self.dataset.micrographs))

    def ctf(self, micrographs: list[SimulatedMicrograph]) -> Columns:
        """Return `ctf/*` of some micrographs."""
        n = len(micrographs)
        return {
            "ctf/accel_kv": np.full(n, self.dataset.voltage_kV, np.float32),
            "ctf/cs_mm": np.full(n, self.dataset.cs_mm, np.float32),
            "ctf/amp_contrast": np.full(n, self.dataset.amplitude_contrast, np.float32),
            "ctf/df1_A": np.array([m.defocus_u_A for m in micrographs], np.float32),
            "ctf/df2_A": np.array([m.defocus_v_A for m in micrographs], np.float32),
            "ctf/df_angle_rad": np.deg2rad([m.defocus_angle_deg for m in micrographs]).astype(np.float32),
            "ctf/phase_shift_rad": np.zeros(n, np.float32),
        }

    def particle_ctf(self) -> Columns:
        """Return `ctf/*` of all picks: that of their micrographs."""
        counts = [len(m.picks_xy_px) for m in self.dataset.micrographs]
        return {name: np.repeat(values, counts, axis=0) for name, values in self.exposure_ctf().items()}

    def located(self, positions: list[npt.NDArray[np.float64]]) -> Columns:
        """Return columns `uid` and `location/*` of picks given for each micrograph in turn."""
        counts = [len(xy) for xy in positions]
        micrographs = self.dataset.micrographs[: len(positions)]
        xy_px = np.concatenate([np.reshape(xy, (-1, 2)) for xy in positions])
        shapes = np.repeat(np.array([m.shape_yx for m in micrographs], np.uint32).reshape(-1, 2), counts, axis=0)
        paths = self.paths[: len(micrographs)]
        columns: Columns = {
            "uid": self.uids(len(xy_px)),
            "location/micrograph_uid": np.repeat(self.exposure_uids[: len(micrographs)], counts),
            "location/exp_group_id": np.ones(len(xy_px), np.uint32),
            "location/micrograph_path": np.repeat(texts(paths), counts),
            "location/micrograph_shape": shapes,
            "location/center_x_frac": (xy_px[:, 0] / shapes[:, 1]).astype(np.float32),
            "location/center_y_frac": (xy_px[:, 1] / shapes[:, 0]).astype(np.float32),
        }
        if self.version >= (4, 4):
            sizes = np.array([m.pixel_size_A for m in micrographs], np.float32)
            columns["location/micrograph_psize_A"] = np.repeat(sizes, counts)
        return columns

    def boxes(self, uid: npt.NDArray[np.generic]) -> Columns:
        """Return `uid` and `blob/*` of all picks as they were extracted."""
        edge = 2 * round(1.6 * self.dataset.diameter_A / self.box_pixel_size_A / 2)
        counts = [len(m.picks_xy_px) for m in self.dataset.micrographs]
        stacks = [f"J5/extract/{Path(p).name.rsplit('.', 1)[0]}_particles.mrc" for p in self.paths]
        return {
            "uid": uid,
            "blob/path": np.repeat(texts(stacks), counts),
            "blob/idx": np.concatenate([np.arange(n, dtype=np.uint32) for n in counts]),
            "blob/shape": np.full((len(uid), 2), edge, np.uint32),
            "blob/psize_A": np.full(len(uid), self.box_pixel_size_A, np.float32),
            "blob/sign": np.full(len(uid), -1.0, np.float32),
        }

    def shift_to_truth(self, scale: float = 1.0) -> npt.NDArray[np.float32]:
        """Shift (x, y) of each pick in pixels of its box: what is subtracted to reach the nearest particle."""
        shifts = []
        for m in self.dataset.micrographs:
            offset_px = np.zeros((len(m.picks_xy_px), 2))
            if len(m.true_xy_px) and len(m.picks_xy_px):
                difference = m.picks_xy_px[:, None] - m.true_xy_px[None]
                nearest = np.square(difference).sum(axis=2).argmin(axis=1)
                offset_px = difference[np.arange(len(nearest)), nearest]
                offset_px[~m.pick_is_right] = self.rng.normal(0, 2, (int((~m.pick_is_right).sum()), 2))
            shifts.append(offset_px * (m.pixel_size_A / self.box_pixel_size_A) * scale)
        return np.concatenate(shifts).astype(np.float32)

    def in_3d(self) -> Columns:
        """Return `alignments3D/*` of all picks after a refinement."""
        shift = self.shift_to_truth()
        n = len(shift)
        return {
            "alignments3D/split": np.arange(n, dtype=np.uint32) % 2,
            "alignments3D/shift": shift,
            "alignments3D/pose": self.rng.normal(0, 1, (n, 3)).astype(np.float32),
            "alignments3D/psize_A": np.full(n, self.box_pixel_size_A, np.float32),
        }

    def class_columns(self, n: int, is_good: npt.NDArray[np.bool_]) -> Columns:
        """Return what a classification into two classes adds, by the convention of the version."""
        good = np.where(is_good, self.rng.uniform(0.7, 1.0, n), self.rng.uniform(0.0, 0.3, n)).astype(np.float32)
        posterior = np.stack([1 - good, good], axis=1)
        if self.version >= (4, 5):
            return {"alignments3D_multi/class_posterior": posterior}
        return {
            f"alignments_class_{k}/{name}": values
            for k in (0, 1)
            for name, values in (("class", np.full(n, k, np.uint32)), ("class_posterior", posterior[:, k]))
        }


def only(columns: Columns, *slots: str) -> Columns:
    """Return the columns of some slots."""
    return {name: values for name, values in columns.items() if name.partition("/")[0] in slots}


def rows(columns: Columns, which: npt.NDArray[np.generic]) -> Columns:
    """Return some rows of all columns."""
    return {name: values[which] for name, values in columns.items()}


def texts(words: list[str]) -> npt.NDArray[np.bytes_]:
    """Return text as a dataset holds it."""
    encoded = [os.fsencode(text) for text in words]
    return np.array(encoded, f"S{max([1, *map(len, encoded)])}")
