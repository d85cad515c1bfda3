"""Running a picker: what is checked before, what after, and where. Programs are stood in for by small scripts."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from written_files import written_files

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution.executor import Executor, Step, command, write_script
from cryoflow.execution.resources import Resources
from cryoflow.pickers.comparing.curves import keras_curve, plot_curve, topaz_curve
from cryoflow.pickers.importing.import_picks import import_picks
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.run_picker import micrographs_to_pick, pick, train
from cryoflow.pickers.running.work_folder import work_folder
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import export
from cryoflow.pickers.training_sets.split import Fractions

TOPAZ = """#!/usr/bin/env python3
import pathlib, shutil, sys
what, args = sys.argv[1], sys.argv[2:]
def after(flag): return args[args.index(flag) + 1]
print("topaz", what, flush=True)
if what == "preprocess":
    for name in args:
        if name.startswith("raw_"):
            pathlib.Path("proc").mkdir(exist_ok=True)
            shutil.copyfile(name, "proc/" + name.split("/")[1])
elif what == "train":
    scores = {epoch: {2: 0.9, 3: 0.7}.get(epoch, 0.5) for epoch in range(1, int(after("--num-epochs")) + 1)}
    rows = ["epoch\\titer\\tsplit\\tloss\\tauprc"]
    for epoch, auprc in scores.items():
        pathlib.Path(f"models/topaz_epoch{epoch}.sav").write_text("model")
        rows += [f"{epoch}\\t1\\ttrain\\t{1 / epoch}\\t-", f"{epoch}\\t2\\ttest\\t{2 / epoch}\\t{auprc}"]
    pathlib.Path("models/training.txt").write_text("\\n".join(rows) + "\\n")
elif what == "extract":
    rows = ["image_name\\tx_coord\\ty_coord\\tscore"]
    for name in args:
        if name.startswith("proc/"):
            rows += [f"{pathlib.Path(name).stem}\\t10\\t20\\t1.5", f"{pathlib.Path(name).stem}\\t30\\t40\\t-3"]
    pathlib.Path(after("-o")).write_text("\\n".join(rows) + "\\n")
"""
NOTHING = "#!/bin/sh\necho all is well\n"
BROKEN = "#!/bin/sh\necho CUDA out of memory >&2\nexit 3\n"
SBATCH = """#!/bin/bash
for last; do :; done
[ "$1" = --wait ] || exit 9
log=$(sed -n 's/^#SBATCH \"--output=\\\\\\\\\\(.*\\)\"/\\1/p' "$last")
echo 4711
SLURM_SUBMIT_DIR=$PWD bash "$last" > "$log" 2>&1
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(name: str, text: str) -> Path:
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
        return folder

    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return make


@pytest.fixture
def exported(make_entry, tmp_path):
    return export("topaz", [make_entry(n=4)], tmp_path / "a set", settings={"downsampling": 4}).folder


CPU = Executor(resources=Resources((), 2))


def test_training_follows_the_log_reads_the_curve_and_takes_the_best_epoch(exported, program):
    program("topaz", TOPAZ)
    lines: list[str] = []
    result = train("topaz", exported, CPU, on_line=lines.append)
    assert lines == ["topaz preprocess", "topaz train"]
    assert result.log.read_text().splitlines() == lines
    assert result.model.name == "topaz_epoch2.sav"
    assert set(pd.read_csv(result.curve, sep="\t")["metric"]) == {"loss", "auprc"}
    assert result.figure.exists()
    before = written_files(exported)
    again = train("topaz", exported, CPU)
    assert again.reused
    assert written_files(exported) == before
    assert not train("topaz", exported, CPU, again=True).reused


def test_a_program_that_ends_well_but_writes_nothing_has_failed(exported, program):
    program("topaz", NOTHING)
    with pytest.raises(BadInput, match="was not written, though"):
        train("topaz", exported, CPU)


