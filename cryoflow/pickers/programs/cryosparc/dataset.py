"""CryoSPARC's datasets of picks, its exposures, and the STAR for Import Particles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import MissingMetadata
from cryoflow.formats.cs import read_cs, read_cs_header, write_cs
from cryoflow.formats.star_write import write_star
from cryoflow.pickers.programs.cryosparc import DATASET, STAR
from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
from cryoflow.pickers.training_sets.names import match_and_note
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.storage.safe_names import short_hash


def write_files(training: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
    """Write the STAR, and the dataset if the exposures' uids are known."""
    table = training.micrographs
    keep = table["target"].notna().to_numpy()
    names = table["target"].fillna("").to_numpy(object)
    row = training.picks["micrograph"].to_numpy()
    rows = np.flatnonzero(keep[row])
    row = row[rows]
    shape = table[["ny", "nx"]].to_numpy(np.float64)[row]
    x_px = training.picks["x_px"].to_numpy()[rows]
    y_px = training.picks["y_px"].to_numpy()[rows]
    y_px = shape[:, 0] - 1 - y_px if settings["flip_y"] == "yes" else y_px
    score = training.picks["score"].to_numpy()[rows] if "score" in training.picks else None
    _write_star(folder / STAR, names, row, x_px, y_px, score)
    if settings.get("dataset") == "not written":
        return
    columns: dict[str, npt.ArrayLike] = {
        "uid": _particle_uids(training.picks.iloc[rows], names[row], x_px, y_px),
        "location/micrograph_uid": table["target_uid"].to_numpy(np.uint64)[row],
        "location/exp_group_id": _column(training.picks, "optics_group", 1).astype(np.uint32)[rows],
        "location/micrograph_path": _text(names)[row],
        "location/micrograph_shape": shape.astype(np.uint32),
        "location/center_x_frac": (x_px / shape[:, 1]).astype(np.float32),
        "location/center_y_frac": (y_px / shape[:, 0]).astype(np.float32),
    }
    pixel_A = table["pixel_size_A"].to_numpy(np.float64)[row]
    if not np.isnan(pixel_A).any():
        columns["location/micrograph_psize_A"] = pixel_A.astype(np.float32)
    if score is not None:
        columns["pick_stats/ncc_score"] = score.astype(np.float32)
        columns["pick_stats/power"] = score.astype(np.float32)
    write_cs(folder / DATASET, columns)


def own_exposures(
    table: pd.DataFrame,
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.uint64] | None, npt.NDArray[np.bool_]]:
    """Return the entry's own names and uids; uids are None if one is unknown."""
    names = table["name"].to_numpy(object)
    uids = None if table["uid"].isna().any() else np.array([int(u) for u in table["uid"]], np.uint64)
    return names, uids, np.ones(len(table), bool)


def exposures(
    table: pd.DataFrame, path: Path, settings: DerivedSettings
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return names and uids of a project's exposures for the entry's micrographs."""
    known = ("micrograph_blob/path", "micrograph_blob_non_dw/path", "location/micrograph_path")
    column = None
    for candidate in [path, *sorted(path.parent.glob("*passthrough*.cs"))]:  # CTF jobs keep the names there
        has = read_cs_header(candidate).dtype.names or ()
        if column := next((c for c in known if c in has), None):
            path = candidate
            break
    if column is None:
        raise MissingMetadata(
            path, "has no micrograph_blob/path.", "Name the exposures of a motion correction, CTF or import job."
        )
    uid_column = "location/micrograph_uid" if column.startswith("location") else "uid"
    data = read_cs(path, [column, uid_column])
    decoded = [n.decode(errors="surrogateescape") if isinstance(n, bytes) else str(n) for n in data[column].tolist()]
    theirs = dict(zip(decoded, data[uid_column].tolist(), strict=True))
    ours = table["name"].astype(str).tolist()
    match = match_and_note(ours, list(theirs), path, settings)
    listed = list(theirs)
    names = np.array([listed[k] if k >= 0 else "" for k in match.index.tolist()], object)
    uids = np.array([theirs[listed[k]] if k >= 0 else 0 for k in match.index.tolist()], np.uint64)
    return names, uids, match.matched


def _particle_uids(
    picks: pd.DataFrame, names: npt.NDArray[np.object_], x_px: npt.NDArray[np.float64], y_px: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint64]:
    """Return the picks' uids, else new ones drawn from a seed that their content makes: the same every time."""
    if "uid" in picks and picks["uid"].is_unique and (picks["uid"] > 0).all():
        return picks["uid"].to_numpy(np.uint64)
    content = f"{names[0] if len(names) else ''} {len(names)} {x_px.sum():.3f} {y_px.sum():.3f}"
    generator = np.random.default_rng(int(short_hash(content, 16), 16))
    uids = generator.integers(1, 2**63, size=len(picks), dtype=np.uint64)
    while len(np.unique(uids)) < len(uids):
        uids = generator.integers(1, 2**63, size=len(picks), dtype=np.uint64)
    return uids


def _column(picks: pd.DataFrame, name: str, unknown: int) -> npt.NDArray[np.int64]:
    return picks[name].to_numpy(np.int64) if name in picks else np.full(len(picks), unknown, np.int64)


def _text(names: npt.NDArray[np.object_]) -> npt.NDArray[np.bytes_]:
    return np.array([str(n).encode(errors="surrogateescape") for n in names.tolist()] or [b""])


def _write_star(
    path: Path,
    names: npt.NDArray[np.object_],
    row: npt.NDArray[np.int32],
    x_px: npt.NDArray[np.float64],
    y_px: npt.NDArray[np.float64],
    score: npt.NDArray[np.float64] | None,
) -> None:
    """Write one nameless block with file names, as Import Particles reads it."""
    base = np.array([PurePosixPath(str(n)).name for n in names.tolist()], object)
    columns: dict[str, npt.ArrayLike] = {"rlnMicrographName": base[row], "rlnCoordinateX": x_px, "rlnCoordinateY": y_px}
    if score is not None:
        columns["rlnAutopickFigureOfMerit"] = score
    write_star(path, {"": columns}, decimals=3)
