"""RELION's files of coordinates, the lists of them, and the particle STAR."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_table
from cryoflow.formats.star_labels import star_files
from cryoflow.formats.star_write import write_star
from cryoflow.pickers.base import rows_writer
from cryoflow.pickers.programs.relion import LABELS, SUFFIX
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.picks import FloatArray
from cryoflow.storage.safe_names import inside, safe_name, short_hash

VERSION = "version 30001"
_HEAD = (
    f"\n# {VERSION}\n\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
    "_rlnAutopickFigureOfMerit #3\n_rlnClassNumber #4\n_rlnAnglePsi #5\n"
).encode()
_LONGEST_NAME = 255 - len(SUFFIX) - len("-01234567")
"""Most bytes of a name before `SUFFIX` and a hash; file systems allow 255."""
_MOST_CHARACTERS = 1000
"""Most characters of all folders and the name together; Linux allows paths of 4,096 bytes."""
_JOB = re.compile(r"^[A-Za-z0-9]+/job\d+/")
_JOB_FILE = re.compile(r"(?:^|/)([A-Za-z0-9]+/job\d+/[^/]+)$")


class _Score(NamedTuple):
    label: str
    pattern: str
    unknown: str


_SCORES = {
    "score": _Score("rlnAutopickFigureOfMerit", "%.6f", "-999.000000"),
    "class": _Score("rlnClassNumber", "%d", "0"),
    "psi_deg": _Score("rlnAnglePsi", "%.2f", "0.00"),
}
"""Columns of coordinate files beside the position: label, format, and RELION's own value if it is unknown."""


