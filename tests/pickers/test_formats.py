"""Every picker's files: particles under exported centers on non-square micrographs, and the way back."""

import csv
import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from blob_micrographs import mean_under
from PIL import Image

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.formats.cs import read_cs, write_cs
from cryoflow.formats.pick_tables import read_file
from cryoflow.formats.star import list_blocks, read_blocks, read_table
from cryoflow.formats.star_write import write_star
from cryoflow.pickers.importing.import_picks import import_picks
from cryoflow.pickers.registry import picker, pickers
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import export
from cryoflow.pickers.training_sets.split import Fractions

FOUND = -2.0
"""Mean under centers on particles; noise has 0, particles -3."""


def _pixels(entry, name):
    row = entry.micrographs["name"].tolist().index(name)
    return mrcfile.read(entry.micrographs["path"].iloc[row])


ROUND_TRIPS = {
    "cryolo": (lambda home: home, 0.0501, {"drop_partial_boxes": "no"}),
    "topaz": (lambda home: home / "particles.txt", 0.51, {"downsampling": 1}),
    "epicker": (lambda home: home / "labels", 0.51, {}),
    "cryosegnet": (lambda home: home / "finetune_dataset" / "csv_files", 0.51, {}),
    "eman2": (lambda home: home / "info", 0.0501, {}),
    "relion": (lambda home: home / "AutoPick", 0.001, {}),
    "cryosparc": (lambda home: home, 0.001, {}),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_picks_come_back_where_they_were(make_entry, tmp_path, name):
    entries = [make_entry("P1")]
    if name not in ("relion", "cryosparc"):  # they know micrographs by the project's names, the same in both
        entries.append(make_entry("P2", pixel_size_A=5.0, seed=1))
    where, tolerance, settings = ROUND_TRIPS[name]
    result = export(name, entries, tmp_path / "out", settings=settings)
    folder = where(result.folder)
    if name == "epicker":  # its labels folder is left out below the home, and may be named itself
        assert picker(name).pick_files(result.folder) == []
        assert len(picker(name).pick_files(folder)) == len(list(folder.iterdir()))
        files = {p.stem: read_file(p).frame() for p in result.folder.glob("*labels/*.star")}
        table = manifest.read_manifest(result.manifest)
        assert {s: len(t) for s, t in files.items()} == dict(zip(table["stem"], table["n_picks"], strict=True))
        xy = np.vstack([files[s][["x_px", "y_px"]] for s in table["stem"]])
        np.testing.assert_allclose(xy, np.vstack([e.centers_xy_px for e in entries]), atol=0.51)
        return
    back = import_picks(name, folder, result.manifest)
    assert [b.provenance.project_name for b in back] == ["P1", "P2"][: len(entries)]
    for one, entry in zip(back, entries, strict=True):
        assert one.micrographs["name"].tolist() == entry.micrographs["name"].tolist()
        assert len(one) == len(entry)
        assert one.picks["micrograph"].tolist() == entry.picks["micrograph"].tolist()
        np.testing.assert_allclose(one.centers_xy_px, entry.centers_xy_px, atol=tolerance)


def test_cbox_comes_back_too_with_its_confidence(make_entry, tmp_path):
    entry = make_entry()
    result = export("cryolo", [entry], tmp_path / "out", settings={"annotation": "cbox", "drop_partial_boxes": "no"})
    (label,) = [p for p in result.folder.glob("*_annot/000000__*")]
    assert [b[0] for b in list_blocks(label)] == ["global", "cryolo", "cryolo_include"]
    (back,) = import_picks("cryolo", result.folder, result.manifest)
    np.testing.assert_allclose(back.centers_xy_px, entry.centers_xy_px, atol=0.0501)
    assert set(back.picks["score"]) == {1.0}


def test_warp_slices_have_particles_under_their_labels(make_entry, tmp_path):
    entry = make_entry(pixel_size_A=2.0, diameter_A=120.0, shape_yx=(512, 760), n=3, n_empty=1)
    result = export("warp", [entry], tmp_path / "out", settings={"pixel_size": 6.0})
    table = manifest.read_manifest(result.manifest).set_index("stem")
    files = sorted([*(result.folder / "examples").iterdir(), *(result.folder / "validation").iterdir()])
    assert len(files) == 3
    for path in files:
        with tifffile.TiffFile(path) as file:
            assert len(file.pages) == 3
            assert all(page.dtype == np.float32 and page.compression == 1 for page in file.pages)
            image, labels, importance = (page.asarray() for page in file.pages)
        assert image.shape == (int(512 / 3 + 0.5) // 2 * 2, int(760 / 3 + 0.5) // 2 * 2)
        assert set(np.unique(labels)) <= {0.0, 1.0}
        assert (importance == 1).all()
        assert abs(image.mean()) < 1e-4
        n = table.loc[path.stem, "n_picks"]
        assert (labels.sum() > 0) == (n > 0)
        if n:
            assert image[labels == 1].mean() < image[labels == 0].mean() - 1.5
            assert image[::-1][labels == 1].mean() > image[labels == 1].mean() + 1
            assert labels.sum() == pytest.approx(n * np.pi * 2.5**2, rel=0.25)


def test_epicker_labels_are_whole_centers_with_numbered_columns(make_entry, tmp_path):
    entry = make_entry()
    result = export("epicker", [entry], tmp_path / "out", split=Fractions(0.2, 0.2))
    table = manifest.read_manifest(result.manifest)
    test = set(table.loc[table["split"] == "test", "stem"])
    assert {p.stem for p in (result.folder / "test_labels").iterdir()} == test
    for label in (result.folder / "labels").iterdir():
        image = result.folder / "micrographs" / f"{label.stem}.mrc"
        lines = label.read_text().splitlines()
        assert "_rlnCoordinateX #1" in lines
        rows = [line.split() for line in lines if line and line[0].isdigit()]
        assert all(word.isdigit() for row in rows for word in row)
        if rows:
            assert mean_under(mrcfile.read(image), np.array(rows, float)) < FOUND


def test_cryosegnet_labels_and_masks_fit_the_picture_it_turns_upside_down(make_entry, tmp_path):
    result = export("cryosegnet", [make_entry()], tmp_path / "out")
    home = result.folder / "finetune_dataset"
    seen = 0
    for path in sorted((home / "csv_files").iterdir()):
        turned = np.rot90(mrcfile.read(home / "mrc_files" / f"{path.stem}.mrc").T)
        with path.open() as file:
            rows = [[float(v) for v in row.values()] for row in csv.DictReader(file)]
        mask = np.asarray(Image.open(home / "masks" / f"{path.stem}_mask.jpg")) > 127
        assert mask.shape == turned.shape
        assert mask.any() == bool(rows)
        if rows:
            assert mean_under(turned, np.array(rows)[:, :2]) < FOUND
            assert turned[mask].mean() < turned[~mask].mean() - 1
            seen += len(rows)
    assert seen == result.n_picks
    lines = (home / "sample.star").read_text().split("\n")
    assert lines[6] == "_rlnCoordinateY #3"  # its reader skips six lines and names the column by the seventh
    assert len(lines[7].split(" ")) == 3
    unflipped = export("cryosegnet", [make_entry()], tmp_path / "plain", settings={"flip_y": "no", "masks": "no"})
    path = next(p for p in (unflipped.folder / "finetune_dataset/csv_files").iterdir() if p.stat().st_size > 50)
    rows = np.loadtxt(path, delimiter=",", skiprows=1)
    image = mrcfile.read(unflipped.folder / "finetune_dataset/mrc_files" / f"{path.stem}.mrc")
    assert mean_under(image, rows[:, :2]) < FOUND


def test_eman2_has_centers_in_json_and_whole_corners_in_boxes(make_entry, tmp_path):
    result = export("eman2", [make_entry()], tmp_path / "out")
    project = json.loads((result.folder / "info" / "project.json").read_text())
    assert project == {"global.boxsize": 36, "global.apix": 4.0}
    for image in (result.folder / "micrographs").iterdir():
        boxes = json.loads((result.folder / "info" / f"{image.stem}_info.json").read_text())["boxes"]
        text = (result.folder / "boxfiles" / f"{image.stem}.box").read_text()
        rows = np.array([line.split("\t") for line in text.splitlines()], int).reshape(-1, 4)
        assert len(boxes) == len(rows)
        if boxes:
            pixels = mrcfile.read(image)
            assert all(b[2] == "manual" for b in boxes)
            assert mean_under(pixels, np.array([b[:2] for b in boxes], float)) < FOUND
            assert mean_under(pixels, rows[:, :2] + rows[:, 2:] / 2) < FOUND


def test_relion_lists_every_micrograph_by_the_projects_own_name_in_both_forms(make_entry, tmp_path):
    names = ["MotionCorr/job002/Movies/a.mrc", "MotionCorr/job002/Movies/b.mrc"]
    entry = make_entry(n=2, n_empty=0)
    entry.micrographs["name"] = names
    result = export("relion", [entry], tmp_path / "out")
    (job,) = (result.folder / "AutoPick").iterdir()
    listed = read_table(job / "autopick.star", "coordinate_files")
    assert list(listed["rlnMicrographName"]) == names
    assert [b[0] for b in list_blocks(job / "autopick.star")] == ["coordinate_files"]
    for i, path in enumerate(listed["rlnMicrographCoordinates"]):
        assert Path(path) == job / "Movies" / f"{'ab'[i]}_autopick.star"
        xy = read_file(Path(path)).frame()[["x_px", "y_px"]].to_numpy()
        assert mean_under(mrcfile.read(entry.micrographs["path"][i]), xy) < FOUND
    assert (job / "coords_suffix_autopick.star").read_text() == "MotionCorr/job002/Movies/*.mrc\n"
    readme = (result.folder / "README.txt").read_text()
    for words in (
        "Particle extraction",
        "micrograph STAR file",
        "Input coordinates",
        "names under which cryoflow read",
    ):
        assert words in readme
    for file in ("autopick.star", "coords_suffix_autopick.star"):
        assert f" AutoPick/{job.name}/{file}\n" in readme
    assert result.splits == {}
    blocks = read_blocks(result.folder / "particles.star")
    assert list(blocks) == ["optics", "particles"]
    assert set(blocks["particles"]["rlnMicrographName"]) == set(names)
    assert blocks["optics"]["rlnMicrographPixelSize"].astype(float).tolist() == [4.0]
    xy = blocks["particles"][["rlnCoordinateX", "rlnCoordinateY"]].astype(float).to_numpy()
    np.testing.assert_allclose(xy, entry.centers_xy_px, atol=0.001)


def test_picks_go_to_another_project_by_its_names_and_none_in_common_is_an_error(make_entry, tmp_path):
    entry = make_entry(n=3, n_empty=0)
    entry.micrographs["name"] = [
        "J2/motioncorrected/001234567890123456789_mic_1_patch_aligned.mrc",
        "J2/x/mic_2.mrc",
        "mic_3",
    ]
    theirs = [
        "MotionCorr/job002/Movies/mic_1.mrc",
        "MotionCorr/job002/Movies/mic_2.mrc",
        "MotionCorr/job002/Movies/other.mrc",
    ]
    star = tmp_path / "micrographs.star"
    write_star(
        star, {"optics": {"rlnOpticsGroup": [1]}, "micrographs": {"rlnMicrographName": np.array(theirs, object)}}
    )
    result = export("relion", [entry], tmp_path / "out", settings={"micrographs_star": str(star)})
    (job,) = (result.folder / "AutoPick").iterdir()
    assert list(read_table(job / "autopick.star", "coordinate_files")["rlnMicrographName"]) == theirs[:2]
    assert (job / "coords_suffix_autopick.star").read_text() == f"{star}\n"
    assert "the names in the file micrographs_star" in (result.folder / "README.txt").read_text()
    shown = {s.name: s.value for s in result.settings}
    assert shown["not in the project"] == "1"
    assert shown["not in the entry"] == "1"
    of_job = tmp_path / "my project" / "CtfFind" / "job003" / "micrographs_ctf.star"
    of_job.parent.mkdir(parents=True)
    of_job.write_bytes(star.read_bytes())
    result = export("relion", [entry], tmp_path / "named", settings={"micrographs_star": str(of_job)})
    (job,) = (result.folder / "AutoPick").iterdir()
    assert (job / "coords_suffix_autopick.star").read_text() == "CtfFind/job003/micrographs_ctf.star\n"
    write_star(star, {"micrographs": {"rlnMicrographName": np.array(["MotionCorr/job002/zzz.mrc"], object)}})
    with pytest.raises(BadInput, match="names no micrograph"):
        export("relion", [entry], tmp_path / "none", settings={"micrographs_star": str(star)})
    assert not (tmp_path / "none").exists()


def test_cryosparc_dataset_keeps_uids_and_opens_in_cryosparc_tools(make_entry, tmp_path):
    from dataclasses import replace

    dataset = pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools is an extra")
    entry = make_entry()
    uids = np.arange(len(entry), dtype=np.uint64) + 2**60
    entry = replace(entry, picks=entry.picks.assign(uid=uids))
    result = export("cryosparc", [entry], tmp_path / "out")
    loaded = dataset.Dataset.load(result.folder / "picked_particles.cs")
    assert loaded["uid"].tolist() == uids.tolist()
    shape = np.asarray(loaded["location/micrograph_shape"])
    assert shape.tolist()[0] == [384, 576]
    xy = np.column_stack(
        [loaded["location/center_x_frac"] * shape[:, 1], loaded["location/center_y_frac"] * shape[:, 0]]
    )
    np.testing.assert_allclose(xy, entry.centers_xy_px, atol=0.001)
    for name in entry.micrographs["name"][:5]:
        mine = np.asarray(loaded["location/micrograph_path"]) == name
        assert mean_under(_pixels(entry, name), xy[mine]) < FOUND
    assert sorted(set(map(str, loaded["location/micrograph_uid"]))) == sorted(entry.micrographs["uid"][:5])
    star = read_table(result.folder / "import_particles.star", "")
    assert set(star["rlnMicrographName"]) == {Path(n).name for n in entry.micrographs["name"][:5]}


def test_file_names_that_occur_twice_are_told_to_who_imports_them_to_cryosparc(make_entry, tmp_path):
    entry = make_entry(n=3, n_empty=0)
    entry.micrographs["name"] = ["day1/mic.mrc", "day2/mic.mrc", "day2/mic_2.mrc"]
    shown = {s.name: s.value for s in export("cryosparc", [entry], tmp_path / "out").settings}
    assert shown["file names that occur twice"] == "1"


def test_new_uids_are_unique_and_the_same_every_time(make_entry, tmp_path):
    both = [export("cryosparc", [make_entry()], tmp_path / n).folder / "picked_particles.cs" for n in "ab"]
    uids = [read_cs(p, ["uid"])["uid"].tolist() for p in both]
    assert uids[0] == uids[1]
    assert len(set(uids[0])) == len(uids[0])


def test_uids_of_exposures_come_from_the_project_that_the_picks_go_to(make_entry, tmp_path):
    entry = make_entry(n=2, n_empty=0)
    entry.micrographs["uid"] = None
    without = export("cryosparc", [entry], tmp_path / "a")
    assert not (without.folder / "picked_particles.cs").exists()
    assert (without.folder / "import_particles.star").exists()
    exposures = tmp_path / "J2_passthrough_exposures.cs"
    paths = np.array(
        [b"J2/000000000000000000011_mic_0_patch_aligned.mrc", b"J2/000000000000000000012_mic_1_patch_aligned.mrc"]
    )
    write_cs(exposures, {"uid": np.array([11, 12], np.uint64), "micrograph_blob/path": paths})
    beside = tmp_path / "exposures_ctf_estimated.cs"  # a CTF job's own file has no names: its passthrough does
    write_cs(beside, {"uid": np.array([11, 12], np.uint64), "ctf/accel_kv": np.array([300, 300], np.float32)})
    found = export("cryosparc", [entry], tmp_path / "b", settings={"exposures": str(beside)})
    data = read_cs(found.folder / "picked_particles.cs")
    assert set(data["location/micrograph_uid"].tolist()) == {11, 12}
    assert set(data["location/micrograph_path"].tolist()) == set(paths.tolist())


def test_unknown_shapes_stop_cryosparc_and_nothing_is_written(make_entry, tmp_path):
    entry = make_entry()
    entry.micrographs.loc[:, ["ny", "nx"]] = None
    with pytest.raises(MissingMetadata, match="shape"):
        export("cryosparc", [entry], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(pickers()))
def test_wrong_labels_are_never_exported_as_particles(make_entry, tmp_path, name):
    from dataclasses import replace

    entry = make_entry(n=3, n_empty=0)
    label = np.where(np.arange(len(entry)) % 2 == 0, 1, -1).astype(np.int8)
    result = export(
        name, [replace(entry, picks=entry.picks.assign(label=label))], tmp_path / "out", split=Fractions(0.3)
    )
    assert result.n_picks == int((label == 1).sum())


@pytest.mark.parametrize("name", sorted(pickers()))
def test_every_picker_says_what_comes_next_and_writes_the_same_bytes_again(make_entry, tmp_path, name):
    entry = make_entry(n=3)
    trees = []
    for folder in ("a", "b"):
        result = export(name, [entry], tmp_path / folder / "set", split=Fractions(0.3))
        assert result.next_commands
        root = result.folder
        files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        files.pop("contents.json")  # its fingerprints are of files with the folder's own path in them
        trees.append({k: v.replace(str(root).encode(), b"") for k, v in files.items()})
    assert trees[0] == trees[1]
