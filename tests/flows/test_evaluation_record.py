"""What an evaluation in another process found is read from what it wrote."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.pickers.parameters import EvaluateParameters
from flows.evaluation import evaluate, read_comparisons
from flows.ingest import ingest


def test_the_numbers_of_an_evaluation_are_read_back_as_they_were(project: Path, tmp_path: Path) -> None:
    ingest(IngestParameters(roots=(project.parent,), database=tmp_path / "picks"))
    names = sorted(e.name for e in Database(tmp_path / "picks").entries() if e.n_picks)[:2]
    parameters = EvaluateParameters(
        database=tmp_path / "picks",
        entries=tuple(names),
        reference_database=tmp_path / "picks",
        output=tmp_path / "evaluation.json",
        diameter_A=160.0,
    )
    found = evaluate(parameters)
    back = read_comparisons(parameters.output)
    assert [c.entry for c in back] == names
    for here, there in zip(back, found, strict=True):
        assert (here.n_reference, here.n_picks, here.n_matched) == (there.n_reference, there.n_picks, there.n_matched)
        assert here.precision == there.precision or math.isnan(here.precision)
        assert [m.name for m in here.micrographs] == [m.name for m in there.micrographs]
        assert [m.n_matched for m in here.micrographs] == [m.n_matched for m in there.micrographs]


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"entries": [{}]}')
    with pytest.raises(BadInput, match=r"e\.json: entries\.0\.entry: field required"):
        read_comparisons(tmp_path / "e.json")
