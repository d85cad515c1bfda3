"""Let specimens arrive one after the other, and measure what a model that keeps learning forgets.

    python benchmarks/continual.py --folder DIR                       the detector, 12 specimens, one seed
    python benchmarks/continual.py --folder DIR --network unpicker
    python benchmarks/continual.py --folder DIR --seeds 1 2 3
    python benchmarks/continual.py --folder DIR --ways interpolated   a second call does only what is missing
    python benchmarks/continual.py --folder DIR --micrographs 40 --held-out 20         projects of a lab's size
    python benchmarks/continual.py --folder DIR --specimens 3 --steps 4 --epochs 1     a try

Each specimen is a project: its own family, density, microscope, dose, ice and contamination. A blob picker's picks are
the candidates; 80 % of the particles "survived" and are the labels. After each arrival the model is scored on held-out
micrographs of all specimens, whose labels are complete, at a fixed number of picks of each micrograph. Five ways to
learn are compared, all with the learner of `cryoflow detector update` and `cryoflow unpicker update`:

    fine-tuned    on the new project alone, from the version before
    replayed      with exemplars of earlier projects, and frozen statistics of the normalization
    distilled     replayed, and held to the earlier version's answers
    interpolated  distilled, and part of the way only from the earlier version's weights: what an update does
    joint         on all projects from the base model, once, at the end

forgetting         mean fall of a project's F1 from its best to the end
backward transfer  mean change of a project's F1 from when it was learned to the end
forward transfer   mean F1 of a project just before it is learned, minus that of the first model
below joint        F1 of joint training minus mean F1 at the end
part of joint      CPU time of an update by that of joint training
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.database import Database
from cryoflow.detector.examples import POSITIVE
from cryoflow.detector.prepare import PIXELS_PER_DIAMETER
from cryoflow.detector.simulated import OVERSAMPLING, truth_of
from cryoflow.learning.detector_learner import DetectorLearner, DetectorTraining
from cryoflow.learning.items import Item, read_pieces, write_pieces
from cryoflow.learning.learner import Learner
from cryoflow.learning.unpicker_learner import UnpickerLearner, UnpickerTraining
from cryoflow.learning.update_records import f1_of
from cryoflow.micrographs.image import write_mrc
from cryoflow.pickers.comparing.matching import match_picks
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.preparation.devices import load_keras
from cryoflow.simulate.blob_picker import pick_blobs
from cryoflow.simulate.conditions import random_conditions
from cryoflow.simulate.families import FAMILIES, make_specimen
from cryoflow.simulate.micrograph import simulate_exposure
from cryoflow.storage.fingerprints import checksum
from cryoflow.unpicker.parameters import RECIPES
from cryoflow.unpicker.train_options import TrainOptions

FIELD_DIAMETERS = 12.0
SURVIVED = 0.8
"""Share of the particles that a refinement keeps."""
BLOB_THRESHOLD = 2.0

WAYS: Mapping[str, Mapping[str, object]] = {
    "fine-tuned": {"replay": False, "distill": 0.0, "frozen_norm": False, "interpolation": 1.0},
    "replayed": {"replay": True, "distill": 0.0, "frozen_norm": True, "interpolation": 1.0},
    "distilled": {"interpolation": 1.0},
    "interpolated": {},
}
Row = dict[str, object]


@dataclass(frozen=True)
class Project:
    """Items of one project: learned from, and held out."""

    name: str
    new: list[Item]
    held_out: list[Item]


@dataclass(frozen=True)
class Size:
    """Micrographs of one project: to learn from, and held out."""

    learned: int = 6
    held_out: int = 6

    @property
    def total(self) -> int:
        """Number of both."""
        return self.learned + self.held_out

    def check(self, done: Path) -> None:
        """Refuse a folder that an earlier call filled with projects of another size."""
        text = done.read_text()  # empty in folders of before sizes could be chosen
        there = Size(*json.loads(text)) if text else Size()
        if there != self:
            sys.exit(f"{done.parent} holds {there.learned} + {there.held_out} micrographs: give another --folder")


def main() -> None:
    """Run the sequence once a seed, and print one record of each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where micrographs and models go")
    parser.add_argument("--network", choices=("detector", "unpicker"), default="detector")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--specimens", type=int, default=12)
    parser.add_argument("--steps", type=int, default=DetectorTraining().steps, help="batches of a round, detector")
    parser.add_argument("--epochs", type=int, default=UnpickerTraining().update_epochs, help="of an unpicker's update")
    parser.add_argument("--joint-epochs", type=int, default=RECIPES["detector"].epochs, help="of the unpicker")
    parser.add_argument("--micrographs", type=int, default=Size().learned, help="of a project, to learn from")
    parser.add_argument("--held-out", type=int, default=Size().held_out, help="of a project, to score on")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--batch", type=int, default=DetectorTraining().batch)
    parser.add_argument("--crop", type=int, default=192)
    given = parser.parse_args()
    load_keras()
    size = Size(given.micrographs, given.held_out)
    rows = []
    for seed in given.seeds:
        folder = given.folder / f"seed{seed}"
        database = Database(folder / "database")
        names = add_projects(database, folder, given.specimens, seed, size)
        rows += run_sequence(database, folder / given.network, names, seed, given)
    if len(given.seeds) > 1:
        for way in dict.fromkeys(r["way"] for r in rows):
            mine = [r for r in rows if r["way"] == way]
            numbers = [k for k, v in mine[0].items() if isinstance(v, float) and k != "seed"]
            print(json.dumps({"way": way, **{k: _spread([float(r[k]) for r in mine]) for k in numbers}}))  # type: ignore[arg-type]


