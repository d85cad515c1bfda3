"""What the report shows of a database, with and without a model and an evaluation."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.report.page import Code, ReportTable, render_page
from cryoflow.report.sections import (
    ReportedEvaluation,
    cleaned_pairs,
    next_section,
    operating_points_section,
    report_sections,
    result_section,
)
from cryoflow.unpicker.operating_point import OperatingPoint


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """All picks of a job on one real image and on one that is missing, and what un-picking kept of them."""
    rng = np.random.default_rng(1)
    write_mrc(tmp_path / "a.mrc", rng.normal(size=(120, 160)).astype(np.float32), pixel_size_A=4.0)
    table = micrograph_table(
        {
            "name": ["a.mrc", "<b>gone</b>.mrc"],
            "path": [str(tmp_path / "a.mrc"), None],
            "status": ["found", "missing"],
            "ny": [120, 120],
            "nx": [160, 160],
            "pixel_size_A": [4.0, 4.0],
        }
    )
    columns = {"micrograph": [0, 0, 0, 1], "x_px": [30.0, 80.0, 120.0, 50.0], "y_px": [30.0, 60.0, 90.0, 50.0]}
    who = Provenance("relion", tmp_path / "P1", "P1", "job005", Kind.AUTO_PICK)
    everything = PickSet.build(who, table, pd.DataFrame(columns), diameter_A=100.0)
    cleaned = replace(who, program="cryoflow", kind=Kind.UNPICKED, output_group=who.entry_name)
    kept = everything.where(np.array([True, False, True, True]), provenance=cleaned)
    database = Database(tmp_path / "DB")
    database.add(everything)
    database.add(kept)
    return database


def _evaluation(database: Database, tmp_path: Path) -> Path:
    truth = Database(tmp_path / "truth")
    picks = database.load("P1/AutoPick_job005")
    truth.add(picks.where(np.array([True, False, False, True])))
    counts = [{"name": f"m{i}.mrc", "n_picks": 2, "n_reference": 1, "n_matched": 1} for i in range(2)]
    rows = [
        {"entry": name, "n_picks": n, "n_reference": 2, "n_matched": 2, "micrographs": counts}
        for name, n in (("P1/AutoPick_job005", 4), ("P1/Unpicked_job005", 3))
    ]
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps({"reference_database": str(truth.root), "radius": 0.25, "model": None, "entries": rows}))
    return file


def test_the_page_shows_micrographs_with_what_was_kept_and_removed(database: Database) -> None:
    page = render_page("run", report_sections(database, model=None, exports=(), evaluation=None))
    assert "Clean picks" in page
    assert page.count("data:image/jpeg") == 3  # one micrograph, boxes kept, boxes removed; the other one is missing
    assert "P1/Unpicked_job005" in page
    assert "<b>gone" not in page


def test_with_an_evaluation_precision_and_recall_stand_first(database: Database, tmp_path: Path) -> None:
    evaluation = ReportedEvaluation.read(_evaluation(database, tmp_path))
    pairs = cleaned_pairs(database.entries())
    page = render_page("run", [result_section(pairs, evaluation)])
    assert "precision before" in page
    assert "50% → 67%" in page
    assert "100% → 100%" in page
    whole = render_page("run", report_sections(database, model=None, exports=(), evaluation=evaluation))
    assert "Amber" in whole


@pytest.mark.parametrize(("used", "kept"), [(0.5, (7, 6, 2)), (0.3, (9, 8, 7)), (0.7, (9, 8, 7))])
def test_a_stricter_threshold_never_shows_more_kept_picks_than_the_chosen_one(
    used: float, kept: tuple[int, int, int], tmp_path: Path
) -> None:
    """Validation picks, from which the shares are, may be better than all picks; kept ones are counted by score."""
    table = micrograph_table({"name": ["a.mrc"], "ny": [120], "nx": [160], "pixel_size_A": [4.0]})
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    columns = {"micrograph": np.zeros(10, int), "x_px": 10.0 * np.arange(1, 11), "y_px": np.full(10, 60.0)}
    who = Provenance("relion", tmp_path / "P1", "P1", "job005", Kind.AUTO_PICK)
    everything = PickSet.build(who, table, pd.DataFrame(columns), diameter_A=100.0)
    cleaned = replace(
        who,
        program="cryoflow",
        kind=Kind.UNPICKED,
        job_type="cryoflow.unpicker",
        output_group=who.entry_name,
        title=f"AutoPick_job005 un-picked at {used:.3f}",
    )
    scored = PickSet.build(cleaned, table, pd.DataFrame(columns | {"score": scores}), diameter_A=100.0)
    database = Database(tmp_path / "DB")
    database.add(everything)
    database.add(scored.where(scores >= used))
    doubtful = replace(cleaned, suffix="doubtful", title="AutoPick_job005 doubtful picks")
    database.add(scored.where((scores >= 0.3) & (scores <= 0.7), provenance=doubtful))
    curve = ((0.3, 0.9, 0.7, 1.0), (0.5, 0.8, 0.8, 0.9), (0.85, 0.7, 0.9, 0.6))
    model = SimpleNamespace(projects={"P1": OperatingPoint(threshold=0.5, precision=0.8, recall=0.9, curve=curve)})
    section = operating_points_section(database, cleaned_pairs(database.entries()), model)
    rows = next(block for block in section.blocks if isinstance(block, ReportTable)).rows
    assert [row[1:4] for row in rows] == [
        ["looser", kept[0], 0.9],
        ["chosen", kept[1], 0.8],
        ["stricter", kept[2], 0.7],
    ]


def test_an_empty_database_has_a_page_too(tmp_path: Path) -> None:
    page = render_page("run", report_sections(Database(tmp_path / "DB"), model=None, exports=(), evaluation=None))
    assert "0 entries" in page


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("{}", "required"),
        ("[]", "should be"),
        ('{"reference_database": "x", "radius": 1, "model": null, "entries": [{}]}', "required"),
    ],
)
def test_what_is_no_evaluation_is_one_clear_error(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(BadInput, match=rf"evaluation\.json: .*{why}"):
        ReportedEvaluation.read(tmp_path / "evaluation.json")


def test_what_to_do_next_can_be_pasted_though_names_have_blanks() -> None:
    (code,) = next_section(Path("/data/my picks"), Path("/data/it's a model")).blocks
    assert isinstance(code, Code)
    lines = [shlex.split(line) for line in code.text.splitlines()]
    assert ["cryoflow", "unpicker", "info", "/data/it's a model"] in lines
    assert lines[0] == ["cryoflow", "database", "list", "--database", "/data/my picks"]
