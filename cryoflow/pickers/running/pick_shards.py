"""Picking in shards: the adapter of `cryoflow.shards` for picking.

The result of a shard is a small database of one entry.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

import cryoflow
from cryoflow import shards
from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.execution.executor import Executor, OnLine
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.run_picker import micrographs_to_pick, pick
from cryoflow.pickers.training_sets import manifest as manifests
from cryoflow.picks import PickSet
from cryoflow.shards import Shard
from cryoflow.storage.fingerprints import state_of
from cryoflow.storage.folders import replacing_folder
from cryoflow.storage.safe_names import safe_name


@dataclass(frozen=True)
class Picking:
    """Settings that all shards share: the picker, its trained model, and how it picks."""

    picker: str
    model: Path
    diameter_A: float | None = None
    threshold: float | None = None


def shard_of_entry(picks: PickSet, first: int, last: int) -> PickSet:
    """Return rows `first` to `last` (not included) of an entry's micrographs, to be picked anew: without its picks."""
    empty = picks.picks.iloc[:0].reset_index(drop=True)
    return replace(picks, micrographs=picks.micrographs.iloc[first:last].reset_index(drop=True), picks=empty)


def micrograph_files(paths: Sequence[Path]) -> list[Path]:
    """Return MRC files that are named, or lie in folders that are named; in the order of their names."""
    files = {f.absolute() for p in paths for f in (Path(p).glob("*.mrc") if Path(p).is_dir() else [Path(p)])}
    return sorted(files)


def shard_of_files(paths: Sequence[Path], first: int, last: int, *, pixel_size_A: float | None = None) -> PickSet:
    """Return files `first` to `last` (not included) of `micrograph_files`; names and project are those of all of
    them.

    Raises
    ------
    BadInput
        Where there is no file from `first` on, or a path does not exist.
    """
    files = micrograph_files(paths)
    if not files[first:last]:
        raise BadInput(", ".join(map(str, paths)), f"holds {len(files)} MRC files: none from {first} on.")
    folder = Path(os.path.commonpath([f.parent for f in files]))
    some = micrographs_to_pick(files[first:last], pixel_size_A=pixel_size_A, project=folder.name)
    table = some.micrographs.assign(name=[str(Path(path).relative_to(folder)) for path in some.micrographs["path"]])
    return PickSet.build(replace(some.provenance, project=folder), table, some.picks)


def shard_of(picking: Picking, to_pick: PickSet, first: int, folder: Path) -> Shard:
    """Return the shard of some micrographs, of which `first` is the number of the first; its files lie in `folder`."""
    name = str(to_pick.micrographs["name"].iloc[0])
    stem = safe_name(f"{to_pick.provenance.project_name}-{Path(name).stem}", longest=60)
    return shards.shard(first, first + len(to_pick.micrographs), folder / "picked", stem, _content(picking, to_pick))


def pick_shard(
    picking: Picking, to_pick: PickSet, shard: Shard, executor: Executor, *, on_line: OnLine | None = None
) -> PickSet:
    """Pick one shard, unless its picks are there already, and return its picks.

    Raises
    ------
    BadInput
        Where the shard cannot be picked, or its folder holds anything but its picks.
    """

    def write(shard: Shard) -> None:
        picked = pick(
            picking.picker,
            picking.model,
            [to_pick],
            shard.result.parent.with_name("work") / shard.result.name,
            executor,
            name=picking.picker,
            diameter_A=picking.diameter_A,
            threshold=_threshold_of_shard(picking),
            overwrite=True,
            on_line=on_line,
        )
        with replacing_folder(shard.result) as hidden:
            Database(hidden).add(*picked.picksets)

    if failed := shards.run([shard], write):
        raise failed[0]
    database = Database(shard.result)
    entries = database.entries()
    if len(entries) != 1:
        raise BadInput(shard.result, "is not what picking a shard leaves.", "Remove it, and run the same again.")
    return database.load(entries[0])


