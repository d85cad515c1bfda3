"""Families of invented complexes: from a seed, a new specimen of a known kind of shape, size and symmetry.

They serve to train and evaluate pickers on more than three specimens. All are made of the ellipsoidal domains of
`cryoflow.simulate.density`; sizes, numbers, symmetries and contrasts are drawn at random, 70 to 400 A across.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from cryoflow.simulate.density import Domain, Points, Specimen, fill_domains, thinned

_MOST_POINTS = 40_000
_LEAST_RESIDUES = 550
_RADIUS_QUANTILE = 0.985
"""Part of the mass that lies within half the diameter: a user's diameter does not count the last stray loop."""

Shape = tuple[Points, npt.NDArray[np.float32] | None, str]
"""Points, their weights and the point group."""


def make_specimen(family: str, seed: int) -> Specimen:
    """Return the specimen of a family and a seed; the same two give the same specimen.

    Raises
    ------
    ValueError
        Where there is no such family; lists them.
    """
    if family not in _FAMILIES:
        raise ValueError(f"there is no family {family!r}; there are {', '.join(FAMILIES)}")
    rng = np.random.default_rng([seed, *family.encode()])
    for _ in range(20):
        size = math.exp(rng.uniform(math.log(75), math.log(380)))
        points, weights, symmetry = _FAMILIES[family](size, rng)
        # Nobody sees complexes below about 60 kDa; large but thin ones vanish likewise.
        if len(points) > _LEAST_RESIDUES * (size / 80) ** 1.3:
            break
    return specimen_of_points(f"{family}-{seed}", symmetry, points, weights, rng)


def specimen_of_points(
    name: str,
    symmetry: str,
    points: Points,
    weights: npt.NDArray[np.float32] | None,
    rng: np.random.Generator,
    *,
    diameter_A: float | None = None,
    contrast: float | None = None,
) -> Specimen:
    """Return a specimen of any points; contrast and crowding are drawn, the diameter measured, where not given."""
    points, weights = thinned(points, weights, _MOST_POINTS, rng)
    mass = None if weights is None else np.maximum(weights, 0)
    points = (points - np.average(points, axis=0, weights=mass)).astype(np.float32)
    if diameter_A is None:
        diameter_A = 2 * _quantile(np.linalg.norm(points, axis=1), mass, _RADIUS_QUANTILE)
    coverage = math.exp(rng.uniform(math.log(0.04), math.log(0.55)))  # particles per square diameter
    return Specimen(
        name=name,
        symmetry=symmetry,
        points=points,
        diameter_A=float(diameter_A),
        contrast=rng.uniform(0.4, 0.85) if contrast is None else contrast,
        whole_per_um2=coverage * 1e8 / float(diameter_A) ** 2,
        picker_sigma=2.0,
        weights=weights,
    )


def _quantile(values: npt.NDArray[np.floating], mass: npt.NDArray[np.float32] | None, share: float) -> float:
    if mass is None:
        return float(np.quantile(values, share))
    order = np.argsort(values)
    below = np.cumsum(mass[order], dtype=np.float64)
    return float(values[order][min(int(np.searchsorted(below, share * below[-1])), len(values) - 1)])


def _copies(points: Points, fold: int, *, dihedral: bool) -> Points:
    """Return all copies of a subunit under C`fold` or D`fold`."""
    angles = 2 * np.pi * np.arange(fold) / fold
    turned = []
    for angle in angles:
        c, s = math.cos(angle), math.sin(angle)
        turned.append(points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32))
    copies = np.concatenate(turned)
    if dihedral:
        copies = np.concatenate([copies, copies * np.array((1, -1, -1), np.float32)])
    return copies.astype(np.float32)


def _random_symmetry(rng: np.random.Generator) -> tuple[str, int, bool]:
    fold = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.45, 0.2, 0.12, 0.1, 0.05, 0.08]))
    dihedral = fold > 1 and rng.random() < 0.4
    return (f"D{fold}" if dihedral else f"C{fold}"), fold, dihedral


