"""The general detector on specimens that no model learned from, beside Topaz's general model and a blob picker.

    python benchmarks/detector.py --folder DIR --densities MAPS          simulate, pick, judge; print the table
    python benchmarks/detector.py --folder DIR --sets validation         families that are trained on, other specimens
    python benchmarks/detector.py --folder DIR --pickers log topaz       some pickers only
    python benchmarks/detector.py --folder DIR --model MODEL             another model than the one that ships
    python benchmarks/detector.py --folder DIR --parts pick diameter speed
    python benchmarks/detector.py --folder DIR --parts finetune labels topaz-trained --specimen ring:7000
    python benchmarks/detector.py --cryoppp TREE --diameters 10081=250   EMPIAR sets in CryoPPP's layout

Test sets: every density map of --densities, four specimens of each family of `HELD_OUT`, and the three specimens of
`cryoflow simulate`. Each has its own microscope, dose, defocus, ice and contamination. Picks count within d/2 and d/4
of a particle, one pick a particle, best first; picks on overlapping particles, at the edge and next to contamination
count neither way. Macro figures are means over sets. Topaz must be on the PATH, or be named with --topaz.

`finetune` trains on 5, 20 and 100 labeled micrographs of one specimen, from the general model and from scratch.
`labels` drops 16, 50 and 84 % of the labels of 20 micrographs, as refinements do, and trains by each rule for unlabeled
candidates. `topaz-trained` trains Topaz on the same 20 micrographs, from its own pretrained weights. All print the AP
on other micrographs of that specimen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cryoflow.detector.bundle import GENERAL, Detector
from cryoflow.detector.cryoppp import evaluate_tree
from cryoflow.detector.estimate_diameter import estimate_diameter
from cryoflow.detector.examples import POSITIVE, UNKNOWN, Example
from cryoflow.detector.labels import far_from
from cryoflow.detector.loading import MicrographToPick
from cryoflow.detector.parameters import UnlabeledRule
from cryoflow.detector.peaks import apart, find_peaks
from cryoflow.detector.pick import PickedResult, pick
from cryoflow.detector.pick_metrics import (
    HIT,
    IGNORED,
    DetectionFigures,
    ScoredDetections,
    figures,
    macro,
    match_outcomes,
)
from cryoflow.detector.prepare import PIXELS_PER_DIAMETER, prepare
from cryoflow.detector.simulated import FIELD_DIAMETERS, HELD_OUT, OVERSAMPLING, TRAINED, truth_of
from cryoflow.detector.stream import CropStream, StreamOptions
from cryoflow.detector.training_data import class_prior_of, with_rule
from cryoflow.errors import BadInput
from cryoflow.micrographs.fourier import rescale_xy
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.preparation.devices import load_keras
from cryoflow.preparation.score_metrics import calibration_error
from cryoflow.simulate.conditions import random_conditions
from cryoflow.simulate.density import SPECIMENS, Specimen
from cryoflow.simulate.micrograph import simulate_exposure
from cryoflow.simulate.specimens import specimen_from_density, specimen_named
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import fingerprint_of_values

PARTS = ("pick", "diameter", "speed", "finetune", "labels", "topaz-trained")
OF_ONE_SPECIMEN = ("finetune", "labels", "topaz-trained")
PER_SET = 3
N_VALIDATION_SPECIMENS = 3  # of each family that is trained on
SHAPE_YX = (1856, 2048)
PIXEL_SIZES_A = (0.83, 1.06, 1.35, 1.72, 2.2)
LEAST_FIELD_DIAMETERS = 11
Picks = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class TestSet:
    """Micrographs of one specimen, with their truth."""

    name: str
    diameter_A: float
    pixel_size_A: float
    paths: tuple[Path, ...]

    def truth(self, path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Particles, and places that count neither way."""
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as table:
            xy, kind = table["xy_px"], table["kind"]
        return xy[kind == POSITIVE], xy[kind == UNKNOWN]


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where micrographs and results go")
    parser.add_argument("--densities", type=Path, help="folder of density maps that no model learned from")
    parser.add_argument("--sets", choices=("test", "validation"), default="test")
    parser.add_argument("--only", nargs="+", help="names of sets")
    parser.add_argument("--pickers", nargs="+", default=["cryoflow", "log"], choices=("cryoflow", "log", "topaz"))
    parser.add_argument("--model", default=GENERAL)
    parser.add_argument("--topaz", default="topaz", help="the command")
    parser.add_argument("--parts", nargs="+", default=["pick"], choices=PARTS)
    parser.add_argument("--specimen", default="ring:7000", help="of finetune and labels: a family never trained on")
    parser.add_argument("--steps", type=int, default=200, help="batches of a training of finetune and labels")
    parser.add_argument("--cryoppp", type=Path)
    parser.add_argument("--diameters", nargs="*", default=[])
    given = parser.parse_args()
    load_keras()
    if given.cryoppp:
        diameters = {k: float(v) for k, v in (d.split("=") for d in given.diameters)}
        for row in evaluate_tree(Detector.load(given.model), given.cryoppp, diameters):
            print(json.dumps(row))
        return
    for part, run in (("finetune", measure_finetuning), ("labels", measure_label_rules)):
        if part in given.parts:
            run(given.folder, given.specimen, Detector.load(given.model), given.steps)
    if "topaz-trained" in given.parts:
        measure_topaz_training(given.folder, given.specimen, given.topaz, given.steps)
    if set(given.parts) <= set(OF_ONE_SPECIMEN):
        return
    sets = [s for s in make_sets(given.folder, given.sets, given.densities) if not given.only or s.name in given.only]
    if "pick" in given.parts:
        for name in given.pickers:
            judge_picker(name, sets, given)
    if "diameter" in given.parts:
        judge_diameters(Detector.load(given.model), sets)
    if "speed" in given.parts:
        measure_speed(Detector.load(given.model), given.folder, given.topaz if "topaz" in given.pickers else None)


