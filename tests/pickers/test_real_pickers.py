"""The real Topaz and crYOLO, on a CPU, on what we export for them."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.execution.executor import Executor
from cryoflow.execution.resources import Resources
from cryoflow.pickers.comparing.compare import compare
from cryoflow.pickers.importing.import_picks import import_picks
from cryoflow.pickers.running.run_picker import pick, train
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import export
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import PickSet

pytestmark = pytest.mark.pickers

ANNOTATIONS = """
import json, sys
from cryolo import imagereader, preprocessing
folder = sys.argv[1]
pairs = preprocessing.find_image_annotation_pairs_by_dir(folder + "/train_annot", folder + "/train_image")
found = []
for image in preprocessing.parse_annotation(pairs, grid_dims=(32, 32, 1), anchor_size=25)[0]:
    pixels = imagereader.image_read(image["filename"])
    boxes = [[o["xmin"], o["ymin"], o["xmax"], o["ymax"]] for o in image["object"]]
    centers = [((b[0] + b[2]) // 2, (b[1] + b[3]) // 2) for b in boxes]
    means = [float(pixels[y - 2:y + 3, x - 2:x + 3].mean()) for x, y in centers]
    found.append([image["filename"], image["boxpath"], means])
print("RESULT " + json.dumps(found))
"""


def _place(real_pickers: Path) -> Executor:
    return Executor(programs=real_pickers, resources=Resources(gpus=(), cpus=2), timeout_s=500)


def _unlabeled(entry: PickSet) -> PickSet:
    return PickSet.build(entry.provenance, entry.micrographs, entry.picks.iloc[:0], diameter_A=entry.diameter_A)


def test_topaz_trains_on_our_tables_and_its_picks_come_back_on_the_particles(make_entry, tmp_path, real_pickers):
    entry = make_entry(n=5, n_empty=1, pixel_size_A=4.0, diameter_A=100.0, names=[f"a b.v1_{i}.mrc" for i in range(5)])
    settings = {"epochs": 1, "epoch_size": 40, "minibatch_size": 32, "downsampling": 2}
    exported = export("topaz", [entry], tmp_path / "set", settings=settings)
    lines: list[str] = []
    trained = train("topaz", exported.folder, _place(real_pickers), on_line=lines.append)
    assert trained.model is not None
    assert trained.model.parent.name == "models"
    assert not [line for line in lines if "WARNING" in line]  # it would change its method, or miss micrographs
    curve = pd.read_csv(trained.curve, sep="\t")
    assert {"auprc", "loss"} <= set(curve["metric"])
    assert set(curve["split"]) == {"train", "validation"}
    assert trained.figure.read_bytes().startswith(b"\x89PNG")
    values = manifest.read_settings(exported.folder)
    pi = next(float(line.rpartition("=")[2]) for line in lines if "Setting pi" in line)
    train_rows = manifest.read_manifest(exported.folder).query("split == 'train'")
    disc = sum(1 for x in range(-9, 10) for y in range(-9, 10) if x * x + y * y <= int(values["radius"]) ** 2)
    shown = float(values["number_for_topaz"]) * disc * (2 * int(values["radius"]) + 1) / (192 * 288)
    assert pi == pytest.approx(shown, rel=0.02)  # the defect that we correct for is in this version
    assert len(train_rows) == 4
    picked = pick("topaz", trained.model, [_unlabeled(entry)], tmp_path / "picked", _place(real_pickers), threshold=-2)
    (back,) = picked.picksets
    found = compare(back, entry)
    assert found.recall > 0.85
    assert found.precision > 0.7
    assert found.localisation_error_A < 12
    assert train("topaz", exported.folder, _place(real_pickers)).reused


def test_topaz_would_look_for_too_many_without_the_correction(real_pickers):
    code = "from topaz.stats import pixels_given_radius as p; print(p(3), p(5))"
    python = real_pickers.parent / "topaz" / "bin" / "python"
    three, five = map(int, subprocess.check_output([python, "-c", code], text=True).split())
    assert (three, five) == (29 * 7, 81 * 11)


@pytest.mark.parametrize("form", ["box"])
def test_cryolos_own_reader_finds_every_box_on_its_particle(make_entry, tmp_path, real_pickers, form):
    names = ["mic_1.mrc", "mic_10.mrc", "mic_11.mrc", "a b.mrc"]
    entries = [make_entry("P1", names=names), make_entry("P2", names=names, pixel_size_A=5.0, seed=1)]
    exported = export("cryolo", entries, tmp_path / "set", diameter_A=100, settings={"annotation": form})
    python = real_pickers.parent / "cryolo" / "bin" / "python"
    argv = [python, "-c", ANNOTATIONS, exported.folder]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = json.loads(next(line for line in printed.splitlines() if line.startswith("RESULT "))[7:])
    rows = manifest.read_manifest(exported.folder).query("split == 'train'").set_index("stem")
    assert len(found) == len(rows)
    counts = {}
    for image, label, means in found:
        assert Path(image).stem == Path(label).stem
        counts[Path(image).stem] = len(means)
        assert not means or np.mean(means) < -2
    assert counts == rows["n_picks"].to_dict()
    assert 0 in counts.values()


def test_cryolo_trains_an_epoch_and_predicts_on_our_folders(make_entry, tmp_path, real_pickers):
    import h5py

    weights = tmp_path / "any.h5"
    with h5py.File(weights, "w") as file:
        file.attrs["layer_names"] = np.array([], "S1")
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.5"
    entry = make_entry(n=3, n_empty=0)
    settings = {"input_size": 256, "epochs": 1, "train_times": 1, "batch_size": 2, "warmup_epochs": 0}
    exported = export(
        "cryolo", [entry], tmp_path / "set", split=Fractions(0.34), settings=settings | {"backend_weights": weights}
    )
    trained = train("cryolo", exported.folder, _place(real_pickers))
    assert trained.model is not None
    assert trained.model.stat().st_size > 1e6
    assert set(pd.read_csv(trained.curve, sep="\t")["split"]) == {"train", "validation"}
    picked = pick(
        "cryolo",
        trained.model,
        [_unlabeled(entry)],
        tmp_path / "picked",
        _place(real_pickers),
        settings={"input_size": 256, "threshold": 0.001, "backend_weights": weights},
        threshold=0.001,
    )
    (back,) = picked.picksets
    assert back.micrographs["name"].tolist() == entry.micrographs["name"].tolist()
    again = import_picks("cryolo", tmp_path / "picked" / "picks", tmp_path / "picked", keep_all=True)[0]
    assert len(again) >= len(back)