def _blob(
    center: npt.ArrayLike, half_axes: npt.ArrayLike, number: int, grain: tuple[float, float], rng: np.random.Generator
) -> list[Domain]:
    """Return domains that fill an ellipsoid loosely."""
    domains: list[Domain] = []
    while len(domains) < number:
        place = rng.uniform(-1, 1, 3)
        if (place**2).sum() <= 1:
            x, y, z = (np.asarray(center) + place * np.asarray(half_axes)).tolist()
            a, b, c = rng.uniform(*grain, 3).tolist()
            domains.append(Domain((x, y, z), (a, b, c), rng.uniform(0, 180)))
    return domains


def _globular(size: float, rng: np.random.Generator) -> Shape:
    """Return a lump of domains with clefts; round to twice as long as wide."""
    name, fold, dihedral = _random_symmetry(rng)
    grain = size * rng.uniform(0.12, 0.22)
    axes = size / 2 * np.array((rng.uniform(0.5, 1), rng.uniform(0.5, 1), 1.0)) - grain * 0.8
    if fold == 1:
        domains = _blob((0, 0, 0), axes, int(rng.integers(6, 22)), (0.6 * grain, 1.2 * grain), rng)
        return fill_domains(domains, rng), None, name
    at = np.array((rng.uniform(0.3, 0.6) * size / 2, 0.0, size / 5 if dihedral else 0.0))
    unit = _blob(at, axes * rng.uniform(0.35, 0.6), int(rng.integers(3, 8)), (0.5 * grain, grain), rng)
    return _copies(fill_domains(unit, rng), fold, dihedral=dihedral), None, name


def _barrel(size: float, rng: np.random.Generator) -> Shape:
    """Return rings about a channel, stacked: proteasomes, chaperonins, portals."""
    fold, dihedral = int(rng.integers(5, 13)), bool(rng.random() < 0.6)
    height = size * rng.uniform(0.6, 0.95)
    outer = math.sqrt(max(size**2 - height**2, (0.55 * size) ** 2)) / 2
    wall = outer * rng.uniform(0.28, 0.5)
    layers = int(rng.integers(1, 4)) * (1 if dihedral else 2)
    tall = height / (2 * layers if dihedral else layers)
    unit = []
    for layer in range(layers):
        z = (layer + 0.5) * tall if dihedral else (layer + 0.5) * tall - height / 2
        angle = rng.uniform(0, 2 * np.pi / fold)
        radius = (outer - wall) * rng.uniform(0.9, 1.1)
        place = (radius * math.cos(angle), radius * math.sin(angle), z)
        wide = min(wall, 1.25 * np.pi * radius / fold)
        unit.append(Domain(place, (wall * rng.uniform(0.8, 1.1), wide, 0.6 * tall), math.degrees(angle)))
    points = _copies(fill_domains(unit, rng), fold, dihedral=dihedral)
    return points, None, f"{'D' if dihedral else 'C'}{fold}"


def _shell(size: float, rng: np.random.Generator) -> Shape:
    """Return a hollow sphere of subunits: ferritin, encapsulin, small capsids; full ones too."""
    radius, thickness = size / 2, size * rng.uniform(0.09, 0.2)
    number = int(rng.choice([12, 24, 32, 42, 60]))
    index = np.arange(number) + 0.5
    polar, around = np.arccos(1 - 2 * index / number), np.pi * (1 + 5**0.5) * index
    wide = 1.25 * radius * math.sqrt(4 / number)
    domains = []
    for t, p in zip(polar, around, strict=True):
        middle = (radius - thickness / 2) * rng.uniform(0.97, 1.0)
        place = (
            middle * math.sin(t) * math.cos(p),
            middle * math.sin(t) * math.sin(p),
            middle * math.cos(t),
        )
        domains.append(Domain(place, (wide, wide, wide)))
    points = fill_domains(domains, rng)
    depth = np.linalg.norm(points, axis=1)
    points = points[(depth < radius) & (depth > radius - thickness)]
    if rng.random() < 0.25:  # with a cargo, lighter than the shell
        cargo = fill_domains([Domain((0.0, 0.0, 0.0), ((radius - thickness) * 0.9,) * 3)], rng)
        light = np.concatenate([np.ones(len(points)), np.full(len(cargo), rng.uniform(0.2, 0.8))])
        return np.concatenate([points, cargo]), light.astype(np.float32), "I"
    return points, None, "O" if number == 24 else "I"


