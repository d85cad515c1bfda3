"""The stage `improve` with a picker whose programs are replaced: held-out micrographs, versions, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from written_files import written_files

from cryoflow.database import Database
from cryoflow.errors import BadInput, MissingMetadata, ToolFailed
from cryoflow.learning import improve_steps
from cryoflow.learning.improve_stage import Improved, improve_picker
from cryoflow.learning.parameters import ImproveParameters
from cryoflow.models.held_out import HeldOut
from cryoflow.models.registry import CURRENT, ModelRegistry
from cryoflow.models.version import ModelVersion
from cryoflow.parameters import CALIBRATED, ParameterError
from cryoflow.pickers.running.run_picker import Picked
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.storage.fingerprints import checksum

N, SHAPE_YX = 10, (64, 96)
NAMES = [f"{i}.mrc" for i in range(N)]


@dataclass
class FakeTopaz:
    """Topaz whose model finds the share of the particles that is written in its file; training adds a fifth."""

    true: PickSet
    trained_on: set[str] = field(default_factory=set)
    n_trainings: int = 0

    def pick(self, picker: str, model: str, sets: list[PickSet], output: Path, *_: object, **options: object) -> Picked:
        share = 0.5 if model == "resnet16_u64" else float(model_file(model).read_text())
        wrong = self.true.picks["x_px"].to_numpy() >= share * 80
        table = self.true.picks.assign(
            y_px=np.where(wrong, 60.0, self.true.picks["y_px"]), score=np.where(wrong, 1.0, 2.0)
        )
        where = replace(sets[0].provenance, program="picker", job=str(options["name"]), kind=Kind.AUTO_PICK)
        found = PickSet.build(where, self.true.micrographs, table, diameter_A=40.0)
        return Picked(output, output / "log", (found,))

    def train(self, picker: str, sets: list[PickSet], output: Path, *_: object, **options: object) -> object:
        self.n_trainings += 1
        self.trained_on |= {str(n) for n in sets[0].micrographs["name"]}
        folder = output / "training" / "models"
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "manifest.tsv").write_text("# cryoflow manifest 1\tpicker topaz, x\n")
        (folder.parent / "settings.tsv").write_text("setting\tvalue\n")
        good = sets[0].picks["label"].sum() / (8 * sets[0].micrographs.shape[0])
        (folder / "topaz_epoch1.sav").write_text(f"{good + 0.2:.3f}")
        return None, SimpleNamespace(model=folder / "topaz_epoch1.sav")


def model_file(model: str) -> Path:
    path = Path(model)
    return next(path.glob("*.sav")) if path.is_dir() else path


@pytest.fixture
def improved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Improved]:
    """Run the stage on ten micrographs with eight particles each, which a refinement found all."""
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode() * 99)
    rows = [(i, 5.0 + 10 * j, 20.0) for i in range(N) for j in range(8)]
    table = micrograph_table(
        {
            "name": NAMES,
            "path": [str(tmp_path / n) for n in NAMES],
            "status": ["found"] * N,
            "ny": [SHAPE_YX[0]] * N,
            "nx": [SHAPE_YX[1]] * N,
            "pixel_size_A": [4.0] * N,
        }
    )
    true = PickSet.build(
        Provenance("relion", tmp_path, "P", "job010", Kind.REFINE_3D),
        table,
        pd.DataFrame(rows, columns=["micrograph", "x_px", "y_px"]),
        diameter_A=40.0,
    )
    Database(tmp_path / "picks").add(true)
    topaz = FakeTopaz(true)
    monkeypatch.setattr(improve_steps, "pick", topaz.pick)
    monkeypatch.setattr(improve_steps, "export_and_train", topaz.train)

    def clean(_model: Path, _diameter_A: float) -> Callable[[PickSet], PickSet]:
        return lambda picks: picks.where(picks.picks["y_px"].to_numpy() == 20.0)

    monkeypatch.setattr("cryoflow.learning.improve_stage.cleaner", clean)

    def parameters(output: str = "work", **changes: object) -> ImproveParameters:
        values = {"picker": "topaz", "entry": "P/Refine3D_job010", "gpus": 0} | changes
        return ImproveParameters(database=tmp_path / "picks", output=tmp_path / output, **values)  # type: ignore[arg-type]

    def run(output: str = "work", **changes: object) -> Improved:
        return improve_picker(parameters(output, **changes), say=lambda _: None)

    run.topaz, run.parameters = topaz, parameters  # type: ignore[attr-defined]
    return run


def test_the_best_model_goes_into_use_with_what_picking_needs_and_no_round_saw_a_held_out_micrograph(
    improved: Callable[..., Improved], tmp_path: Path
) -> None:
    done = improved()
    assert [round(r.score, 3) for r in done.result.rounds] == [0.5, 0.75, 1.0, 1.0]
    assert done.result.ended == "the last round gained nothing"
    registry = ModelRegistry(tmp_path / "models")
    current = registry.current("topaz-P")
    assert current is not None
    assert done.version is not None
    assert (current.number, done.version.card.kind, done.version.card.status) == (1, "topaz", "accepted")
    assert {p.name for p in current.model.iterdir()} == {"topaz_epoch1.sav", "manifest.tsv", "settings.tsv"}
    assert current.problems() == []
    held_out = HeldOut(registry.root / "topaz-P").all_fingerprints()
    learned = {checksum(tmp_path / n) for n in improved.topaz.trained_on}  # type: ignore[attr-defined]
    assert len(held_out) >= 2
    assert learned
    assert not learned & held_out
    assert done.entry.name == "P/AutoPick_improve-topaz"
    folders = (tmp_path / "work", tmp_path / "models", tmp_path / "picks")
    before = written_files(*folders)
    assert improved().version == done.version
    assert written_files(*folders) == before
    assert improved.topaz.n_trainings == 3  # type: ignore[attr-defined]


def test_a_run_that_was_killed_before_its_model_went_into_use_adds_no_second_version(
    improved: Callable[..., Improved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote = ModelRegistry.promote

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelRegistry, "promote", dies)
    with pytest.raises(KeyboardInterrupt):
        improved()
    registry = ModelRegistry(tmp_path / "models")
    assert (registry.numbers("topaz-P"), registry.current("topaz-P")) == ([1], None)
    monkeypatch.setattr(ModelRegistry, "promote", promote)
    registry.add("topaz-P", "topaz", registry.version("topaz-P", 1).model)
    registry.promote("topaz-P", 2, "by hand")
    assert improved().notes == ("topaz-P@v0001 was not compared with topaz-P@v0002, and is not in use",)
    (registry.root / "topaz-P" / CURRENT).unlink()
    shutil.rmtree(registry.root / "topaz-P" / "v0002")
    improved()
    current = registry.current("topaz-P")
    assert current is not None
    assert (registry.numbers("topaz-P"), current.number) == ([1], 1)


def test_the_version_in_use_picks_first_and_is_not_replaced_by_a_model_that_was_not_compared_with_it(
    improved: Callable[..., Improved], tmp_path: Path
) -> None:
    improved()
    again = improved("second")
    assert again.result.rounds[0].score == 1.0  # the version in use has nothing to gain
    assert again.version is None
    other = improved("third", model="resnet16_u64")
    assert other.version is not None
    assert other.version.card.status == "candidate"
    assert "not compared with topaz-P@v0001" in other.version.card.reasons
    assert other.notes == ("topaz-P@v0002 was not compared with topaz-P@v0001, and is not in use",)
    (note,) = improved("third", model="resnet16_u64").notes
    assert note.startswith("topaz-P@v0002 is not in use: ")
    assert note.endswith("; not compared with topaz-P@v0001")
    current = ModelRegistry(tmp_path / "models").current("topaz-P")
    assert current is not None
    assert current.number == 1


def test_a_version_put_into_use_while_the_best_model_is_registered_stays(
    improved: Callable[..., Improved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ModelRegistry.add
    trained = tmp_path / "by_hand"
    trained.mkdir()
    (trained / "topaz.sav").write_text("0.5")

    def late(registry: ModelRegistry, name: str, *values: Any, **options: Any) -> ModelVersion:
        version = add(registry, name, *values, **options)
        by_hand = add(registry, name, "topaz", trained)
        registry.promote(name, by_hand.number, "by hand")
        return version

    monkeypatch.setattr(ModelRegistry, "add", late)
    done = improved()
    current = ModelRegistry(tmp_path / "models").current("topaz-P")
    assert current is not None
    assert (current.number, done.version and done.version.number) == (2, 1)
    (note,) = done.notes
    assert "v0002 was put into use meanwhile (by hand): topaz-P@v0001 was not compared with that" in note


def test_a_version_that_a_user_went_back_from_is_not_put_into_use_by_the_same_command(
    improved: Callable[..., Improved], tmp_path: Path
) -> None:
    trained = tmp_path / "by_hand"
    trained.mkdir()
    (trained / "topaz.sav").write_text("0.5")
    registry = ModelRegistry(tmp_path / "models")
    registry.add("topaz-P", "topaz", trained)
    registry.promote("topaz-P", 1, "by hand")
    registry.add("topaz-P", "topaz", trained)
    (registry.root / "topaz-P" / "v0002" / "card.json").write_text("{")
    first = improved()
    (note,) = first.notes
    assert note.startswith("topaz-P@v0002 may be this model, too: ")
    shutil.rmtree(registry.root / "topaz-P" / "v0002")
    assert (improved().version, registry.version("topaz-P", 3).card.compared_with) == (registry.current("topaz-P"), 1)
    registry.rollback("topaz-P")
    again = improved()
    assert again.version == registry.version("topaz-P", 3)
    assert again.notes == ("topaz-P@v0003 was in use before topaz-P@v0001, and is not put into use again",)
    assert registry.numbers("topaz-P") == [1, 3]


def test_what_another_model_holds_out_is_not_learned_from(improved: Callable[..., Improved], tmp_path: Path) -> None:
    last = sorted(checksum(tmp_path / n) for n in NAMES)[-2:]  # the improvement's own are the first
    HeldOut(tmp_path / "models" / "unpicker").draw({"Q": last})
    improved()
    apart = HeldOut(tmp_path / "models" / "unpicker").all_fingerprints()
    assert apart - HeldOut(tmp_path / "models" / "topaz-P").all_fingerprints()
    assert not apart & {checksum(tmp_path / n) for n in improved.topaz.trained_on}  # type: ignore[attr-defined]


def test_what_cannot_be_compared_or_begun_is_a_clear_error(improved: Callable[..., Improved], tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    with pytest.raises(BadInput, match="holds no MRC file"):
        improved(entry="", micrographs=(folder,))
    (folder / "a.mrc").write_bytes(b"no micrograph")
    with pytest.raises(MissingMetadata, match="diameter is not known"):
        improved(entry="", micrographs=(folder,))
    with pytest.raises(BadInput, match="too few to learn from"):
        improved(entry="", micrographs=(folder,), diameter_A=100.0)
    with pytest.raises(ParameterError, match="comes with no model"):
        improved(picker="cryolo")
    with pytest.raises(BadInput, match="cannot be the name of a model"):
        improved(name="../elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    true = improved.topaz.true  # type: ignore[attr-defined]
    where = replace(true.provenance, project=tmp_path / "Q", project_name="Q", kind=Kind.AUTO_PICK)
    Database(tmp_path / "picks").add(replace(true, provenance=where))
    with pytest.raises(ParameterError, match="must not be a detector"):  # it would be asked for its own opinion
        improved(picker="cryoflow", entry="Q/AutoPick_job010")
    own = replace(true, provenance=replace(where, job="detector"), score_kind=CALIBRATED)
    Database(tmp_path / "picks").add(own)
    with pytest.raises(ParameterError, match="must not be a detector"):
        improved(picker="cryolo", entry="Q/AutoPick_job010", first="Q/AutoPick_detector")
    for changes in (
        {"entry": ""},
        {"model": "a", "first": "b"},
        {"agreeing": {"topaz": "x"}},
        {"at_least": 3, "agreeing": {"cryolo": "x"}},
    ):
        with pytest.raises(ParameterError):
            improved(**changes)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_flow_goes_on_behind_the_rounds_that_a_failed_run_did(
    improved: Callable[..., Improved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.learning import improve as flow

    topaz: FakeTopaz = improved.topaz  # type: ignore[attr-defined]
    parameters: ImproveParameters = improved.parameters()  # type: ignore[attr-defined]

    def broken(*values: object, **options: object) -> object:
        if topaz.n_trainings == 1:
            raise ToolFailed(["topaz", "train"], 1, "no memory")
        return topaz.train(*values, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(improve_steps, "export_and_train", broken)
        with pytest.raises(ToolFailed, match="no memory"):
            flow(parameters)
    registry = ModelRegistry(tmp_path / "models")
    assert not registry.holds("topaz-P")
    record = flow(parameters)
    assert topaz.n_trainings == 3  # one of them by the run that failed
    assert record["version"] == "topaz-P@v0001"
    assert [str(line)[0] for line in record["rounds"]] == ["0", "1", "2", "3"]  # type: ignore[attr-defined]
    assert flow(parameters) == record
    assert topaz.n_trainings == 3