def make_sets(folder: Path, which: str, densities: Path | None) -> list[TestSet]:
    """Simulate the sets, or find them made."""
    specimens: list[Specimen] = []
    if which == "test":
        if densities is not None:
            specimens += [specimen_from_density(p) for p in sorted(densities.glob("*.mrc"))]
        specimens += [specimen_named(f"{family}:{7000 + i}") for family in HELD_OUT for i in range(4)]
        specimens += [specimen_named(name) for name in SPECIMENS]
    else:
        specimens += [
            specimen_named(f"{family}:{8000 + i}") for family in TRAINED for i in range(N_VALIDATION_SPECIMENS)
        ]
    return [make_set(folder / which / s.name, s) for s in specimens]


def make_set(folder: Path, specimen: Specimen) -> TestSet:
    """Simulate the micrographs of one specimen at a microscope of its own."""
    rng = np.random.default_rng([77, *specimen.name.encode()])
    conditions = random_conditions(rng)
    # Crowding as in most projects: enough particles that a set of three micrographs tells something.
    coverage = math.exp(rng.uniform(math.log(0.08), math.log(0.45)))
    specimen = replace(specimen, whole_per_um2=coverage * 1e8 / specimen.diameter_A**2)
    fits = [p for p in PIXEL_SIZES_A if min(SHAPE_YX) * p >= LEAST_FIELD_DIAMETERS * specimen.diameter_A]
    pixel_size_A = float(rng.choice(fits[:2])) if fits else PIXEL_SIZES_A[-1]
    paths = []
    for number in range(PER_SET):
        path = folder / f"{specimen.name}_{number + 1}.mrc"
        paths.append(path)
        if path.is_file() and path.with_suffix(".npz").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        exposure = simulate_exposure(
            specimen, SHAPE_YX, pixel_size_A, np.random.default_rng([78, number, *specimen.name.encode()]), conditions
        )
        truth = truth_of(exposure, specimen, pixel_size_A)
        np.savez(path.with_suffix(".npz"), xy_px=truth.xy_px, kind=truth.kind)
        write_mrc(path, exposure.image, pixel_size_A)
    return TestSet(specimen.name, specimen.diameter_A, pixel_size_A, tuple(paths))


