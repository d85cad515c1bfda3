"""Topaz's tables: scaled once, on particles of the downsampled micrographs, with the number it needs."""

import mrcfile
import numpy as np
import pandas as pd
import pytest
from blob_micrographs import mean_under
from scipy.ndimage import uniform_filter

from cryoflow.errors import BadInput
from cryoflow.execution.resources import Resources
from cryoflow.pickers.programs.topaz.derive import corrected_expected
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import export


def test_scaled_picks_lie_on_particles_of_downsampled_micrographs(make_entry, tmp_path):
    entry = make_entry(pixel_size_A=2.0, diameter_A=60.0)
    result = export("topaz", [entry], tmp_path / "out", settings={"downsampling": 3})
    particles = pd.read_csv(result.folder / "particles.txt", sep="\t")
    assert list(particles.columns) == ["image_name", "x_coord", "y_coord", "source"]
    assert particles[["x_coord", "y_coord"]].dtypes.tolist() == [np.int64, np.int64]
    for stem, group in particles.groupby("image_name"):
        pixels = uniform_filter(mrcfile.read(result.folder / "raw_03" / f"{stem}.mrc"), 3)[::3, ::3]
        assert mean_under(pixels, group[["x_coord", "y_coord"]].to_numpy(), 1) < -2


def test_positions_are_rounded_once_from_full_precision(make_entry, tmp_path):
    entry = make_entry(n=3, n_empty=0)
    result = export("topaz", [entry], tmp_path / "out", settings={"downsampling": 4})
    table = manifest.read_manifest(result.manifest)
    assert set(table["scale"]) == {4.0}
    particles = pd.read_csv(result.folder / "particles.txt", sep="\t")
    expected = np.rint(entry.centers_xy_px / 4)
    np.testing.assert_array_equal(particles[["x_coord", "y_coord"]].to_numpy(), expected)


def test_entries_of_other_pixel_sizes_end_at_one(make_entry, tmp_path):
    entries = [make_entry("P1", pixel_size_A=1.0, diameter_A=60), make_entry("P2", pixel_size_A=2.0, seed=1)]
    result = export("topaz", entries, tmp_path / "out", diameter_A=150)
    table = manifest.read_manifest(result.manifest).groupby("project")["scale"].unique()
    assert [list(x) for x in table] == [[4], [2]]
    assert sorted(p.name for p in result.folder.glob("raw_*")) == ["raw_02", "raw_04"]


def test_lists_and_tables_name_the_same_images_without_extension_or_blanks(make_entry, tmp_path):
    result = export("topaz", [make_entry(n=10, names=[f"a b.v1_{i}.mrc" for i in range(10)])], tmp_path / "out")
    seen = set()
    for split in ("train", "validation"):
        images = pd.read_csv(result.folder / f"image_list_{split}.txt", sep="\t")
        targets = pd.read_csv(result.folder / f"particles_{split}.txt", sep="\t")
        assert set(targets["image_name"]) <= set(images["image_name"])
        assert not images["path"].str.contains(" ").any()
        assert (images["path"] == "proc/" + images["image_name"] + ".mrc").all()
        seen |= set(images["image_name"])
    assert len(seen) == 10


def test_expected_number_is_corrected_and_the_correction_can_be_switched_off(make_entry, tmp_path):
    entry = make_entry(n=6, n_empty=0)
    values = {
        s.name: s
        for s in export("topaz", [entry], tmp_path / "a", settings={"expected_particles": 90, "radius": 3}).settings
    }
    labeled = manifest.read_manifest(tmp_path / "a").query("split == 'train'")["n_picks"].mean()
    assert float(values["number_for_topaz"].value) == pytest.approx(labeled + (90 - labeled) / 7, abs=1e-3)
    assert "7 times too many" in values["number_for_topaz"].why
    off = {"expected_particles": 90, "correct_expected": "no"}
    values = {s.name: s for s in export("topaz", [entry], tmp_path / "b", settings=off).settings}
    assert float(values["number_for_topaz"].value) == 90
    with pytest.raises(BadInput, match="not more than"):
        export("topaz", [entry], tmp_path / "c", settings={"expected_particles": 1})
    assert corrected_expected(100, 80, 0) == 100


def test_radii_follow_from_the_diameter(make_entry, tmp_path):
    entry = make_entry(pixel_size_A=1.0, diameter_A=60.0)
    values = {s.name: s.value for s in export("topaz", [entry], tmp_path / "a", diameter_A=150).settings}
    across = 150 / 4
    assert values["radius"] == str(round(across / 8))
    assert values["extract_radius"] == str(round(across / 2))


def test_commands_name_relative_paths_and_make_what_they_promise(make_entry, tmp_path):
    result = export("topaz", [make_entry()], tmp_path / "with blank")
    settings = manifest.read_settings(result.folder)
    steps = picker("topaz").train_steps(result.folder, settings, Resources(gpus=(), cpus=2))
    assert [s.argv[1] for s in steps] == ["preprocess", "train"]
    assert all("with blank" not in a for s in steps for a in s.argv)
    assert steps[-1].argv[steps[-1].argv.index("-d") + 1] == "-1"
    assert (result.folder / "models").is_dir()


def test_factors_bring_entries_to_the_most_common_pixel_size_and_a_model_remembers_it(make_entry, tmp_path):
    entries = [make_entry("P1", pixel_size_A=3.1), make_entry("P2", pixel_size_A=2.0, seed=1)]
    result = export("topaz", entries, tmp_path / "out", diameter_A=250)
    table = manifest.read_manifest(result.manifest).groupby("project")["scale"].unique()
    assert [list(x) for x in table] == [[2], [3]]  # 6.2 and 6 A; the rule of 7.04 A alone makes 6.2 and 8
    kept = float(manifest.read_settings(result.folder)["target_pixel_size"])
    assert kept == pytest.approx(np.sqrt(6.2 * 6.0), abs=1e-3)
    by_hand = export("topaz", entries[:1], tmp_path / "by hand", diameter_A=250, settings={"downsampling": 4})
    assert float(manifest.read_settings(by_hand.folder)["target_pixel_size"]) == pytest.approx(12.4)


def test_new_micrographs_of_another_pixel_size_end_at_that_of_the_training(make_entry, tmp_path):
    from cryoflow.execution.executor import Executor
    from cryoflow.pickers.running.run_picker import pick

    trained = export("topaz", [make_entry(pixel_size_A=3.1)], tmp_path / "out", diameter_A=250)
    model = trained.folder / "models" / "topaz_epoch1.sav"
    model.write_bytes(b"model")
    new = make_entry("P9", pixel_size_A=1.0, seed=1)
    pick(
        "topaz", model, [new], tmp_path / "picked", Executor(resources=Resources(())), diameter_A=250, script_only=True
    )
    assert set(manifest.read_manifest(tmp_path / "picked")["scale"]) == {6.0}  # 6.2 A, not the 7 A of the rule
    with pytest.raises(BadInput, match=r"nosuch: is not there.*resnet16"):
        pick("topaz", "nosuch", [new], tmp_path / "other", Executor(resources=Resources(())))
    pick(
        "topaz",
        "resnet16",
        [new],
        tmp_path / "named",
        Executor(resources=Resources(())),
        script_only=True,
        diameter_A=250,
    )
    assert " -m resnet16 " in (tmp_path / "named" / "pick.sbatch").read_text()
