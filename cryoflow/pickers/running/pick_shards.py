"""Picking in shards: some micrographs at a time, each shard's picks complete or absent on disk.

So shards can be picked at the same time on several machines, and a second run picks only what is missing. What a shard
left is a small database of one entry; its name holds a mark of what went in, so that picks of another model, of other
settings or of changed micrographs are never taken for those that are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.execution.executor import Executor, OnLine
from cryoflow.pickers.running.run import micrographs_to_pick, pick
from cryoflow.pickers.training_sets import manifest as manifests
from cryoflow.picks import PickSet
from cryoflow.storage.files import replacing_folder
from cryoflow.storage.fingerprints import Fingerprint
from cryoflow.storage.safe_names import safe_name


@dataclass(frozen=True)
class Shard:
    """Some micrographs to pick, the folder that the picker works in, and the one that its picks go to."""

    to_pick: PickSet
    work: Path
    done: Path


@dataclass(frozen=True)
class Picking:
    """What all shards share: the picker, its trained model, and how it picks."""

    picker: str
    model: Path
    diameter_A: float | None = None
    threshold: float | None = None


def shard_of_entry(picks: PickSet, first: int, last: int) -> PickSet:
    """Rows `first` to `last` (not included) of an entry's micrographs, to be picked anew: without its picks."""
    empty = picks.picks.iloc[:0].reset_index(drop=True)
    return replace(picks, micrographs=picks.micrographs.iloc[first:last].reset_index(drop=True), picks=empty)


def micrograph_files(paths: Sequence[Path]) -> list[Path]:
    """MRC files that are named, or lie in folders that are named; in the order of their names."""
    files = {f.absolute() for p in paths for f in (Path(p).glob("*.mrc") if Path(p).is_dir() else [Path(p)])}
    return sorted(files)


def shard_of_files(paths: Sequence[Path], first: int, last: int, *, pixel_size_A: float | None = None) -> PickSet:
    """Files `first` to `last` (not included) of `micrograph_files`; names and project are those of all of them."""
    files = micrograph_files(paths)
    if not files[first:last]:
        raise BadInput(", ".join(map(str, paths)), f"holds {len(files)} MRC files: none from {first} on.")
    folder = Path(os.path.commonpath([f.parent for f in files]))
    some = micrographs_to_pick(files[first:last], pixel_size_A=pixel_size_A, project=folder.name)
    table = some.micrographs.assign(name=[str(Path(path).relative_to(folder)) for path in some.micrographs["path"]])
    return PickSet.build(replace(some.provenance, project=folder), table, some.picks)


def shard(picking: Picking, to_pick: PickSet, folder: Path) -> Shard:
    """A shard whose files lie in `folder`."""
    first = str(to_pick.micrographs["name"].iloc[0])
    stem = safe_name(f"{to_pick.provenance.project_name}-{Path(first).stem}", longest=60)
    name = f"{stem}-{_mark(picking, to_pick)}"
    return Shard(to_pick, folder / "work" / name, folder / "picked" / name)


def pick_shard(picking: Picking, shard: Shard, executor: Executor, *, on_line: OnLine | None = None) -> PickSet:
    """Pick one shard, unless its picks are there already; they are its answer."""
    if not shard.done.is_dir():
        picked = pick(
            picking.picker,
            picking.model,
            [shard.to_pick],
            shard.work,
            executor,
            name=picking.picker,
            diameter_A=picking.diameter_A,
            threshold=picking.threshold,
            overwrite=True,
            on_line=on_line,
        )
        with replacing_folder(shard.done) as hidden:
            Database(hidden).add(*picked.picksets)
    database = Database(shard.done)
    entries = database.entries()
    if len(entries) != 1:
        raise BadInput(shard.done, "is not what picking a shard leaves.", "Remove it, and run the same again.")
    return database.load(entries[0])


def gather(shards: Sequence[PickSet]) -> list[PickSet]:
    """The picks of all shards, one set a project. A micrograph that is in two shards has the picks of the first."""
    projects: dict[tuple[Path, str], list[PickSet]] = {}
    for each in shards:
        projects.setdefault((each.provenance.project, each.provenance.project_name), []).append(each)
    return [_joined(of_project) for of_project in projects.values()]


def diameter_of_training(folder: Path) -> float | None:
    """Mean diameter of the entries that a picker was trained on, in angstrom; None where none knew its own."""
    known = manifests.read_manifest(folder).groupby("entry")["diameter_A"].first().dropna()
    return float(known.mean()) if len(known) else None


def _joined(shards: Sequence[PickSet]) -> PickSet:
    micrographs = pd.concat([p.micrographs for p in shards], ignore_index=True)
    starts = np.cumsum([0, *(len(p.micrographs) for p in shards)])
    tables = [
        p.picks.assign(micrograph=p.picks["micrograph"] + start) for p, start in zip(shards, starts, strict=False)
    ]
    picks = pd.concat(tables, ignore_index=True)
    new = (~micrographs["name"].duplicated()).to_numpy()
    row = np.cumsum(new) - 1
    of_new = new[picks["micrograph"].to_numpy()]
    picks = picks[of_new].assign(micrograph=row[picks["micrograph"].to_numpy()[of_new]].astype(np.int32))
    counts: dict[str, int] = {}
    for name, number in ((n, c) for p in shards for n, c in p.counts.items()):
        counts[name] = counts.get(name, 0) + number
    sources = tuple(source for p in shards for source in p.provenance.sources)
    return PickSet.build(
        replace(shards[0].provenance, sources=sources),
        micrographs[new].reset_index(drop=True),
        picks.reset_index(drop=True),
        box_px=shards[0].box_px,
        diameter_A=shards[0].diameter_A,
        score_kind=shards[0].score_kind,
        counts=counts,
        notes=tuple(dict.fromkeys(note for p in shards for note in p.notes)),
    )


def _mark(picking: Picking, to_pick: PickSet) -> str:
    """Short hash of what decides a shard's picks: model, settings, and the images' sizes and times."""
    found = Fingerprint(16)
    model = _state(str(picking.model))
    found.add(repr((picking.picker, model, picking.diameter_A, picking.threshold, to_pick.diameter_A)))
    columns = (to_pick.micrographs[name] for name in ("name", "path", "pixel_size_A"))
    for name, path, pixel_size_A in zip(*columns, strict=True):
        known = (name, path, pixel_size_A, _state(str(path)) if path else ())
        found.add(repr(known))
    return found.digits


def _state(path: str) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return (path,)
    return path, status.st_size, status.st_mtime_ns
