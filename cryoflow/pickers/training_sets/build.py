"""Put entries together to a training set: which micrographs, unique names, boxes and the split."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.micrographs.duplicate_files import leaders
from cryoflow.pickers.training_sets.headers import fill_from_headers, read_headers_of
from cryoflow.pickers.training_sets.names import plain_stem
from cryoflow.pickers.training_sets.negatives import has_no_positive, is_positive, none, not_positive_picks
from cryoflow.pickers.training_sets.split import TRAIN, Fractions, split_micrographs
from cryoflow.pickers.training_sets.training_set import Skipped, TrainingSet
from cryoflow.picks import PickSet
from cryoflow.storage.safe_names import short_hash

_ROWS_AT_ONCE = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def build_training_set(
    picksets: Sequence[PickSet],
    *,
    diameter_A: float | None = None,
    box_px: int | None = None,
    fractions: Fractions = Fractions(),  # noqa: B008
    seed: int = 0,
    negatives: bool = True,
    link: bool = True,
    for_picking: bool = False,
) -> TrainingSet:
    """Put entries together.

    Parameters
    ----------
    diameter_A
        Particle diameter; each entry's box is the even number of its own pixels nearest to it.
    picksets
        Where two of them have a micrograph in common, the labels of the one that is named first are taken: two sets of
        labels for one picture would contradict each other.
    box_px
        One box for all entries instead, in pixels; the diameter follows from it. With neither, the entries' own
        diameters are taken, if all have one.
    negatives
        Keep micrographs without picks, as examples of no particles.
    link
        Whether the picker gets the micrographs themselves; then missing ones are left out.
    for_picking
        The micrographs are to be picked: no picks, no split.

    Raises
    ------
    BadInput
        Where nothing is left.
    MissingMetadata
        Where neither diameter nor box is known, or a pixel size that is needed is not.
    """
    if not picksets:
        raise BadInput("export", "has no entry to export.")
    priority = {id(p): (has_no_positive(p), i) for i, p in enumerate(picksets)}
    picksets = tuple(
        sorted(picksets, key=lambda p: (p.provenance.project_name, str(p.provenance.project), p.provenance.entry_name))
    )
    micrographs = _all_micrographs(picksets)
    keys = _keys(micrographs)
    rank = [priority[id(picksets[i])] for i in micrographs["entry_index"]]
    by_priority = sorted(range(len(micrographs)), key=rank.__getitem__)
    shared, shared_notes = _shared(micrographs, keys, by_priority, [has_no_positive(p) for p in picksets])
    headers, problems = read_headers_of(micrographs) if link else ([None] * len(micrographs), [""] * len(micrographs))
    problems = [name or problem for name, problem in zip(_name_problems(micrographs), problems, strict=True)]
    skipped = tuple(
        Skipped(_shown(row.entry), _shown(row.name), problem)
        for row, problem in zip(micrographs[["entry", "name"]].itertuples(index=False), problems, strict=True)
        if problem
    )
    keep = np.array([not p for p in problems], bool) & ~shared
    if link and not for_picking and not negatives:
        keep &= micrographs["n_picks"].to_numpy() > 0
    if not keep.any():
        why = f"The first of {len(skipped)}: {skipped[0].micrograph} {skipped[0].reason}" if skipped else ""
        entries = ", ".join(_shown(entry) for entry in sorted(set(micrographs["entry"])))
        raise BadInput(entries, "no micrograph of it can be used.", why)
    if not for_picking and not micrographs["n_picks"].to_numpy()[keep].any():
        raise BadInput(", ".join(sorted(set(micrographs["entry"]))), "has no picks on any micrograph that can be used.")

    new_row = np.cumsum(keep) - 1
    picks = _all_picks(picksets, keep, new_row, for_picking)
    not_positive = none() if for_picking else not_positive_picks(picksets, keys, keep, new_row)
    kept_headers = tuple(h for h, k in zip(headers, keep, strict=True) if k)
    micrographs = fill_from_headers(micrographs[keep].reset_index(drop=True), kept_headers)
    micrographs["n_picks"] = np.bincount(picks["micrograph"].to_numpy(), minlength=len(micrographs))
    inside = _inside(micrographs, picks)
    notes = (
        shared_notes
        if inside.all()
        else [*shared_notes, f"{int((~inside).sum())} picks outside their micrographs were left out."]
    )
    needed = link and not for_picking  # RELION and CryoSPARC get centers
    micrographs, box_notes = _with_boxes(micrographs, picksets, diameter_A, box_px, needed=needed)
    micrographs["stem"] = [f"{i:06d}__{plain_stem(str(name))}" for i, name in enumerate(micrographs["name"])]
    if for_picking:
        micrographs["split"] = "pick"
    else:
        leader = leaders(micrographs["path"].tolist(), micrographs["project_path"].tolist())
        columns = micrographs["project"], micrographs["name"], micrographs["defocus_A"]
        split = split_micrographs(*columns, fractions, seed)[leader]
        micrographs["split"] = split if (split == TRAIN).any() else TRAIN  # all may be copies of one that validates
        if copies := int((leader != np.arange(len(leader))).sum()):
            notes.append(f"{copies} micrographs are copies of others in the set, and go to the same part of the split.")
    training = TrainingSet(micrographs, picks, picksets, kept_headers, skipped, tuple(notes + box_notes), not_positive)
    return training if inside.all() else training.without(~inside)


def _name_problems(micrographs: pd.DataFrame) -> list[str]:
    """Return why the names of each micrograph cannot stand in a picker's text files; empty if they can."""

    def problem(names: Sequence[str | None]) -> str:
        text = "".join(str(name) for name in names)
        if _CONTROL.search(text):
            return "has a control character (a tab, line break or escape) in its name, path or project."
        try:
            text.encode()
        except UnicodeEncodeError:
            return "has a name, path or project that is not UTF-8."
        return ""

    columns = micrographs[["name", "path", "entry", "project", "project_path"]]
    return [problem(row) for row in columns.itertuples(index=False, name=None)]


