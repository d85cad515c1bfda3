"""Topaz's tables: `image_name x_coord y_coord`, perhaps `score`, one row a particle of any micrograph."""

from __future__ import annotations

from pathlib import Path

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import column_of_names, column_of_numbers, read_frame, required_column


def read(path: Path) -> FilePicks:
    """Read the picks of all micrographs of a table."""
    frame = read_frame(path)
    score = column_of_numbers(path, "score", frame["score"]) if "score" in frame else None
    return FilePicks(
        FORMAT.name,
        column_of_numbers(path, "x_coord", required_column(path, frame, "x_coord")),
        column_of_numbers(path, "y_coord", required_column(path, frame, "y_coord")),
        score,
        "Topaz score" if score is not None else "",
        micrographs=column_of_names(required_column(path, frame, "image_name")),
    )


def _sniff(head: Head) -> bool:
    return {"image_name", "x_coord", "y_coord"} <= set(head.labels)


FORMAT = PickFormat(
    name="Topaz table",
    programs=("Topaz",),
    suffixes=(".txt", ".tsv", ".csv"),
    recognized_by="a first line with `image_name`, `x_coord` and `y_coord`",
    sniff=_sniff,
    read=read,
    position="center",
    score="`score`, a log-likelihood ratio",
    kept="center, score, micrograph",
    not_kept="`source`; the downsampling is not in the file: give it with `--scale`",
    priority=10,
)