def judge_picker(name: str, sets: Sequence[TestSet], given: argparse.Namespace) -> None:
    """Pick all sets with one picker; print figures by set and macro."""
    detector = Detector.load(given.model) if name == "cryoflow" else None
    run: Callable[[TestSet], list[Picks]]
    if detector is not None:
        run = lambda s: with_detector(detector, s)  # noqa: E731
    elif name == "topaz":
        run = lambda s: with_topaz(given.topaz, s)  # noqa: E731
    else:
        run = with_blobs
    rows: dict[str, dict[str, object]] = {}
    at: dict[float, list[DetectionFigures]] = {0.5: [], 0.25: []}
    everything: dict[float, list[ScoredDetections]] = {0.5: [], 0.25: []}
    began, cpu = time.monotonic(), used()
    for test_set in sets:
        picks = run(test_set)
        scored = []
        for path, (xy, score) in zip(test_set.paths, picks, strict=True):
            particles, unsure = test_set.truth(path)
            diameter_px = test_set.diameter_A / test_set.pixel_size_A
            scored.append(ScoredDetections(xy, score, particles, unsure, diameter_px, test_set.name))
        threshold = threshold_of(name, picks)
        rows[test_set.name] = {"diameter_A": round(test_set.diameter_A), "threshold": round(threshold, 3)}
        for within in at:
            of_set = figures(scored, within, threshold)
            at[within].append(of_set)
            everything[within] += scored
            rows[test_set.name][f"d/{1 / within:g}"] = {k: round(v, 3) for k, v in asdict(of_set).items()}
        half = at[0.5][-1]
        print(
            f"{name:9} {test_set.name:16} {test_set.diameter_A:4.0f} A  {half.n_true:4} true  "
            f"AP {half.average_precision:.3f} / {at[0.25][-1].average_precision:.3f}  "
            f"F1 {half.f1:.3f} (best {half.best_f1:.3f})  P {half.precision:.3f} R {half.recall:.3f}",
            flush=True,
        )
    summary: dict[str, object] = {
        f"macro d/{1 / w:g}": {k: round(v, 4) for k, v in macro(f).items()} for w, f in at.items()
    }
    for within, all_scored in everything.items():
        summary[f"micro d/{1 / within:g}"] = round(figures(all_scored, within, 0.5).average_precision, 4)
    if name == "cryoflow":
        summary["calibration_error"] = round(calibration(everything[0.5]), 4)
    n = sum(len(s.paths) for s in sets)
    summary["seconds a micrograph"] = round((time.monotonic() - began) / n, 2)
    summary["cpu seconds a micrograph"] = round((used() - cpu) / n, 2)
    for key, value in summary.items():
        print(f"{name:9} {key}: {value}", flush=True)
    file = given.folder / f"results-{given.sets}-{name}.json"
    write_atomically(file, json.dumps({"sets": rows, "summary": summary}, indent=1) + "\n")


def threshold_of(name: str, picks: Sequence[Picks]) -> float:
    """What each picker would take by default: expected F1 for ours, 0 for Topaz, the best of a grid for none."""
    from cryoflow.detector.calibrate import best_threshold

    if name == "cryoflow":
        return best_threshold(np.concatenate([s for _, s in picks]))[0]
    return 0.0 if name == "topaz" else 3.0


def with_detector(detector: Detector, test_set: TestSet) -> list[Picks]:
    """Our picks."""
    items = [MicrographToPick(p.name, p, test_set.pixel_size_A) for p in test_set.paths]
    found = []
    for result in pick(detector, items, test_set.diameter_A):
        assert isinstance(result, PickedResult), result
        found.append((result.xy_px, result.probability))
    return found


def with_blobs(test_set: TestSet) -> list[Picks]:
    """Maxima of minus the Laplacian of a Gaussian of the particle's size."""
    found = []
    for path in test_set.paths:
        image = read_micrograph(path)
        small = prepare(image, test_set.pixel_size_A, test_set.diameter_A)[..., 0].astype(np.float32)
        response = ndimage.gaussian_laplace(small, PIXELS_PER_DIAMETER / 2 / math.sqrt(2))
        response = (response - np.median(response)) / (1.4826 * np.median(np.abs(response - np.median(response))))
        row, column = np.nonzero((response == ndimage.maximum_filter(response, 5)) & (response > 1))
        order = np.argsort(-response[row, column])
        xy = np.stack([column, row], axis=1)[order].astype(np.float64)
        keep = apart(xy, 0.5 * PIXELS_PER_DIAMETER)
        found.append((rescale_xy(xy[keep], small.shape, image.shape), response[row, column][order][keep].astype(float)))
    return found