def _shown(name: object) -> str:
    """Return a name as printable text."""
    return str(name) if str(name).isprintable() else ascii(name)[1:-1]


def _all_micrographs(picksets: Sequence[PickSet]) -> pd.DataFrame:
    tables = []
    labels = [f"{p.provenance.project_name}/{p.provenance.entry_name}" for p in picksets]
    for index, pickset in enumerate(picksets):
        source = pickset.provenance
        table = pickset.micrographs[
            ["name", "path", "status", "uid", "ny", "nx", "pixel_size_A", "voltage_kV", "cs_mm", "amplitude_contrast"]
        ].copy()
        table["defocus_u_A"] = pickset.micrographs["defocus_u_A"]
        table["defocus_v_A"] = pickset.micrographs["defocus_v_A"]
        table["defocus_angle_deg"] = pickset.micrographs["defocus_angle_deg"]
        table["phase_shift_deg"] = pickset.micrographs["phase_shift_deg"]
        table["defocus_A"] = pickset.micrographs[["defocus_u_A", "defocus_v_A"]].mean(axis=1)
        table.insert(0, "entry_index", index)
        same = labels.count(labels[index]) > 1  # of two projects with one name
        table.insert(1, "entry", labels[index] + (f"-{short_hash(os.fspath(source.project))}" if same else ""))
        table.insert(2, "project", source.project_name)
        table.insert(3, "project_path", os.fspath(source.project))
        row = pickset.picks["micrograph"].to_numpy()[is_positive(pickset.picks)]
        table["n_picks"] = np.bincount(row, minlength=len(pickset.micrographs))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _keys(micrographs: pd.DataFrame) -> pd.Series[str]:
    """Return the identity of each micrograph: the real file, else the name in the project."""
    columns = (micrographs[name] for name in ("path", "project_path", "name"))
    keys = [
        f"{project}\0{name}" if path is None or pd.isna(path) else os.path.realpath(path)
        for path, project, name in zip(*columns, strict=True)
    ]
    return pd.Series(keys, index=micrographs.index, dtype=object)  # object: names need not be UTF-8


