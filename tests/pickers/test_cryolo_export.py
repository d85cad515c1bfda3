"""crYOLO's folders: boxes on particles, its configuration, names it cannot confuse."""

import json
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from blob_micrographs import mean_under

from cryoflow.errors import BadInput
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import export


def _boxes(path):
    text = path.read_text()
    return np.array([line.split() for line in text.splitlines()], float).reshape(-1, 4)


def test_boxes_lie_on_particles_of_non_square_micrographs(make_entry, tmp_path):
    entries = [make_entry("P1"), make_entry("P2", pixel_size_A=5.0, seed=1)]
    result = export("cryolo", entries, tmp_path / "out", diameter_A=100)
    checked = 0
    for split in ("train", "valid"):
        for image in sorted((result.folder / f"{split}_image").iterdir()):
            boxes = _boxes(result.folder / f"{split}_annot" / f"{image.stem}.box")
            if len(boxes) == 0:
                continue
            centers = boxes[:, :2] + boxes[:, 2:] / 2
            pixels = mrcfile.read(image)
            assert mean_under(pixels, centers) < -2
            assert mean_under(pixels, np.column_stack([centers[:, 0], pixels.shape[0] - 1 - centers[:, 1]])) > -1.5
            checked += len(boxes)
    assert checked == result.n_picks > 50


def test_a_corner_is_half_a_box_left_of_and_above_the_center(make_entry, tmp_path):
    entry = make_entry(n=3, n_empty=0)
    result = export("cryolo", [entry], tmp_path / "out", box_px=20, settings={"drop_partial_boxes": "no"})
    table = manifest.read_manifest(result.manifest).set_index("name")
    for i, name in enumerate(entry.micrographs["name"]):
        stem, split = table.loc[name, ["stem", "split"]]
        boxes = _boxes(result.folder / {"train": "train_annot", "validation": "valid_annot"}[split] / f"{stem}.box")
        expected = entry.picks.loc[entry.picks["micrograph"] == i, ["x_px", "y_px"]].to_numpy() - 10
        np.testing.assert_allclose(boxes[:, :2], expected, atol=0.0501)
        assert (boxes[:, 2:] == 20).all()


def test_a_micrograph_without_particles_has_a_label_file_of_no_bytes(make_entry, tmp_path):
    result = export("cryolo", [make_entry(n=5, n_empty=2)], tmp_path / "out")
    table = manifest.read_manifest(result.manifest)
    empty = table[table["n_picks"] == 0]
    assert len(empty) == 2
    for stem in empty["stem"]:
        (label,) = result.folder.glob(f"*_annot/{stem}.box")
        assert label.stat().st_size == 0
        assert b"\r" not in b"".join(p.read_bytes() for p in label.parent.iterdir())


def test_boxes_that_leave_the_micrograph_are_dropped_and_counted(make_entry, tmp_path):
    entry = make_entry(n=3, n_empty=0)
    moved = entry.picks.copy()
    moved.loc[0, ["x_px", "y_px"]] = (3.0, 200.0)
    entry = replace(entry, picks=moved)
    result = export("cryolo", [entry], tmp_path / "out")
    assert {s.name: s.value for s in result.settings}["dropped_boxes"] == "1"
    boxes = np.vstack([_boxes(p) for p in result.folder.glob("*_annot/*.box")])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [576, 384]).all()


def test_configuration_names_folders_that_exist_and_an_anchor_of_the_mean_box(make_entry, tmp_path):
    entries = [make_entry("P1", pixel_size_A=4.0), make_entry("P2", pixel_size_A=5.0, seed=1)]
    result = export("cryolo", entries, tmp_path / "out", diameter_A=120, settings={"input_size": 1000})
    config = json.loads((result.folder / "config_cryolo.json").read_text())
    assert config["model"]["anchors"] == [26, 26] or config["model"]["anchors"] == [28, 28]  # boxes 30 and 24
    assert config["model"]["input_size"] % 32 == 0
    assert config["model"]["filter"] == [0.1, "filtered/"]
    for section, key in (("train", "train_image_folder"), ("train", "train_annot_folder")):
        assert any((result.folder / config[section][key]).iterdir())
    for key in ("valid_image_folder", "valid_annot_folder"):
        assert any((result.folder / config["valid"][key]).iterdir())
    images = {p.stem for p in result.folder.glob("*_image/*")}
    labels = {p.stem for p in result.folder.glob("*_annot/*")}
    assert images == labels
    assert len(images) == result.n_micrographs


def test_pretrained_weights_must_exist_and_fine_tuning_needs_them(make_entry, tmp_path):
    with pytest.raises(BadInput, match="not there"):
        export("cryolo", [make_entry()], tmp_path / "out", settings={"pretrained_weights": "gmodel.h5"})
    with pytest.raises(BadInput, match="needs pretrained_weights"):
        export("cryolo", [make_entry()], tmp_path / "out", settings={"fine_tune": "yes"})
