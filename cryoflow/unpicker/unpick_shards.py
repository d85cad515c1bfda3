"""Un-picking in shards: the adapter of `cryoflow.shards` for scoring micrographs.

The result of a shard is a JSON record of the probabilities of its micrographs. Thresholds are applied when records are
gathered, so another threshold needs no scoring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from cryoflow import shards
from cryoflow.errors import BadInput
from cryoflow.picks import PickSet
from cryoflow.preparation.picked_micrograph import PickedMicrograph, picked_micrographs
from cryoflow.shards import OnProgress, Shard
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import state_of
from cryoflow.storage.parsing import read_record
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.scoring import Result, ScoredMicrograph, score
from cryoflow.unpicker.unpick import items_of

Items = Sequence[PickedMicrograph | None]
"""Micrographs of an entry in the order of its table; None for those without picks or image."""


def shards_of(
    bundle: ModelBundle, items: Items, n_a_shard: int, folder: Path, stem: str, *, orientations: int = 1
) -> list[Shard]:
    """Cut micrographs into shards of `n_a_shard`, whose records lie in `folder`."""
    return [
        shards.shard(
            first,
            last,
            folder,
            stem,
            (bundle.mark, orientations, *(c for m in items[first:last] for c in _content(bundle, m))),
            ".json",
        )
        for first, last in shards.cut(len(items), n_a_shard)
    ]


def entry_shards(
    bundle: ModelBundle, picks: PickSet, n_a_shard: int, folder: Path
) -> tuple[list[PickedMicrograph | None], list[Shard]]:
    """Return the micrographs of an entry, and its shards."""
    micrographs, _ = picked_micrographs(picks, diameter_A=bundle.diameter_A)
    items = items_of(picks, micrographs)
    return items, shards_of(bundle, items, n_a_shard, folder, picks.provenance.entry_name)


def _content(bundle: ModelBundle, m: PickedMicrograph | None) -> tuple[object, ...]:
    """Return what decides the scores of a micrograph, besides the model: picks, scale, image, and CTF if it is used."""
    if m is None:
        return (None,)
    ctf = m.ctf if bundle.preprocessing.phase_flip else None
    described = (m.name, str(m.path), m.data_set, m.pixel_size_A, m.diameter_A, state_of(m.path), ctf)
    return described, np.ascontiguousarray(m.centers_xy_px, "<f8").tobytes()


def score_all(
    bundle: ModelBundle,
    items: Items,
    folder: Path | None,
    stem: str,
    *,
    n_a_shard: int,
    orientations: int = 1,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[Result | None]:
    """Score micrographs, one result each. With a folder, in shards, of which those that are done are not repeated."""
    if folder is None:
        results: list[Result | None] = []
        for result in _score(bundle, items, orientations, workers):
            results.append(result)
            if on_progress:
                on_progress(len(results), len(items))
        return results
    cut = shards_of(bundle, items, n_a_shard, folder, stem, orientations=orientations)
    failed = shards.run(
        cut,
        lambda s: score_shard(bundle, items, s, orientations=orientations, workers=workers),
        on_progress=on_progress,
    )
    if failed:
        raise failed[0]
    return [result for each in cut for result in read_shard(bundle, items, each)]


def _score(bundle: ModelBundle, items: Items, orientations: int, workers: int | None) -> list[Result | None]:
    results = score(bundle, [m for m in items if m is not None], orientations=orientations, workers=workers)
    return [None if m is None else next(results) for m in items]


def score_shard(
    bundle: ModelBundle, items: Items, shard: Shard, *, orientations: int = 1, workers: int | None = None
) -> None:
    """Score the micrographs of one shard and write its record, unless it is there already."""
    if shard.is_done:
        return
    results = _score(bundle, items[shard.first : shard.last], orientations, workers)
    record = {"micrographs": [shard.first, shard.last], "results": [_as_json(r) for r in results]}
    write_atomically(shard.result, json.dumps(record) + "\n")


def _as_json(result: Result | None) -> object:
    if isinstance(result, BadInput):
        return {"path": str(result.path), "reason": result.reason, "hint": result.hint}
    return None if result is None else [round(p, 6) for p in result.probabilities.tolist()]


def read_shard(bundle: ModelBundle, items: Items, shard: Shard) -> list[Result | None]:
    """Return the results of a shard, from its record.

    Raises
    ------
    BadInput
        Where the record is missing or damaged.
    """
    some = items[shard.first : shard.last]
    record = read_record(shard.result, _StoredShard, _HINT)
    try:
        return [_result(bundle, m, stored) for m, stored in zip(some, record.results, strict=True)]
    except ValueError as error:
        raise BadInput(shard.result, f"is no record of a shard ({error}).", _HINT) from error


_HINT = "Remove it, and run the same again."


@dataclass(frozen=True)
class _StoredFailure:
    path: str
    reason: str
    hint: str


@dataclass(frozen=True)
class _StoredShard:
    """The record of a shard: probabilities of each micrograph, or why it has none; null for one that is not there."""

    __pydantic_config__ = {"allow_inf_nan": False}  # read by pydantic

    results: list[list[Annotated[float, Ge(0), Le(1)]] | _StoredFailure | None]


def _result(
    bundle: ModelBundle, m: PickedMicrograph | None, stored: list[float] | _StoredFailure | None
) -> Result | None:
    if m is None:
        return None
    if isinstance(stored, _StoredFailure):
        return BadInput(Path(stored.path), stored.reason, stored.hint)
    probabilities = np.array(stored or [], np.float64)
    if probabilities.shape != m.labels.shape:
        raise ValueError(f"{probabilities.size} probabilities of {len(m.labels)} picks")
    point = bundle.projects.get(m.data_set)
    return ScoredMicrograph(m, probabilities, probabilities >= (point.threshold if point else bundle.threshold))