def with_topaz(command: str, test_set: TestSet) -> list[Picks]:
    """Topaz's general model on micrographs that its own preprocessing brought to 4 to 6 A a pixel."""
    scale = max(1, round(5.0 / test_set.pixel_size_A))
    folder = test_set.paths[0].parent / "topaz"
    folder.mkdir(exist_ok=True)
    table = folder / "picks.txt"
    if not table.is_file():
        names = [str(p) for p in test_set.paths]
        subprocess.run(
            [*shlex.split(command), "preprocess", "-s", str(scale), "-o", str(folder), *names],
            check=True, capture_output=True,
        )  # fmt: skip
        radius = max(2, round(test_set.diameter_A / 2 / test_set.pixel_size_A / scale))
        small = [str(folder / p.name) for p in test_set.paths]
        subprocess.run(
            [*shlex.split(command), "extract", "-m", "resnet16_u64", "-r", str(radius), "-x", str(scale),
             "-t", "-6", "-o", str(table), *small],
            check=True, capture_output=True,
        )  # fmt: skip
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    found = []
    for path in test_set.paths:
        mine = [r for r in rows if Path(r[0]).stem == path.stem]
        xy = np.array([[float(r[1]), float(r[2])] for r in mine]).reshape(-1, 2)
        found.append((xy, np.array([float(r[3]) for r in mine])))
    return found


def calibration(scored: Sequence[ScoredDetections]) -> float:
    """Calibration error of all picks within half a diameter, those that count neither way left out."""
    result = np.concatenate([match_outcomes(s, 0.5) for s in scored])
    probability = np.concatenate([s.score for s in scored])
    counted = result != IGNORED
    return calibration_error(result[counted] == HIT, probability[counted])


def judge_diameters(detector: Detector, sets: Sequence[TestSet]) -> None:
    """Estimate the diameter of each set without being told."""
    good = 0
    for test_set in sets:
        items = [MicrographToPick(p.name, p, test_set.pixel_size_A) for p in test_set.paths]
        began = time.monotonic()
        try:
            estimate = estimate_diameter(detector, items).diameter_A
        except Exception as error:  # a set without an estimate counts as wrong
            print(f"diameter  {test_set.name:16} {test_set.diameter_A:4.0f} A  none: {error}")
            continue
        off = estimate / test_set.diameter_A - 1
        good += abs(off) <= 0.15
        print(
            f"diameter  {test_set.name:16} {test_set.diameter_A:4.0f} A  estimated {estimate:4.0f} ({off:+.0%}), "
            f"{time.monotonic() - began:.1f} s",
            flush=True,
        )
    print(f"diameter  within 15 %: {good} of {len(sets)}")


