"""Specimens: complexes of known shape, as points that each stand for one residue.

No real structure is used. A complex is a set of ellipsoidal domains; a domain is a bundle of parallel helices, 10 A
apart with a residue each 1.5 A along them, which gives the density of protein (one residue in about 130 A^3) and its
texture at 10 A. What micrographs show of a complex at 6 A and coarser, its outline, lobes, cavities and their
projections from all sides, is there; its finer structure is invented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]
"""(n, 3) float32, x, y, z in angstrom."""

HELIX_SPACING_A = 10.0
RISE_A = 1.5


@dataclass(frozen=True)
class Specimen:
    """A complex and how it behaves on the grid.

    Attributes
    ----------
    name, symmetry
        What it is called, and its point group.
    points : (n, 3) float32
        Residues about the complex's center, in angstrom.
    diameter_A
        What a user would type as its diameter.
    contrast
        Part of the contrast of protein in pure water ice that is left: the rest is lost to detergent, salt and damage.
    whole_per_um2
        Whole, isolated particles that the grid tries to hold, per square micrometre.
    picker_sigma
        Where the permissive picker draws its line.
    weights : (n,) float32 or None
        Residues that each point stands for; None where it is one. Negative where a part is lighter than ice.
    """

    name: str
    symmetry: str
    points: Points
    diameter_A: float
    contrast: float
    whole_per_um2: float
    picker_sigma: float
    weights: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Domain:
    """An ellipsoid: center, half axes (angstrom) and a turn about z (degrees)."""

    center_A: tuple[float, float, float]
    half_axes_A: tuple[float, float, float]
    turn_deg: float = 0.0


def fill_domains(domains: Sequence[Domain], rng: np.random.Generator) -> Points:
    """Return residues of some domains, each a bundle of helices along a direction of its own; the first has what
    overlaps."""
    filled: list[npt.NDArray[np.float64]] = []
    for number, domain in enumerate(domains):
        points = _bundle(max(domain.half_axes_A), random_rotation(rng)) + domain.center_A
        points = points[_inside(points, domain)]
        for earlier in domains[:number]:
            points = points[~_inside(points, earlier)]
        filled.append(points)
    return np.concatenate(filled).astype(np.float32)


def dihedral_copies(points: Points, fold: int) -> Points:
    """Return all copies of one subunit under D`fold`: turns about z, and a half turn about x."""
    angles = 2 * np.pi * np.arange(fold) / fold
    turned = np.concatenate([points @ _about_z(a).T for a in angles])
    return np.concatenate([turned, turned * (1, -1, -1)]).astype(np.float32)


def random_rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a rotation matrix, uniform over all rotations (Shoemake, 1992, from a random unit quaternion)."""
    w, x, y, z = (lambda q: q / np.linalg.norm(q))(rng.standard_normal(4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def random_coil(n_residues: int, radius_of_gyration_A: float, rng: np.random.Generator) -> Points:
    """Return a denatured chain: a random walk, scaled to a radius of gyration, with its residues in a loose cloud
    about it."""
    walk = np.cumsum(rng.standard_normal((n_residues, 3)), axis=0)
    walk -= walk.mean(axis=0)
    walk *= radius_of_gyration_A / np.sqrt((walk**2).sum(axis=1).mean())
    return (walk + rng.normal(0, 0.35 * radius_of_gyration_A, walk.shape)).astype(np.float32)


def thinned(
    points: Points,
    weights: npt.NDArray[np.float32] | None,
    at_most: int | None,
    rng: np.random.Generator,
) -> tuple[Points, npt.NDArray[np.float32] | None]:
    """Return a random part of an object's points that weighs as much as all of them."""
    if at_most is None or len(points) <= at_most:
        return points, weights
    kept = rng.integers(0, len(points), at_most)
    each = np.ones(at_most, np.float32) if weights is None else weights[kept]
    return points[kept], each * np.float32(len(points) / at_most)


def _bundle(radius_A: float, rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return points of hexagonally packed parallel rods that fill a ball."""
    reach = np.arange(-np.ceil(radius_A / HELIX_SPACING_A) - 1, np.ceil(radius_A / HELIX_SPACING_A) + 2)
    column, row = (g.ravel() for g in np.meshgrid(reach, reach))
    x, y = HELIX_SPACING_A * (column + row % 2 / 2), HELIX_SPACING_A * np.sqrt(0.75) * row
    near = x**2 + y**2 <= radius_A**2
    along = np.arange(-radius_A, radius_A, RISE_A)
    rods = np.stack(np.broadcast_arrays(x[near, None], y[near, None], along[None, :]), axis=-1).reshape(-1, 3)
    turned: npt.NDArray[np.float64] = rods @ rotation.T
    return turned


def _inside(points: npt.NDArray[np.float64], domain: Domain) -> npt.NDArray[np.bool_]:
    local = (points - domain.center_A) @ _about_z(np.radians(domain.turn_deg))
    inside: npt.NDArray[np.bool_] = ((local / domain.half_axes_A) ** 2).sum(axis=1) <= 1
    return inside


def _about_z(angle: float) -> npt.NDArray[np.float64]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def _on_ring(radius_A: float, degrees: float, z_A: float, half_axes_A: tuple[float, float, float]) -> Domain:
    """Return a domain at a place of a ring, its first half axis pointing outwards."""
    angle = np.radians(degrees)
    center = (radius_A * float(np.cos(angle)), radius_A * float(np.sin(angle)), z_A)
    return Domain(center, half_axes_A, degrees)


def _centered(points: Points) -> Points:
    centered: Points = (points - points.mean(axis=0)).astype(np.float32)
    return centered


def _barrel() -> Specimen:
    """Return two rings of seven, back to back, about a cavity: 135 A wide, 145 A high, 0.8 MDa, like a chaperonin."""
    subunit = [
        _on_ring(43, 0, 19, (25, 20, 18)),
        _on_ring(50, 11, 42, (15, 13, 15)),
        _on_ring(45, 16, 61, (23, 17, 13)),
    ]
    points = dihedral_copies(fill_domains(subunit, np.random.default_rng(7)), 7)
    return Specimen("barrel", "D7", _centered(points), 160.0, 0.5, 900.0, 1.9)


def _large() -> Specimen:
    """Return two unequal lobes of many domains with a cleft and a stalk: 240 A long, 1.3 MDa, no symmetry, like a
    ribosome."""
    rng = np.random.default_rng(11)
    lobes = (((0.0, 0.0, 28.0), (88.0, 72.0, 58.0), 34), ((8.0, 10.0, -62.0), (78.0, 50.0, 34.0), 18))
    domains: list[Domain] = []
    for center, half_axes, number in lobes:
        placed = 0
        while placed < number:
            place = rng.uniform(-1, 1, 3)
            if (place**2).sum() > 1:
                continue
            x, y, z = (np.array(center) + place * np.array(half_axes)).tolist()
            a, b, c = rng.uniform(15, 27, 3).tolist()
            domains.append(Domain((x, y, z), (a, b, c), rng.uniform(0, 180)))
            placed += 1
    domains += [Domain((104.0, 20.0, 40.0), (30.0, 12.0, 12.0), 15), Domain((-70.0, -62.0, 20.0), (16.0, 26.0, 14.0))]
    return Specimen("large", "C1", _centered(fill_domains(domains, rng)), 250.0, 0.5, 420.0, 2.0)


def _small() -> Specimen:
    """Return five domains around a groove: 100 A long, 130 kDa, no symmetry, at low contrast, like a membrane
    protein."""
    domains = [
        Domain((-24.0, 4.0, 0.0), (28.0, 22.0, 21.0)),
        Domain((22.0, -6.0, 6.0), (26.0, 20.0, 22.0), 20),
        Domain((4.0, 24.0, -12.0), (20.0, 15.0, 17.0), 50),
        Domain((-6.0, -14.0, 30.0), (16.0, 14.0, 18.0)),
        Domain((38.0, 18.0, -14.0), (17.0, 12.0, 13.0), 70),
    ]
    return Specimen(
        "small", "C1", _centered(fill_domains(domains, np.random.default_rng(13))), 110.0, 0.62, 1200.0, 2.5
    )


_MAKERS: dict[str, Callable[[], Specimen]] = {"barrel": _barrel, "large": _large, "small": _small}
SPECIMENS = tuple(_MAKERS)
"""Names of the specimens that can be simulated."""


@cache
def find_specimen(name: str) -> Specimen:
    """Return the specimen of this name.

    Raises
    ------
    ValueError
        Where there is none; lists those that there are.
    """
    if name not in _MAKERS:
        raise ValueError(f"there is no specimen {name!r}; there are {', '.join(SPECIMENS)}")
    return _MAKERS[name]()
