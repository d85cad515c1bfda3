"""CryoSPARC: picks as a STAR for Import Particles, and as a dataset with uids.

The dataset has `location/*` and `pick_stats/*` as picking jobs write them, and can be opened with cryosparc-tools and
given to an External job. CryoSPARC joins particles to micrographs by uid, so the exposures' uids must be known: from
the entry where it came from CryoSPARC, else from the project's `exposures.cs`. y is not flipped: `center_y_frac`
counts from the first row of the file that `micrograph_path` names. Micrographs that another program's motion
correction wrote may be upside-down; then `flip_y` is yes.

Sources: datasets of CryoSPARC 3 to 4.5, cryosparc-tools (docs), the guide's page on Import Particle Stack.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.formats.cs import read_cs, read_cs_header, write_cs
from cryoflow.formats.star_write import write_star
from cryoflow.pickers.base import Picker
from cryoflow.pickers.training_sets.derived_settings import Settings
from cryoflow.pickers.training_sets.names import match_names
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.storage.safe_names import short_hash


class CryoSparc(Picker):
    """CryoSPARC's pickers as a source of picks, and its extraction as their consumer."""

    name = "cryosparc"
    title = "CryoSPARC"
    score_kind = "pick_stats/ncc_score"
    links_micrographs: ClassVar[bool] = False

    def choose(self, training: TrainingSet, settings: Settings) -> None:
        """Direction, and columns `target` and `target_uid`: the exposure that a micrograph is in the project."""
        given = settings.choose_path(
            "exposures", "the entry's own uids; or exposures.cs of the project the picks go to"
        )
        settings.choose("flip_y", False, "the same MRC files; yes only for micrographs of another motion correction")
        table = training.micrographs
        if table[["ny", "nx"]].isna().any(axis=None):
            raise MissingMetadata("cryosparc", "needs the shape of each micrograph.", "Link its micrographs on ingest.")
        names, uids, keep = _exposures(table, Path(given), settings) if given else _own(table)
        table["target"] = [name if kept else None for name, kept in zip(names, keep, strict=True)]
        table["target_uid"] = 0 if uids is None else uids  # 0 is no uid of CryoSPARC's
        base = [PurePosixPath(str(name)).name for name in names[keep].tolist()]
        if same := len(base) - len(set(base)):
            settings.note(
                "file names that occur twice",
                same,
                "Import Particles cannot tell these micrographs apart; use the dataset",
            )
        if uids is None:
            settings.note("dataset", "not written", "the exposures' uids are unknown; see exposures")

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """`import_particles.star` always, `picked_particles.cs` where the exposures' uids are known."""
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
        _write_star(folder / "import_particles.star", names, row, x_px, y_px, score)
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
        write_cs(folder / "picked_particles.cs", columns)

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Where to put the files in CryoSPARC."""
        star, dataset = home / "import_particles.star", home / "picked_particles.cs"
        by_tools = (f"(or with cryosparc-tools: Dataset.load({str(dataset)!r}) into an External job)",)
        return (
            f"(CryoSPARC: Import Particle Stack of {star}, Source Exposures, Ignore raw data)",
            *(by_tools if dataset.exists() else ()),
        )

    def pick_files(self, folder: Path) -> list[Path]:
        """Datasets with locations, passthroughs not."""
        names = [p for p in sorted(folder.rglob("*.cs")) if "passthrough" not in p.name]
        return [p for p in names if "location/center_x_frac" in (read_cs_header(p).dtype.names or ())]


def _own(table: pd.DataFrame) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.uint64] | None, npt.NDArray[np.bool_]]:
    names = table["name"].to_numpy(object)
    uids = None if table["uid"].isna().any() else np.array([int(u) for u in table["uid"]], np.uint64)
    return names, uids, np.ones(len(table), bool)


def _exposures(
    table: pd.DataFrame, path: Path, settings: Settings
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Names and uids of a project's exposures for the entry's micrographs."""
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
    match = match_names(ours, list(theirs))
    if not match.matched.any():
        raise BadInput(
            path,
            f"names no micrograph of the entry. It has {decoded[0] if decoded else 'none'}; the entry has {ours[0]}.",
        )
    for how, count in match.how.items():
        settings.note(f"matched by {how}", count, "micrographs")
    if missing := int((~match.matched).sum()):
        settings.note(
            "not in the project",
            missing,
            f"of the entry's micrographs, the first {ours[int(np.argmin(match.matched))]}",
        )
    listed = list(theirs)
    names = np.array([listed[k] if k >= 0 else "" for k in match.index.tolist()], object)
    uids = np.array([theirs[listed[k]] if k >= 0 else 0 for k in match.index.tolist()], np.uint64)
    return names, uids, match.matched


def _particle_uids(
    picks: pd.DataFrame, names: npt.NDArray[np.object_], x_px: npt.NDArray[np.float64], y_px: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint64]:
    """The uids that the picks have, else new ones drawn from a seed that their content makes: the same every time."""
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
    """One nameless block with file names, as Import Particles wants it."""
    base = np.array([PurePosixPath(str(n)).name for n in names.tolist()], object)
    columns: dict[str, npt.ArrayLike] = {"rlnMicrographName": base[row], "rlnCoordinateX": x_px, "rlnCoordinateY": y_px}
    if score is not None:
        columns["rlnAutopickFigureOfMerit"] = score
    write_star(path, {"": columns}, decimals=3)


PICKER = CryoSparc()
