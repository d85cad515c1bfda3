"""Conditions under which micrographs are simulated: the microscope, the camera, the ice and what lies in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Conditions:
    """Everything about a micrograph except its specimen; the defaults are those of `cryoflow simulate`.

    Attributes
    ----------
    voltage_kV, cs_mm, amplitude_contrast, defocus_A, astigmatism_A
        Of the contrast transfer; defocus and astigmatism are drawn evenly between two limits.
    dose_per_A2, detective_efficiency, b_factor_A2
        Electrons; share of the signal that the camera keeps; damping by damage, drift and coherence.
    ice_A, ice_grain_rad
        Thickness, drawn evenly between two limits; phase noise of ice 300 A thick in a pixel of 1.5 A.
    support_rad
        Phase of a thin carbon film under the whole field, 0 for none. Particles on it are usable.
    crowding, spacing
        Whole particles for each one that the specimen asks for, drawn between two limits; least distance of two objects
        in diameters.
    broken, denatured, copurified, pairs, clumps_per_um2
        Objects for each whole particle; aggregates of 4 to 12 objects, per square micrometer at 160 A.
    carbon, gold, lattice, ice_crystals_per_um2
        Probability of the edge of a carbon film, of gold beads and of a crystalline patch; ice crystals.
    points_per_object
        Most points that an object is projected with; None projects all. A few thousand serve at coarse pixels.
    """

    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    defocus_A: tuple[float, float] = (10_000.0, 30_000.0)
    astigmatism_A: tuple[float, float] = (0.0, 400.0)
    dose_per_A2: float = 40.0
    detective_efficiency: float = 0.8
    b_factor_A2: float = 150.0
    ice_A: tuple[float, float] = (250.0, 500.0)
    ice_grain_rad: float = 0.016
    support_rad: float = 0.0
    crowding: tuple[float, float] = (0.65, 1.25)
    spacing: float = 1.12
    broken: float = 0.38
    denatured: float = 0.35
    copurified: float = 0.25
    pairs: float = 0.12
    clumps_per_um2: float = 12.0
    carbon: float = 0.3
    gold: float = 0.2
    lattice: float = 0.25
    ice_crystals_per_um2: float = 18.0
    points_per_object: int | None = None


STANDARD = Conditions()
"""What `cryoflow simulate` uses where nothing else is asked for."""


def random_conditions(rng: np.random.Generator, *, points_per_object: int | None = None) -> Conditions:
    """Draw the conditions of one data set: microscopes, cameras, doses, defocus 0.5 to 3.5 um, thin to thick ice.

    A third of the data sets is clean, a third has some junk and a third has much of it.
    """
    voltage = float(rng.choice([300.0, 200.0], p=[0.75, 0.25]))
    nearest = rng.uniform(5_000, 18_000)
    thinnest = rng.uniform(120, 500)
    junk = float(rng.choice([0.15, 0.6, 1.2])) * rng.uniform(0.6, 1.4)
    return Conditions(
        voltage_kV=voltage,
        cs_mm=float(rng.choice([2.7, 2.0, 0.01, 1.4], p=[0.7, 0.1, 0.1, 0.1])),
        amplitude_contrast=float(rng.choice([0.07, 0.1, 0.15])),
        defocus_A=(nearest, min(35_000.0, nearest + rng.uniform(4_000, 18_000))),
        astigmatism_A=(0.0, rng.uniform(0, 800)),
        dose_per_A2=math.exp(rng.uniform(math.log(22), math.log(80))),
        detective_efficiency=rng.uniform(0.45, 0.9),
        b_factor_A2=rng.uniform(60, 300),
        ice_A=(thinnest, thinnest + rng.uniform(50, 400)),
        ice_grain_rad=rng.uniform(0.008, 0.024),
        support_rad=rng.uniform(0.1, 0.4) if rng.random() < 0.12 else 0.0,
        crowding=(rng.uniform(0.3, 0.9), rng.uniform(1.0, 1.6)),
        spacing=rng.uniform(0.92, 1.2),
        broken=0.35 * junk * rng.uniform(0.3, 1.5),
        denatured=0.35 * junk * rng.uniform(0.3, 1.5),
        copurified=0.25 * junk * rng.uniform(0.0, 1.5),
        pairs=0.12 * rng.uniform(0.2, 2.0),
        clumps_per_um2=14.0 * junk * rng.uniform(0.2, 1.5),
        carbon=0.4 * min(junk, 1.0),
        gold=0.15 * min(junk, 1.0),
        lattice=0.15 * min(junk, 1.0),
        ice_crystals_per_um2=25.0 * junk * rng.uniform(0.2, 1.5),
        points_per_object=points_per_object,
    )