def write_jobs(training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
    """Write one job folder per entry, `AutoPick/cryoflow_<entry>`, and `particles.star`."""
    table = training.micrographs
    keep = table["target"].notna().to_numpy()
    y_px = training.picks["y_px"].to_numpy()
    y_px = training.per_pick("ny") - 1 - y_px if settings["flip_y"] == "yes" else y_px
    known = {column: _column(training.picks, column) for column in _SCORES if column in training.picks}
    pattern = "".join(f" {_SCORES[c].pattern if c in known else _SCORES[c].unknown}" for c in _SCORES)
    write = rows_writer(f"%.3f %.3f{pattern}\n", (training.picks["x_px"].to_numpy(), y_px, *known.values()))
    bounds = training.offsets.tolist()
    targets = table["target"].tolist()
    for entry, rows in table.groupby("entry").indices.items():
        job = f"AutoPick/cryoflow_{safe_name(str(entry).replace('/', '_'))}"
        kept = [i for i in np.asarray(rows).tolist() if keep[i]]
        files = coordinate_files([targets[i] for i in kept])
        paths = [inside(folder / job, file) for file in files]
        for parent in {path.parent for path in paths}:
            parent.mkdir(parents=True, exist_ok=True)
        for i, path in zip(kept, paths, strict=True):
            path.write_bytes(_HEAD + write(bounds[i], bounds[i + 1]))
        files = [f"{home}/{job}/{file}" for file in files]
        _write_lists(folder / job, [targets[i] for i in kept], files, settings)
    _write_particles(training, table, keep, folder / "particles.star", y_px, known)
    write_labels(training, folder)


def write_labels(training: TrainingSet, folder: Path) -> None:
    """Write all picks and the positive ones of each entry that has labels, in `labels/<entry>`.

    Positions are those of the entry's own micrographs: they are for `cryoflow unpicker label` and emUnpicker.
    """
    for picks in training.picksets:
        if "label" not in picks.picks:
            continue
        who = picks.provenance
        home = folder / LABELS / safe_name(f"{who.project_name}_{who.entry_name}")
        home.mkdir(parents=True, exist_ok=True)
        for name, content in star_files(picks):
            inside(home, name).write_bytes(content)


def names_in_star(path: Path) -> list[str]:
    """Return the micrographs that a STAR file of RELION names, each once."""
    columns = read_table(path, None, ["rlnMicrographName"], text_columns=["rlnMicrographName"])
    return list(dict.fromkeys(map(str, columns["rlnMicrographName"])))


def coordinate_file(micrograph_name: str) -> str:
    """Return where RELION looks for a micrograph's coordinates below a picking job.

    >>> coordinate_file("MotionCorr/job002/Movies/a.mrc")
    'Movies/a_autopick.star'
    """
    tail = _JOB.sub("", micrograph_name.lstrip("/"))
    parts = [p for p in PurePosixPath(tail).parts if p not in ("..", "/", ".")]
    path = PurePosixPath(*parts) if parts else PurePosixPath("micrograph")
    kept = [_shortened(part) for part in path.with_suffix("").parts]
    if sum(map(len, kept)) > _MOST_CHARACTERS:
        kept = [f"{kept[-1][:60]}-{short_hash(tail)}"]
    return "/".join(kept) + SUFFIX


def _shortened(name: str) -> str:
    """Return a name, its end replaced by a hash if a file system would refuse it with `SUFFIX` and a hash behind it."""
    raw = name.encode(errors="surrogateescape")
    return (
        name if len(raw) <= _LONGEST_NAME else f"{raw[: _LONGEST_NAME - 9].decode(errors='ignore')}-{short_hash(name)}"
    )


def coordinate_files(micrograph_names: Sequence[str]) -> list[str]:
    """Return one file per micrograph, each a different one.

    Names that would share a file keep their whole path; if that is shared too (`.` and `..`, `a.mrc` and `a.tif`), a
    hash of the name is added. RELION 4 finds such files by its list; RELION 3.1 cannot.

    >>> coordinate_files(["MotionCorr/job002/a.mrc", "MotionCorr/job003/a.mrc"])
    ['MotionCorr/job002/a_autopick.star', 'MotionCorr/job003/a_autopick.star']
    """
    files = [coordinate_file(name) for name in micrograph_names]
    files = _where_shared(files, [coordinate_file(f"./{name.lstrip('/')}") for name in micrograph_names])
    named = enumerate(zip(files, micrograph_names, strict=True))  # the number, too: a list may repeat a name
    hashed = [f"{file.removesuffix(SUFFIX)}-{short_hash(f'{k} {name}')}{SUFFIX}" for k, (file, name) in named]
    return _where_shared(files, hashed)


def _where_shared(files: Sequence[str], instead: Sequence[str]) -> list[str]:
    """Replace the names that occur more than once."""
    count = Counter(files)
    return [new if count[file] > 1 else file for file, new in zip(files, instead, strict=True)]


def _column(picks: pd.DataFrame, name: str) -> FloatArray:
    values: FloatArray = np.nan_to_num(picks[name].to_numpy(np.float64), nan=float(_SCORES[name].unknown))
    return values


def _write_lists(job: Path, names: list[str], files: list[str], settings: Mapping[str, str]) -> None:
    """Write the list of RELION 4, and the file of RELION 3.1, whose one line is where the micrographs are."""
    job.mkdir(parents=True, exist_ok=True)
    if settings["relative_to"]:
        files = [_below(f, settings["relative_to"]) for f in files]
    columns = {"rlnMicrographName": names, "rlnMicrographCoordinates": files}
    write_star(
        job / "autopick.star",
        {"coordinate_files": {k: np.array(v, object) for k, v in columns.items()}},
        comment=VERSION,
    )
    given = _in_project(settings["micrographs_star"])
    folders = sorted({str(PurePosixPath(n).parent) for n in names})
    (job / "coords_suffix_autopick.star").write_text(
        (given or f"{folders[0] if folders else 'Micrographs'}/*.mrc") + "\n"
    )


def _in_project(path: str) -> str:
    """Return a job's file as RELION names it, from the project's folder on: its window runs there.

    >>> _in_project("/data/my project/CtfFind/job003/micrographs_ctf.star")
    'CtfFind/job003/micrographs_ctf.star'
    """
    found = _JOB_FILE.search(path)
    return found[1] if found else path


def _below(path: str, folder: str) -> str:
    try:
        return str(Path(path).relative_to(Path(folder).absolute()))
    except ValueError:
        raise BadInput(
            folder, f"does not hold the output {path}.", "Export into the RELION project, or leave relative_to out."
        ) from None


def _write_particles(
    training: TrainingSet,
    table: pd.DataFrame,
    keep: npt.NDArray[np.bool_],
    path: Path,
    y_px: FloatArray,
    known: Mapping[str, FloatArray],
) -> None:
    """Write particles with optics; columns whose values are not all known are left out."""
    optics = table[["entry", "pixel_size_A", "voltage_kV", "cs_mm", "amplitude_contrast"]].drop_duplicates(
        ignore_index=True
    )
    group_of = pd.MultiIndex.from_frame(table[optics.columns]).map(
        {key: i + 1 for i, key in enumerate(pd.MultiIndex.from_frame(optics))}
    )
    groups: dict[str, object] = {
        "rlnOpticsGroupName": np.array([f"opticsGroup{i + 1}" for i in range(len(optics))], object),
        "rlnOpticsGroup": np.arange(1, len(optics) + 1),
    }
    labels = {"pixel_size_A": "rlnMicrographPixelSize", "voltage_kV": "rlnVoltage"}
    labels |= {"cs_mm": "rlnSphericalAberration", "amplitude_contrast": "rlnAmplitudeContrast"}
    for column, label in labels.items():
        if optics[column].notna().all():
            groups[label] = optics[column].to_numpy(np.float64)
    row = training.picks["micrograph"].to_numpy()
    rows = np.flatnonzero(keep[row])
    row = row[rows]
    particles: dict[str, object] = {
        "rlnCoordinateX": training.picks["x_px"].to_numpy()[rows],
        "rlnCoordinateY": y_px[rows],
        "rlnMicrographName": table["target"].to_numpy(object)[row],
        "rlnOpticsGroup": np.asarray(group_of, np.int64)[row],
    }
    for column, values in known.items():
        whole = column == "class"
        particles[_SCORES[column].label] = values[rows].astype(np.int64) if whole else values[rows]
    defocus = {"defocus_u_A": "rlnDefocusU", "defocus_v_A": "rlnDefocusV", "defocus_angle_deg": "rlnDefocusAngle"}
    if table[list(defocus)].notna().all(axis=None):
        particles |= {label: table[column].to_numpy(np.float64)[row] for column, label in defocus.items()}
    write_star(path, {"optics": groups, "particles": particles}, comment=VERSION, decimals=3)  # type: ignore[dict-item]