def test_a_picker_does_not_inherit_what_our_tensorflow_set(exported, program, monkeypatch):
    """crYOLO's TensorFlow 1 turns eager under TF2_BEHAVIOR=1, which `import tensorflow` leaves in our environment."""
    monkeypatch.setenv("TF2_BEHAVIOR", "1")
    monkeypatch.setenv("A_SITES_OWN", "stays")
    program("topaz", '#!/bin/sh\necho "TF2_BEHAVIOR=$TF2_BEHAVIOR, A_SITES_OWN=$A_SITES_OWN"\nexit 1\n')
    with pytest.raises(ToolFailed, match="TF2_BEHAVIOR=, A_SITES_OWN=stays"):
        train("topaz", exported, CPU)


def test_a_program_that_fails_says_why(exported, program):
    program("topaz", BROKEN)
    with pytest.raises(ToolFailed, match="CUDA out of memory"):
        train("topaz", exported, CPU)


def test_a_program_that_edits_a_linked_micrograph_is_told(exported, program, caplog):
    program("topaz", '#!/bin/sh\nfor link in raw_*/*.mrc; do echo x >> "$link"; break; done\nexit 1\n')
    with pytest.raises(ToolFailed):
        train("topaz", exported, CPU)
    (warning,) = [r.getMessage() for r in caplog.records if "while the program ran" in r.getMessage()]
    assert "mic_0.mrc was changed" in warning
    caplog.clear()
    with pytest.raises(ToolFailed):  # what was changed before is told before the program starts
        train("topaz", exported, CPU)
    assert "mic_0.mrc was changed since the export" in caplog.text


def test_a_missing_program_is_named_with_the_ways_out(exported, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="--script-only"):
        train("topaz", exported, CPU)


def test_stale_output_of_an_earlier_run_is_no_success(exported, program):
    import os

    program("topaz", TOPAZ)
    train("topaz", exported, CPU)
    program("topaz", NOTHING)
    for path in [*exported.glob("proc/*"), *exported.glob("models/*")]:
        os.utime(path, (1e9, 1e9))
    with pytest.raises(BadInput, match="older than this run"):
        train("topaz", exported, CPU, again=True)


def test_checks_come_before_the_program(exported, program, make_entry, tmp_path):
    program("topaz", "#!/bin/sh\ntouch was_run\n")
    link = next(exported.glob("raw_*/*.mrc"))
    target = link.resolve()
    kept = target.read_bytes()
    target.unlink()
    with pytest.raises(BadInput, match="cannot be used as it is"):
        train("topaz", exported, CPU)
    target.write_bytes(kept)
    table = exported / "particles_train.txt"
    table.write_text(table.read_text() + "000099__other\t1\t1\t0\n")
    with pytest.raises(BadInput, match=r"000099__other of particles_train.txt is not in"):
        train("topaz", exported, CPU)
    with pytest.raises(BadInput, match="exported for another picker"):
        train("cryolo", exported, CPU)
    assert not (exported / "was_run").exists()


def test_cryolo_pairs_and_boxes_are_checked(make_entry, tmp_path):
    folder = export("cryolo", [make_entry(n=4)], tmp_path / "set").folder
    table = manifest.read_manifest(folder)
    assert picker("cryolo").problems(folder, table) == []
    label = next(p for p in sorted((folder / "train_annot").iterdir()) if p.stat().st_size)
    label.write_text("560\t10\t100\t100\n")
    assert "outside" in picker("cryolo").problems(folder, table)[0]
    label.rename(label.with_name("00000.box"))
    assert any("belongs to" in p for p in picker("cryolo").problems(folder, table))


