"""What lies on one micrograph: particles whole and not whole, and where (angstrom, from the first pixel)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cryoflow.simulate.conditions import STANDARD, Conditions
from cryoflow.simulate.density import Domain, Points, Specimen, fill_domains, random_coil, random_rotation, thinned

_BEYOND = 0.6  # objects may lie this many diameters beyond the edge: they are cut by it


class Thing(IntEnum):
    """Kind of a simulated object."""

    WHOLE = 0
    """A complete particle, placed on its own."""
    CROWDED = 1
    """A complete particle that touches or overlaps another."""
    BROKEN = 2
    DENATURED = 3
    COPURIFIED = 4


@dataclass(frozen=True)
class Scene:
    """All objects of a micrograph.

    Attributes
    ----------
    thing : (n,) int
        Values of `Thing`.
    xy_A : (n, 2) float
        Centers.
    radius_A : (n,) float
        How far each reaches.
    tilt_deg, psi_deg : (n,) float
        Angle between the particle's z axis and the beam, and in-plane angle as RELION's `rlnAnglePsi` has it.
    points : list of n (m, 2) float32
        Residues, projected, relative to the center.
    weights : list of n (m,) float32 or None
        Residues that each point stands for; None, or an empty list, where it is one.
    """

    thing: npt.NDArray[np.int8]
    xy_A: npt.NDArray[np.float64]
    radius_A: npt.NDArray[np.float64]
    tilt_deg: npt.NDArray[np.float64]
    psi_deg: npt.NDArray[np.float64]
    points: list[npt.NDArray[np.float32]]
    weights: list[npt.NDArray[np.float32] | None] = field(default_factory=list)

    def isolated(self) -> npt.NDArray[np.bool_]:
        """Return which objects no other one comes close to: centers further apart than the two radii."""
        alone = np.ones(len(self.thing), bool)
        if len(self.thing) > 1:
            tree = cKDTree(self.xy_A)
            for i, j in tree.query_pairs(2 * float(self.radius_A.max())):
                if np.hypot(*(self.xy_A[i] - self.xy_A[j])) < self.radius_A[i] + self.radius_A[j]:
                    alone[i] = alone[j] = False
        return alone


def build_scene(
    specimen: Specimen,
    extent_xy_A: tuple[float, float],
    rng: np.random.Generator,
    conditions: Conditions = STANDARD,
) -> Scene:
    """Place objects at random over a field of `extent_xy_A`, and a little beyond its edges.

    Particles that are to be whole keep their distance where there is room; a part is set on top of others, some clump
    into aggregates, and broken, denatured and foreign ones lie anywhere.
    """
    diameter = specimen.diameter_A
    area_um2 = (extent_xy_A[0] + _BEYOND * diameter) * (extent_xy_A[1] + _BEYOND * diameter) * 1e-8
    crowding = rng.uniform(*conditions.crowding)  # some areas of a grid hold more than others
    whole = specimen.whole_per_um2 * crowding * area_um2
    plans: list[tuple[Thing, float]] = [
        (Thing.WHOLE, whole),
        (Thing.BROKEN, conditions.broken * whole),
        (Thing.DENATURED, conditions.denatured * whole),
        (Thing.COPURIFIED, conditions.copurified * whole),
    ]
    things: list[Thing] = []
    centers: list[npt.NDArray[np.float64]] = []
    low, high = -_BEYOND * diameter * np.ones(2), np.array(extent_xy_A) + _BEYOND * diameter
    for thing, expected in plans:
        for _ in range(rng.poisson(expected)):
            place = _free_place(centers, low, high, conditions.spacing * diameter, rng)
            if place is not None:
                things.append(thing)
                centers.append(place)
    for place in _pairs(rng.poisson(conditions.pairs * whole), diameter, low, high, rng):
        things.append(Thing.CROWDED)
        centers.append(place)
    for _ in range(rng.poisson(conditions.clumps_per_um2 * area_um2 * (160 / diameter) ** 1.5)):
        for place in _clump(int(rng.integers(4, 13)), diameter, low, high, rng):
            things.append(rng.choice(np.array([Thing.CROWDED, Thing.BROKEN, Thing.DENATURED]), p=[0.5, 0.3, 0.2]))
            centers.append(place)

    made = [_MAKERS[Thing(thing)](specimen, rng) for thing in things]
    tilts, psis, points, weights = [], [], [], []
    for model, weight in made:
        model, weight = thinned(model, weight, conditions.points_per_object, rng)
        rotation = random_rotation(rng)
        points.append((model @ rotation[:2].T).astype(np.float32))
        weights.append(weight)
        tilts.append(np.degrees(np.arccos(np.clip(abs(rotation[2, 2]), 0, 1))))
        psis.append(np.degrees(np.arctan2(rotation[1, 2], -rotation[0, 2])))
    return Scene(
        np.array(things, np.int8),
        np.array(centers, np.float64).reshape(-1, 2),
        np.array([_reach(p, diameter) for p in points], np.float64),
        np.array(tilts, np.float64),
        np.array(psis, np.float64),
        points,
        weights,
    )


def _free_place(
    centers: list[npt.NDArray[np.float64]],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    distance_A: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float64] | None:
    """Return a random place away from all others, or None where a few tries found none: the grid is full."""
    taken = np.array(centers).reshape(-1, 2)
    for place in rng.uniform(low, high, (12, 2)):
        if not len(taken) or ((taken - place) ** 2).sum(axis=1).min() > distance_A**2:
            return np.asarray(place)
    return None


def _pairs(
    number: int, diameter: float, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield two particles that touch or overlap, `number` times."""
    for _ in range(number):
        first, angle = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
        yield first
        yield first + diameter * rng.uniform(0.3, 0.85) * np.array([np.cos(angle), np.sin(angle)])


