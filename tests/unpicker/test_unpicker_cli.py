import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from test_unpicker_unpick import HEAD, as_pickset, star_folder

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.formats.cs import read_cs
from cryoflow.picks import Kind
from cryoflow.preparation.calibration import Threshold


@pytest.fixture
def labeled_folder(rings, tmp_path):
    folder = star_folder(rings, tmp_path / "stars")
    for m in rings.micrographs:
        rows = [f"{x:12.6f} {y:12.6f} " for (x, y), right in zip(m.centers_xy_px, m.labels == 1, strict=True) if right]
        (folder / f"{m.name}_autopick_correct.star").write_text(HEAD + "\n".join(rows) + "\n \n")
    return folder


def said(capsys):
    return json.loads(capsys.readouterr().out)


def test_from_star_files_to_clean_star_files_by_the_older_programs_names(rings, labeled_folder, tmp_path, capsys):
    model = tmp_path / "model"
    assert launch(["unpicker", "label", str(labeled_folder), "-o", str(labeled_folder), "--json"]) == 0
    labels = said(capsys)
    assert sum(row["n_positive"] for row in labels) == rings.count(1)
    arguments = ["--train-root", str(labeled_folder), "--train-output", str(model), "--diameter", "160"]
    arguments += ["--num-epochs", "2", "--num-cores", "2", "--json"]
    classic = ["--architecture", "classic", "--boxsize", "30", "--sigma-contrast", "4", "--lowpass", "20"]
    classic += ["--highpass", "500", "--gaussian-sigma", "0.5", "--resized-box", "24", "--apix", "8"]
    assert launch(["unpicker", "train", *arguments, *classic]) == 0
    assert said(capsys)["epochs"] == 2
    assert launch(["unpicker", "info", str(model), "--json"]) == 0
    info = said(capsys)
    assert info["preprocessing"] == {
        "kind": "emunpicker",
        "boxsize_A": 240.0,
        "resized_box_px": 24,
        "sigma_contrast": 4.0,
        "lowpass_A": 20.0,
        "highpass_A": 500.0,
        "gaussian_sigma_px": 0.5,
        "phase_flip": False,
    }
    assert launch(["unpicker", "evaluate", str(model), "--train-root", str(labeled_folder), "--json"]) == 0
    assert said(capsys)["n_picks"] > 0
    checkpoint = str(model / "checkpoints" / "epoch-001")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale_autopick_doubtful.star").touch()
    assert launch(["unpicker", "unpick", checkpoint, "--folder", str(labeled_folder), "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "1 *_autopick_doubtful.star in " in captured.err
    lines = captured.out.splitlines()
    assert len(lines) == len(rings.micrographs)
    assert all(": kept " in line and line.endswith(" %)") for line in lines)
    assert len(list((tmp_path / "out").glob("*_autopick_unpick.star"))) == len(rings.micrographs)
    assert launch(["unpicker", "suggest", str(model), "--folder", str(labeled_folder), "-n", "2", "--json"]) == 0
    assert len(said(capsys)) <= 2


def test_the_older_programs_command_line_is_understood(labeled_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(labeled_folder)
    assert launch(["unpicker", "label", ".", "-o", "."]) == 0
    command = "--train_root _autopick_train.star --train_output unpickModel.out --boxsize 30 --sigma_contrast 5"
    assert launch(["unpicker", "train", *command.split(), "--num_cores", "2", "--num_epochs", "1", "--json"]) == 0
    assert "diameter was taken as 160 A" in capsys.readouterr().err
    command = "unpickModel.out --eval_star_dir . --eval_root _autopick.star --output_root _clean.star --image_dir ."
    assert launch(["unpicker", "unpick", *command.split(), "--output_star_dir", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*_clean.star"))) == 8
    assert "not used" not in capsys.readouterr().err
    again = f"--train_output {command} --boxsize 30 --sigma_contrast 5".split()
    assert launch(["unpicker", "unpick", *again, "--output_star_dir", str(tmp_path / "out")]) == 0
    assert "--boxsize, --sigma-contrast: not used" in capsys.readouterr().err


def test_preprocessing_that_is_given_again_must_be_that_of_the_training(labeled_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(labeled_folder)
    assert launch(["unpicker", "label", ".", "-o", "."]) == 0
    command = (
        "--train_root _autopick_train.star --train_output classic.out --boxsize 30 --sigma_contrast 4.5 --lowpass 20"
    )
    classic = ["--architecture", "classic", "--num_epochs", "1", "--json"]
    assert launch(["unpicker", "train", *command.split(), *classic]) == 0
    command = "classic.out --eval_star_dir . --output_star_dir clean --sigma_contrast 4.5"
    assert launch(["unpicker", "unpick", *command.split(), "--boxsize", "30"]) == 0
    capsys.readouterr()
    assert launch(["unpicker", "unpick", *command.split(), "--boxsize", "40", "--lowpass", "0"]) == 2
    assert "trained with --boxsize 30, --lowpass 20: leave it out" in capsys.readouterr().err


def test_from_a_database_to_an_unpicked_entry_relion_and_cryosparc_read(rings, trained, tmp_path, capsys):
    picks = as_pickset(rings)
    table = picks.micrographs.copy()
    table["ny"], table["nx"] = 240, 320
    table["uid"] = [str(1000 + i) for i in range(len(table))]
    picks = replace(picks, micrographs=table.astype({"ny": "Int32", "nx": "Int32"}))
    database = Database(tmp_path / "db")
    database.add(replace(picks, picks=picks.picks.drop(columns="label")))
    survivors = picks.where((picks.picks["label"] == 1).to_numpy())
    database.add(replace(survivors, provenance=replace(picks.provenance, kind=Kind.REFINE_3D, job="job030")))
    where = ["--database", str(tmp_path / "db")]
    command = ["unpicker", "label", *where, "--positives", "P1/Refine3D_job030", "--candidates", "P1/AutoPick_job012"]
    assert launch([*command, "--json"]) == 0
    labeled = said(capsys)
    assert labeled["entry"] == "P1/AutoPick_job012_labelled"
    assert labeled["positive"] == labeled["right"] == rings.count(1)
    assert labeled["unlabeled"] == labeled["not_known"] == rings.count(-1)
    assert launch(command) == 0
    record = capsys.readouterr().out
    assert f"positive: {rings.count(1)}" in record
    assert "not_known" not in record
    output = tmp_path / "out"
    assert (
        launch(["unpicker", "unpick", str(trained.folder), "P1/AutoPick_job012", *where, "-o", str(output), "--json"])
        == 0
    )
    (row,) = said(capsys)
    assert row["entry"] == "P1/Unpicked_job012"
    kept = database.load("P1/Unpicked_job012")
    assert len(kept) == row["kept"] < row["picks"] == len(picks)
    particles = read_cs(next(output.rglob("picked_particles.cs")))
    assert set(particles["uid"].tolist()) == set(kept.picks["uid"].tolist())
    stars = list(output.rglob("*_autopick.star"))
    assert len(stars) >= len(rings.micrographs)
    assert "_rlnAutopickFigureOfMerit" in stars[0].read_text()
    assert launch(["unpicker", "unpick", str(trained.folder), "P1/AutoPick_job01?", *where, "--json"]) == 0
    assert [(row["from"], row["state"]) for row in said(capsys)] == [("P1/AutoPick_job012", "unchanged")]
    assert launch(["unpicker", "unpick", str(trained.folder), "P2/*", *where]) == 1
    assert "nothing matches 'P2/*'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["label"],
        ["label", "somewhere"],
        ["label", "--database", "db"],
        ["train", "-o", "m"],
        ["train", "-o", "m", "--train-root", "x"],
        ["train", "-o", "m", "entry"],
        ["unpick", "m"],
        ["suggest", "m"],
    ],
)
def test_arguments_that_do_not_go_together_are_wrong_use(arguments, trained, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [str(trained.folder) if a == "m" and arguments[0] != "train" else a for a in arguments]
    assert launch(["unpicker", *arguments]) == 2
    assert capsys.readouterr().err.startswith("cryoflow: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--precision", "95"],
        ["train", "--recall", "0"],
        ["train", "--epochs", "0"],
        ["train", "--batch", "0"],
        ["train", "--diameter", "-160"],
        ["train", "--pixel-size", "0"],
        ["train", "--validation", "1"],
        ["train", "--max-positives", "0"],
        ["train", "--learning-rate", "0"],
        ["train", "--architecture", "classic", "--resized-box", "1"],
        ["unpick", "--threshold", "50"],
        ["unpick", "--workers", "0"],
        ["suggest", "--number", "0"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_numbers_out_of_their_range_are_wrong_use(arguments, labeled_folder, trained, tmp_path, capsys):
    rest = ["--train-root", str(labeled_folder), "-o", str(tmp_path / "new")]
    if arguments[0] != "train":
        rest = [str(trained.folder), "--folder", str(labeled_folder)]
    try:
        code = launch(["unpicker", *arguments, *rest])
    except SystemExit as ended:  # as cyclopts ends
        code = ended.code
    assert code == 2
    error = capsys.readouterr().err
    assert arguments[-2] in error
    assert re.search(rf"\b{arguments[-1].lstrip('-')}(\.0)?\b", error)
    assert not (tmp_path / "new").exists()


def test_a_precision_that_was_not_reached_is_told(labeled_folder, tmp_path, capsys, monkeypatch):
    from cryoflow.unpicker import operating_point

    monkeypatch.setattr(operating_point, "choose_threshold", lambda *_, **__: Threshold(0.9, 0.8, 0.7, reached=False))
    assert launch(["unpicker", "label", str(labeled_folder), "-o", str(labeled_folder)]) == 0
    command = ["unpicker", "train", "--train-root", str(labeled_folder), "--diameter", "160", "--epochs", "1"]
    assert launch([*command, "-o", str(tmp_path / "my model"), "--precision", "0.999"]) == 0
    error = capsys.readouterr().err
    assert "no threshold gives a precision of at least 0.999; this one gives precision 0.800 and recall 0.700" in error
    assert f"evaluate '{tmp_path}/my model'" in error


def test_a_model_that_flips_phases_asks_for_the_ctf_once(labeled_folder, trained, tmp_path, capsys):
    flips = replace(trained, preprocessing=replace(trained.preprocessing, phase_flip=True))
    flips.save(tmp_path / "flips")
    for command in (["unpick", "-o", str(tmp_path / "out")], ["suggest"]):
        assert launch(["unpicker", *command, "--folder", str(labeled_folder), "--model", str(tmp_path / "flips")]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "none of 8 micrographs has CTF values" in error


def test_a_backend_that_is_not_there_is_one_clear_error():
    code = "from cryoflow.preparation.devices import load_keras; load_keras()"
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": "nonsense"}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "CryoflowError: KERAS_BACKEND=nonsense: " in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["evaluate", "suggest", "info"])
def test_commands_that_need_an_unpicker_name_the_command_for_a_detector(command, capsys):
    assert launch(["unpicker", command, "general"]) == 2
    message = capsys.readouterr().err
    assert "general is a detector, not an unpicker" in message
    assert "`cryoflow detector " in message


def test_a_folder_that_is_no_model_is_one_clear_error(tmp_path, capsys):
    assert launch(["unpicker", "info", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no bundle.json" in error


def test_partly_failed_is_told_by_the_exit_code(rings, trained, tmp_path, capsys):
    folder = star_folder(rings, tmp_path / "in")
    (folder / "mic_0.mrc").unlink()
    assert (
        launch(["unpicker", "unpick", str(trained.folder), "--folder", str(folder), "-o", str(tmp_path / "out")]) == 3
    )
    assert "mic_0.mrc" in capsys.readouterr().err