def test_picking_brings_positions_back_through_the_manifest_and_applies_the_threshold(make_entry, program, tmp_path):
    program("topaz", TOPAZ)
    entries = [make_entry("P1", n=2), make_entry("P2", n=3, pixel_size_A=2.0, seed=1)]
    model = tmp_path / "m.sav"
    model.write_text("model")
    result = pick("topaz", model, entries, tmp_path / "picked", CPU, diameter_A=100, name="run1")
    assert [p.provenance.entry_name for p in result.picksets] == ["AutoPick_run1"] * 2
    factors = [1, 2]  # 4 A and 2 A a pixel end at 4 A
    for picks, entry, factor in zip(result.picksets, entries, factors, strict=True):
        assert picks.micrographs["name"].tolist() == entry.micrographs["name"].tolist()
        assert len(picks) == len(entry.micrographs)  # one of two is below 0
        np.testing.assert_array_equal(picks.centers_xy_px, [[10.0 * factor, 20.0 * factor]] * len(picks))
        assert picks.provenance.program == "picker"
        assert "threshold 0" in picks.provenance.title
    before = written_files(tmp_path / "picked")
    again = pick("topaz", model, entries, tmp_path / "picked", CPU, diameter_A=100, name="run1", overwrite=True)
    assert (again.reused, result.reused) == (True, False)
    assert [len(p) for p in again.picksets] == [len(p) for p in result.picksets]
    assert written_files(tmp_path / "picked") == before
    everything = import_picks("topaz", tmp_path / "picked" / "picks", tmp_path / "picked", threshold=-6)
    assert [len(p) for p in everything] == [4, 6]


def test_picks_are_made_again_where_they_or_their_model_changed_or_their_run_was_killed(make_entry, program, tmp_path):
    program("topaz", TOPAZ)
    model, entries = tmp_path / "m.sav", [make_entry("P1", n=2)]
    model.write_text("model")
    folder = tmp_path / "picked"

    def again() -> bool:
        return pick("topaz", model, entries, folder, CPU, diameter_A=100, overwrite=True).reused

    assert (again(), again()) == (False, True)
    model.write_text("another")
    assert (again(), again()) == (False, True)
    file = next(p for p in (folder / "picks").rglob("*") if p.is_file())
    file.write_text("truncated")
    assert (again(), again()) == (False, True)
    (folder / "picked.json").write_text('{"format": 1}')
    assert (again(), again()) == (False, True)
    (folder / "picked.json").unlink()  # written last: a run that was killed leaves none
    assert (again(), again()) == (False, True)


def test_another_sets_manifest_is_noticed(make_entry, program, tmp_path, caplog):
    program("topaz", TOPAZ)
    entry = make_entry(n=3, pixel_size_A=2.0, n_empty=0)
    model = tmp_path / "m.sav"
    model.write_text("model")
    picked = pick("topaz", model, [entry], tmp_path / "picked", CPU, diameter_A=100)
    trained_on = export("topaz", [entry], tmp_path / "set", settings={"downsampling": 1}).folder
    assert not caplog.messages
    (own,) = import_picks("topaz", tmp_path / "picked" / "picks", keep_all=True, name="picked")
    assert own.picks["x_px"].tolist() == [20.0, 60.0] * 3
    assert own.micrographs.equals(picked.picksets[0].micrographs)
    import_picks("topaz", tmp_path / "picked" / "picks", trained_on)
    assert f"lies in the set of {tmp_path / 'picked'}, but {trained_on} was named" in caplog.text
    with pytest.raises(BadInput, match="lies in no set"):
        import_picks("topaz", model)


def test_picks_in_one_corner_of_all_micrographs_are_noticed(make_entry, tmp_path, caplog):
    entry = make_entry(n=4, pixel_size_A=2.0, n_empty=0)
    right = export("topaz", [entry], tmp_path / "right", settings={"downsampling": 2}).folder
    wrong = export("topaz", [entry], tmp_path / "wrong", settings={"downsampling": 1}).folder
    stems = manifest.read_manifest(right)["stem"]
    rows = [f"{stem}\t{x}\t{y}\t1" for stem in stems for x in range(10, 280, 50) for y in range(10, 180, 50)]
    (tmp_path / "picks.txt").write_text("image_name\tx_coord\ty_coord\tscore\n" + "\n".join(rows) + "\n")
    import_picks("topaz", tmp_path / "picks.txt", right)
    assert not caplog.messages
    import_picks("topaz", tmp_path / "picks.txt", wrong)
    assert "upper left 45% x 42% of the micrographs" in caplog.text