def measure_speed(detector: Detector, folder: Path, topaz: str | None) -> None:
    """Time a run over 4096 x 4096 float32 micrographs: seconds by the clock, CPU seconds, memory."""
    home = folder / "speed"
    paths = large_micrographs(home)
    assert detector.network is not None
    for diameter_A in (80.0, 160.0):
        items = [MicrographToPick(p.name, p, 1.05) for p in paths]
        list(pick(detector, items[:2], diameter_A))  # tracing
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu = time.monotonic(), used()
        n = sum(1 for _ in pick(detector, items, diameter_A))
        print(
            f"speed     4096 x 4096, 1.05 A, d = {diameter_A:g} A: {(time.monotonic() - began) / n:.2f} s elapsed, "
            f"{(used() - cpu) / n:.2f} CPU s; peak memory {before / 1e6:.2f} GB, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    items = [MicrographToPick(p.name, p, 1.05) for p in paths[:4]]
    for measured in (False, True):  # first tracing
        began, cpu = time.monotonic(), used()
        with contextlib.suppress(BadInput):  # noise has no diameter; all of the pyramid is looked at all the same
            estimate_diameter(detector, items)
        if measured:
            print(
                f"speed     pyramid, 4096 x 4096, 1.05 A: {(time.monotonic() - began) / len(items):.2f} s elapsed, "
                f"{(used() - cpu) / len(items):.2f} CPU s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    if topaz:
        tiny = home / "tiny.mrc"
        write_mrc(tiny, read_micrograph(paths[0])[:640, :640], 1.05)
        start_up = topaz_seconds(topaz, tiny)
        elapsed, cpu_s = topaz_seconds(topaz, paths[0])
        print(
            f"speed     topaz, 4096 x 4096, scale 5, d = 160 A: {elapsed:.1f} s elapsed, {cpu_s:.1f} CPU s; "
            f"640 x 640, which is mostly start-up: {start_up[0]:.1f} s elapsed, {start_up[1]:.1f} CPU s",
            flush=True,
        )


def large_micrographs(home: Path, number: int = 8) -> list[Path]:
    """Return micrographs of 4096 x 4096 pixels at 1.05 A: one simulated exposure of the barrel under several names."""
    home.mkdir(parents=True, exist_ok=True)
    paths = [home / f"barrel{i}.mrc" for i in range(number)]
    if not paths[0].is_file():
        rng = np.random.default_rng(0)
        exposure = simulate_exposure(specimen_named("barrel"), (4096, 4096), 1.05, rng, random_conditions(rng))
        write_mrc(paths[0], exposure.image, 1.05)
    for path in paths[1:]:
        if not path.is_file():
            os.link(paths[0], path)
    return paths


def topaz_seconds(command: str, path: Path) -> tuple[float, float]:
    """Seconds by the clock, and CPU seconds, of Topaz' preprocessing and picking of one micrograph."""
    home = path.parent
    began, cpu = time.monotonic(), children()
    extract = ["extract", "-m", "resnet16_u64", "-r", "15", "-x", "5", "-o", str(home / "t.txt")]
    for step in (
        ["preprocess", "-s", "5", "-o", str(home / "topaz"), str(path)],
        [*extract, str(home / "topaz" / path.name)],
    ):
        subprocess.run([*shlex.split(command), *step], check=True, capture_output=True)
    return time.monotonic() - began, children() - cpu


N_LABELED, N_VALIDATION, N_TESTED = 100, 8, 16


def labeled_micrographs(folder: Path, name: str) -> list[Example]:
    """Simulate micrographs of one specimen at the sampling that the network sees, with all labels."""
    specimen = specimen_named(name)
    conditions = random_conditions(np.random.default_rng([79, *name.encode()]), points_per_object=3000)
    pixel_size_A = specimen.diameter_A / PIXELS_PER_DIAMETER / OVERSAMPLING
    edge = 2 * round(FIELD_DIAMETERS * PIXELS_PER_DIAMETER * OVERSAMPLING / 2)
    home = folder / "labeled" / specimen.name
    home.mkdir(parents=True, exist_ok=True)
    examples = []
    for number in range(N_LABELED + N_VALIDATION + N_TESTED):
        pixels, table = home / f"{number:03d}.npy", home / f"{number:03d}.npz"
        if not table.is_file():
            rng = np.random.default_rng([80, number, *name.encode()])
            exposure = simulate_exposure(specimen, (edge, edge), pixel_size_A, rng, conditions)
            truth = truth_of(exposure, specimen, pixel_size_A)
            prepared = prepare(exposure.image, pixel_size_A, specimen.diameter_A)
            np.save(pixels, prepared)
            np.savez(table, xy_px=truth.xy_px * (prepared.shape[0] / edge), kind=truth.kind)
        with np.load(table, allow_pickle=False) as arrays:
            kind = arrays["kind"]
            examples.append(Example(pixels, name, arrays["xy_px"], kind, np.ones(len(kind), np.float32), 0.0))
    return examples


def trained_ap(
    examples: Sequence[Example],
    tested: Sequence[Example],
    output: Path,
    start: Detector,
    steps: int,
    *,
    from_scratch: bool = False,
    unlabeled_from: float = 1.0,
) -> tuple[float, float]:
    """Train, and return the AP at d/2 and d/4 on other micrographs."""
    from cryoflow.detector.fit import FitOptions, fit

    stream = CropStream(examples, PIXELS_PER_DIAMETER, seed=1, options=StreamOptions(crop_px=192, batch=6))
    options = FitOptions(
        rounds=4, steps=steps // 4, learning_rate=2e-3 if from_scratch else 5e-4, unlabeled_from=unlabeled_from
    )
    mark = fingerprint_of_values({"options": asdict(options), "n": len(examples), "folder": output.name})
    weights, _ = fit(
        start.architecture, stream, [], output, options,
        fingerprint=mark, start=None if from_scratch else dict(start.weights),
    )  # fmt: skip
    return average_precision(replace(start, weights=weights), tested)


def average_precision(detector: Detector, tested: Sequence[Example]) -> tuple[float, float]:
    """Return the AP at d/2 and d/4."""
    scored = []
    for example in tested:
        pixels = np.asarray(example.map_pixels())
        peaks = find_peaks(detector.answers(pixels), PIXELS_PER_DIAMETER, shape_yx=pixels.shape[:2])
        peaks = peaks.where(peaks.clean)
        particles, unsure = (example.xy_px[example.kind == kind] for kind in (POSITIVE, UNKNOWN))
        scored.append(ScoredDetections(peaks.xy_px, peaks.logit, particles, unsure, PIXELS_PER_DIAMETER))
    half, quarter = (figures(scored, within, 0.0).average_precision for within in (0.5, 0.25))
    return half, quarter


def measure_finetuning(folder: Path, specimen: str, start: Detector, steps: int) -> None:
    """AP against the number of labeled micrographs, from the general model and from scratch."""
    examples = labeled_micrographs(folder, specimen)
    tested = examples[-N_TESTED:]
    half, quarter = average_precision(start, tested)
    print(f"finetune  {specimen} untrained: AP {half:.3f} / {quarter:.3f}", flush=True)
    for number in (5, 20, 100):
        for origin, from_scratch in (("general", False), ("scratch", True)):
            output = folder / "finetune" / f"{specimen.replace(':', '-')}-{number}-{origin}-{steps}"
            began = used()
            half, quarter = trained_ap(examples[:number], tested, output, start, steps, from_scratch=from_scratch)
            print(
                f"finetune  {specimen} {number:3} micrographs from {origin}, {steps} steps: AP {half:.3f} / "
                f"{quarter:.3f}, {used() - began:.0f} CPU s",
                flush=True,
            )


N_FOR_TOPAZ = 20


def measure_topaz_training(folder: Path, specimen: str, command: str, steps: int) -> None:
    """AP of Topaz trained on `steps` minibatches of 256 regions of labeled micrographs, sampled as for our network."""
    examples = labeled_micrographs(folder, specimen)
    home = folder / "topaz-trained" / specimen.replace(":", "-")
    learned, tested = examples[:N_FOR_TOPAZ], examples[-N_TESTED:]
    for name, some in (("train", learned), ("test", tested)):
        (home / name).mkdir(parents=True, exist_ok=True)
        for example in some:
            image = np.asarray(example.map_pixels())[..., 0].astype(np.float32)
            write_mrc(home / name / f"{example.pixels.stem}.mrc", image, 1.0)
    particles = {e.pixels.stem: e.xy_px[e.kind == POSITIVE] for e in examples}
    rows = [f"{e.pixels.stem}\t{x:.0f}\t{y:.0f}" for e in learned for x, y in particles[e.pixels.stem]]
    (home / "targets.txt").write_text("image_name\tx_coord\ty_coord\n" + "\n".join(rows) + "\n")
    began = children()
    train = ["train", "--train-images", str(home / "train"), "--train-targets", str(home / "targets.txt")]
    train += ["-n", f"{max(1, round(len(rows) / len(learned)))}", "--num-epochs", "1", "--epoch-size", str(steps)]
    train += ["--save-prefix", str(home / "model"), "-o", str(home / "curve.txt"), "-d", "-1"]
    subprocess.run([*shlex.split(command), *train], check=True, capture_output=True)
    trained = children() - began
    (model,) = home.glob("model_epoch1.sav")
    extract = ["extract", "-m", str(model), "-r", str(round(PIXELS_PER_DIAMETER / 2)), "-t", "-6", "-d", "-1"]
    images = [str(home / "test" / f"{e.pixels.stem}.mrc") for e in tested]
    extract += ["-o", str(home / "picks.txt"), *images]
    subprocess.run([*shlex.split(command), *extract], check=True, capture_output=True)
    picks: dict[str, list[list[float]]] = {}
    for line in (home / "picks.txt").read_text().splitlines()[1:]:
        name, *values = line.split("\t")
        picks.setdefault(Path(name).stem, []).append([float(v) for v in values])
    scored = []
    for example in tested:
        found = np.array(picks.get(example.pixels.stem, [])).reshape(-1, 3)
        unsure = example.xy_px[example.kind == UNKNOWN]
        true_xy = particles[example.pixels.stem]
        scored.append(ScoredDetections(found[:, :2], found[:, 2], true_xy, unsure, PIXELS_PER_DIAMETER))
    half, quarter = (figures(scored, within, 0.0).average_precision for within in (0.5, 0.25))
    print(
        f"topaz     {specimen} trained on {len(learned)} micrographs, {steps} minibatches: AP {half:.3f} / "
        f"{quarter:.3f}, {trained:.0f} CPU s",
        flush=True,
    )


def measure_label_rules(folder: Path, specimen: str, start: Detector, steps: int) -> None:
    """AP after training on labels of which a share was dropped, by each rule for candidates that no label decides."""
    from cryoflow.detector.fit import FitOptions

    examples = labeled_micrographs(folder, specimen)
    tested = examples[-N_TESTED:]
    for share in (0.16, 0.5, 0.84):
        dropped = [with_dropped_labels(e, share, i) for i, e in enumerate(examples[: 20 + N_VALIDATION])]
        prior = class_prior_of(start, dropped[20:])
        for rule in get_args(UnlabeledRule):
            kept = [replace(with_rule(e, rule, start), class_prior=prior) for e in dropped[:20]]
            output = folder / "labels" / f"{specimen.replace(':', '-')}-{share:g}-{rule}-{steps}"
            enters = FitOptions.unlabeled_from if rule == "positive-unlabeled" else 1.0
            half, quarter = trained_ap(kept, tested, output, start, steps, unlabeled_from=enters)
            print(
                f"labels    {specimen} {share:.0%} dropped, unlabeled {rule}: AP {half:.3f} / {quarter:.3f} "
                f"(class prior {prior:.2f})",
                flush=True,
            )


def with_dropped_labels(example: Example, share: float, number: int) -> Example:
    """As a refinement leaves them: some particles lose their labels, and wrong picks are candidates beside them."""
    rng = np.random.default_rng([81, number])
    kind = example.kind.copy()
    kind[(kind == POSITIVE) & (rng.random(len(kind)) < share)] = UNKNOWN
    image = np.asarray(example.map_pixels())[..., 0].astype(np.float32)
    response = ndimage.gaussian_laplace(image, PIXELS_PER_DIAMETER / 2 / math.sqrt(2))
    response = (response - np.median(response)) / (1.4826 * np.median(np.abs(response - np.median(response))))
    row, column = np.nonzero((response == ndimage.maximum_filter(response, 9)) & (response > 3))
    blobs = np.stack([column, row], axis=1).astype(np.float64)
    wrong = blobs[far_from(blobs, example.xy_px, 0.5 * PIXELS_PER_DIAMETER)]
    return replace(
        example,
        xy_px=np.concatenate([example.xy_px, wrong]),
        kind=np.concatenate([kind, np.full(len(wrong), UNKNOWN, np.int8)]),
        weight=np.ones(len(kind) + len(wrong), np.float32),
    )


def used() -> float:
    """CPU seconds of this process and of the programs that it ran."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + children()


def children() -> float:
    """CPU seconds of programs that were run."""
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return theirs.ru_utime + theirs.ru_stime


if __name__ == "__main__":
    main()
