"""Picking with the model that ships: right at the pixel, and clear about what cannot be picked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.database.entry import CURRENT
from cryoflow.detector.bundle import Detector
from cryoflow.detector.estimate_diameter import estimate_diameter
from cryoflow.detector.loading import MicrographToPick
from cryoflow.detector.pick import PickedResult, pick, score_picks
from cryoflow.detector.pick_metrics import ScoredDetections, figures
from cryoflow.detector.pick_set import pick_set
from cryoflow.errors import BadInput, ExitCode
from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.pickers.running.run_picker import micrographs_to_pick
from cryoflow.picks import Kind
from cryoflow.simulate import SimulatedDataset, simulate_dataset
from cryoflow.simulate.conditions import STANDARD

PIXEL_A = 3.0
SHAPE_YX = (480, 720)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulatedDataset]:
    folder = tmp_path_factory.mktemp("to pick")
    clean = replace(STANDARD, broken=0.1, denatured=0.1, copurified=0.0, carbon=0, gold=0, lattice=0)
    dataset = simulate_dataset(
        folder, n_micrographs=2, shape_yx=SHAPE_YX, pixel_size_A=PIXEL_A, seed=5, conditions=clean
    )
    return folder / "Micrographs", dataset


@pytest.fixture(scope="module")
def general() -> Detector:
    return Detector.general()


def found_on(detector: Detector, dataset: SimulatedDataset) -> list[PickedResult]:
    items = [MicrographToPick(m.path.name, m.path) for m in dataset.micrographs]
    results = list(pick(detector, items, dataset.diameter_A))
    assert all(isinstance(r, PickedResult) for r in results)
    return results  # type: ignore[return-value]


def test_it_finds_the_particles_of_non_square_micrographs(
    general: Detector, made: tuple[Path, SimulatedDataset]
) -> None:
    _, dataset = made
    scored, dark = [], []
    for result, m in zip(found_on(general, dataset), dataset.micrographs, strict=True):
        assert result.shape_yx == SHAPE_YX
        across = dataset.diameter_A / PIXEL_A
        scored.append(ScoredDetections(result.xy_px, result.probability, m.true_xy_px, np.zeros((0, 2)), across))
        sure = result.xy_px[result.probability > 0.7]
        boxes = cut_boxes(read_micrograph(m.path), sure, 81)
        y, x = np.indices((81, 81)) - 40
        disc, ring = np.hypot(x, y) < 20, np.hypot(x, y) > 30
        dark.extend(boxes[:, disc].mean(axis=1) < boxes[:, ring].mean(axis=1))
    assert figures(scored, 0.25, 0.5).recall > 0.85
    assert len(dark) > 20
    assert np.mean(dark) > 0.97


def test_probability_follows_the_particle_and_not_its_mirror_image(
    general: Detector, made: tuple[Path, SimulatedDataset]
) -> None:
    _, dataset = made
    m = dataset.micrographs[0]
    on = score_picks(general, m.path, PIXEL_A, 160.0, m.true_xy_px)
    mirrored = np.abs(np.array([0, SHAPE_YX[0] - 1]) - m.true_xy_px * (-1, 1))
    off = score_picks(general, m.path, PIXEL_A, 160.0, mirrored)
    assert np.median(on) > 0.6 > 0.3 > np.median(off)


def test_the_diameter_is_estimated(general: Detector, made: tuple[Path, SimulatedDataset]) -> None:
    _, dataset = made
    items = [MicrographToPick(m.path.name, m.path) for m in dataset.micrographs]
    assert estimate_diameter(general, items).diameter_A == pytest.approx(160, rel=0.2)


def test_the_diameter_is_estimated_from_the_micrographs_that_can_be_used(
    general: Detector, made: tuple[Path, SimulatedDataset], tmp_path: Path
) -> None:
    good = made[1].micrographs[0].path
    image = read_micrograph(good)
    write_mrc(tmp_path / "blank.mrc", np.ones_like(image), PIXEL_A)
    write_mrc(tmp_path / "movie.mrc", np.stack([image] * 2), PIXEL_A)
    bad = [MicrographToPick(n, tmp_path / n) for n in ("blank.mrc", "movie.mrc", "missing.mrc")]
    estimate = estimate_diameter(general, [*bad, MicrographToPick("good", good)])
    assert estimate.n_micrographs == 1
    assert estimate == estimate_diameter(general, [MicrographToPick("good", good)])
    with pytest.raises(BadInput, match="blank"):
        estimate_diameter(general, bad)
    noise = np.random.default_rng(0).standard_normal(SHAPE_YX).astype(np.float32)
    write_mrc(tmp_path / "noise.mrc", noise, PIXEL_A)
    with pytest.raises(BadInput, match="no particle was found on 1 micrograph at"):
        estimate_diameter(general, [MicrographToPick("noise", tmp_path / "noise.mrc")])


def test_the_command_writes_picks_for_all_programs(
    made: tuple[Path, SimulatedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, dataset = made
    out = tmp_path / "a picks folder"
    arguments = ["pick", str(folder), "--diameter", "160", "--output", str(out), "--masks", "--json"]
    assert launch([*arguments, "--database", str(tmp_path / "db")]) == ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    n_true = sum(len(m.true_xy_px) for m in dataset.micrographs)
    assert 0.7 * n_true < row["picks"] < 1.7 * n_true
    picks = Database(tmp_path / "db")[row["entry"]]
    assert (picks.provenance.kind, picks.score_kind, picks.diameter_A) == (Kind.AUTO_PICK, "cryoflow/probability", 160)
    score = picks.picks["score"].to_numpy()
    assert score.min() >= row["threshold"] - 1e-4
    assert score.max() <= 1
    assert list((out / "relion").rglob("*.star"))
    assert list((out / "cryosparc").rglob("import_particles.star"))
    boxes = np.loadtxt(out / "box" / f"{dataset.micrographs[0].path.stem}.box").reshape(-1, 4)
    mine = picks[dataset.micrographs[0].path.name][["x_px", "y_px"]].to_numpy()
    np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:] / 2, mine, atol=0.02)
    mask = read_micrograph(out / "masks" / f"{dataset.micrographs[0].path.stem}_junk.mrc")
    assert mask.shape[1] / mask.shape[0] == pytest.approx(1.5, rel=0.05)
    assert 0 <= mask.min() <= mask.max() <= 1


def test_entries_of_a_database_are_picked_and_cleaned_without_labels(
    made: tuple[Path, SimulatedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryoflow.picks import PickSet, Provenance

    folder, dataset = made
    source = micrographs_to_pick([folder])
    rows = {str(n): i for i, n in enumerate(source.micrographs["name"])}
    import pandas as pd

    table = pd.concat(
        pd.DataFrame({"micrograph": rows[m.path.name], "x_px": m.picks_xy_px[:, 0], "y_px": m.picks_xy_px[:, 1]})
        for m in dataset.micrographs
    )
    where = Provenance("relion", folder, "P1", "job007", Kind.AUTO_PICK)
    entry = Database(tmp_path / "db").add(PickSet.build(where, source.micrographs, table, diameter_A=160.0))
    db = str(tmp_path / "db")
    assert launch(["pick", entry.name, "--database", db, "--json"]) == ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert row["entry"] == "P1/AutoPick_detector-general"
    assert row["diameter_A"] == 160.0
    argv = ["unpicker", "unpick", "general", entry.name, "--database", db, "--json"]
    assert launch([*argv, "--doubtful"]) == ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["state"], row["doubtful_entry"]) == ("written", "P1/Unpicked_job007_doubtful")
    doubtful = Database(db).entry(row["doubtful_entry"])
    assert (doubtful.status, len(Database(db).load(doubtful))) == (CURRENT, row["doubtful"])
    kept = Database(tmp_path / "db")["P1/Unpicked_job007"]
    right = np.concatenate([m.pick_is_right for m in dataset.micrographs])
    near = 0
    for m in dataset.micrographs:
        xy = kept[m.path.name][["x_px", "y_px"]].to_numpy()
        distance = np.linalg.norm(xy[:, None] - m.true_xy_px[None], axis=2).min(axis=1, initial=1e9)
        near += int((distance < 0.25 * 160 / PIXEL_A).sum())
    assert near > 0.75 * right.sum()
    assert near / len(kept) > right.mean() + 0.1

    n_kept = {}
    for goal in (["--keep", "12"], ["--recall", "0.5"], ["--precision", "0.97"]):
        assert launch([*argv, *goal]) == ExitCode.OK
        captured = capsys.readouterr()
        (row,) = json.loads(captured.out)
        n_kept[goal[0]] = row["kept"]
        assert row["state"] == "replaced"
        # Doubtful picks of the first run are not those of the later ones, which were not asked for theirs.
        assert ("job007_doubtful holds doubtful picks of an earlier run" in captured.err) == (goal[0] == "--keep")
        assert Database(db).entry(doubtful.name).status == "superseded"
        assert f"kept {n_kept[goal[0]]} of " in captured.err
    assert n_kept["--keep"] == 12
    assert 0.3 * len(kept) < n_kept["--recall"] < 0.8 * len(kept)
    assert 0 < n_kept["--precision"] < len(kept)

    gone = source.micrographs.assign(name=["gone_1.mrc", "gone_2.mrc"], path=None, status="missing")
    lost = Database(db).add(PickSet.build(replace(where, job="job008"), gone, table, diameter_A=160.0))
    argv = ["unpicker", "unpick", "general", lost.name, entry.name, "--database", db, "--json"]
    assert launch([*argv, "--keep", "100000"]) == ExitCode.PARTLY_FAILED
    captured = capsys.readouterr()
    assert [row["from"] for row in json.loads(captured.out)] == [entry.name]
    assert "left out: " in captured.err
    unreached = "P1: 100000 picks cannot be kept; "
    assert f"warning: {unreached}" in captured.err
    assert any(note.startswith(unreached) for note in Database(db)["P1/Unpicked_job007"].notes)


@pytest.mark.parametrize("diameter", ["10", "5000"])
def test_diameters_that_no_particle_has_are_refused(
    made: tuple[Path, SimulatedDataset], tmp_path: Path, diameter: str
) -> None:
    assert launch(["pick", str(made[0]), "--diameter", diameter, "--output", str(tmp_path / "o")]) == ExitCode.USAGE
    assert not (tmp_path / "o").exists()


def test_what_cannot_be_picked_is_told_and_the_rest_goes_on(
    made: tuple[Path, SimulatedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = made[1].micrographs[0].path
    (folder / "good.mrc").write_bytes(good.read_bytes())
    image = read_micrograph(good)
    write_mrc(folder / "constant.mrc", np.ones_like(image), PIXEL_A)
    write_mrc(folder / "nan.mrc", np.where(image > image.mean(), np.nan, image), PIXEL_A)
    write_mrc(folder / "movie.mrc", np.stack([image] * 3), PIXEL_A)
    write_mrc(folder / "tiny.mrc", image[:40, :40], PIXEL_A)
    write_mrc(folder / "coarse.mrc", image, 60.0)
    (folder / "text.mrc").write_text("no image")
    arguments = ["pick", str(folder), "--diameter", "160", "--output", str(tmp_path / "out"), "--json"]
    assert launch(arguments) == ExitCode.PARTLY_FAILED
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    assert row["micrographs"] == 1
    assert row["picks"] > 5
    for name in ("constant.mrc", "nan.mrc", "movie.mrc", "tiny.mrc", "coarse.mrc", "text.mrc"):
        assert name in captured.err, captured.err
    (folder / "good.mrc").unlink()
    assert launch([*arguments[:5], str(tmp_path / "none")]) == ExitCode.FAILED
    assert not (tmp_path / "none").exists()


def test_missing_and_empty_micrographs_and_a_low_expected_f1_are_told(
    made: tuple[Path, SimulatedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    noise = np.random.default_rng(0).standard_normal((120, 160)).astype(np.float32)
    write_mrc(folder / "there.mrc", noise, PIXEL_A)
    (folder / "gone.mrc").symlink_to(tmp_path / "moved.mrc")
    words = ["pick", str(folder), "--diameter", "160", "--database", str(tmp_path / "db")]
    assert launch(words) == ExitCode.PARTLY_FAILED
    told = capsys.readouterr().err
    assert "not picked: 1 micrograph not found" in told
    assert "note: 1 micrograph of 1 without a pick" in told
    assert "warning: an F1 of only 0.00 is expected: a particle diameter of 160 A may be wrong" in told


def test_an_error_for_all_micrographs_counts_each_reason(general: Detector, tmp_path: Path) -> None:
    for name in "abc":
        write_mrc(tmp_path / f"{name}.mrc", np.ones((120, 160), np.float32), PIXEL_A)
    write_mrc(tmp_path / "d.mrc", np.zeros((10, 10), np.float32), PIXEL_A)
    with pytest.raises(BadInput) as raised:
        pick_set(general, micrographs_to_pick([tmp_path]), diameter_A=160.0)
    assert str(raised.value).startswith(f"{tmp_path}: none of 4 micrographs can be used: 3, such as a.mrc: ")
    assert "; 1, such as d.mrc: its 10 x 10 pixels are too few" in str(raised.value)


def test_another_pixel_size_than_the_headers_is_refused(general: Detector, made: tuple[Path, SimulatedDataset]) -> None:
    item = MicrographToPick("m", made[1].micrographs[0].path, 1.1)
    (result,) = pick(general, [item], 160.0)
    assert isinstance(result, BadInput)
    assert "3 A a pixel, but 1.1" in str(result)


def test_a_given_pixel_size_has_precedence_and_other_headers_are_told(
    general: Detector, made: tuple[Path, SimulatedDataset], tmp_path: Path
) -> None:
    image = read_micrograph(made[1].micrographs[0].path)[:120, :160]
    for name, in_header_A in {"same": 3.0, "other": 3.2, "unset": 1.0, "zero": 0.0}.items():
        write_mrc(tmp_path / f"{name}.mrc", image, in_header_A)
    source = micrographs_to_pick([tmp_path], pixel_size_A=3.0)
    picks, report = pick_set(general, source, diameter_A=160.0, pixel_size_A=3.0, threshold=0.5)
    note = "1 of 4 micrographs with a pixel size of 3.2 A in their headers; 3 A is used, as given"
    assert report.notes == (note,)
    assert note in picks.notes
    assert set(picks.micrographs["pixel_size_A"]) == {3.0}
    recorded = micrographs_to_pick([tmp_path / "same.mrc"], pixel_size_A=3.2)
    _, report = pick_set(general, recorded, diameter_A=160.0, pixel_size_A=3.0, threshold=0.5)
    assert report.notes == ("1 of 1 micrograph with a pixel size of 3.2 A in the database; 3 A is used, as given",)


def test_a_header_of_one_angstrom_is_taken_with_a_warning_and_one_of_zero_is_refused(
    general: Detector, made: tuple[Path, SimulatedDataset], tmp_path: Path
) -> None:
    image = read_micrograph(made[1].micrographs[0].path)[:120, :160]
    write_mrc(tmp_path / "unset.mrc", image, 1.0)
    write_mrc(tmp_path / "zero.mrc", image, 0.0)
    source = micrographs_to_pick([tmp_path])
    _, report = pick_set(general, source, diameter_A=50.0, threshold=0.5)
    (note,) = report.notes
    assert "1 of 1 micrograph with a pixel size of 1 A from the header" in note
    assert "1 A is used (--pixel-size sets another)" in note
    (refused,) = report.failed
    assert "zero.mrc: has no pixel size in its header. Give the pixel size" in str(refused)
    from cryoflow.picks import PickSet

    of_relion = replace(source.provenance, program="relion")
    for recorded, n_notes in ((np.nan, 1), (1.0, 0)):  # a project that says 1 A may mean it
        entry = PickSet.build(of_relion, source.micrographs.assign(pixel_size_A=recorded), source.picks)
        assert len(pick_set(general, entry, diameter_A=50.0, threshold=0.5)[1].notes) == n_notes
    given = micrographs_to_pick([tmp_path], pixel_size_A=1.0)
    assert pick_set(general, given, diameter_A=50.0, pixel_size_A=1.0, threshold=0.5)[1].notes == ()


def test_masks_of_two_micrographs_of_one_name_are_refused(
    made: tuple[Path, SimulatedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [m.path for m in made[1].micrographs]
    for folder, source in zip("AB", paths, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.mrc").symlink_to(source)
    words = ["pick", str(tmp_path / "A"), str(tmp_path / "B"), "--diameter", "160", "--output", str(tmp_path / "P")]
    assert launch([*words, "--masks"]) != ExitCode.OK
    message = capsys.readouterr().err
    assert "m_junk.mrc: would be the mask of both" in message
    assert not (tmp_path / "P" / "masks").exists()


def test_a_detector_on_star_files_names_the_way_by_a_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unpicker", "unpick", "general", "--folder", str(tmp_path), "--output", str(tmp_path / "out")]
    assert launch(words) == ExitCode.USAGE
    assert "`cryoflow ingest FOLDER --micrographs FOLDER --database DB`" in capsys.readouterr().err


def test_picks_need_somewhere_to_go_and_entries_a_database(made: tuple[Path, SimulatedDataset]) -> None:
    assert launch(["pick", str(made[0]), "--diameter", "160"]) == ExitCode.USAGE
    assert launch(["pick", "P1/AutoPick_job1", "--diameter", "160", "--output", "o"]) == ExitCode.FAILED


def test_info_prints_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["detector", "info", "general"]) == ExitCode.OK
    captured = capsys.readouterr()
    assert "threshold" in captured.out
    assert Detector.general().card.splitlines()[0] in captured.out
    assert not captured.err
    assert launch(["detector", "info", "/nowhere"]) == ExitCode.FAILED


def test_cryoppp_trees_are_evaluated(
    made: tuple[Path, SimulatedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "tree" / "10081"
    (home / "micrographs").mkdir(parents=True)
    (home / "ground_truth" / "particle_coordinates").mkdir(parents=True)
    for m in made[1].micrographs:
        (home / "micrographs" / m.path.name).write_bytes(m.path.read_bytes())
        rows = [f"{x:.0f},{SHAPE_YX[0] - 1 - y:.0f},{160 / PIXEL_A:.0f}" for x, y in m.true_xy_px]
        table = home / "ground_truth" / "particle_coordinates" / f"{m.path.stem}.csv"
        table.write_text("X-Coordinate,Y-Coordinate,Diameter\n" + "\n".join(rows) + "\n")
    assert launch(["detector", "evaluate", "--cryoppp", str(tmp_path / "tree"), "--json"]) == ExitCode.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert row["diameter_A"] == pytest.approx(160, rel=0.02)
    assert row["recall_d/4"] > 0.8
    assert launch(["detector", "evaluate", "--cryoppp", str(tmp_path), "--json"]) == ExitCode.FAILED
