"""The unpicker against the older emUnpicker's network and preprocessing, on simulated data of known truth.

    python benchmarks/unpicker.py --folder DIR                     everything, three seeds a set: two hours on two cores
    python benchmarks/unpicker.py --folder DIR --parts ours few    our default network alone: some minutes
    python benchmarks/unpicker.py --folder DIR --sets barrel       one data set
    python benchmarks/unpicker.py --folder DIR --parts speed       un-picking speed alone
    python benchmarks/unpicker.py --folder DIR --quick             few epochs: whether it runs, not how well

Three data sets of 44 micrographs with fixed seeds: 20 to learn from, 7 to validate, 17 for the test, which nothing
else sees. Each line is printed as it is measured and kept in DIR/results.json, so that parts can be run one by one;
`--table` prints the table of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from emunpicker import classic_way

from cryoflow.detector.bundle import Detector
from cryoflow.detector.pick import score_picks
from cryoflow.micrographs.ctf import Ctf
from cryoflow.micrographs.fourier import fourier_resample
from cryoflow.micrographs.image import MicrographFile, write_mrc
from cryoflow.preparation.devices import load_keras
from cryoflow.preparation.patches import load_patches
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.preparation.score_metrics import Counts, bootstrap, calibration_error, roc_auc
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.simulate.simulation import simulate_dataset
from cryoflow.storage.files import write_atomically
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.detector_features import DetectorFeatures
from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing
from cryoflow.unpicker.evaluate import Evaluation, evaluate
from cryoflow.unpicker.labeled import LabeledSet, Split
from cryoflow.unpicker.network import ArchitectureName
from cryoflow.unpicker.scoring import ScoredMicrograph, score
from cryoflow.unpicker.train import train
from cryoflow.unpicker.train_options import TrainOptions
from cryoflow.unpicker.unpick_with_detector import KEEP_FROM

SETS = ("barrel", "large", "small")
TRAIN, VALIDATION, TEST = 20, 7, 17
SEED = 1
"""Of data and split."""
SEEDS = (1, 2, 3)
"""Of trainings."""


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where data, models and results go")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=(*RECIPES, "speed"),
        default=(*RECIPES, "speed"),
    )
    parser.add_argument("--quick", action="store_true", help="2 epochs, 6 micrographs to learn from")
    parser.add_argument("--epochs", type=int, help="of our network, where not the default")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=SEEDS, help="of the trainings; data and split stay as they are"
    )
    parser.add_argument("--run-of", type=int, default=50, help="micrographs of the speed run")
    parser.add_argument(
        "--orientations", type=int, default=8, choices=(1, 2, 4, 8), help="of a second evaluation of our network"
    )
    parser.add_argument("--table", action="store_true", help="print the table of what was measured, and end")
    arguments = parser.parse_args()
    if arguments.table:
        print_table(arguments.folder)
        return
    load_keras()
    for name in arguments.sets:
        split = data(arguments.folder, name, quick=arguments.quick)
        for part in arguments.parts:
            if part in RECIPES:
                epochs = 2 if arguments.quick else arguments.epochs if part != "classic" else None
                for seed in arguments.seeds:
                    accuracy(
                        arguments.folder,
                        name,
                        part,
                        split,
                        epochs=epochs,
                        seed=seed,
                        orientations=arguments.orientations,
                    )
    if "speed" in arguments.parts:
        speed(arguments.folder, arguments.sets[0], n_micrographs=5 if arguments.quick else arguments.run_of)
    print_table(arguments.folder)


def data(folder: Path, name: str, *, quick: bool) -> Split:
    """Simulate a data set, or load it, and divide it."""
    simulated = simulate_dataset(
        folder / "data" / name,
        specimen=name,
        n_micrographs=TRAIN + VALIDATION + TEST,
        shape_yx=(2048, 2048),
        pixel_size_A=1.5,
        seed=SEED,
    )
    micrographs = tuple(
        PickedMicrograph(
            name=m.path.stem,
            path=m.path,
            pixel_size_A=m.pixel_size_A,
            diameter_A=simulated.diameter_A,
            centers_xy_px=m.picks_xy_px,
            labels=np.where(m.pick_is_right, 1, -1).astype(np.int8),
            data_set=name,
            ctf=Ctf(m.defocus_u_A, m.defocus_v_A, m.defocus_angle_deg),
        )
        for m in simulated.micrographs
    )
    learn, watch = (6, 3) if quick else (TRAIN, VALIDATION)
    return Split(micrographs[:learn], micrographs[TRAIN : TRAIN + watch], micrographs[TRAIN + VALIDATION :])


def hide(split: Split, share: float, seed: int, *, as_label: int) -> Split:
    """As labels from a refinement are: a share of the right picks and all wrong ones become unlabeled, or wrong."""
    rng = np.random.default_rng(seed)

    def hidden(m: PickedMicrograph) -> PickedMicrograph:
        lost = rng.random(len(m.labels)) < share
        return replace(m, labels=np.where((m.labels == 1) & ~lost, 1, as_label).astype(np.int8))

    return Split(tuple(map(hidden, split.train)), tuple(map(hidden, split.validation)), split.test)


RECIPES = {
    "ours": "ours, all labels",
    "residual": "from patches alone (--architecture residual), all labels",
    "classic": "emunpicker, all labels, 25 epochs",
    "general": "the general detector, without labels",
    "few": "ours, 200 right picks",
    "unlabeled": "ours, wrong picks and a fifth of the right unlabeled",
    "dropped": "ours, wrong picks and a fifth of the right called wrong",
}


def accuracy(
    folder: Path, name: str, part: str, split: Split, *, epochs: int | None, seed: int, orientations: int
) -> None:
    """Train one recipe on one data set and measure it on the test micrographs."""
    if part == "general":
        if seed == SEED:  # nothing is trained
            keep(folder, f"{name}/{part}", without_labels(split.test))
        return
    few = {"epochs": epochs} if epochs else {}
    key = f"{name}/{part}" if seed == SEED else f"{name}/{part}, seed {seed}"
    output = folder / "models" / key.replace("/", "_").replace(", seed ", "_")
    architecture: ArchitectureName = "residual" if part == "residual" else "detector"
    options = TrainOptions.of(architecture, cache_dir=folder / "cache", seed=seed, **few)
    used = split
    if part == "classic":
        preprocessing = EmUnpickerPreprocessing(1.5 * split.train[0].diameter_A)
        options = TrainOptions.emunpicker(preprocessing=preprocessing, cache_dir=folder / "cache", seed=seed, **few)
    elif part == "few":
        options = replace(options, max_positives=200)
    elif part in ("unlabeled", "dropped"):
        used = hide(split, 0.2, SEED, as_label=0 if part == "unlabeled" else -1)
    everything = LabeledSet(used.train + used.validation + used.test)
    started, cpu_started = time.monotonic(), time.process_time()
    bundle = train(everything, output, options, split=used, overwrite=True)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    test = LabeledSet(split.test)
    result = evaluate(bundle, test)
    averaged = result if part != "ours" or orientations == 1 else evaluate(bundle, test, orientations=orientations)
    row = {
        "test_error": result.error.value,
        "error_low": result.error.low,
        "error_high": result.error.high,
        "roc_auc": result.roc_auc.value,
        "average_precision": result.average_precision.value,
        "f1": result.f1.value,
        "calibration_error": result.calibration_error.value,
        "n_test": result.n_picks,
        "n_train": bundle.metrics["n_train"],
        "epochs": bundle.metrics["epochs"],
        "best_epoch": bundle.metrics["best_epoch"],
        "train_seconds": seconds,
        "train_cpu_seconds": cpu_seconds,
        "error_at_half": error_at_half(result),
        "averaged_error_at_half": error_at_half(averaged),
        "averaged_orientations": orientations if averaged is not result else 1,
        "averaged_error": averaged.error.value,
        "averaged_roc_auc": averaged.roc_auc.value,
        "seed": seed,
    }
    keep(folder, key, row)


def without_labels(test: Sequence[PickedMicrograph]) -> dict[str, float]:
    """Measure un-picking by the general detector, as `cryoflow unpicker unpick general` does it."""
    detector = Detector.general()
    p, right, micrograph = [], [], []
    for number, m in enumerate(test):
        p.append(score_picks(detector, m.path, m.pixel_size_A, m.diameter_A, m.centers_xy_px))
        right.append(m.labels > 0)
        micrograph.append(np.full(len(m.labels), number))
    scores, positive, of = np.concatenate(p), np.concatenate(right), np.concatenate(micrograph)
    error = bootstrap(lambda w: Counts.of(positive, scores >= KEEP_FROM, w).error, of)
    return {
        "test_error": error.value,
        "error_low": error.low,
        "error_high": error.high,
        "roc_auc": roc_auc(positive, scores),
        "calibration_error": calibration_error(positive, scores),
        "n_test": len(positive),
        "train_cpu_seconds": 0.0,
    }


def error_at_half(result: Evaluation) -> float:
    """Share of wrong decisions at a probability of 0.5, where they are fewest; the threshold also guards recall."""
    return float(np.mean((result.probabilities >= 0.5) != result.positive))


def speed(folder: Path, name: str, *, n_micrographs: int) -> None:
    """Time a run over 4096 x 4096 micrographs of 300 picks: ours and the classic way, without and with the CTF."""
    micrographs = large_micrographs(folder / "data" / "large_images", n_micrographs)
    for part, (recipe, flip, way) in WAYS.items():
        model = folder / "models" / f"{name}_{recipe}"
        if not (model / "bundle.json").is_file():
            print(f"speed of {part}: train it first (--parts {recipe})")
            continue
        bundle = ModelBundle.load(model)
        bundle = replace(bundle, preprocessing=replace(bundle.preprocessing, phase_flip=flip))
        started, cpu_started = time.monotonic(), time.process_time()
        seconds = way(bundle, micrographs)
        whole, cpu = time.monotonic() - started, time.process_time() - cpu_started
        keep(
            folder,
            f"speed/{part}",
            {
                "n_micrographs": n_micrographs,
                "seconds_a_micrograph": whole / n_micrographs,
                "cpu_seconds_a_micrograph": cpu / n_micrographs,
                "median_seconds": float(np.median(seconds)),
                "last_seconds": seconds[-1],
                "picks_a_second": 300 * n_micrographs / whole,
            },
        )
        if part in ("ours", "residual"):
            keep(folder, f"speed/{part}, taken apart", taken_apart(bundle, micrographs[0]))


def taken_apart(bundle: ModelBundle, micrograph: PickedMicrograph, *, repeats: int = 20) -> dict[str, float]:
    """CPU seconds of the steps of one micrograph, of all threads: the least of some repeats. Reading is the limit."""
    extractor = bundle.preprocessing
    images = extractor.images if isinstance(extractor, DetectorFeatures) else extractor
    assert isinstance(images, TwoChannelPreprocessing)
    target = images.target_pixel_size_A(micrograph.diameter_A)
    file = MicrographFile.open(micrograph.path)
    patches = load_patches(extractor, micrograph)
    steps: dict[str, Callable[[], object]] = {
        "read": lambda: MicrographFile.open(micrograph.path).whole(),
        "read_and_crop": lambda: fourier_resample(file, micrograph.pixel_size_A, target, workers=1),
        "read_crop_and_channels": lambda: images.channels(file, micrograph),
        "read_crop_and_patches": lambda: load_patches(extractor, micrograph),
        "score_patches": lambda: bundle.logits(patches),
    }
    if isinstance(extractor, DetectorFeatures):
        prepared = images.channels(file, micrograph)
        steps["detector"] = lambda: extractor.backbone.maps(prepared)
    seconds = {}
    for name, step in steps.items():
        each = []
        for _ in range(repeats):
            started = time.process_time()
            step()
            each.append(time.process_time() - started)
        seconds[f"{name}_cpu_seconds"] = min(each)
    return seconds


def large_micrographs(folder: Path, number: int) -> list[PickedMicrograph]:
    """Noise of the right size, five files that are visited in turn; 300 picks each, 1 A a pixel."""
    rng = np.random.default_rng(0)
    paths = [folder / f"noise_{i}.mrc" for i in range(min(5, number))]
    for path in paths:
        if not path.is_file():
            write_mrc(path, rng.normal(10, 3, (4096, 4096)).astype(np.float32), 1.0)
    centers = [rng.uniform(0, 4095, (300, 2)) for _ in range(number)]
    none = np.zeros(300, np.int8)
    return [
        PickedMicrograph(f"m{i}", paths[i % len(paths)], 1.0, 160.0, centers[i], none, "speed", Ctf(15e3, 15e3))
        for i in range(number)
    ]


def our_way(bundle: ModelBundle, micrographs: list[PickedMicrograph]) -> list[float]:
    """As `cryoflow unpicker unpick` does it. The start of TensorFlow is not counted, building the network is."""
    seconds = []
    last = time.monotonic()
    for result in score(bundle, micrographs):
        assert isinstance(result, ScoredMicrograph)
        seconds.append(time.monotonic() - last)
        last = time.monotonic()
    return seconds


WAYS = {
    "ours": ("ours", False, our_way),
    "residual": ("residual", False, our_way),
    "classic": ("classic", False, classic_way),
    "ours, CTF corrected": ("ours", True, our_way),
    "classic, CTF corrected": ("classic", True, classic_way),
}


def machine() -> dict[str, object]:
    """Processor, number of cores and load, which every recorded row has."""
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"processor": processor, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}


def keep(folder: Path, name: str, row: dict[str, float]) -> None:
    """Print a result and add it to the file of results."""
    file = folder / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    results[name] = {**row, "machine": machine()}
    write_atomically(file, json.dumps(results, indent=1, sort_keys=True) + "\n")
    print(name, " ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)


def print_table(folder: Path) -> None:
    """Print the table of docs/performance.md from the recorded runs: mean and standard deviation over seeds.

    The interval of an error is that of a bootstrap over test micrographs, its ends averaged over seeds. The last rows
    have the mean over the data sets, of each seed, and the standard deviation between the seeds.
    """
    results = json.loads((folder / "results.json").read_text())
    columns = "data set | recipe | seeds | test error | 8 orientations | ROC AUC | calibration error | CPU | load"
    print(f"\n| {columns} |")
    print("|---|---|---|---|---|---|---|---|---|")
    of_recipe: dict[str, list[list[dict[str, float]]]] = {}
    for name in SETS:
        for part, title in RECIPES.items():
            rows = [r for k, r in sorted(results.items()) if k.split(", seed")[0] == f"{name}/{part}"]
            if rows:
                print(f"| {name} | {title} | {len(rows)} | {_row(rows)} |")
                of_recipe.setdefault(title, []).append(rows)
    for title, of_sets in of_recipe.items():
        if len(of_sets) == len(SETS):
            seeds = min(map(len, of_sets))
            cells = (
                _over_seeds([np.mean([_figure(rows[i], name) for rows in of_sets]) for i in range(seeds)], ".1%")
                for name in ("test_error", "averaged_error")
            )
            print(f"| mean | {title} | {seeds} | {' | '.join(cells)} | | | | |")
    for part in WAYS:
        if r := results.get(f"speed/{part}"):
            clock, median, cpu = (r[k] for k in ("seconds_a_micrograph", "median_seconds", "cpu_seconds_a_micrograph"))
            print(f"un-picking, {part}: {clock:.3f} s a micrograph, median {median:.3f}, CPU {cpu:.3f}")
        if r := results.get(f"speed/{part}, taken apart"):
            print("  of it, CPU seconds: " + ", ".join(f"{k} {v:.3f}" for k, v in r.items() if k != "machine"))
    for text in sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in results.values()}):
        print(f"measured on: {text}")


def _over_seeds(values: Sequence[float | np.floating], form: str) -> str:
    if not np.isfinite(values).all():
        return ""
    return f"{np.mean(values):{form}}" + (f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else "")


def _figure(row: dict[str, float], name: str) -> float:
    """A recorded figure; NaN where it was not measured, as with averaged orientations where there is one."""
    if name == "averaged_error" and row.get("averaged_orientations", 1) == 1:
        return np.nan
    return row.get(name, np.nan)


def _row(rows: list[dict[str, float]]) -> str:
    def over_seeds(name: str, form: str) -> str:
        return _over_seeds([_figure(r, name) for r in rows], form)

    low, high = (np.mean([r[name] for r in rows]) for name in ("error_low", "error_high"))
    loads = [r["machine"]["load"] for r in rows]  # type: ignore[index]
    cells = (
        f"{over_seeds('test_error', '.1%')} ({100 * low:.1f} to {100 * high:.1f})",
        over_seeds("averaged_error", ".1%"),
        over_seeds("roc_auc", ".3f"),
        over_seeds("calibration_error", ".3f"),
        f"{np.mean([r['train_cpu_seconds'] for r in rows]):.0f} s",
        f"{min(loads):.0f} to {max(loads):.0f}",
    )
    return " | ".join(cells)


if __name__ == "__main__":
    main()