def test_positions_that_were_scaled_back_already_are_noticed(make_entry, tmp_path):
    entry = make_entry(n=2, pixel_size_A=1.0, diameter_A=40)
    folder = export("topaz", [entry], tmp_path / "set", settings={"downsampling": 4}).folder
    stem = manifest.read_manifest(folder)["stem"][0]
    table = tmp_path / "picks.txt"
    rows = [f"{stem}\t{x}\t{y}\t1" for x in range(20, 570, 50) for y in range(20, 380, 50)]
    table.write_text("image_name\tx_coord\ty_coord\tscore\n" + "\n".join(rows) + "\n")
    with pytest.raises(BadInput, match="outside the micrographs"):
        import_picks("topaz", table, folder)
    (right,) = import_picks("topaz", table, folder, scaled=False)
    assert right.picks["x_px"].max() == 520
    table.write_text(
        "image_name\tx_coord\ty_coord\tscore\n" + "\n".join(f"{stem}\t{i}\t{i}\t1" for i in range(30)) + "\n"
    )
    with pytest.raises(BadInput, match="one corner"):
        import_picks("topaz", table, folder, scaled=False)
    table.write_text("image_name\tx_coord\ty_coord\nsomething_else\t1\t1\n")
    with pytest.raises(BadInput, match="names no micrograph"):
        import_picks("topaz", table, folder)


def test_jittered_repeats_of_cryosegnet_become_one_pick(make_entry, tmp_path):
    entry = make_entry(n=2, n_empty=0)
    folder = export("cryosegnet", [entry], tmp_path / "set").folder
    stem = manifest.read_manifest(folder)["stem"][0]
    star = tmp_path / "predictions.star"
    head = "\n\ndata_\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnDiameter #4\n"
    star.write_text(
        head + "".join(f"{stem}.mrc {x} {y} 40\n" for x, y in ((100, 100), (101, 101), (98, 99), (200, 50)))
    )
    (back,) = import_picks("cryosegnet", star, folder)
    assert back.centers_xy_px.tolist() == [[100, 100], [200, 50]]
    assert back.counts["duplicate"] == 2


def test_micrographs_of_no_project_can_be_picked(make_entry, program, tmp_path):
    program("topaz", TOPAZ)
    entry = make_entry(n=3)
    folder = Path(entry.micrographs["path"][0]).parent
    files = micrographs_to_pick([folder], project="new")
    assert files.micrographs["name"].tolist() == ["mic_0.mrc", "mic_1.mrc", "mic_2.mrc"]
    model = tmp_path / "m.sav"
    model.write_text("model")
    (picks,) = pick("topaz", model, [files], tmp_path / "picked", CPU, diameter_A=100).picksets
    assert picks.provenance.project_name == "new"
    assert len(picks) == 3
    with pytest.raises(BadInput, match="is not there"):
        pick("topaz", tmp_path / "no.sav", [files], tmp_path / "other", CPU, diameter_A=100)


