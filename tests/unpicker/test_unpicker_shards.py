"""A shard's record is taken again only for the model, the picks, the images and the CTF that it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unpicker_rings import as_pickset

from cryoflow.unpicker import unpick_shards
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.unpick import unpick
from cryoflow.unpicker.unpick_shards import entry_shards, score_shard


@pytest.fixture(scope="module")
def ring_picks(rings):
    """Their picks as an entry of a database."""
    return as_pickset(rings)


def records(bundle: ModelBundle, picks, folder: Path) -> set[str]:
    return {shard.result.name for shard in entry_shards(bundle, picks, 3, folder)[1]}


def test_shards_gather_to_what_one_run_keeps_and_are_not_scored_twice(
    ring_picks, trained, tmp_path: Path, monkeypatch
) -> None:
    items, cut = entry_shards(trained, ring_picks, 3, tmp_path)
    assert [(s.first, s.last) for s in cut] == [(0, 3), (3, 6), (6, 8)]
    score_shard(trained, items, cut[1])
    scored, real = [], unpick_shards.score

    def counted(bundle, micrographs, **options):
        scored.extend(m.name for m in micrographs)
        return real(bundle, micrographs, **options)

    monkeypatch.setattr(unpick_shards, "score", counted)
    steps = []
    kept, report = unpick(trained, ring_picks, work=tmp_path, n_a_shard=3, on_progress=lambda *at: steps.append(at))
    assert scored == [f"mic_{i}" for i in (0, 1, 2, 6, 7)]
    assert steps == [(3, 8), (6, 8), (8, 8)]
    whole, _ = unpick(trained, ring_picks)
    assert not report.failed
    np.testing.assert_array_equal(kept.picks["uid"], whole.picks["uid"])
    np.testing.assert_allclose(kept.picks["score"], whole.picks["score"], atol=1e-6)


def test_a_checkpoint_of_the_same_training_takes_no_record_of_the_final_model(ring_picks, trained, tmp_path) -> None:
    checkpoints = [ModelBundle.load(p) for p in sorted(trained.folder.glob("checkpoints/epoch-*"))]
    assert len({c.fingerprint for c in (*checkpoints, trained)}) == 1
    final = records(trained, ring_picks, tmp_path)
    assert records(ModelBundle.load(trained.folder), ring_picks, tmp_path) == final
    others = [records(c, ring_picks, tmp_path) for c in checkpoints]
    assert sum(other == final for other in others) == 1  # that of the best epoch is the final model
    assert all(other == final or not other & final for other in others)


@pytest.mark.parametrize("column", ["pixel_size_A", "defocus_u_A", "voltage_kV"])
@pytest.mark.parametrize("phase_flip", [False, True])
def test_a_record_is_for_one_pixel_size_and_where_phases_are_flipped_for_one_ctf(
    column: str, phase_flip: bool, ring_picks, trained, tmp_path: Path
) -> None:
    bundle = replace(trained, preprocessing=replace(trained.preprocessing, phase_flip=phase_flip))
    table = ring_picks.micrographs.assign(defocus_u_A=1e4, defocus_v_A=1e4, voltage_kV=300.0)
    before = records(bundle, replace(ring_picks, micrographs=table), tmp_path)
    changed = replace(ring_picks, micrographs=table.assign(**{column: table[column] * 1.01}))
    matters = phase_flip or column == "pixel_size_A"
    assert len(records(bundle, changed, tmp_path) & before) == (0 if matters else 3)