def gather(picked: Sequence[PickSet], picking: Picking | None = None) -> list[PickSet]:
    """Return the picks of all shards, one set a project.

    A micrograph that is in two shards has the picks of the first. A threshold that follows from the scores is derived
    from those of all shards together.
    """
    projects: dict[tuple[Path, str], list[PickSet]] = {}
    for each in picked:
        projects.setdefault((each.provenance.project, each.provenance.project_name), []).append(each)
    joined = [_joined(of_project) for of_project in projects.values()]
    if picking is None or _threshold_of_shard(picking) == picking.threshold or not joined:
        return joined
    scores = np.concatenate([p.picks["score"].to_numpy(np.float64) for p in joined])
    threshold = picker(picking.picker).threshold_of(scores)
    return joined if threshold is None else [_above(p, threshold) for p in joined]


def _threshold_of_shard(picking: Picking) -> float | None:
    """Return the threshold within a shard: a shard keeps all picks where all shards together decide."""
    if picking.threshold is None and picker(picking.picker).derives_threshold:
        return 0.0
    return picking.threshold


def _above(picks: PickSet, threshold: float) -> PickSet:
    keep = (picks.picks["score"] >= threshold).to_numpy()
    note = f"threshold {threshold:.4g} on {picks.score_kind}, derived from all shards"
    return replace(
        picks,
        picks=picks.picks[keep].reset_index(drop=True),
        counts={**picks.counts, "below_threshold": int((~keep).sum())},
        notes=(*(n for n in picks.notes if not n.startswith("threshold ")), note),
    )


def diameter_of_training(folder: Path) -> float | None:
    """Return mean diameter of the entries that a picker was trained on, in angstrom; None where none knew its own."""
    known = manifests.read_manifest(folder).groupby("entry")["diameter_A"].first().dropna()
    return float(known.mean()) if len(known) else None


def _joined(picked: Sequence[PickSet]) -> PickSet:
    micrographs = pd.concat([p.micrographs for p in picked], ignore_index=True)
    starts = np.cumsum([0, *(len(p.micrographs) for p in picked)])
    tables = [
        p.picks.assign(micrograph=p.picks["micrograph"] + start) for p, start in zip(picked, starts, strict=False)
    ]
    picks = pd.concat(tables, ignore_index=True)
    new = (~micrographs["name"].duplicated()).to_numpy()
    row = np.cumsum(new) - 1
    of_new = new[picks["micrograph"].to_numpy()]
    picks = picks[of_new].assign(micrograph=row[picks["micrograph"].to_numpy()[of_new]].astype(np.int32))
    counts: dict[str, int] = {}
    for name, number in ((n, c) for p in picked for n, c in p.counts.items()):
        counts[name] = counts.get(name, 0) + number
    sources = tuple(source for p in picked for source in p.provenance.sources)
    return PickSet.build(
        replace(picked[0].provenance, sources=sources),
        micrographs[new].reset_index(drop=True),
        picks.reset_index(drop=True),
        box_px=picked[0].box_px,
        diameter_A=picked[0].diameter_A,
        score_kind=picked[0].score_kind,
        counts=counts,
        notes=tuple(dict.fromkeys(note for p in picked for note in p.notes)),
    )


def _content(picking: Picking, to_pick: PickSet) -> Iterator[object]:
    """Yield what decides a shard's picks: model, settings, and the images' sizes and times."""
    named = str(picking.model) in picker(picking.picker).model_names
    model = (str(picking.model), cryoflow.__version__ if named else state_of(picking.model))
    yield picking.picker, model, picking.diameter_A, picking.threshold, to_pick.diameter_A
    columns = (to_pick.micrographs[name] for name in ("name", "path", "pixel_size_A"))
    for name, path, pixel_size_A in zip(*columns, strict=True):
        yield name, path, pixel_size_A, state_of(str(path)) if path else ()
