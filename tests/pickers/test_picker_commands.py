"""`cryoflow export`, `picker` and `evaluate`, as they are typed."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from test_running import TOPAZ, program  # noqa: F401  # a fixture

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.pickers.registry import pickers
from cryoflow.pickers.training_sets import manifest


@pytest.fixture
def database(make_entry, tmp_path):
    root = tmp_path / "DB"
    Database(root).add(make_entry("P1", n=4))
    return root


def test_export_prints_what_it_wrote_and_why(database, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["export", "topaz", "P1/Homo_J51", "--database", str(database), "--output", str(out), "--set", "epochs=3"]
    assert launch([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert Path(printed["manifest"]) == out / "manifest.tsv"
    assert {"name": "epochs", "value": "3", "why": "given by hand", "by_hand": True} in printed["settings"]
    assert launch(argv) == 0
    assert "was there already" in capsys.readouterr().out
    assert launch([*argv[:-1], "epochs"]) == 2
    assert launch([*argv, "--box", "20", "--diameter", "100"]) == 2
    assert launch([*argv[:2], "P1/Homo_J99", *argv[3:]]) == 1
    assert "no entry" in capsys.readouterr().err


def test_export_verify_tells_what_is_missing_and_a_repeated_export_restores_it(database, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["export", "epicker", "P1/Homo_J51", "--database", str(database), "--output", str(out)]
    assert launch(argv) == 0
    assert launch(["export", "verify", str(out)]) == 0
    assert "sound" in capsys.readouterr().err
    label = next(out.glob("labels/*"))
    label.unlink()
    assert launch(["export", "verify", str(out), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [{"path": f"labels/{label.name}", "what": "is missing"}]
    assert launch(argv) == 0
    assert "Deleted or changed files are written again (1)" in capsys.readouterr().err
    assert launch(["export", "verify", str(out)]) == 0
    assert launch(["export", "verify", str(tmp_path)]) == 1
    assert "what the export consisted of is unknown" in capsys.readouterr().err
    assert launch([*argv[:-1], str(tmp_path / "own"), "--copy"]) == 0
    assert not [p for p in (tmp_path / "own").rglob("*") if p.is_symlink()]
    assert launch([*argv, "--copy", "--reflink"]) == 2


def test_export_of_a_part_ends_with_three(database, make_entry, tmp_path):
    mics = tmp_path / "projects" / "P1" / "mics"
    (mics / "mic_1.mrc").write_bytes(b"broken")
    out = tmp_path / "out"
    assert launch(["export", "cryolo", "P1/Homo_J51", "--db", str(database), "-o", str(out)]) == 3
    assert len(list(out.glob("*_image/*.mrc"))) == 3


def test_picks_are_read_judged_and_agreed_on(database, tmp_path, capsys):
    out = tmp_path / "out"
    assert launch(["export", "eman2", "P1/Homo_J51", "--db", str(database), "-o", str(out)]) == 0
    read = ["picker", "read", "eman2", str(out / "info"), "--manifest", str(out), "--db", str(database), "--run", "e2"]
    assert launch(read) == 0
    capsys.readouterr()
    judge = ["evaluate", "P1/AutoPick_e2", "--reference", "P1/Homo_J51", "--db", str(database), "--json"]
    assert launch([*judge, "-o", str(tmp_path / "judged")]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["f1"] == 1.0
    assert row["average_precision"] is None  # EMAN2's boxes have no scores
    assert (tmp_path / "judged" / "evaluation.png").exists()
    agree = ["picker", "consensus", "P1/AutoPick_e2", "P1/Homo_J51", "--db", str(database), "--name", "both", "--json"]
    assert launch(agree) == 0
    assert json.loads(capsys.readouterr().out)[0]["entry"] == "P1/Consensus_both"
    assert launch(["picker", "consensus", "--db", str(database)]) == 2


def test_only_the_test_micrographs_of_that_project_judge(database, make_entry, tmp_path, capsys):
    Database(database).add(make_entry("P2", "J7", n=7, seed=1))  # micrographs of the same names
    out = tmp_path / "out"
    entries = ["P1/Homo_J51", "P2/Homo_J7"]
    assert launch(["export", "topaz", *entries, "--db", str(database), "-o", str(out), "--test", "0.3"]) == 0
    table = manifest.read_manifest(out).query("split == 'test'")
    tested = [set(table.loc[table["project"] == project, "name"]) for project in ("P1", "P2")]
    assert tested[0] != tested[1]
    capsys.readouterr()
    judge = ["evaluate", entries[1], "--reference", entries[1], "--db", str(database), "--split-of", str(out), "--json"]
    assert launch([*judge, "--micrographs"]) == 0
    assert {row["micrograph"] for row in json.loads(capsys.readouterr().out)} == tested[1]
    assert launch([*judge, "--split", "test", "--diameter", "100", "--method", "greedy"]) == 0
    Database(database).add(make_entry("P3", "J9", n=2, seed=2))
    judge = [word.replace(entries[1], "P3/Homo_J9") for word in judge]
    assert launch(judge) == 2


def test_script_only_writes_a_script_and_runs_nothing(database, tmp_path, capsys):
    out = tmp_path / "out"
    launch(["export", "cryolo", "P1/Homo_J51", "--db", str(database), "-o", str(out)])
    assert launch(["picker", "train", "cryolo", str(out), "--script-only", "--sbatch=--time=1:00:00"]) == 0
    text = (out / "train.sbatch").read_text()
    assert "#SBATCH --time=1:00:00" in text
    assert "cryolo_train.py -c config_cryolo.json" in text
    assert not (out / "train.log").exists()
    assert launch(["picker", "train", "cryolo", str(out), "--gpus", "all"]) == 2
    assert launch(["picker", "train", "topaz", str(out)]) == 1


def test_every_picker_is_listed_and_has_its_export_command(capsys):
    assert launch(["picker", "list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names == sorted(pickers())
    for name in names:
        assert launch(["export", name, "--help"]) in (0, None)


def test_one_command_trains_and_picks(database, make_entry, program, tmp_path, capsys):  # noqa: F811
    program("topaz", TOPAZ)
    second = make_entry("P2", "J7", n=3, pixel_size_A=2.0, diameter_A=100.0, seed=1)
    Database(database).add(second)
    new = Path(make_entry("new", n=2, seed=2).micrographs["path"][0]).parent
    argv = ["picker", "train-and-pick", "topaz", "--db", str(database), "-o", str(tmp_path / "run"), "--gpus", "none"]
    everything = [*argv, "--best", "--micrographs", str(new), "--set", "target_pixel_size=8", "--json"]
    assert launch(everything) == 0
    printed = capsys.readouterr()
    assert "P1/Homo_J51 P2/Homo_J7" in printed.err
    assert "setting: target_pixel_size = 8 (given by hand)" in printed.err
    assert printed.err.index("setting: number_for_topaz") < printed.err.index("training Topaz: the log is")
    (row,) = json.loads(printed.out)
    assert row["entry"] == "mics/AutoPick_topaz"
    assert row["picks"] == 2
    picks = Database(database).load(row["entry"])
    assert picks.centers_xy_px.tolist() == [[20.0, 40.0]] * 2  # at 8 A a pixel, as in training; 4 A were derived
    settings = manifest.read_settings(tmp_path / "run" / "picked")
    assert settings["target_pixel_size"] == "8"
    program("topaz", TOPAZ.replace('what == "train"', 'what == "never"'))
    assert launch(everything) == 0  # the model that is there is taken
    one = [*argv[:-4], "-o", str(tmp_path / "one"), "--gpus", "none"]
    program("topaz", TOPAZ)
    assert launch([*one, "--best", "--project", "P2", "--to-pick", "P1/Homo_J51"]) == 0
    assert set(manifest.read_manifest(tmp_path / "one" / "training")["project"]) == {"P2"}


def test_one_command_writes_the_scripts_one_after_the_other(database, program, tmp_path, capsys):  # noqa: F811
    program("topaz", TOPAZ)
    out = tmp_path / "a run"
    argv = ["picker", "train-and-pick", "topaz", "--best", "--to-pick", "P1/Homo_J51", "--threshold", "-4"]
    argv += ["--db", str(database), "-o", str(out), "--gpus", "none", "--set", "downsampling=2", "--script-only"]
    assert launch(argv) == 0
    printed = capsys.readouterr()
    assert str(out / "training" / "train.sbatch") in printed.out
    assert "the same command again" in printed.err
    assert not (out / "picked").exists()
    subprocess.run(["bash", out / "training" / "train.sbatch"], check=True)
    assert launch(argv) == 0
    printed = capsys.readouterr()
    subprocess.run(["bash", out / "picked" / "pick.sbatch"], check=True)
    assert "topaz_epoch2.sav" in (out / "picked" / "pick.sbatch").read_text()  # the best of three
    then = next(line for line in printed.err.splitlines() if line.startswith("then: cryoflow "))
    assert launch(shlex.split(then.removeprefix("then: cryoflow "))) == 0
    picks = Database(database).load("P1/AutoPick_topaz")
    assert len(picks) == 8
    assert picks.centers_xy_px[:2].tolist() == [[20.0, 40.0], [60.0, 80.0]]


def test_one_command_says_what_it_lacks_before_it_trains(database, tmp_path, capsys):
    def fails(*more: str, name: str = "topaz") -> int:
        argv = ["picker", "train-and-pick", name, *more, "--db", str(database), "-o", str(tmp_path / "run")]
        return int(launch(argv) or 0)

    assert fails("--best") == 2
    assert fails("--to-pick", "P1/Homo_J51") == 2
    assert fails("P1/Homo_J51", "--best", "--to-pick", "P1/Homo_J51") == 2
    capsys.readouterr()
    assert fails("--best", "--project", "P9", "--to-pick", "P1/Homo_J51") == 1
    assert "has no project P9. It has: P1" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(SystemExit, match="2"):
        fails("--best", "--to-pick", "P1/Homo_J51", name="warp")
    told = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert 'Choose from: "cryoflow", "cryolo", "epicker", "topaz"' in told
    assert not (tmp_path / "run").exists()


def test_export_takes_the_best_entries(database, tmp_path, capsys):
    argv = ["export", "topaz", "--best", "--db", str(database), "-o", str(tmp_path / "out")]
    assert launch(argv) == 0
    assert set(manifest.read_manifest(tmp_path / "out")["entry"]) == {"P1/Homo_J51"}
    assert launch([*argv, "P1/Homo_J51"]) == 2


def test_commands_take_patterns_of_entries(database, make_entry, program, tmp_path, capsys):  # noqa: F811
    program("topaz", TOPAZ)
    Database(database).add(make_entry("P2", "J7", n=7, seed=1))
    where = ["--db", str(database)]
    out = tmp_path / "out"
    assert launch(["export", "topaz", "*/Homo_*", "P1/Homo_J51", *where, "-o", str(out)]) == 0
    assert set(manifest.read_manifest(out)["entry"]) == {"P1/Homo_J51", "P2/Homo_J7"}
    best = tmp_path / "best"
    assert launch(["export", "topaz", "--best", "--project", "P[2-9]", *where, "-o", str(best)]) == 0
    assert set(manifest.read_manifest(best)["entry"]) == {"P2/Homo_J7"}
    capsys.readouterr()
    judge = ["evaluate", "P1/*", *where, "--json", "--reference"]
    assert launch([*judge, "P1/Homo_J51"]) == 0
    assert [row["entry"] for row in json.loads(capsys.readouterr().out)] == ["P1/Homo_J51"]
    assert launch([*judge, "P1/*"]) == 1  # one entry is the reference, never the first of several
    assert "there is no entry 'P1/*'" in capsys.readouterr().err
    assert launch(["picker", "consensus", "P3/*", *where]) == 1
    assert f"{database}: nothing matches 'P3/*'" in capsys.readouterr().err
    command = ["picker", "train-and-pick", "topaz", "P1/*", "--to-pick", "P2/*", *where, "-o", str(tmp_path / "run")]
    assert launch([*command, "--gpus", "none", "--json"]) == 0
    assert [row["entry"] for row in json.loads(capsys.readouterr().out)] == ["P2/AutoPick_topaz"]
