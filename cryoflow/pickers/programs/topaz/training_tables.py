"""Topaz' tables of particles and lists of images: written, and checked before a training."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.pickers.base import rows_writer
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.storage import inputs

SPLIT_FILES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
FILES_OF_TRAINING = frozenset(
    {"particles.txt", "training.txt"}
    | {f"{k}_{s}.txt" for k in ("particles", "image_list") for s in SPLIT_FILES.values()}
)


def write_particles(training: TrainingSet, folder: Path) -> None:
    """Write `particles.txt` and one table per split; micrographs are in the order of the set.

    Only a shard of a large set is formatted at a time, which bounds the memory.
    """
    sources = iter(training.micrographs["entry_index"].tolist())
    with ExitStack() as stack:

        def table(name: str) -> BinaryIO:
            file = stack.enter_context((folder / name).open("wb"))
            file.write(b"image_name\tx_coord\ty_coord\tsource\n")
            return file

        of_all = table("particles.txt")
        of = {part: table(f"particles_{SPLIT_FILES[part]}.txt") for part in set(training.micrographs["split"])}
        for some in training.in_shards():
            scale = some.per_pick("scale")
            x, y = (np.rint(some.picks[axis].to_numpy() / scale) for axis in ("x_px", "y_px"))
            rows = rows_writer("\t%d\t%d\t", (x, y))
            for (stem, part, first, last), source in zip(some.each(), sources, strict=False):
                text = rows(first, last, before=stem, after=f"{source}\n")
                of_all.write(text)
                of[part].write(text)


def write_lists(training: TrainingSet, folder: Path) -> None:
    """Write `image_list_SPLIT.txt`: names, paths after preprocessing, and the entry of each micrograph."""
    for part, rows in training.micrographs.groupby("split"):
        images = "".join(
            f"{stem}\tproc/{stem}.mrc\t{source}\n"
            for stem, source in zip(rows["stem"], rows["entry_index"], strict=True)
        )
        (folder / f"image_list_{SPLIT_FILES[str(part)]}.txt").write_text("image_name\tpath\tsource\n" + images)


def problems_of_tables(home: Path, manifest: pd.DataFrame) -> list[str]:
    """Return names that one table has and another lacks, so that Topaz finds no particles; particles outside."""
    found = []
    linked = {p.stem for p in home.glob("raw_*/*.mrc")}
    row = manifest.set_index("stem")[["nx", "ny", "scale"]].astype("float64")
    for split, part in SPLIT_FILES.items():
        if not (manifest["split"] == split).any():
            continue
        table, images = home / f"particles_{part}.txt", home / f"image_list_{part}.txt"
        particles = _read(table, ["image_name", "x_coord", "y_coord"])
        listed = set(_read(images, ["image_name"])["image_name"])
        named = particles["image_name"]
        found += [f"{name} of {table.name} is not in {images.name}" for name in sorted(set(named) - listed)]
        found += [f"{name} of {images.name} has no picture" for name in sorted(listed - linked)]
        of = row.reindex(named)
        xy_px = particles[["x_coord", "y_coord"]].to_numpy(np.float64) * of[["scale"]].to_numpy()
        outside = (xy_px < 0) | (xy_px > of[["nx", "ny"]].to_numpy() + of[["scale"]].to_numpy())
        if outside.any():
            found.append(f"{table.name} has particles outside {named[outside.any(axis=1)].iloc[0]}")
    return found


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read some columns of one of our tables; the first is text.

    Raises
    ------
    BadInput
        If it cannot be read.
    """
    try:
        with inputs.opened_table(path) as file:
            kinds = dict.fromkeys(columns, "float64") | {columns[0]: "object"}
            return pd.read_csv(file, sep="\t", usecols=columns, dtype=kinds)
    except (OSError, ValueError) as error:
        raise BadInput(path, f"cannot be read: {error}.", "Export the set again, with --overwrite.") from error
