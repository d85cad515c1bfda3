import json
import shutil

import numpy as np
import pytest

from cryoflow.errors import BadInput
from cryoflow.preparation.model_folder import npz_bytes
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.sealing import sealed
from cryoflow.unpicker.bundle import ModelBundle, preprocessing_from_json
from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing
from cryoflow.unpicker.network import Architecture


@pytest.fixture
def copy(trained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained.folder, folder)
    return folder


def test_a_bundle_that_was_copied_is_the_same_model(trained, copy):
    loaded = ModelBundle.load(copy)
    boxes = np.random.default_rng(0).normal(0, 1, (5, 26, 26, 2)).astype(np.float16)
    np.testing.assert_array_equal(loaded.probabilities(boxes), trained.probabilities(boxes))
    assert loaded.manifest == trained.manifest
    assert (loaded.threshold, loaded.temperature) == (trained.threshold, trained.temperature)
    assert {"cryoflow", "keras", "python", "numpy"} <= set(loaded.versions)


def test_a_bundle_holds_no_code_and_no_pickle(copy):
    for file in copy.iterdir():
        if file.is_file():
            assert file.suffix in {".json", ".npz", ".tsv", ".png", ".txt"}
    with np.load(copy / "weights.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "fiu" for name in arrays.files)


@pytest.mark.parametrize("name", ["weights.npz", "metrics.json", "training_set.tsv"])
def test_a_changed_or_missing_file_is_noticed(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + b"x")
    with pytest.raises(BadInput, match=f"{name}.*changed"):
        ModelBundle.load(copy)
    (copy / name).unlink()
    with pytest.raises(BadInput, match=f"{name}.*missing"):
        ModelBundle.load(copy)


def edit(copy, **changes):
    """Change the description and seal it again, as its author would."""
    file = copy / "bundle.json"
    values = json.loads(file.read_text()) | changes
    del values["checksum"]
    file.write_text(sealed(values))


@pytest.mark.parametrize("field", ["threshold", "temperature", "diameter_A"])
def test_a_description_that_was_changed_by_hand_is_refused(copy, field):
    file = copy / "bundle.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {field: values[field] * 1.5}, indent=1) + "\n")
    with pytest.raises(BadInput, match=r"bundle\.json.*checksum does not fit.*train it again"):
        ModelBundle.load(copy)


def test_a_bundle_of_version_0_1_still_loads_with_a_note(copy, trained, caplog):
    values = json.loads((copy / "bundle.json").read_text()) | {"format": 1}
    for added in ("projects", "checksum"):
        del values[added]
    values["preprocessing"] = {**values["preprocessing"]}
    table = copy / "training_set.tsv"
    text = table.read_text()
    for new, old in (("n_positive", "n_right"), ("n_negative", "n_wrong"), ("n_unlabeled", "n_not_known")):
        text = text.replace(new, old)
    table.write_text(text)
    values["checksums"]["training_set.tsv"] = checksum(table)
    (copy / "bundle.json").write_text(json.dumps(values))
    with caplog.at_level("INFO"):
        loaded = ModelBundle.load(copy)
    assert loaded.manifest == trained.manifest
    assert (loaded.threshold, dict(loaded.projects)) == (trained.threshold, {})
    assert "written by cryoflow 0.1" in caplog.text


def test_the_older_names_of_a_bundle_are_read():
    assert preprocessing_from_json({**EmUnpickerPreprocessing(240.0).to_json(), "kind": "classic"}).kind == "emunpicker"
    architecture = Architecture("emunpicker", 32, 1)
    assert Architecture.from_json({**architecture.to_json(), "name": "classic"}) == architecture


@pytest.mark.parametrize("number", [3, 0, "x"])
def test_a_model_of_another_version_says_so(copy, number):
    edit(copy, format=number)
    with pytest.raises(BadInput, match="Update cryoflow"):
        ModelBundle.load(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {"name": "residual"}},
        {"preprocessing": {"kind": "other"}},
        {"checksums": {"../weights.npz": ""}},
        {"threshold": "high"},
    ],
)
def test_a_description_that_makes_no_sense_is_refused(copy, changes):
    edit(copy, **changes)
    with pytest.raises(BadInput):
        ModelBundle.load(copy)


def test_weights_of_another_network_are_refused(copy):
    values = json.loads((copy / "bundle.json").read_text())
    edit(copy, architecture={**values["architecture"], "widths": [24]})
    with pytest.raises(BadInput, match="do not fit the network"):
        _ = ModelBundle.load(copy).network


def test_an_object_array_in_the_weights_is_not_unpickled(copy):
    np.savez(copy / "weights.npz", evil=np.array([{"a": 1}], dtype=object))
    values = json.loads((copy / "bundle.json").read_text())
    edit(copy, checksums={**values["checksums"], "weights.npz": checksum(copy / "weights.npz")})
    with pytest.raises(BadInput, match="cannot be read as a model"):
        ModelBundle.load(copy)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no bundle\.json"):
        ModelBundle.load(tmp_path)
    with pytest.raises(BadInput, match=r"modle: there is no such model"):
        ModelBundle.load(tmp_path / "modle")
    (tmp_path / "weights.npz").touch()
    with pytest.raises(BadInput, match=r"weights\.npz: is no folder of a model"):
        ModelBundle.load(tmp_path / "weights.npz")


def test_the_same_arrays_are_the_same_bytes():
    arrays = {"b": np.arange(3), "a": np.float32(2.5), "c/d": np.zeros((2, 0))}
    again = dict(reversed(arrays.items()))
    assert npz_bytes(arrays) == npz_bytes(again)


def test_more_orientations_are_the_mean_of_views_and_batches_do_not_matter(trained):
    rng = np.random.default_rng(0)
    edge = trained.preprocessing.input_px
    boxes = rng.normal(0, 1, (37, edge, edge, 2)).astype(np.float16)
    one = trained.logits(boxes)
    np.testing.assert_allclose(trained.logits(boxes, batch=10), one, atol=1e-4)
    mirrored = trained.logits(boxes[:, ::-1, ::-1])
    np.testing.assert_allclose(trained.logits(boxes, orientations=2), (one + mirrored) / 2, atol=1e-4)
    whole = trained.logits(boxes, orientations=8)
    np.testing.assert_allclose(trained.logits(boxes.swapaxes(1, 2), orientations=8), whole, atol=1e-4)
    assert len(trained.logits(boxes[:0])) == 0
