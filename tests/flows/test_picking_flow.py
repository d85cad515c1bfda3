"""Training a picker and picking with it, as one launch; the picker is a stand-in."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from cryoflow.database import Database
from cryoflow.ingest import ingest
from cryoflow.parameters import ParameterError
from cryoflow.pickers.parameters import TrainAndPickParameters
from flows.picking import train_picker_and_pick

sys.path.insert(0, str(Path(__file__).parents[1] / "pickers"))
from test_running import TOPAZ


def test_one_launch_trains_on_the_best_job_and_picks(project: Path, prefect_server: None, tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    ingest(project.parent, database)
    (tmp_path / "topaz").write_text(TOPAZ)
    (tmp_path / "topaz").chmod(stat.S_IRWXU)
    entry = next(e.name for e in database.entries() if e.kind.value == "NonUniform")
    parameters = TrainAndPickParameters(
        picker="topaz",
        database=tmp_path / "database",
        output=tmp_path / "run",
        to_pick=(entry,),
        diameter_A=160.0,
        gpus=0,
        programs=tmp_path,
    )
    (name,) = train_picker_and_pick(parameters)
    assert name == f"{entry.split('/')[0]}/AutoPick_topaz"
    assert len(database.load(name)) == len(database.load(entry).micrographs)
    assert train_picker_and_pick(parameters) == (name,)


def test_pickers_that_do_not_run_from_here_are_no_choice() -> None:
    with pytest.raises(ParameterError, match="'warp' is none of cryoflow, cryolo, epicker, topaz"):
        TrainAndPickParameters(picker="warp", database=Path("db"), output=Path("out"))


def test_nothing_to_pick_is_refused_before_the_training() -> None:
    with pytest.raises(ParameterError, match="Say what to pick: to_pick or micrographs"):
        TrainAndPickParameters(picker="topaz", database=Path("db"), output=Path("out"))
