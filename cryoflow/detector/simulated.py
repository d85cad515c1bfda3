"""Labeled, prepared micrographs of simulated specimens: what the general model learns from.

They are simulated at a coarse pixel (36 to a diameter, 1.5 times the network's), where a micrograph of 16 diameters
takes a tenth of a second. Families of `HELD_OUT` are never trained on: they test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cryoflow.detector.examples import NEGATIVE, POSITIVE, UNKNOWN, Example
from cryoflow.detector.network import STRIDE
from cryoflow.detector.prepare import PIXELS_PER_DIAMETER, prepare
from cryoflow.simulate.conditions import random_conditions
from cryoflow.simulate.density import Specimen
from cryoflow.simulate.families import FAMILIES, make_specimen
from cryoflow.simulate.micrograph import Exposure, simulate_exposure
from cryoflow.simulate.scene import Scene, Thing
from cryoflow.storage.files import replacing
from cryoflow.storage.folders import make_folder
from cryoflow.storage.inputs import read_npz

HELD_OUT = ("ring", "two-domain", "y-shaped")
"""Families that no model learns from. With the densities of real complexes they test the general model."""

TRAINED = tuple(f for f in FAMILIES if f not in HELD_OUT)
"""Families that models may learn from; the recipe of the general model names those that it uses."""

OVERSAMPLING = 1.5
FIELD_DIAMETERS = 16.0
_TOUCHING = 0.8
"""Whole particles nearer than this part of the two radii together overlap: experts differ on them."""

_CLUMP = 4
"""So many objects that overlap are an aggregate."""

AWAY = (0.62, 1.6)
"""Below and above these ratios of true to assumed diameter, particles are not what is looked for."""


@dataclass(frozen=True)
class Truth:
    """Ground truth of a simulated micrograph, positions in its pixels.

    Attributes
    ----------
    xy_px : (n, 2) float
        All whole particles inside the image.
    kind : (n,) int8
        `POSITIVE` or, where experts would differ (overlaps, contamination, the edge), `UNKNOWN`; `NEGATIVE` in
        aggregates.
    junk : (ny, nx) bool
        Carbon, ice, gold, crystalline patches, aggregates.
    """

    xy_px: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int8]
    junk: npt.NDArray[np.bool_]


def truth_of(exposure: Exposure, specimen: Specimen, pixel_size_A: float) -> Truth:
    """Return which objects of an exposure are particles, and where it is contaminated."""
    ny, nx = exposure.image.shape
    scene = exposure.scene
    radius_px = specimen.diameter_A / 2 / pixel_size_A
    xy = scene.xy_A.reshape(-1, 2) / pixel_size_A
    overlapped, clumped = _neighbors(scene)
    junk = exposure.dirty.copy()
    for (x, y), reach in zip(xy[clumped], scene.radius_A[clumped] / pixel_size_A, strict=True):
        _disc(junk, x, y, float(reach))
    whole = np.isin(scene.thing, (Thing.WHOLE, Thing.CROWDED))
    inside = ((xy >= 0) & (xy <= (nx - 1, ny - 1))).all(axis=1)
    chosen = np.flatnonzero(whole & inside)
    edge = np.minimum(xy[chosen], (nx - 1, ny - 1) - xy[chosen]).min(axis=1, initial=np.inf) < 0.8 * radius_px
    clear = ndimage.distance_transform_edt(~exposure.dirty[::4, ::4]) * 4
    row, column = (
        np.minimum(np.rint(v / 4).astype(int), n - 1) for v, n in zip(xy[chosen].T[::-1], clear.shape, strict=True)
    )
    dirty = clear[row, column] < 0.8 * radius_px
    on_dirt = exposure.dirty[np.rint(xy[chosen, 1]).astype(int), np.rint(xy[chosen, 0]).astype(int)]
    kind = np.full(len(chosen), POSITIVE, np.int8)
    kind[edge | dirty | overlapped[chosen]] = UNKNOWN
    kind[on_dirt | clumped[chosen]] = NEGATIVE
    return Truth(xy[chosen], kind, junk)


def _neighbors(scene: Scene) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which objects overlap another one, and which belong to an aggregate."""
    n = len(scene.thing)
    overlapped, clumped = np.zeros(n, bool), np.zeros(n, bool)
    if n < 2:
        return overlapped, clumped
    pairs = spatial.cKDTree(scene.xy_A).query_pairs(2 * float(scene.radius_A.max()), output_type="ndarray")
    between = np.linalg.norm(scene.xy_A[pairs[:, 0]] - scene.xy_A[pairs[:, 1]], axis=1)
    pairs = pairs[between < _TOUCHING * scene.radius_A[pairs].sum(axis=1)]
    overlapped[pairs.ravel()] = True
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (n, n))
    _, member = connected_components(graph, directed=False)
    clumped = np.bincount(member)[member] >= _CLUMP
    return overlapped, clumped


def _disc(mask: npt.NDArray[np.bool_], x: float, y: float, radius: float) -> None:
    ny, nx = mask.shape
    rows = np.arange(max(0, int(y - radius)), min(ny, int(y + radius) + 2))
    columns = np.arange(max(0, int(x - radius)), min(nx, int(x + radius) + 2))
    if len(rows) and len(columns):
        near = (rows[:, None] - y) ** 2 + (columns[None, :] - x) ** 2 <= radius**2
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] |= near


@dataclass(frozen=True)
class ExamplePlan:
    """One simulated micrograph, as plain values from which it is made anywhere, always the same."""

    family: str
    specimen_seed: int
    micrograph: int
    seed: int
    hard: bool = False
    """Wrong diameters up to five times too small, crowded layers, and pixels as coarse as half of the network's."""

    @property
    def stem(self) -> str:
        """Return the name of its files."""
        return f"{self.family}-{self.specimen_seed:05d}-{self.micrograph}-s{self.seed}" + ("-hard" if self.hard else "")


