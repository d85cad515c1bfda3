"""A detector as a folder: read as it was written, refused where it was changed; tiles give what the whole gives."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.detector import bundle as module
from cryoflow.detector.bundle import CARD, Detector, is_detector
from cryoflow.detector.network import DetectorArchitecture, build
from cryoflow.errors import BadInput
from cryoflow.preparation.calibration import Calibration
from cryoflow.preparation.devices import load_keras
from cryoflow.preparation.model_folder import DESCRIPTION, METRICS, WEIGHTS, get_weights, set_weights
from cryoflow.storage.sealing import sealed

TINY = DetectorArchitecture(2, (4, 6, 8, 8), (0, 1, 1, 1))


@pytest.fixture(scope="module")
def detector() -> Detector:
    load_keras()
    return Detector(
        TINY,
        get_weights(build(TINY, seed=3)),
        24.0,
        Calibration(0.7, 0.3),
        0.4,
        160.0,
        {"seed": 1},
        {"f1": 0.8},
        "# Card\n",
    )


@pytest.fixture
def saved(detector: Detector, tmp_path: Path) -> Path:
    detector.save(tmp_path / "model")
    return tmp_path / "model"


def image(shape_yx: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((*shape_yx, 2)).astype(np.float16)


def test_a_model_is_read_as_it_was_written(saved: Path, detector: Detector) -> None:
    loaded = Detector.load(saved)
    assert (loaded.architecture, loaded.calibration, loaded.threshold) == (TINY, Calibration(0.7, 0.3), 0.4)
    assert (loaded.diameter_A, loaded.card, dict(loaded.metrics)) == (160.0, "# Card\n", {"f1": 0.8})
    assert {w.dtype for w in loaded.weights.values()} == {np.dtype(np.float16)}
    assert loaded.fingerprint == detector.fingerprint
    np.testing.assert_allclose(loaded.answers(image((64, 96))), detector.answers(image((64, 96))), atol=0.05)
    assert is_detector(saved)
    assert not is_detector(saved.parent)


@pytest.mark.parametrize("name", [WEIGHTS, METRICS, CARD, DESCRIPTION])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_changed_or_missing_file_is_refused(saved: Path, name: str, how: str) -> None:
    file = saved / name
    if how == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    with pytest.raises(BadInput):
        Detector.load(saved)


def rewritten(folder: Path, **changes: object) -> None:
    record = json.loads((folder / DESCRIPTION).read_text())
    del record["checksum"]
    (folder / DESCRIPTION).write_text(sealed({**record, **changes}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "newer cryoflow"),
        ({"program": "cryoflow unpicker"}, "not a detector"),
        ({"architecture": {"name": "other"}}, "another version"),
        ({"calibration": None}, "another version"),
    ],
)
def test_a_model_of_another_version_is_refused(saved: Path, changes: dict[str, object], reason: str) -> None:
    rewritten(saved, **changes)
    with pytest.raises(BadInput, match=reason):
        Detector.load(saved)


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    rewritten(saved, architecture={**TINY.to_json(), "widths": [4, 6, 8, 10]})
    with pytest.raises(BadInput, match="do not fit"):
        _ = Detector.load(saved).network


def test_weights_are_never_unpickled(saved: Path) -> None:
    from cryoflow.storage.fingerprints import checksum

    np.savez(saved / WEIGHTS, evil=np.array([{"a": 1}], dtype=object))
    sums = json.loads((saved / DESCRIPTION).read_text())["checksums"]
    rewritten(saved, checksums={**sums, WEIGHTS: checksum(saved / WEIGHTS)})
    with pytest.raises(BadInput):
        Detector.load(saved)


@pytest.mark.parametrize("shape_yx", [(200, 330), (328, 190), (331, 325)])
def test_tiles_give_what_the_whole_image_gives(
    detector: Detector, shape_yx: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = detector.answers(image(shape_yx))
    assert whole.shape[:2] == (-(-shape_yx[0] // 4), -(-shape_yx[1] // 4))
    monkeypatch.setattr(module, "TILE_PX", 256)
    assert len(module.tiles_of(max(shape_yx))) > 1
    tiled = detector.answers(image(shape_yx))
    # Images are padded to a multiple of 64, tiles by another amount; only what lies near the padding may see it.
    np.testing.assert_allclose(tiled[:-26, :-26], whole[:-26, :-26], atol=2e-3)
    assert np.median(np.abs(tiled - whole)) < 1e-3


def test_two_orientations_give_the_same_answers_for_a_turned_image(detector: Detector) -> None:
    sign = np.array([1, -1, -1, 1, 1], np.float32)  # offsets change their sign
    given = image((128, 192))
    turned = np.ascontiguousarray(given[::-1, ::-1])
    two = replace(detector, orientations=2)
    np.testing.assert_allclose(two.answers(turned)[::-1, ::-1] * sign, two.answers(given), atol=1e-4)
    once = two.answers(turned, orientations=1)[::-1, ::-1] * sign
    assert np.abs(once - two.answers(given, orientations=1)).max() > 1e-2


def test_orientations_are_kept_and_older_models_have_one(detector: Detector, saved: Path) -> None:
    assert Detector.load(saved).orientations == 1
    two = replace(detector, orientations=2)
    assert two.fingerprint != detector.fingerprint
    two.save(saved)
    assert Detector.load(saved).orientations == 2
    without = json.loads((saved / DESCRIPTION).read_text())
    del without["orientations"], without["checksum"]
    (saved / DESCRIPTION).write_text(sealed(without))
    assert Detector.load(saved).orientations == 1


def test_the_general_model_ships_and_is_small() -> None:
    general = Detector.general()
    assert sum(p.stat().st_size for p in module.GENERAL_FOLDER.iterdir()) < 3_000_000
    assert general.diameter_A is None
    assert "limits" in general.card.lower()
    with pytest.raises(BadInput, match="no such model"):
        Detector.load("/nowhere/model")


def test_a_folder_called_general_in_the_way_is_taken_as_a_folder(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, tmp_path / "general")
    assert Detector.load("general").diameter_A == 160.0
    (tmp_path / "general" / "bundle.json").unlink()
    assert Detector.load("general").diameter_A is None  # a folder of other things is no model


def test_a_model_of_another_program_is_named_whatever_its_version(saved: Path) -> None:
    file = saved / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "program": "cryoflow unpicker", "format": 99}))
    with pytest.raises(BadInput, match="is a model of cryoflow unpicker, not a detector"):
        Detector.load(saved)


def test_the_folded_network_answers_as_the_trained_one_does() -> None:
    general = Detector.general()
    trained = build(general.architecture)
    set_weights(trained, general.weights, Path("weights"))
    image = np.random.default_rng(0).normal(0, 1, (1, 128, 192, 2)).astype(np.float32)
    assert not any("norm" in w.path for w in general.network.weights)
    np.testing.assert_allclose(general.network.predict_on_batch(image), trained.predict_on_batch(image), atol=1e-4)