def add_projects(database: Database, folder: Path, number: int, seed: int, size: Size) -> list[str]:
    """Simulate projects, families in turn, and add their picks to a database; those that are there stay."""
    names = []
    for i in range(number):
        family = FAMILIES[i % len(FAMILIES)]
        name = f"{family}-{1000 * seed + i}"
        names.append(name)
        home = folder / name
        done = home / "done"
        if done.is_file():
            size.check(done)
        else:
            _add_project(database, home, name, family, 1000 * seed + i, size)
            done.write_text(json.dumps([size.learned, size.held_out]))
    return names


def _add_project(database: Database, home: Path, name: str, family: str, seed: int, size: Size) -> None:
    home.mkdir(parents=True, exist_ok=True)
    specimen = make_specimen(family, seed)
    conditions = random_conditions(np.random.default_rng([seed, 90]), points_per_object=3000)
    pixel_A = specimen.diameter_A / PIXELS_PER_DIAMETER / OVERSAMPLING
    edge = 2 * round(FIELD_DIAMETERS * PIXELS_PER_DIAMETER * OVERSAMPLING / 2)
    radius_px = 0.25 * specimen.diameter_A / pixel_A
    kept, seen = [], []
    for i in range(size.total):
        rng = np.random.default_rng([seed, 91, i])
        exposure = simulate_exposure(specimen, (edge, edge), pixel_A, rng, conditions)
        write_mrc(home / _micrograph(i), exposure.image, pixel_A)
        truth = truth_of(exposure, specimen, pixel_A)
        xy = truth.xy_px[truth.kind == POSITIVE]
        blobs, _ = pick_blobs(exposure.image, pixel_A, specimen.diameter_A, threshold=BLOB_THRESHOLD)
        found = match_picks(xy, blobs, radius_px)
        complete = i >= size.learned
        survived = np.ones(len(xy), bool) if complete else rng.random(len(xy)) < SURVIVED
        # A picking job of the project found all particles: those that the blob picker misses are candidates as well.
        missed = np.setdiff1d(np.arange(len(xy)), found.reference)
        kept += [(i, *p) for p in xy[survived].tolist()]
        seen += [(i, *p) for p in np.concatenate([blobs, xy[missed]]).tolist()]
    n = size.total
    for kind, job, rows in ((Kind.REFINE_3D, "job010", kept), (Kind.AUTO_PICK, "job003", seen)):
        table = micrograph_table(
            {
                "name": [_micrograph(i) for i in range(n)],
                "path": [str(home / _micrograph(i)) for i in range(n)],
                "status": ["found"] * n,
                "ny": [edge] * n,
                "nx": [edge] * n,
                "pixel_size_A": [pixel_A] * n,
            }
        )
        picks = pd.DataFrame(rows, columns=["micrograph", "x_px", "y_px"])
        where = Provenance("relion", home, name, job, kind)
        database.add(PickSet.build(where, table, picks, diameter_A=specimen.diameter_A))


def _micrograph(number: int) -> str:
    return f"{number:02d}.mrc"


def learner_of(database: Database, way: Mapping[str, object], seed: int, given: argparse.Namespace) -> Learner:
    """Return the learner of the network, which learns in one way."""
    if given.network == "detector":
        # Rounds of an update and of joint training are those of the product; crops are smaller.
        training = DetectorTraining(steps=given.steps, batch=given.batch, crop_px=given.crop, seed=seed)
        return DetectorLearner(database, replace(training, **way))  # type: ignore[arg-type]
    options = TrainOptions.of("detector", epochs=given.joint_epochs, seed=seed, workers=1, tensorboard=False)
    return UnpickerLearner(database, replace(UnpickerTraining(options, update_epochs=given.epochs), **way))  # type: ignore[arg-type]