def plans(
    n_specimens: int, per_specimen: int, *, seed: int, families: Sequence[str] = TRAINED, hard: bool = False
) -> Iterator[ExamplePlan]:
    """Yield the plans of a set: families in turn, a new specimen each time."""
    for i in range(n_specimens):
        for j in range(per_specimen):
            yield ExamplePlan(families[i % len(families)], seed * 100_000 + i, j, seed, hard)


def simulate_examples(
    plan_list: Sequence[ExamplePlan],
    folder: Path,
    *,
    workers: int = 1,
    on_made: Callable[[int], None] | None = None,
) -> list[Example]:
    """Make the examples of some plans in a folder; existing ones are not made again."""
    make_folder(folder)
    made: list[Example] = []
    if workers <= 1:
        results: Iterator[Example] = (make_example(p, folder) for p in plan_list)
        for example in results:
            made.append(example)
            if on_made:
                on_made(len(made))
        return made
    with ProcessPoolExecutor(workers) as pool:
        for example in pool.map(make_example, plan_list, [folder] * len(plan_list), chunksize=8):
            made.append(example)
            if on_made:
                on_made(len(made))
    return made


def make_example(plan: ExamplePlan, folder: Path) -> Example:
    """Simulate, prepare and label one micrograph, or read it where it is there already."""
    file = folder / f"{plan.stem}.npz"
    if not file.is_file():
        _make(plan, folder)
    table = read_npz(file)
    return Example(
        pixels=folder / f"{plan.stem}.npy",
        data_set=f"{plan.family}-{plan.specimen_seed}",
        xy_px=table["xy_px"],
        kind=table["kind"],
        weight=table["weight"],
        log_size=float(table["log_size"]),
        junk=folder / f"{plan.stem}.junk.npy",
    )


def assumed_ratio(rng: np.random.Generator, *, hard: bool = False) -> float:
    """Draw true over assumed diameter: mostly near 1, a third up to 1.4 off, a tenth so far off that none counts."""
    draw = rng.random()
    if hard and draw < 0.2:
        return math.exp(rng.uniform(math.log(1.8), math.log(5.0)))
    if draw < 0.10:
        return math.exp(rng.choice([-1, 1]) * rng.uniform(math.log(1.7), math.log(2.8)))
    if draw < 0.45:
        return math.exp(rng.uniform(math.log(0.72), math.log(1.4)))
    return math.exp(rng.normal(0, 0.07))


def _make(plan: ExamplePlan, folder: Path) -> None:
    specimen = make_specimen(plan.family, plan.specimen_seed)
    # Two generators: conditions belong to the data set, the rest to the micrograph.
    conditions = random_conditions(np.random.default_rng([plan.specimen_seed, 1]), points_per_object=3000)
    rng = np.random.default_rng([plan.specimen_seed, 2, plan.micrograph])
    ratio = assumed_ratio(rng, hard=plan.hard)
    assumed_A = specimen.diameter_A / ratio
    oversampling = OVERSAMPLING
    if plan.hard:
        if rng.random() < 0.4:
            oversampling = rng.uniform(0.55, 1.3)
        if rng.random() < 0.2:
            specimen = replace(specimen, whole_per_um2=rng.uniform(0.5, 1.0) * 1e8 / specimen.diameter_A**2)
            # In a layer as dense as that, things that lie anywhere would make aggregates of most of it.
            conditions = replace(
                conditions,
                spacing=rng.uniform(0.86, 1.05),
                pairs=0.01,
                clumps_per_um2=1.0,
                copurified=0.02,
                broken=conditions.broken / 4,
                denatured=conditions.denatured / 4,
            )
    pixel_size_A = specimen.diameter_A / PIXELS_PER_DIAMETER / oversampling
    edge = 2 * round(FIELD_DIAMETERS * PIXELS_PER_DIAMETER * oversampling / min(ratio, 1.4) / 2)
    edge = int(np.clip(edge, 430 * oversampling / OVERSAMPLING, 900))
    if plan.hard:
        edge = min(edge, round(760 * oversampling / ratio))  # so many pixels for the network at most
    exposure = simulate_exposure(specimen, (edge, edge), pixel_size_A, rng, conditions)
    truth = truth_of(exposure, specimen, pixel_size_A)
    pixels = prepare(exposure.image, pixel_size_A, assumed_A)
    scale = pixels.shape[0] / edge
    kind = truth.kind.copy()
    if not AWAY[0] < ratio < AWAY[1]:
        kind[:] = NEGATIVE
    elif not 0.7 < ratio < 1.45:
        kind[kind == POSITIVE] = UNKNOWN
    weight = np.ones(len(kind), np.float32)
    junk = _junk_on_output(truth.junk, pixels.shape[:2])
    stem = folder / plan.stem
    for name, array in ((f"{stem}.npy", pixels), (f"{stem}.junk.npy", junk)):
        with replacing(Path(name)) as hidden, hidden.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    with replacing(Path(f"{stem}.npz")) as hidden, hidden.open("wb") as file:
        np.savez(file, xy_px=truth.xy_px * scale, kind=kind, weight=weight, log_size=np.float64(math.log(ratio)))


def _junk_on_output(junk: npt.NDArray[np.bool_], shape_yx: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a mask at the network's output resolution: the nearest pixel of the mask for each output pixel."""
    rows, columns = (
        np.minimum(((np.arange(n // STRIDE) * STRIDE + (STRIDE - 1) / 2) * full / n).astype(int), full - 1)
        for n, full in zip(shape_yx, junk.shape, strict=True)
    )
    return junk[np.ix_(rows, columns)].astype(np.uint8)
