"""Saving a review as a new entry, and its labels as STAR files. The entry that was reviewed is never changed."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cryoflow.database import Database, Entry
from cryoflow.errors import BadInput
from cryoflow.formats.star_labels import star_files
from cryoflow.parameters import CALIBRATED
from cryoflow.picks import PickSet
from cryoflow.storage.safe_names import safe_name
from cryoflow.view.counts import names_of, per_micrograph
from cryoflow.view.decisions import Added, Decisions
from cryoflow.view.review import Review, kept_by, labels_by, touched_by

Others = Literal["leave out", "threshold"]
"""What becomes of micrographs that nobody looked at."""


def save(
    review: Review,
    database: Database,
    by: str,
    *,
    threshold: float,
    others: Others = "leave out",
    decisions: Decisions | None = None,
) -> Entry:
    """Add the reviewed picks to the database as a new entry, `X_reviewed` or the next free number.

    Parameters
    ----------
    by
        Who saves.
    threshold
        Decides the picks of micrographs that are not finished, where `others` is "threshold".
    others
        "leave out": the entry holds the micrographs that somebody decided something on; on those that are not marked as
        finished, picks that nobody decided on are labeled 0, not known. It is meant for training. "threshold": the
        entry holds all micrographs but the bad ones, and every pick is labeled 1 or -1. It is meant for export.
    decisions
        The state that the person saw; None takes the present one.

    Raises
    ------
    BadInput
        Where nobody decided anything.
    DatabaseBusy, NotWritten
        Where the database cannot be written; it is then what it was.
    """
    with database.writing():
        reviewed = reviewed_picks(review, by, threshold=threshold, others=others, decisions=decisions)
        source = review.candidates.entry
        taken = {e.name.partition("/")[2] for e in database.entries() if e.project == source.project}
        stem = f"{source.suffix}_reviewed" if source.suffix else "reviewed"
        names = [stem, *(f"{stem}_{i}" for i in range(2, len(taken) + 3))]
        who = reviewed.provenance
        suffix = next(s for s in names if safe_name(replace(who, suffix=s).entry_name) not in taken)
        return database.add(replace(reviewed, provenance=replace(who, suffix=suffix)))


def reviewed_picks(
    review: Review,
    by: str,
    *,
    threshold: float,
    others: Others = "leave out",
    decisions: Decisions | None = None,
) -> PickSet:
    """Return the candidates and added picks with the labels of a review; see `save`."""
    c, d = review.candidates, decisions or review.decisions
    touched = touched_by(c, d)
    if not touched and others == "leave out":
        raise BadInput(
            c.entry.name,
            "nobody has decided anything on it yet.",
            "Accept or remove picks, or mark a micrograph as finished.",
        )
    bad = {m for m, mark in d.marks.items() if mark == "bad"}
    n_micrographs = len(c.picks.micrographs)
    wanted = np.array([m not in bad and (others == "threshold" or m in touched) for m in range(n_micrographs)], bool)
    if not wanted.any():
        raise BadInput(c.entry.name, "all its reviewed micrographs are marked as bad: no picks are left to save.")
    finished = np.array([d.marks.get(m) == "finished" for m in range(n_micrographs)], bool)
    shown = np.where(kept_by(c, d, threshold), 1, -1).astype(np.int8)
    confirmed = finished[c.micrograph] | (others == "threshold")
    labels = np.where(confirmed, shown, labels_by(c, d))
    table = c.picks.picks.assign(label=labels.astype(np.int8))
    if not np.isfinite(c.scores).any():
        table = table.drop(columns="score", errors="ignore")
    elif "score" not in table or c.calibrated:
        table["score"] = c.scores
    added = _added_rows(d.added, table)
    table = pd.concat([table, added], ignore_index=True) if len(added) else table
    new_row = np.cumsum(wanted) - 1
    keep = wanted[table["micrograph"].to_numpy()]
    table = table[keep].reset_index(drop=True)
    table["micrograph"] = new_row[table["micrograph"].to_numpy()].astype(np.int32)
    counts = {**c.picks.counts, "bad_micrograph": int(per_micrograph(c, np.ones(len(c), bool))[list(bad)].sum())}
    numbers = Counter(table["label"].tolist())
    now = datetime.now(UTC).isoformat(timespec="seconds")
    source = c.picks.provenance
    note = (
        f"reviewed from {c.entry.name} by {names_of(d.people | {by})}, saved by {by} at {now}: "
        f"{numbers[1]} accepted ({len(added)} added by hand), {numbers[-1]} removed, {numbers[0]} not decided, "
        f"on {int(wanted.sum())} of {n_micrographs} micrographs, {int(finished[wanted].sum())} finished, {len(bad)} bad"
    )
    how = f"micrographs that nobody looked at follow the threshold {threshold:.6g}" if others == "threshold" else ""
    return PickSet.build(
        replace(
            source,
            program="file" if source.program == "file" else "cryoflow",
            job_type="cryoflow.view",
            output_group=source.entry_name,
            title=f"{source.entry_name} reviewed by {names_of(d.people | {by})}",
            sources=(),
        ),
        c.picks.micrographs[wanted].reset_index(drop=True),
        table,
        box_px=c.picks.box_px,
        diameter_A=c.picks.diameter_A,
        score_kind=CALIBRATED if c.calibrated else c.picks.score_kind,
        counts={name: n for name, n in counts.items() if n},
        notes=tuple(n for n in (*c.picks.notes, note, how) if n),
    )


def star_archive(picks: PickSet) -> bytes:
    """Return the files of `star_files` as a ZIP archive, the same bytes for the same picks."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in star_files(picks):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _added_rows(added: dict[int, Added], table: pd.DataFrame) -> pd.DataFrame:
    """Return the added picks as rows of the table; what a pick by hand does not have is NaN, -1 or 0."""
    rows = [
        (micrograph, *xy)
        for micrograph, of in sorted(added.items())
        for xy, label in zip(of.xy_px, of.labels, strict=True)
        if label
    ]
    columns: dict[str, object] = {
        "micrograph": np.array([r[0] for r in rows], np.int32),
        "x_px": np.array([r[1] for r in rows], np.float64),
        "y_px": np.array([r[2] for r in rows], np.float64),
    }
    for name in table.columns:
        if name == "label":
            columns[name] = np.ones(len(rows), np.int8)
        elif name not in columns:
            dtype = np.dtype(str(table[name].dtype))
            columns[name] = np.full(len(rows), np.nan if dtype.kind == "f" else 0, dtype)
    return pd.DataFrame(columns)[list(table.columns)]


def next_steps(entry: str, database: Path) -> dict[str, str]:
    """Return what to type next: train the unpicker from the labels, and export what was accepted."""
    name, db = shlex.quote(entry), shlex.quote(str(database))
    return {
        "train": f"cryoflow unpicker train {name} --database {db} --output MODEL",
        "export": f"cryoflow export cryolo {name} --database {db} --output TRAINING_SET",
    }