def _shared(
    micrographs: pd.DataFrame, keys: pd.Series[str], by_priority: Sequence[int], no_positive: Sequence[bool]
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Return micrographs to leave out, as an entry that comes before has the same file, and a note for each entry."""
    shared = keys.iloc[list(by_priority)].duplicated(keep="first").sort_index().to_numpy(bool)
    notes = []
    for index, rows in micrographs[shared].groupby("entry_index", sort=False):
        entry, count = str(rows["entry"].iloc[0]), len(rows)
        if no_positive[int(str(index))]:
            notes.append(f"The picks of {entry} are negative or unlabeled: of use to Warp's BoxNet alone.")
        else:
            notes.append(
                f"{count} micrographs of {entry} are also in an entry that was named before it, whose picks are taken; "
                "`cryoflow picker consensus --at-least 1` would join them."
            )
    return shared, notes


def _all_picks(
    picksets: Sequence[PickSet], keep: npt.NDArray[np.bool_], new_row: npt.NDArray[np.intp], for_picking: bool
) -> pd.DataFrame:
    if for_picking:
        return pd.DataFrame({"micrograph": np.zeros(0, np.int32), "x_px": np.zeros(0), "y_px": np.zeros(0)})
    tables, first = [], 0
    for pickset in picksets:
        row = pickset.picks["micrograph"].to_numpy() + first
        table = pickset.picks.assign(micrograph=new_row[row].astype(np.int32))
        wanted = keep[row] & is_positive(table)
        tables.append(table if wanted.all() else table[wanted])
        first += len(pickset.micrographs)
    return pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0].reset_index(drop=True)


def _inside(micrographs: pd.DataFrame, picks: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return picks on their micrograph; needed again where the shape was only learned from the file."""
    row = picks["micrograph"].to_numpy()
    inside = np.ones(len(row), bool)
    for axis, size in (("x_px", "nx"), ("y_px", "ny")):
        end = micrographs[size].to_numpy(np.float64, na_value=np.inf) - 0.5
        position = picks[axis].to_numpy()
        for start in range(0, len(row), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            inside[some] &= (position[some] >= -0.5) & (position[some] < end[row[some]])
    return inside


def _with_boxes(
    micrographs: pd.DataFrame,
    picksets: Sequence[PickSet],
    diameter_A: float | None,
    box_px: int | None,
    *,
    needed: bool,
) -> tuple[pd.DataFrame, list[str]]:
    """Add `box_px` and `diameter_A`: of each entry from one diameter, or of all from one box."""
    pixel_A = micrographs["pixel_size_A"].to_numpy(np.float64)
    notes: list[str] = []
    if box_px is not None:
        if box_px < 2:
            raise BadInput("--box", f"is {box_px}; a box has at least 2 pixels.")
        box = np.full(len(micrographs), box_px + box_px % 2, np.float64)
        if box_px % 2:
            notes.append(f"The box was made even, {box_px + 1} px: readers disagree about the middle of an odd one.")
        diameter = box * pixel_A
    else:
        own = np.array([np.nan if p.diameter_A is None else p.diameter_A for p in picksets])[
            micrographs["entry_index"].to_numpy()
        ]
        diameter = np.full(len(micrographs), diameter_A, np.float64) if diameter_A is not None else own
        if needed and np.isnan(diameter).any():
            raise MissingMetadata(
                str(micrographs["entry"][np.isnan(diameter)].iloc[0]),
                "has no particle diameter.",
                "Give one: --diameter in angstrom, or --box in pixels.",
            )
        if needed and np.isnan(pixel_A).any():
            raise MissingMetadata(
                str(micrographs["entry"][np.isnan(pixel_A)].iloc[0]),
                "has no pixel size, which a diameter in angstrom needs.",
                "Give --box in pixels instead, or ingest its project with a pixel size.",
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            box = 2 * np.round(diameter / pixel_A / 2)
        if (box < 2).any():
            raise BadInput(
                str(micrographs["entry"][box < 2].iloc[0]),
                f"gets no box from a diameter of {diameter[box < 2][0]:g} A at {pixel_A[box < 2][0]:g} A a pixel.",
                "The diameter is in angstrom: give --diameter.",
            )
    shortest = micrographs[["ny", "nx"]].min(axis=1).to_numpy(np.float64, na_value=np.inf)
    if (large := box > shortest).any():
        raise BadInput(
            str(micrographs["entry"][large].iloc[0]),
            f"gets a box of {box[large][0]:g} px, larger than its micrograph of {shortest[large][0]:g} px.",
            "--diameter is in angstrom, --box in pixels of the micrograph.",
        )
    return micrographs.assign(box_px=box, diameter_A=diameter), notes