def _rod(size: float, rng: np.random.Generator) -> Shape:
    """Return domains on a line, straight or bent; 2.2 to 4.5 times as long as wide."""
    wide = size / rng.uniform(2.2, 4.5) / 2
    number = max(2, round(size / (1.5 * wide)))
    bend = rng.uniform(0, 0.9)
    along = np.linspace(-1, 1, number) * (size / 2 - wide)
    domains = []
    for x in along:
        place = (float(x), float(bend * wide * 3 * ((x / size * 2) ** 2 - 0.3)), float(rng.normal(0, 0.15 * wide)))
        a, b, c = (wide * rng.uniform(0.75, 1.15, 3)).tolist()
        domains.append(Domain(place, (a * 1.1, b, c)))
    return fill_domains(domains, rng), None, "C1"


def _ring(size: float, rng: np.random.Generator) -> Shape:
    """Return a flat ring with a hole."""
    fold = int(rng.integers(4, 15))
    wall = size * rng.uniform(0.11, 0.18)
    radius = size / 2 - wall
    unit = [
        Domain((radius, 0.0, 0.0), (wall, min(wall, 1.2 * np.pi * radius / fold), wall * rng.uniform(0.8, 1.6))),
        Domain((radius * 0.95, wall * 0.5, wall), (0.6 * wall, 0.5 * wall, 0.5 * wall), 30.0),
    ]
    return _copies(fill_domains(unit, rng), fold, dihedral=False), None, f"C{fold}"


def _y_shaped(size: float, rng: np.random.Generator) -> Shape:
    """Return three arms of two domains each, like an antibody."""
    wide = size * rng.uniform(0.09, 0.14)
    angles = np.radians(np.array((90, 215, 325)) + rng.normal(0, 14, 3))
    domains = [Domain((0.0, 0.0, 0.0), (wide, wide, wide))]
    for angle in angles:
        reach = size / 2 * rng.uniform(0.8, 1.0)
        for part in (0.45, 0.85):
            place = (part * reach * math.cos(angle), part * reach * math.sin(angle), float(rng.normal(0, 0.3 * wide)))
            domains.append(Domain(place, (1.6 * wide, wide, 0.9 * wide), math.degrees(angle)))
    return fill_domains(domains, rng), None, "C1"


def _two_domain(size: float, rng: np.random.Generator) -> Shape:
    """Return two lumps of unequal size with a neck between them."""
    first = size * rng.uniform(0.24, 0.32)
    second = size / 2 - first + size * rng.uniform(-0.03, 0.03)
    second = max(second, 0.12 * size)
    left, right = -size / 2 + first, size / 2 - second
    grain = size * 0.14
    domains = _blob((left, 0, 0), (first * 0.6,) * 3, 7, (0.7 * grain, 1.2 * grain), rng)
    domains += _blob((right, 0, 0), (second * 0.6,) * 3, 4, (0.5 * grain, grain), rng)
    domains.append(Domain(((left + right) / 2, 0.0, 0.0), (0.25 * size, 0.07 * size, 0.07 * size)))
    return fill_domains(domains, rng), None, "C1"