def run_sequence(
    database: Database, folder: Path, names: Sequence[str], seed: int, given: argparse.Namespace
) -> list[Row]:
    """Learn the projects one after the other in each way, and all together; return one record of each way."""
    size = Size(given.micrographs, given.held_out)
    projects = _prepared(learner_of(database, {}, seed, given), folder / "prepared", names, size)
    held_out = [item for p in projects for item in p.held_out]
    rows = []
    joint, joint_s = _joint(learner_of(database, {}, seed, given), projects, folder)
    together = _scores(learner_of(database, {}, seed, given), joint, names, held_out)
    for way in given.ways:
        learner = learner_of(database, WAYS[way], seed, given)
        start = learner.base()
        first = _scores(learner, start, names, held_out) if start else np.zeros(len(names))

        def say(so_far: npt.NDArray[np.float64], way: str = way, first: npt.NDArray[np.float64] = first) -> None:
            n = len(so_far)
            if n > 1:
                print(json.dumps({"way": way, "arrived": n, **_rounded(figures(first[:n], so_far[:, :n]))}), flush=True)

        table, seconds = _one_way(learner, projects, _work(folder, way, learner), held_out, say)
        record = {**figures(first, table), "joint": together.mean(), "update_cpu_s": float(np.mean(seconds[1:]))}
        record |= {"joint_cpu_s": joint_s, "below_joint": record["joint"] - record["at_the_end"]}
        record["part_of_joint"] = record["update_cpu_s"] / joint_s
        rows.append({"way": way, "seed": seed, **_rounded(record)})
        print(json.dumps({"network": given.network, **rows[-1]}), flush=True)
    return rows


def _prepared(learner: Learner, folder: Path, names: Sequence[str], size: Size) -> list[Project]:
    sources = {s.project: s for s in learner.sources()[0]}
    projects = []
    for name in names:
        source = sources[name]
        contents = {micrograph: checksum(path) for micrograph, path in source.paths.items()}
        held = {_micrograph(i) for i in range(size.learned, size.total)}
        new, failed = learner.prepare(
            source, {m: c for m, c in contents.items() if m not in held}, folder / name / "new"
        )
        apart, more = learner.prepare(
            source, {m: c for m, c in contents.items() if m in held}, folder / name / "held", held_out=True
        )
        for error in (*failed, *more):
            raise error
        projects.append(Project(name, new, apart))
    return projects


def _joint(learner: Learner, projects: Sequence[Project], folder: Path) -> tuple[Path, float]:
    began, work = _cpu_s(), _work(folder, "joint", learner)
    new = [item for p in projects for item in p.new]
    model = learner.train(learner.base(), new, [], work, joint=True, say=lambda _: None)
    return model, _spent(work / "cpu_s.txt", _cpu_s() - began)


def _work(folder: Path, way: str, learner: Learner) -> Path:
    """Return where the models of a way are kept: those of another recipe are not taken for its own."""
    return folder / f"{way}-{learner.recipe[:8]}"


def _one_way(
    learner: Learner,
    projects: Sequence[Project],
    folder: Path,
    held_out: Sequence[Item],
    say: Callable[[npt.NDArray[np.float64]], None],
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Return F1 of each project after each arrival, (arrivals, projects), and the CPU seconds of each update."""
    names = [p.name for p in projects]
    kept: list[Item] = []
    start, table, seconds = learner.base(), [], []
    for number, project in enumerate(projects):
        work = folder / f"{number:02d}"
        began = _cpu_s()
        start = learner.train(start, project.new, kept, work, joint=start is None, say=lambda _: None)
        seconds.append(_spent(work / "cpu_s.txt", _cpu_s() - began))
        file = work / "exemplars.npz"
        write_pieces(file, project.name, learner.exemplars(project.new))
        kept = [*kept, *read_pieces(file, work / "exemplars")]
        table.append(_scores(learner, start, names, held_out))
        say(np.array(table))
    return np.array(table), seconds


def _scores(
    learner: Learner, model: Path | None, names: Sequence[str], held_out: Sequence[Item]
) -> npt.NDArray[np.float64]:
    """Return F1 of a model on the held-out micrographs of each project."""
    assert model is not None
    counts = learner.count(model, held_out)
    return np.array([f1_of([c for c in counts if c.project == name]) for name in names])


def figures(first: npt.NDArray[np.float64], table: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return forgetting, transfer and F1 from F1 of the first model (projects,) and after each arrival.

    >>> table = np.array([[0.8, 0.5], [0.7, 0.9]])
    >>> {k: round(v, 2) for k, v in figures(np.array([0.6, 0.4]), table).items()}
    {'forgetting': 0.1, 'backward': -0.1, 'forward': 0.1, 'new_before': 0.55, 'new_after': 0.85, 'at_the_end': 0.8}
    """
    learned, end = np.diag(table), table[-1]
    best = np.array([table[i:, i].max() for i in range(len(end))])
    before = np.array([first[0], *(table[i - 1, i] for i in range(1, len(end)))])
    return {
        "forgetting": float((best - end)[:-1].mean()),
        "backward": float((end - learned)[:-1].mean()),
        "forward": float((before - first)[1:].mean()),
        "new_before": float(before.mean()),
        "new_after": float(learned.mean()),
        "at_the_end": float(end.mean()),
    }


def _rounded(record: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in record.items()}


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} +- {np.std(values, ddof=1) / math.sqrt(len(values)):.3f}"


def _spent(file: Path, seconds: float) -> float:
    """Return the CPU seconds of a training; those of one that an earlier run did are read."""
    if not file.is_file():
        file.write_text(f"{seconds:.1f}")
    return float(file.read_text())


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
