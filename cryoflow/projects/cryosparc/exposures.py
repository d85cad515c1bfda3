"""Paths, pixel sizes and optics of the micrographs of a project, by exposure uid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.cs import read_cs
from cryoflow.micrographs.header import is_pixel_size
from cryoflow.projects.cryosparc.outputs import OutputDatasets, ProjectIndex, Record

OPTICS = {  # column of a micrograph table -> (columns of a dataset in order of preference, factor)
    "voltage_kV": (("ctf/accel_kv", "mscope_params/accel_kv"), 1.0),
    "cs_mm": (("ctf/cs_mm", "mscope_params/cs_mm"), 1.0),
    "amplitude_contrast": (("ctf/amp_contrast",), 1.0),
    "defocus_u_A": (("ctf/df1_A",), 1.0),
    "defocus_v_A": (("ctf/df2_A",), 1.0),
    "defocus_angle_deg": (("ctf/df_angle_rad",), 180 / np.pi),
    "phase_shift_deg": (("ctf/phase_shift_rad",), 180 / np.pi),
}
FLAGS = {
    "mscope_params/neg_stain": "were stained negatively",
    "mscope_params/phase_plate": "were taken with a phase plate",
}
"""Columns that are set where images look different -> what to say of such micrographs."""
_MAX_OUTPUTS = 30  # of exposures that are asked, nearest first: a chain of curation jobs has a dozen


LARGEST_EDGE_PX = 1 << 20
"""A micrograph whose recorded shape is larger is one of unknown shape."""


@dataclass
class Exposures:
    """Values by exposure uid; those found first, nearest to the job, stay."""

    path: dict[int, str] = field(default_factory=dict)
    pixel_size_A: dict[int, float] = field(default_factory=dict)
    shape_yx: dict[int, tuple[int, int]] = field(default_factory=dict)
    is_movie: set[int] = field(default_factory=set)
    optics: dict[str, dict[int, float]] = field(default_factory=lambda: {name: {} for name in OPTICS})
    flagged: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in FLAGS})

    def is_complete(self, uids: npt.NDArray[np.uint64]) -> bool:
        """Return whether nothing is left to be asked for these exposures."""
        wanted = uids.tolist()
        optics = (self.optics["defocus_u_A"], self.optics["voltage_kV"])
        return all(uid in self.path and uid in self.pixel_size_A and all(uid in o for o in optics) for uid in wanted)


def find_exposures(index: ProjectIndex, record: Record, uids: npt.NDArray[np.uint64] | None) -> Exposures:
    """Read a job's own outputs of exposures and those of its ancestors, the nearest first.

    `uids` are those of the wanted exposures; with None, all outputs are read.
    """
    found = Exposures()
    for n_asked, (_, output) in enumerate(_exposure_outputs(index, record)):
        if n_asked >= _MAX_OUTPUTS or (uids is not None and found.is_complete(uids)):
            break
        try:
            _add(found, output)
        except BadInput:
            continue  # a damaged table of exposures costs optics, not picks
    return found


def uids_by_path(paths: Sequence[str], exposures: Exposures) -> npt.NDArray[np.uint64]:
    """Return the exposure of each micrograph's path; 0 where none or several have it. A single exposure is that of
    all."""
    by_path: dict[str, list[int]] = {}
    for uid, path in exposures.path.items():
        by_path.setdefault(path, []).append(uid)
    only = next(iter(exposures.path)) if len(exposures.path) == 1 else 0
    matches = [by_path.get(path, []) for path in paths]
    return np.array([found[0] if len(found) == 1 else only for found in matches], np.uint64)


def own_exposures(record: Record) -> Exposures:
    """Return the micrographs that a job itself puts out, those without picks included."""
    found = Exposures()
    for output in record.outputs:
        if output.item_type == "exposure" and not any(word in output.name for word in ("incomplete", "reject")):
            try:
                _add(found, output)
            except BadInput:
                continue
    return found


def _exposure_outputs(index: ProjectIndex, record: Record) -> Iterator[tuple[Record, OutputDatasets]]:
    for output in record.outputs:
        if output.item_type == "exposure":
            yield record, output
    seen = {record.job_file.uid}
    to_visit = [uid for uid, _ in record.job_file.inputs]
    for uid in to_visit:  # grows while it is walked: breadth first
        if uid in seen:
            continue
        seen.add(uid)
        parent = index.record(uid)
        for output in parent.outputs:
            if output.item_type == "exposure":
                yield parent, output
        to_visit.extend(uid for uid, _ in parent.job_file.inputs)


def _add(found: Exposures, output: OutputDatasets) -> None:
    wanted = {"micrograph_blob/path", "micrograph_blob/psize_A", "micrograph_blob/shape", "movie_blob/path", *FLAGS}
    wanted |= {column for columns, _ in OPTICS.values() for column in columns}
    for table in output.tables:
        names = [n for n in wanted if table.has_text(n) or table.has(n, (2,) if n.endswith("/shape") else ())]
        if not names:
            continue
        values = read_cs(table.path, ["uid", *names])
        uids = values["uid"].tolist()
        if "micrograph_blob/path" in values:
            for uid, path in zip(uids, values["micrograph_blob/path"].tolist(), strict=True):
                found.path.setdefault(uid, as_text(path))
            if "micrograph_blob/shape" in values:
                for uid, (ny, nx) in zip(uids, values["micrograph_blob/shape"].tolist(), strict=True):
                    if min(ny, nx) > 0 and max(ny, nx) <= LARGEST_EDGE_PX:
                        found.shape_yx.setdefault(uid, (ny, nx))
            if "micrograph_blob/psize_A" in values:
                _keep_positive(found.pixel_size_A, uids, values["micrograph_blob/psize_A"])
        elif "movie_blob/path" in values:
            found.is_movie.update(uids)
        for name in FLAGS:
            if name in values:
                found.flagged[name].update(values["uid"][values[name] != 0].tolist())
        for name, (columns, factor) in OPTICS.items():
            for column in columns:
                if column in values:
                    for uid, value in zip(uids, (values[column].astype(np.float64) * factor).tolist(), strict=True):
                        if np.isfinite(value):
                            found.optics[name].setdefault(uid, value)
    found.is_movie -= set(found.path)


def _keep_positive(kept: dict[int, float], uids: list[int], values: npt.NDArray[np.generic]) -> None:
    for uid, value in zip(uids, values.astype(np.float64).tolist(), strict=True):
        if is_pixel_size(value):
            kept.setdefault(uid, value)


def as_text(value: object) -> str:
    """Return a path of a dataset, which is bytes in one container and text in the other, without CryoSPARC's `>`."""
    text = value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
    return text.removeprefix(">")
