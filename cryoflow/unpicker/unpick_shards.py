"""Un-picking in shards: some micrographs at a time, each shard's record complete or absent on disk.

So a second run goes on where the first was stopped, and shards can be scored at the same time, on other machines too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.picks import PickSet
from cryoflow.preparation.picked import ctf_of, picked_micrographs
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import Fingerprint
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.unpick import OnScored, ScoredMicrograph, keep_above, score, scores_of


@dataclass(frozen=True)
class Shard:
    """Rows `first` to `last` (not included) of a pick set's micrographs, and the file that its record goes to."""

    first: int
    last: int
    record: Path

    @property
    def is_done(self) -> bool:
        """Whether its record is there; a record of other picks or another model has another name."""
        return self.record.is_file()


def shards_of(bundle: ModelBundle, picks: PickSet, n_micrographs: int, folder: Path) -> list[Shard]:
    """Cut a pick set into shards of so many micrographs, whose records lie in `folder`."""
    shards = []
    for first in range(0, len(picks.micrographs), n_micrographs):
        last = min(first + n_micrographs, len(picks.micrographs))
        mark = _fingerprint(bundle, part_of(picks, first, last))
        shards.append(Shard(first, last, folder / f"{picks.provenance.entry_name}-{first:06d}-{mark}.json"))
    return shards


def part_of(picks: PickSet, first: int, last: int) -> PickSet:
    """The picks on some of the micrographs, rows `first` to `last` (not included)."""
    offsets = picks.offsets
    rows = picks.picks.iloc[offsets[first] : offsets[last]].reset_index(drop=True)
    rows["micrograph"] = (rows["micrograph"] - first).astype(np.int32)
    return replace(picks, micrographs=picks.micrographs.iloc[first:last].reset_index(drop=True), picks=rows)


def score_shard(
    bundle: ModelBundle, picks: PickSet, shard: Shard, *, workers: int | None = None, on_scored: OnScored | None = None
) -> None:
    """Score the picks of one shard of `picks` and write its record, unless it is there already."""
    if shard.is_done:
        return
    part = part_of(picks, shard.first, shard.last)
    micrographs, notes = picked_micrographs(part, diameter_A=bundle.diameter_A)
    scored: list[ScoredMicrograph] = []
    failed: list[BadInput] = []
    for result in score(bundle, micrographs, workers=workers):
        (scored if isinstance(result, ScoredMicrograph) else failed).append(result)  # type: ignore[arg-type]
        if on_scored:
            on_scored(result)
    scores = scores_of(part, scored)
    record = {
        "entry": part.provenance.entry_name,
        "micrographs": [shard.first, shard.last],
        "model": bundle.mark,
        "probabilities": [None if np.isnan(p) else round(p, 6) for p in scores.tolist()],
        "failed": [[str(e.path), e.reason, e.hint] for e in failed],
        "notes": notes,
    }
    write_atomically(shard.record, json.dumps(record) + "\n")


def gather(
    bundle: ModelBundle, picks: PickSet, shards: Sequence[Shard], *, threshold: float | None = None
) -> tuple[PickSet, tuple[BadInput, ...]]:
    """The picks that are kept, from the records of all shards, and what could not be scored.

    Raises
    ------
    BadInput
        Where a shard's record is missing or damaged.
    """
    scores = np.full(len(picks), np.nan)
    failed: list[BadInput] = []
    notes: list[str] = []
    offsets = picks.offsets
    for shard in shards:
        try:
            record = json.loads(inputs.read_text(shard.record))
            values = np.array(record["probabilities"], np.float64)
            scores[offsets[shard.first] : offsets[shard.last]] = values
            failed += [BadInput(*error) for error in record["failed"]]
            notes += record["notes"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(
                shard.record, f"is no record of a shard ({error}).", "Remove it, and run the same again."
            ) from error
    return keep_above(bundle, picks, scores, threshold=threshold, notes=notes, failed=failed), tuple(failed)


def _fingerprint(bundle: ModelBundle, part: PickSet) -> str:
    """Short hash of what decides a shard's scores: the model, the picks, and the images' sizes, times and CTF."""
    found = Fingerprint(16).add(f"{bundle.mark} {part.diameter_A}")
    columns = (part.micrographs[name] for name in ("name", "path", "pixel_size_A"))
    for name, path, pixel_size_A, row in zip(*columns, part.micrographs.itertuples(index=False), strict=True):
        there = path is not None and Path(path).exists()
        state = (Path(path).stat().st_size, Path(path).stat().st_mtime_ns) if there else ()
        ctf = ctf_of(row) if bundle.preprocessing.phase_flip else None
        found.add(repr((name, path, pixel_size_A, state, ctf)))
    found.add(part.picks["micrograph"].to_numpy().tobytes(), np.ascontiguousarray(part.centers_xy_px).tobytes())
    return found.digits
