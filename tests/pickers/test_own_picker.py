"""cryoflow's own detector as a picker: exported for, trained, run and cut into shards like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.cli.main import launch
from cryoflow.cluster.dispatch import Done, Work
from cryoflow.database import Database
from cryoflow.detector.bundle import Detector
from cryoflow.detector.pick_set import pick_set
from cryoflow.errors import BadInput, ExitCode, MissingMetadata
from cryoflow.execution.executor import Executor
from cryoflow.execution.resources import Resources
from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.pickers.running.pick_shards import Picking, gather, pick_shard, shard_of, shard_of_files
from cryoflow.pickers.running.run_picker import micrographs_to_pick, pick, train, trained_already
from cryoflow.pickers.training_sets.export import export
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import Kind, PickSet, Provenance
from cryoflow.simulate import SimulatedDataset, simulate_dataset
from cryoflow.simulate.conditions import STANDARD

CPU = Executor(resources=Resources((), 2))
PIXEL_A, SHAPE_YX, DIAMETER_A = 3.0, (480, 720), 160.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    folder = tmp_path_factory.mktemp("own picker")
    clean = replace(STANDARD, broken=0.1, denatured=0.1, copurified=0.0, carbon=0, gold=0, lattice=0)
    return simulate_dataset(folder, n_micrographs=4, shape_yx=SHAPE_YX, pixel_size_A=PIXEL_A, seed=5, conditions=clean)


def folder_of(made: SimulatedDataset) -> Path:
    return made.micrographs[0].path.parent


def entry_of(made: SimulatedDataset) -> PickSet:
    """True particles, a third of them labeled unknown, on four micrographs of which the last has none."""
    source = micrographs_to_pick([folder_of(made)])
    rows = {str(n): i for i, n in enumerate(source.micrographs["name"])}
    tables = []
    for m in made.micrographs[:-1]:
        xy = m.true_xy_px
        label = np.where(np.arange(len(xy)) % 3 == 2, 0, 1)
        tables.append(
            pd.DataFrame({"micrograph": rows[m.path.name], "x_px": xy[:, 0], "y_px": xy[:, 1], "label": label})
        )
    where = Provenance("relion", folder_of(made), "P1", "job010", Kind.REFINE_3D)
    return PickSet.build(where, source.micrographs, pd.concat(tables), diameter_A=DIAMETER_A)


def test_it_picks_what_the_detector_picks_on_the_particles(made: SimulatedDataset, tmp_path: Path) -> None:
    source = micrographs_to_pick([folder_of(made)])
    (found,) = pick("cryoflow", "general", [source], tmp_path / "run", CPU, diameter_A=DIAMETER_A).picksets
    direct, report = pick_set(Detector.general(), source, diameter_A=DIAMETER_A)
    assert len(found) == len(direct)
    for name in direct.micrographs["name"]:
        mine, theirs = (np.sort(p[name][["x_px", "y_px"]].to_numpy(), axis=0) for p in (found, direct))
        np.testing.assert_allclose(mine, theirs, atol=0.01)
    assert found.picks["score"].min() >= report.threshold - 1e-4
    assert (found.score_kind, found.diameter_A) == ("cryoflow/probability", DIAMETER_A)
    dark = []
    for m in made.micrographs:
        sure = found[m.path.name]
        xy = sure.loc[sure["score"] > 0.7, ["x_px", "y_px"]].to_numpy()
        boxes = cut_boxes(read_micrograph(m.path), xy, 81)
        y, x = np.indices((81, 81)) - 40
        dark.extend(boxes[:, np.hypot(x, y) < 20].mean(axis=1) < boxes[:, np.hypot(x, y) > 30].mean(axis=1))
    assert len(dark) > 20
    assert np.mean(dark) > 0.97


def test_a_micrograph_that_cannot_be_picked_is_not_one_without_particles(
    made: SimulatedDataset, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = made.micrographs[0].path
    (folder / "good.mrc").write_bytes(good.read_bytes())
    write_mrc(folder / "constant.mrc", np.ones(SHAPE_YX, np.float32), PIXEL_A)
    source = micrographs_to_pick([folder])
    (found,) = pick("cryoflow", "general", [source], tmp_path / "run", CPU, diameter_A=DIAMETER_A).picksets
    assert list(found.micrographs["name"]) == ["good.mrc"]
    assert found.counts["not_picked"] == 1


def test_without_a_diameter_it_says_what_is_missing(made: SimulatedDataset, tmp_path: Path) -> None:
    with pytest.raises(MissingMetadata, match="no particle diameter"):
        pick("cryoflow", "general", [micrographs_to_pick([folder_of(made)])], tmp_path / "run", CPU)


@pytest.mark.slow
def test_shards_together_give_the_picks_of_one_run(made: SimulatedDataset, tmp_path: Path) -> None:
    picking = Picking("cryoflow", Path("general"), DIAMETER_A)
    parts = []
    for first in (0, 2):
        some = shard_of_files([folder_of(made)], first, first + 2)
        parts.append(pick_shard(picking, some, shard_of(picking, some, first, tmp_path), CPU))
    (together,) = gather(parts, picking)
    (whole,) = pick(
        "cryoflow", "general", [micrographs_to_pick([folder_of(made)])], tmp_path / "run", CPU, diameter_A=DIAMETER_A
    ).picksets
    assert len(gather(parts)[0]) > len(together)  # shards keep all: the threshold follows from all of them
    assert len(together) == len(whole)
    np.testing.assert_allclose(
        np.sort(together.picks["score"].to_numpy()), np.sort(whole.picks["score"].to_numpy()), atol=1e-5
    )


def test_an_export_holds_the_labels_of_each_kind_where_the_particles_are(
    made: SimulatedDataset, tmp_path: Path
) -> None:
    from cryoflow.pickers.programs.detector.exported import read_labels

    folder = export("cryoflow", [entry_of(made)], tmp_path / "set", split=Fractions(0.25)).folder
    (project,) = read_labels(folder)
    assert project.diameter_A == DIAMETER_A
    assert project.validation is not None
    by_name = {m.name.partition("__")[2]: m for m in project.micrographs}
    for m in made.micrographs[:-1]:
        labels = by_name[m.path.stem]
        n = len(m.true_xy_px)
        assert (labels.kind == 1).sum() == n - n // 3
        assert (labels.kind == 0).sum() == n // 3
        assert not labels.background
        distance = np.linalg.norm(labels.xy_px[:, None] - m.true_xy_px[None], axis=2).min(axis=1)
        assert distance.max() < 0.01
    empty = by_name[made.micrographs[-1].path.stem]
    assert empty.background
    assert len(empty.kind) == 0
    (folder / "labels" / f"{project.micrographs[0].name}.tsv").write_text("x_px\ty_px\tlabel\n5000\t1\t1\n")
    with pytest.raises(BadInput, match="outside its micrograph"):
        train("cryoflow", folder, CPU)


def test_an_export_whose_settings_or_diameters_were_edited_is_not_used_in_silence(
    made: SimulatedDataset, tmp_path: Path
) -> None:
    from cryoflow.pickers.programs.detector.exported import pick_exported, read_not_picked, train_exported

    folder = export("cryoflow", [entry_of(made)], tmp_path / "set").folder
    settings = folder / "settings.tsv"
    text = settings.read_text()
    settings.write_text(text.replace("positive-unlabeled", "perhaps"))
    with pytest.raises(BadInput, match=r"settings.tsv: is damaged: .*unlabeled is 'perhaps'"):
        train_exported(folder)
    manifest = folder / "manifest.tsv"
    mark, header, *lines = manifest.read_text().splitlines()
    names, rows = header.split("\t"), [line.split("\t") for line in lines]
    values, other, unset, *_ = rows
    values[names.index("diameter_A")] = ""
    other[names.index("pixel_size_A")], unset[names.index("pixel_size_A")] = "3.1", ""
    manifest.write_text("\n".join([mark, header, *map("\t".join, rows)]) + "\n")
    link = folder / "micrographs" / f"{unset[names.index('stem')]}.mrc"
    image = read_micrograph(link)
    link.unlink()
    write_mrc(link, image, 1.0)
    told: list[str] = []
    picked, failed = pick_exported(folder, "general", say=told.append)
    assert told[0].startswith("warning: 1 of 3 micrographs with a pixel size of 3 A in their headers; 3.1 A is used")
    assert told[1].startswith("warning: 1 of 3 micrographs with a pixel size of 1 A from the header, which many")
    assert len(told) == 2
    assert (picked, failed) == (len(made.micrographs) - 1, 1)
    assert "no particle diameter" in read_not_picked(folder / "picks")[values[names.index("stem")]]


@pytest.mark.slow
def test_it_is_trained_on_an_export_and_picks_with_its_model(made: SimulatedDataset, tmp_path: Path) -> None:
    settings = {"rounds": 2, "steps": 2}
    folder = export("cryoflow", [entry_of(made)], tmp_path / "set", split=Fractions(0.25), settings=settings).folder
    with pytest.raises(BadInput, match="did not end"):
        train_model_of(folder)
    trained = train("cryoflow", folder, CPU)
    assert trained.model == folder / "model" / "bundle.json"
    assert trained.figure is not None
    assert trained.figure.is_file()
    again = trained_already("cryoflow", folder)
    assert again is not None
    assert again.reused
    assert Detector.load(folder / "model").diameter_A == DIAMETER_A
    for model in (trained.model, trained.model.parent):  # a model is its folder, too
        result = pick(
            "cryoflow", model, [micrographs_to_pick([folder_of(made)])], tmp_path / "run", CPU,
            diameter_A=DIAMETER_A, overwrite=True,
        )  # fmt: skip
        assert len(result.picksets[0]) > 20


def train_model_of(folder: Path) -> Path:
    from cryoflow.pickers.registry import picker

    return picker("cryoflow").trained_model(folder, {})


def test_commands_treat_it_like_any_other_picker(
    made: SimulatedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(tmp_path / "db")
    database.add(entry_of(made))
    db = str(database.root)
    assert launch(["export", "cryoflow", "P1/Refine3D_job010", "--db", db, "-o", str(tmp_path / "set")]) == ExitCode.OK
    run = ["picker", "pick", "cryoflow", "P1/Refine3D_job010", "--model", "general", "--gpus", "none"]
    assert launch([*run, "--db", db, "-o", str(tmp_path / "run")]) == ExitCode.OK
    capsys.readouterr()
    (entry,) = [e for e in database.entries() if e.kind == Kind.AUTO_PICK]
    compare = ["evaluate", entry.name, "--reference", "P1/Refine3D_job010", "--db", db, "--json"]
    assert launch(compare) == ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert row["recall"] > 0.7
    assert launch(["picker", "consensus", entry.name, "P1/Refine3D_job010", "--db", db]) == ExitCode.OK


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_flow_finds_particles_in_shards_that_are_jobs(
    made: SimulatedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import finding
    from flows.picking_shards import PickShardParameters
    from flows.picking_shards import pick as pick_shard_of

    jobs: list[str] = []

    def run_shards(stage: str, works: Sequence[Work], *, on_done: Callable[[Done], None]) -> tuple[Done, ...]:
        for work in works:
            jobs.append(work.name)
            pick_shard_of(PickShardParameters.from_values(work.values))
        return tuple(Done(work.name, "Completed", "", 1, "id") for work in works)

    def run_stage(stage: object, parameters: PickShardParameters) -> None:
        jobs.append(str(stage.name))  # type: ignore[attr-defined]
        stage(PickShardParameters.from_values(parameters.to_json()))  # type: ignore[operator]

    monkeypatch.setattr(finding, "dispatches", lambda: True)
    monkeypatch.setattr(finding, "run_stage", run_stage)
    monkeypatch.setattr("flows.shards.run_shards", run_shards)
    monkeypatch.setattr("flows.shards.dispatches", lambda: True)
    parameters = finding.FindParticlesParameters(
        micrographs=(folder_of(made),), diameter_A=DIAMETER_A, database=tmp_path / "db", shard_micrographs=2
    )
    (name,) = finding.find_particles(parameters)
    assert jobs == ["cryoflow files 0-2", "cryoflow files 2-4", "pick"]
    found = Database(tmp_path / "db")[name]
    assert len(found.micrographs) == 4
    assert len(found) > 40
    assert "below_threshold" in found.counts
    jobs.clear()
    assert finding.find_particles(parameters) == (name,)
    assert jobs == ["pick"]  # what is picked makes no job


def test_entries_to_find_particles_on_may_be_patterns(made: SimulatedDataset, tmp_path: Path) -> None:
    from flows import finding

    database = Database(tmp_path / "db")
    database.add(entry_of(made))
    find = finding.FindParticlesParameters(to_pick=("P1/Ref*",), diameter_A=DIAMETER_A, database=database.root)
    assert finding.picking_of(find).to_pick == ("P1/Refine3D_job010",)
    with pytest.raises(BadInput, match=r"nothing matches 'P2/\*'"):
        finding.picking_of(replace(find, to_pick=("P2/*",)))


def test_the_form_asks_for_the_diameter_and_where_files_are() -> None:
    from cryoflow.detector.parameters import FindParticlesParameters
    from cryoflow.parameters import RARE, fields_of

    shown = {f.name: f.required for f in fields_of(FindParticlesParameters) if f.option.group != RARE}
    assert [name for name, required in shown.items() if required] == ["diameter_A", "database"]
    assert set(shown) == {"diameter_A", "database", "micrographs", "to_pick"}