@pytest.mark.parametrize("hostile", ["plain", "-rf", "with %j blank", "quo'te", 'dou"ble', "dollar$HOME", "semi;colon"])
def test_a_job_script_runs_in_any_folder_and_names_no_partition(make_entry, program, tmp_path, hostile):
    program("topaz", TOPAZ)
    folder = export("topaz", [make_entry(n=4)], tmp_path / hostile, settings={"downsampling": 4}).folder
    result = train("topaz", folder, Executor(resources=Resources((0,), 3, allocated=True)), script_only=True)
    assert result.model is None
    text = result.script.read_text()
    assert "partition" not in text
    assert "#SBATCH --gres=gpu:1" in text
    assert text.count(str(tmp_path)) == 1  # its own folder, where it is looked for last
    done = subprocess.run(["bash", str(result.script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "models" / "topaz_epoch3.sav").exists()
    shutil.rmtree(folder / "models")
    program("topaz", NOTHING)
    (folder / "models").mkdir()
    failed = subprocess.run(["bash", str(result.script)], capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 1
    assert "train Topaz: models/training.txt was not written" in failed.stderr


def test_a_script_for_an_image_does_not_follow_its_folder(exported, tmp_path):
    """The image sees the folder where it was when the script was written."""
    executor = Executor("apptainer", "/of/images/topaz.sif", resources=Resources(()))
    script = train("topaz", exported, executor, script_only=True).script
    assert "apptainer exec " in script.read_text()
    moved = exported.rename(tmp_path / "moved")
    done = subprocess.run(["bash", moved / script.name], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has moved: write the script anew" in done.stderr


def test_a_general_model_is_found_from_the_pickers_folder_and_in_its_image(make_entry, tmp_path, monkeypatch):
    """crYOLO goes on silently without a model that is not there."""
    monkeypatch.chdir(tmp_path)
    entry, model = make_entry(n=4), tmp_path / "models" / "gmodel.h5"
    named = {"pretrained_weights": "models/gmodel.h5"}
    with pytest.raises(BadInput, match="is not there, and was given for pretrained_weights"):
        export("cryolo", [entry], tmp_path / "none", settings=named)
    model.parent.mkdir()
    model.touch()
    folder = export("cryolo", [entry], tmp_path / "set", settings=named).folder
    assert json.loads((folder / "config_cryolo.json").read_text())["train"]["pretrained_weights"] == str(model)
    steps = picker("cryolo").train_steps(folder, manifest.read_settings(folder), Resources(()))
    in_image = command(steps[0], Executor("docker", "cryolo:1.9", resources=Resources(())), work_folder(folder))
    assert f"type=bind,source={model},destination={model},readonly" in in_image
    with pytest.raises(BadInput, match=r"resnet9: no file, and none of resnet8, resnet16"):
        export("topaz", [entry], tmp_path / "none", settings={"model": "resnet9"})
    mine = export("topaz", [entry], tmp_path / "topaz", settings={"model": "models/gmodel.h5"}).folder
    assert manifest.read_settings(mine)["model"] == str(model)


def test_an_image_beside_the_user_is_found_from_the_pickers_folder(exported, tmp_path, monkeypatch):
    (tmp_path / "topaz.sif").touch()
    monkeypatch.chdir(tmp_path)
    executor = Executor("apptainer", "topaz.sif", resources=Resources(()))
    assert str(tmp_path / "topaz.sif") in command(Step("train", ("topaz",)), executor, work_folder(exported))
    named = Executor("docker", "cryoflow:topaz", resources=Resources(()))
    assert "cryoflow:topaz" in command(Step("train", ("topaz",)), named, work_folder(exported))


def test_a_slurm_job_is_waited_for_and_its_log_followed(exported, program):
    program("topaz", TOPAZ)
    program("sbatch", SBATCH)
    lines: list[str] = []
    executor = Executor(
        slurm=True, sbatch_options=("--partition=gpu", "--comment=my run"), resources=Resources((0,), 2, True)
    )
    result = train("topaz", exported, executor, on_line=lines.append)
    assert result.model.name == "topaz_epoch2.sav"
    assert "topaz train" in lines
    script = (exported / "train.sbatch").read_text()
    assert "#SBATCH --partition=gpu" in script
    assert '#SBATCH "--comment=my run"' in script
    program("topaz", BROKEN)
    with pytest.raises(ToolFailed, match="sbatch"):
        train("topaz", exported, executor, again=True)


def test_container_commands_mount_the_folder_and_what_its_links_point_to(make_entry, tmp_path):
    folder = export("cryolo", [make_entry(n=4)], tmp_path / "a, set").folder
    (step,) = picker("cryolo").train_steps(folder, manifest.read_settings(folder), Resources((0, 1), 4))
    docker = command(step, Executor("docker", "cryolo:1.9"), work_folder(folder))
    assert docker[:3] == ["docker", "run", "--rm"]
    assert f'type=bind,"source={folder}","destination={folder}"' in docker
    originals = tmp_path / "projects" / "P12" / "mics"
    assert f"type=bind,source={originals},destination={originals},readonly" in docker
    assert docker[docker.index("cryolo:1.9") + 1 :] == list(step.argv[1:])
    assert docker[docker.index("--entrypoint") + 1] == "cryolo_train.py"
    assert step.argv[step.argv.index("-g") + 1 : step.argv.index("-g") + 3] == ("0", "1")
    apptainer = command(step, Executor("apptainer", "cryolo.sif"), work_folder(folder))
    assert apptainer[1:3] == ["exec", "--nv"]
    assert apptainer[apptainer.index("cryolo.sif") + 1] == "cryolo_train.py"
    assert "--nv" not in command(step, Executor("apptainer", "c.sif", resources=Resources(())), work_folder(folder))
    with pytest.raises(BadInput, match="need each other"):
        Executor(image="cryolo.sif")
    with pytest.raises(BadInput, match="line break"):
        write_script([step], Executor(sbatch_options=("--x\nrm",)), work_folder(folder), "train", "train.log")


def test_cryolo_in_a_job_leaves_the_schedulers_choice_of_gpus_alone(make_entry, tmp_path):
    folder = export("cryolo", [make_entry(n=4)], tmp_path / "set").folder
    settings = manifest.read_settings(folder)
    (job,) = picker("cryolo").train_steps(folder, settings, Resources((0,), 4, allocated=True))
    assert "-g" not in job.argv
    (cpu,) = picker("cryolo").train_steps(folder, settings, Resources(()))
    assert cpu.argv[cpu.argv.index("-g") + 1] == "-1"


def test_pickers_that_are_used_in_their_own_window_say_so(make_entry, tmp_path):
    folder = export("eman2", [make_entry(n=4)], tmp_path / "set").folder
    with pytest.raises(BadInput, match=r"not trained from here.*e2boxer"):
        train("eman2", folder, CPU)
    with pytest.raises(BadInput, match=r"not run from here.*cryoflow ingest"):
        pick("warp", "boxnet.pt", [make_entry()], tmp_path / "picked", CPU)


CRYOSEGNET = """
import pathlib, sys
if sys.argv[0].endswith("generate_jpg.py"):
    for path in pathlib.Path("finetune_dataset/mrc_files").iterdir():
        pathlib.Path("finetune_dataset/images", path.stem + ".jpg").write_text("picture")
else:
    assert pathlib.Path(sys.argv[sys.argv.index("--cryosegnet_checkpoint") + 1]).is_file()
    pathlib.Path("output/models/finetuned_cryosegnet_best_val_loss.pth").write_text("model")
"""


def test_cryosegnet_is_trained_by_its_own_scripts(make_entry, tmp_path):
    entry = make_entry(n=3)
    with pytest.raises(BadInput, match="--set code=FOLDER"):
        train("cryosegnet", export("cryosegnet", [entry], tmp_path / "without").folder, CPU)
    code = tmp_path / "Cryo SegNet"
    for name in ("utils/generate_jpg.py", "finetune.py", "pretrained_models/cryosegnet.pth"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(CRYOSEGNET)
    folder = export("cryosegnet", [entry], tmp_path / "set", settings={"code": code}).folder
    assert train("cryosegnet", folder, CPU).model.name == "finetuned_cryosegnet_best_val_loss.pth"
    next(folder.glob("finetune_dataset/masks/*")).unlink()
    with pytest.raises(BadInput, match="has no mask"):
        train("cryosegnet", folder, CPU, again=True)


def test_keras_redraws_lines_and_the_last_of_an_epoch_counts(tmp_path):
    log = tmp_path / "train.log"
    log.write_bytes(
        b"Epoch 1/2\n\r 1/9 [>.] - ETA: 1s - loss: 9.0\b\b\b\r 9/9 [==] - 1s - loss: 2.5 - val_loss: 3.5\n"
        b"Epoch 00001: val_loss improved\nEpoch 2/2\r 9/9 - loss: 1.5 - val_loss: nan\n"
    )
    curve = keras_curve(log).set_index(["epoch", "split"])["value"]
    assert curve[1, "train"] == 2.5
    assert curve[1, "validation"] == 3.5
    assert curve[2, "train"] == 1.5
    assert keras_curve(tmp_path / "none.log").empty
    assert topaz_curve(tmp_path / "none.txt").empty


def test_curve_is_drawn(tmp_path):
    rows = [(e, s, m, 1 / e) for e in range(1, 6) for s in ("train", "validation") for m in ("loss", "auprc")]
    plot_curve(pd.DataFrame(rows, columns=["epoch", "split", "metric", "value"]), "Topaz", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_that_was_killed_half_way_is_not_taken_for_done(exported, program):
    program("topaz", TOPAZ)
    train("topaz", exported, CPU)
    for epoch in range(6, 11):
        (exported / "models" / f"topaz_epoch{epoch}.sav").unlink()
    with pytest.raises(BadInput, match="is of epoch 5 of 10: the training was stopped"):
        picker("topaz").trained_model(exported, manifest.read_settings(exported))
    again = train("topaz", exported, CPU)
    assert not again.reused
    assert (exported / "models" / "topaz_epoch10.sav").exists()


EPICKER = """#!/usr/bin/env python3
import os, pathlib, sys
def after(flag): return sys.argv[sys.argv.index(flag) + 1]
print("seen", *sorted(os.listdir(after("--data"))), after("--train_pct"), "size", after("--particle_size"), flush=True)
logs = pathlib.Path(after("--exp_id"), "logs")
logs.mkdir(parents=True, exist_ok=True)
with open(logs / "log.txt", "w") as log:
    for epoch in range(1, min(LAST, int(after("--num_epoch"))) + 1):
        log.write(f"2026-01-01-10-00: epoch: {epoch} |loss {1 / epoch:8f} | hm_loss 0.100000 | off_loss 3.000000 | \\n")
        logs.with_name("model_last.pth").write_text("model")
"""


def test_epicker_sees_what_trains_alone_and_its_last_epoch_must_be_in_its_log(make_entry, program, tmp_path):
    entry = make_entry(n=10, shape_yx=(600, 400))
    exported = export("epicker", [entry], tmp_path / "set", split=Fractions(0.2, 0.2), settings={"epochs": 5}).folder
    table = manifest.read_manifest(exported)
    programs = program("epicker_train.sh", EPICKER.replace("LAST", "3"))
    lines: list[str] = []
    with pytest.raises(BadInput, match=r"is of epoch 3 of 5"):
        train("epicker", exported, CPU, on_line=lines.append)
    (seen,) = [line.split() for line in lines if line.startswith("seen")]
    assert seen[1:-3] == [f"{stem}.mrc" for stem in table.loc[table["split"] == "train", "stem"]]
    assert seen[-3:] == ["100", "size", str(round(24 / 400 * 1024 / 4, 2))]  # its picture is 1024 px wide, not high
    (programs / "epicker_train.sh").write_text(EPICKER.replace("LAST", "99"))
    trained = train("epicker", exported, CPU)
    assert not trained.reused
    curve = pd.read_csv(trained.curve, sep="\t")
    assert curve["value"].round(3).tolist() == [1.0, 0.5, 0.333, 0.25, 0.2]
    assert trained.figure.exists()
    blank = trained.model.with_name("my model.pth")
    trained.model.rename(blank)
    with pytest.raises(BadInput, match="has blanks"):
        pick("epicker", blank, [entry], tmp_path / "picked", CPU, diameter_A=100)


def test_a_setting_that_the_file_lacks_is_an_error_of_the_file(exported: Path) -> None:
    file = exported / "settings.tsv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("epochs\t")))
    with pytest.raises(BadInput, match=r"settings\.tsv: lacks the setting epochs"):
        train("topaz", exported, Executor(resources=Resources(())), script_only=True)