def _micelle(size: float, rng: np.random.Generator) -> Shape:
    """Return a membrane protein: helices through a belt of detergent, with a soluble part on one side or both."""
    fold = int(rng.choice([1, 2, 3, 4, 5]))
    belt = size * rng.uniform(0.32, 0.5)
    thick = min(42.0, 0.5 * size) / 2
    core = belt * rng.uniform(0.45, 0.7)
    domains = [Domain((0.0, 0.0, 0.0), (core, core * rng.uniform(0.7, 1.0), thick * 1.15))]
    reach = size * rng.uniform(0.15, 0.55)
    if reach > 0.2 * size:
        domains += _blob(
            (0, 0, thick + reach / 2),
            (core * rng.uniform(0.5, 1.0), core * rng.uniform(0.5, 1.0), reach / 2),
            int(rng.integers(3, 9)),
            (0.08 * size, 0.16 * size),
            rng,
        )
    if rng.random() < 0.3:
        domains += _blob((0, 0, -thick - size * 0.08), (core * 0.6,) * 3, 3, (0.06 * size, 0.1 * size), rng)
    protein = fill_domains(domains, rng)
    detergent = fill_domains([Domain((0.0, 0.0, 0.0), (belt, belt * rng.uniform(0.85, 1), thick * 1.3))], rng)
    inside = ((detergent / np.array((core, core, 3 * thick))) ** 2).sum(axis=1) < 1
    detergent = detergent[~inside]
    weights = np.concatenate([np.ones(len(protein)), np.full(len(detergent), rng.uniform(0.25, 0.65))])
    return np.concatenate([protein, detergent]), weights.astype(np.float32), f"C{fold}" if fold == 1 else "C1"


def _filament_end(size: float, rng: np.random.Generator) -> Shape:
    """Return a short filament: subunits on a helix, a diameter long."""
    wide = size * rng.uniform(0.12, 0.22)
    rise, twist = wide * rng.uniform(0.4, 0.9), math.radians(rng.uniform(20, 170))
    hollow = rng.uniform(0.0, 0.6) * wide
    domains = []
    for i in range(max(3, min(60, int(0.92 * size / rise)))):
        z = -0.46 * size + i * rise
        place = (hollow * math.cos(i * twist), hollow * math.sin(i * twist), z)
        domains.append(Domain(place, (0.9 * wide, 0.8 * wide, 0.7 * rise), math.degrees(i * twist)))
    return fill_domains(domains, rng), None, "helical"


def _assembly(size: float, rng: np.random.Generator) -> Shape:
    """Return domains joined at random: compact, branched, in chains, flat, or about an axis with a hole or without."""
    name, fold, dihedral = _random_symmetry(rng)
    number = int(rng.integers(2, 15)) if fold == 1 else int(rng.integers(1, 7))
    chain, flatness = rng.uniform(0, 1), rng.uniform(0.2, 1.0)
    half_axes = np.exp(rng.uniform(math.log(0.5), math.log(1.3), (number, 3)))
    centers = np.zeros((number, 3))
    for i in range(1, number):
        # The latest domain continues a chain; any earlier one makes a branch.
        parent = i - 1 if rng.random() < chain else int(rng.integers(i))
        direction = rng.standard_normal(3) * (1, 1, flatness)
        apart = 0.75 * (half_axes[i].mean() + half_axes[parent].mean())
        centers[i] = centers[parent] + apart * direction / max(float(np.linalg.norm(direction)), 1e-6)
    centers -= centers.mean(axis=0)
    if fold > 1:
        extent = float((np.linalg.norm(centers, axis=1) + half_axes.mean(axis=1)).max())
        # At the farther limit, neighboring copies still touch.
        from_axis = extent * rng.uniform(0.3, 0.8 / math.sin(math.pi / fold))
        centers += (from_axis, 0, extent * rng.uniform(0.1, 0.7) if dihedral else 0)
    scale = size / 2 / float((np.linalg.norm(centers, axis=1) + half_axes.mean(axis=1)).max())
    domains = []
    for center, half in zip(centers * scale, half_axes * scale, strict=True):
        (x, y, z), (a, b, c) = center.tolist(), half.tolist()
        domains.append(Domain((x, y, z), (a, b, c), rng.uniform(0, 180)))
    return _copies(fill_domains(domains, rng), fold, dihedral=dihedral), None, name


_FAMILIES: dict[str, Callable[[float, np.random.Generator], Shape]] = {
    "globular": _globular,
    "barrel": _barrel,
    "shell": _shell,
    "rod": _rod,
    "ring": _ring,
    "y-shaped": _y_shaped,
    "two-domain": _two_domain,
    "micelle": _micelle,
    "filament-end": _filament_end,
    "assembly": _assembly,
}

FAMILIES = tuple(_FAMILIES)
"""Names of the families."""