def _clump(
    number: int, diameter: float, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], rng: np.random.Generator
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield an aggregate: each next one sticks to one that is there."""
    places = [rng.uniform(low, high)]
    for _ in range(number):
        yield places[-1]
        angle = rng.uniform(0, 2 * np.pi)
        step = diameter * rng.uniform(0.35, 0.8) * np.array([np.cos(angle), np.sin(angle)])
        places.append(places[int(rng.integers(len(places)))] + step)


Object = tuple[Points, npt.NDArray[np.float32] | None]
"""Points of an object, and the residues that each stands for."""


def _whole(specimen: Specimen, rng: np.random.Generator) -> Object:  # noqa: ARG001  # one signature for all makers
    return specimen.points, specimen.weights


def _broken(specimen: Specimen, rng: np.random.Generator) -> Object:
    """Return what is left on one side of a random plane, 30 to 65 % of it, about its own center."""
    normal = random_rotation(rng)[2]
    height = specimen.points @ normal
    kept = height < np.quantile(height, rng.uniform(0.30, 0.65))
    left = specimen.points[kept]
    centered: Points = (left - left.mean(axis=0)).astype(np.float32)
    return centered, None if specimen.weights is None else specimen.weights[kept]


def _denatured(specimen: Specimen, rng: np.random.Generator) -> Object:
    """Return a coil of a part of the chain, swollen or collapsed."""
    number = max(200, int(len(specimen.points) * rng.uniform(0.2, 0.9)))
    coil = random_coil(number, specimen.diameter_A * rng.uniform(0.25, 0.45), rng)
    if specimen.weights is None:
        return coil, None
    return coil, np.full(number, np.abs(specimen.weights).mean(), np.float32)


def _copurified(specimen: Specimen, rng: np.random.Generator) -> Object:
    """Return one of three foreign complexes."""
    return _foreign(specimen.diameter_A)[int(rng.integers(3))], None


_MAKERS: dict[Thing, Callable[[Specimen, np.random.Generator], Object]] = {
    Thing.WHOLE: _whole,
    Thing.CROWDED: _whole,
    Thing.BROKEN: _broken,
    Thing.DENATURED: _denatured,
    Thing.COPURIFIED: _copurified,
}


@cache
def _foreign(diameter_A: float) -> tuple[Points, Points, Points]:
    """Return a rod, a compact globule and a bent dimer, sized by the specimen so that a blob picker takes them for
    it."""
    d = diameter_A
    rod = [Domain((x * d, 0.0, 0.0), (0.13 * d, 0.13 * d, 0.13 * d)) for x in (-0.42, -0.21, 0.0, 0.21, 0.42)]
    globule = [Domain((0.0, 0.0, 0.0), (0.27 * d, 0.24 * d, 0.22 * d))]
    dimer = [
        Domain((-0.24 * d, 0.0, 0.0), (0.24 * d, 0.15 * d, 0.15 * d), 30.0),
        Domain((0.22 * d, 0.05 * d, 0.0), (0.24 * d, 0.15 * d, 0.15 * d), -40.0),
    ]
    rng = np.random.default_rng(17)
    return fill_domains(rod, rng), fill_domains(globule, rng), fill_domains(dimer, rng)


def _reach(points: npt.NDArray[np.float32], diameter_A: float) -> float:
    """Return radius about the center that holds nearly all of an object, no more than a particle's own."""
    radius = float(np.quantile(np.hypot(points[:, 0], points[:, 1]), 0.98))
    return min(radius, diameter_A / 2)
