"""Un-picking reads micrographs through a job's scratch folder, and its results do not change by that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.errors import BadInput
from cryoflow.unpicker import scoring


def test_shards_read_through_scratch_give_the_same_scores_and_leave_nothing(
    rings, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(scoring.score(trained, rings.micrographs))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("CRYOFLOW_SCRATCH", str(scratch))
    read_from: set[Path] = set()

    def load_patches(preprocessing, micrograph):
        read_from.add(micrograph.path.parent)
        return real(preprocessing, micrograph)

    real = scoring.load_patches
    monkeypatch.setattr(scoring, "load_patches", load_patches)
    scored = list(scoring.score(trained, rings.micrographs, workers=3))
    assert read_from == {scratch}
    assert [j.micrograph for j in scored] == list(rings.micrographs)
    for here, there in zip(scored, plain, strict=True):
        np.testing.assert_array_equal(here.probabilities, there.probabilities)
    assert list(scratch.iterdir()) == []


def test_a_micrograph_that_cannot_be_read_through_scratch_is_named_by_its_own_path(
    rings, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("CRYOFLOW_SCRATCH", str(scratch))
    cut = tmp_path / "cut.mrc"
    cut.write_bytes(rings.micrographs[0].path.read_bytes()[:5000])
    gone = tmp_path / "gone.mrc"
    damaged = [replace(rings.micrographs[0], path=cut), replace(rings.micrographs[1], path=gone)]
    errors = list(scoring.score(trained, damaged))
    assert [type(e) for e in errors] == [BadInput, BadInput]
    assert [e.path for e in errors] == [cut, gone]
    assert list(scratch.iterdir()) == []
