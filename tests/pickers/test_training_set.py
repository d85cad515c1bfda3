"""What all pickers share: names, splits, boxes, links and the manifest."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.registry import picker, pickers
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.build import build_training_set
from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
from cryoflow.pickers.training_sets.export import export
from cryoflow.pickers.training_sets.links import folders_to_bind, read_any
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION, Fractions, split_micrographs
from cryoflow.pickers.training_sets.training_set import splits_of


def test_no_stem_is_part_of_another_even_when_an_exported_set_is_exported_again(make_entry):
    names = ["mic_1.mrc", "mic_10.mrc", "000001__mic_1.mrc", "mic 1.mrc", "mic.v1_DW.mrc"]
    a = make_entry("P1", n_empty=0, names=names)
    b = make_entry("P2", n_empty=0, names=names)
    stems = build_training_set([a, b]).micrographs["stem"].tolist()
    assert len(set(stems)) == 10
    for one in stems:
        assert [other for other in stems if one in other] == [one]
        assert "." not in one
        assert " " not in one


def test_order_of_entries_changes_nothing(make_entry):
    a, b = make_entry("P1"), make_entry("P2", seed=1)
    one, other = build_training_set([a, b]), build_training_set([b, a])
    assert one.micrographs.equals(other.micrographs)
    assert one.picks.equals(other.picks)


def test_split_is_the_same_for_every_picker_and_stays_when_another_project_joins(make_entry, tmp_path):
    a, b = make_entry("P1", n=10), make_entry("P2", n=7, seed=1)
    by_name = {}
    for name, entries in (("cryolo", [a]), ("topaz", [a, b])):
        result = export(name, entries, tmp_path / name, split=Fractions(0.2, 0.2), seed=3)
        table = manifest.read_manifest(result.manifest)
        by_name[name] = dict(zip(table["project"] + table["name"], table["split"], strict=True))
    assert by_name["cryolo"].items() <= by_name["topaz"].items()
    assert set(by_name["cryolo"].values()) == {TRAIN, VALIDATION, TEST}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 80), st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 5))
def test_split_gives_each_its_share_and_always_something_to_train_on(n, validation, test, seed):
    names = [f"m{i}" for i in range(n)]
    defocus = np.where(np.arange(n) % 5 == 0, np.nan, np.arange(n) * 100.0)
    split = split_micrographs(["P"] * n, names, defocus, Fractions(validation, test), seed)
    counts = {s: int((split == s).sum()) for s in (TRAIN, VALIDATION, TEST)}
    assert counts[TRAIN] >= 1
    if n >= 3:
        assert abs(counts[VALIDATION] - validation * n) <= 1
        assert abs(counts[TEST] - test * n) <= 1
        assert (counts[VALIDATION] > 0) == (validation > 0)
    assert (split == split_micrographs(["P"] * n, names, defocus, Fractions(validation, test), seed)).all()


def test_split_takes_from_every_defocus_stratum():
    n = 400
    defocus = np.linspace(5000, 30000, n)
    split = split_micrographs(["P"] * n, [f"m{i}" for i in range(n)], defocus, Fractions(0.25, 0.0), 0)
    for quarter in np.array_split(split, 4):
        assert abs((quarter == VALIDATION).mean() - 0.25) < 0.03


def test_box_of_each_entry_follows_from_one_diameter(make_entry):
    a, b = make_entry("P1", pixel_size_A=4.0), make_entry("P2", pixel_size_A=3.0, seed=1)
    table = build_training_set([a, b], diameter_A=120).micrographs.groupby("project")["box_px"].unique()
    assert [list(x) for x in table] == [[30], [40]]
    assert set(build_training_set([a, b], box_px=31).micrographs["box_px"]) == {32}


def test_missing_movie_and_reshaped_micrographs_are_left_out_with_their_reason(make_entry):
    entry = make_entry("P1", n=5)
    Path(entry.micrographs["path"][0]).unlink()
    Path(entry.micrographs["path"][1]).write_bytes(b"\x89HDF")
    with mrcfile.new(entry.micrographs["path"][2], overwrite=True) as file:
        file.set_data(np.zeros((100, 576), np.float32))
    training = build_training_set([entry])
    assert len(training.micrographs) == 2
    reasons = {s.micrograph: s.reason for s in training.skipped}
    assert "missing" in reasons["mics/mic_0.mrc"] or "cannot be read" in reasons["mics/mic_0.mrc"]
    assert "HDF5" in reasons["mics/mic_1.mrc"]
    assert "100 x 576" in reasons["mics/mic_2.mrc"]


def test_copies_of_one_micrograph_train_whatever_its_own_part_of_the_split_would_be(make_entry):
    entry = make_entry(n=6, n_empty=0)
    first, *others = entry.micrographs["path"]
    for path in others:
        Path(path).write_bytes(Path(first).read_bytes())
    for seed in range(12):
        split = build_training_set([entry], fractions=Fractions(0.4, 0.3), seed=seed).micrographs["split"]
        assert set(split) == {TRAIN}


def test_negatives_are_kept_unless_told_otherwise(make_entry):
    entry = make_entry(n=5, n_empty=2)
    assert (build_training_set([entry]).micrographs["n_picks"] == 0).sum() == 2
    assert (build_training_set([entry], negatives=False).micrographs["n_picks"] == 0).sum() == 0


def test_a_micrograph_of_two_entries_has_the_labels_of_the_one_named_first(make_entry):
    a = make_entry("P1", "J51", n=4)
    b = make_entry("P1", "J60", n=6)
    one, other = build_training_set([a, b]), build_training_set([b, a])
    assert one.micrographs["entry"].tolist() == ["P1/Homo_J51"] * 4 + ["P1/Homo_J60"] * 2
    assert one.micrographs["path"].is_unique
    assert set(other.micrographs["entry"]) == {"P1/Homo_J60"}
    assert "4 micrographs of P1/Homo_J60" in one.notes[0]


def test_unknown_diameter_or_pixel_size_is_asked_for(make_entry):
    from dataclasses import replace

    entry = make_entry()
    with pytest.raises(MissingMetadata, match="diameter"):
        build_training_set([replace(entry, diameter_A=None)])
    unknown = replace(entry, micrographs=entry.micrographs.assign(pixel_size_A=np.nan))
    assert build_training_set([unknown]).micrographs["pixel_size_A"].tolist() == [4.0] * 6  # from the headers
    for path in entry.micrographs["path"]:
        with mrcfile.open(path, "r+") as file:
            file.voxel_size = 0
    with pytest.raises(MissingMetadata, match="pixel size"):
        build_training_set([unknown])


def test_files_that_a_picker_misreads_are_converted_and_keep_their_pixels(make_entry, tmp_path):
    entry = make_entry(n=4, n_empty=0)
    paths = entry.micrographs["path"].tolist()
    pixels = {path: read_any(path) for path in paths}
    with mrcfile.open(paths[0], "r+") as file:
        file.header.ispg = 1
    with mrcfile.new(paths[1], overwrite=True) as file:
        file.set_data(pixels[paths[1]].astype(np.float16))
    import tifffile

    tiff = paths[2].replace(".mrc", ".tiff")
    tifffile.imwrite(tiff, pixels[paths[2]])
    entry.micrographs.loc[2, "path"] = tiff
    result = export("cryolo", [entry], tmp_path / "out")
    table = manifest.read_manifest(result.manifest).set_index("path")
    found = {p.stem: p for p in result.folder.glob("*_image/*.mrc")}
    assert not found[table.loc[paths[0], "stem"]].is_symlink()
    assert not found[table.loc[paths[1], "stem"]].is_symlink()
    assert not found[table.loc[tiff, "stem"]].is_symlink()
    assert found[table.loc[paths[3], "stem"]].is_symlink()
    for path, original in ((paths[0], paths[0]), (tiff, paths[2]), (paths[3], paths[3])):
        with mrcfile.open(found[table.loc[path, "stem"]]) as file:
            assert file.data.dtype == np.float32
            assert file.header.ispg == 0
            np.testing.assert_array_equal(file.data, pixels[original])
    assert any("converted" in s.name for s in result.settings)


def test_links_point_to_real_files_whose_folders_a_container_can_bind(make_entry, tmp_path):
    entry = make_entry(n=3)
    real = Path(entry.micrographs["path"][0]).parent
    database = tmp_path / "db"
    database.mkdir()
    for i, path in enumerate(entry.micrographs["path"].tolist()):
        (database / Path(path).name).symlink_to(path)
        entry.micrographs.loc[i, "path"] = str(database / Path(path).name)
    result = export("cryolo", [entry], tmp_path / "out")
    assert folders_to_bind(result.folder) == [real]


def test_manifest_round_trip_keeps_every_value(make_entry, tmp_path):
    training = build_training_set([make_entry("P 1")])
    training.micrographs["scale"] = 1.0
    path = tmp_path / manifest.NAME
    path.write_text(manifest.manifest_text(training.micrographs, "test"))
    table = manifest.read_manifest(tmp_path)
    expected = training.micrographs[list(manifest.COLUMNS)]
    for name in manifest.COLUMNS:
        assert table[name].astype(str).tolist() == expected[name].astype(table[name].dtype).astype(str).tolist(), name
    path.write_text("stem\tsplit\n")
    with pytest.raises(BadInput, match="not a manifest"):
        manifest.read_manifest(path)


def test_export_again_is_left_alone_and_another_is_refused(make_entry, tmp_path):
    entry, out = make_entry(), tmp_path / "out"
    first = export("cryolo", [entry], out)
    (out / "cryolo_model.h5").write_bytes(b"trained")
    again = export("cryolo", [entry], out)
    assert again.reused
    assert (out / "cryolo_model.h5").exists()
    assert [(s.name, s.value) for s in again.settings] == [(s.name, s.value) for s in first.settings]
    with pytest.raises(BadInput, match="another export"):
        export("cryolo", [entry], out, seed=1)
    assert not export("cryolo", [entry], out, seed=1, overwrite=True).reused
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(BadInput, match="did not write"):
        export("cryolo", [entry], foreign, overwrite=True)


@pytest.mark.parametrize("name", ["cryolo", "topaz"])
def test_same_input_gives_same_bytes(make_entry, tmp_path, name):
    entries = [make_entry("P1"), make_entry("P2", seed=1)]
    trees = []
    for folder in ("a", "b"):
        out = tmp_path / folder / "set"
        export(name, entries, out)
        trees.append({str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()})
    assert trees[0] == trees[1]


def test_flipped_picks_are_refused_unless_forced(make_entry, tmp_path):
    from dataclasses import replace

    entry = make_entry(n=4, n_empty=0)
    flipped = replace(entry, picks=entry.picks.assign(y_px=383 - entry.picks["y_px"]))
    with pytest.raises(BadInput, match="does not fit"):
        export("cryolo", [flipped], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert any("although" in note for note in export("cryolo", [flipped], tmp_path / "out", force=True).notes)


def test_settings_by_hand_win_and_unknown_ones_are_refused(make_entry, tmp_path):
    entry = make_entry()
    result = export("cryolo", [entry], tmp_path / "a", settings={"batch-size": "2", "low_pass_cutoff": 0})
    by_name = {s.name: s for s in result.settings}
    assert (by_name["batch_size"].value, by_name["batch_size"].why) == ("2", "given by hand")
    with pytest.raises(BadInput, match="no setting batchsize"):
        export("cryolo", [entry], tmp_path / "b", settings={"batchsize": 2})
    assert not (tmp_path / "b").exists()
    with pytest.raises(BadInput, match="whole number"):
        export("cryolo", [entry], tmp_path / "b", settings={"batch_size": "many"})


def test_unknown_picker_is_named_with_those_that_are_known():
    with pytest.raises(BadInput, match="cryolo"):
        picker("gautomatch")
    assert {"cryolo", "topaz"} <= set(pickers())
    assert DerivedSettings().derived == ()


def test_splits_are_counted(make_entry):
    assert splits_of(build_training_set([make_entry(n=10)], fractions=Fractions(0.2, 0.1))) == {
        TRAIN: 7,
        VALIDATION: 2,
        TEST: 1,
    }


def test_a_diameter_that_cannot_be_is_a_clear_error(make_entry, tmp_path):
    entry = make_entry(n=3)
    for diameter_A in (0.0, -5.0, 3.0):
        with pytest.raises(BadInput, match=r"gets no box from a diameter.*--diameter"):
            export("cryolo", [entry], tmp_path / "out", diameter_A=diameter_A)
    for too_large in ({"diameter_A": 5000.0}, {"box_px": 500}):
        with pytest.raises(BadInput, match="larger than its micrograph of 384 px"):
            export("topaz", [entry], tmp_path / "out", **too_large)
    with pytest.raises(BadInput, match="each of the"):  # it fits the micrograph, and no box does
        export("cryolo", [entry], tmp_path / "out", box_px=380)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["relion", "cryosparc"])
def test_programs_that_get_centers_only_need_no_diameter(make_entry, tmp_path, name):
    from dataclasses import replace

    entry = replace(make_entry(n=3), diameter_A=None)
    assert export(name, [entry], tmp_path / name).n_picks == len(entry)


def test_numbers_that_cannot_be_are_refused(make_entry, tmp_path):
    entry = make_entry(n=3)
    for name, value in (("batch_size", -3), ("learning_rate", "nan"), ("learning_rate", "inf"), ("epochs", "")):
        with pytest.raises(BadInput, match=rf"{name}: is set to .*; it must be a .*number"):
            export("cryolo", [entry], tmp_path / "out", settings={name: value})
    for name, value in (("low_pass_cutoff", 3), ("model_name", "/etc/model.h5"), ("model_name", "model")):
        with pytest.raises(BadInput, match=name):
            export("cryolo", [entry], tmp_path / "out", settings={name: value})
    for value in (0, 100_000):
        with pytest.raises(BadInput, match="pixel_size"):
            export("warp", [entry], tmp_path / "out", settings={"pixel_size": value})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(pickers()))
def test_commands_to_type_next_hold_in_a_folder_with_blanks(make_entry, tmp_path, name):
    import shlex

    result = export(name, [make_entry(n=3)], tmp_path / "my set")
    typed = [command for command in result.next_commands if not command.startswith("(")]
    assert bool(typed) == picker(name).trains
    for command in typed:
        assert shlex.split(command)[:5] == ["cryoflow", "picker", "train", name, str(result.folder)]
