"""A whole simulated data set: micrographs, their truth, and what a permissive picker made of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.simulate.blob_picker import RIGHT_WITHIN, match_to_truth, pick_blobs
from cryoflow.simulate.conditions import STANDARD, Conditions
from cryoflow.simulate.density import SPECIMENS, Specimen
from cryoflow.simulate.ground_truth import load_dataset, read_recipe, write_truth
from cryoflow.simulate.micrograph import simulate_exposure
from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph
from cryoflow.simulate.specimens import specimen_named
from cryoflow.storage.fingerprints import fingerprint_of
from cryoflow.storage.safe_names import inside, safe_name
from cryoflow.system.cpus import available_cpus

MICROGRAPHS_FOLDER = "Micrographs"
_VERSION = 2  # raise it where the same arguments give other micrographs


def simulate_dataset(
    folder: str | Path,
    *,
    specimen: str | Specimen = "barrel",
    n_micrographs: int = 24,
    shape_yx: tuple[int, int] = (1536, 2048),
    pixel_size_A: float = 1.5,
    seed: int = 1,
    conditions: Conditions = STANDARD,
    workers: int | None = None,
    on_micrograph: Callable[[SimulatedMicrograph], None] | None = None,
) -> SimulatedDataset:
    """Simulate micrographs of one specimen, and write them with their truth.

    Writes `folder/Micrographs/NAME_0001.mrc` (float32, electrons a pixel) and so on, and last `folder/truth.json`, from
    which `load_dataset` reads the same data set. A micrograph depends on the seed, the specimen and its number alone,
    not on how many there are or how many workers made them. Where the folder already holds what these arguments would
    make, it is loaded and not made again; where it holds another data set, that is left alone.

    Parameters
    ----------
    specimen
        `barrel` (D7, 160 A), `large` (no symmetry, 250 A), `small` (no symmetry, 110 A, low contrast), a family with a
        number such as `shell:7`, or a specimen made from a density or a structure (`cryoflow.simulate.specimens`).
    conditions
        Microscope, dose, ice and contamination.
    workers
        Threads; by default one for each core. Threads serve as well as processes here: nearly all the time is spent in
        NumPy and SciPy, which let others run.
    on_micrograph
        Called for each one when it is there, in order: for progress.

    Returns
    -------
    SimulatedDataset
        Class of a pick: 0 where it is wrong, else 1, 2 or 3 by the angle between the particle's axis and the beam
        (below 30, below 60, above).

    Raises
    ------
    BadInput
        Where the folder holds a data set made from other arguments, or by another version of the simulator.
    ValueError
        Where there is no such specimen, or no room for a particle.
    """
    subject = specimen_named(specimen) if isinstance(specimen, str) else specimen
    if n_micrographs < 1 or min(shape_yx) * pixel_size_A < 3 * subject.diameter_A:
        raise ValueError(
            f"{n_micrographs} micrographs of {shape_yx} pixels hold no particle of {subject.diameter_A:g} A"
        )
    stem = safe_name(subject.name)
    folder = Path(folder).absolute()
    recipe: dict[str, object] = {
        "simulator": _VERSION,
        "specimen": specimen if isinstance(specimen, str) else _described(specimen),
        "n_micrographs": n_micrographs,
        "shape_yx": list(shape_yx),
        "pixel_size_A": pixel_size_A,
        "seed": seed,
        "name": stem,
        "picker_sigma": subject.picker_sigma,
    }
    if conditions != STANDARD:
        recipe["conditions"] = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(conditions).items()}
    if there_already := read_recipe(folder):
        if there_already != recipe:
            other = ", ".join(f"{k} {v}" for k, v in there_already.items() if recipe.get(k) != v)
            raise BadInput(
                folder, f"holds another simulated data set ({other}).", "Name a new folder, or remove this one."
            )
        there = load_dataset(folder)
        if all(m.path.is_file() for m in there.micrographs):
            if on_micrograph:
                for micrograph in there.micrographs:
                    on_micrograph(micrograph)
            return there

    def make(number: int) -> SimulatedMicrograph:
        path = inside(folder, f"{MICROGRAPHS_FOLDER}/{stem}_{number + 1:04d}.mrc")
        rng = np.random.default_rng([seed, *_stream_of(subject), number])
        return _simulate_micrograph(path, subject, shape_yx, pixel_size_A, rng, conditions)

    made: list[SimulatedMicrograph] = []
    with ThreadPoolExecutor(workers or available_cpus()) as pool:
        try:
            for micrograph in pool.map(make, range(n_micrographs)):
                made.append(micrograph)
                if on_micrograph:
                    on_micrograph(micrograph)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or an interrupt would wait for all the rest
            raise
    dataset = SimulatedDataset(
        stem,
        tuple(made),
        subject.diameter_A,
        conditions.voltage_kV,
        conditions.cs_mm,
        conditions.amplitude_contrast,
        seed=seed,
    )
    write_truth(folder, dataset, recipe)
    return load_dataset(folder)  # rounded as the file has it: made and loaded data sets are the same


def _stream_of(subject: Specimen) -> tuple[int, ...]:
    """Return the seeds that make the random numbers of one specimen's micrographs differ from another's."""
    if subject.name in SPECIMENS:
        return (SPECIMENS.index(subject.name),)
    return (len(SPECIMENS), *subject.name.encode()[:64])


def _described(subject: Specimen) -> dict[str, object]:
    """Return the fingerprint of a specimen that has no name in cryoflow."""
    points = fingerprint_of(np.ascontiguousarray(subject.points).tobytes(), digits=16)
    return {"name": subject.name, "points": points, "diameter_A": subject.diameter_A, "contrast": subject.contrast}


def _simulate_micrograph(
    path: Path,
    subject: Specimen,
    shape_yx: tuple[int, int],
    pixel_size_A: float,
    rng: np.random.Generator,
    conditions: Conditions,
) -> SimulatedMicrograph:
    exposure = simulate_exposure(subject, shape_yx, pixel_size_A, rng, conditions)
    write_mrc(path, exposure.image, pixel_size_A)
    picks, scores = pick_blobs(exposure.image, pixel_size_A, subject.diameter_A, threshold=subject.picker_sigma)
    particle = match_to_truth(picks, exposure.true_xy_px, RIGHT_WITHIN * subject.diameter_A / pixel_size_A)
    right = particle >= 0
    psi_deg, view = np.full(len(picks), np.nan), np.zeros(len(picks), np.int32)
    psi_deg[right] = exposure.true_psi_deg[particle[right]]
    view[right] = 1 + np.digitize(exposure.true_tilt_deg[particle[right]], (30, 60))
    return SimulatedMicrograph(
        path=path,
        shape_yx=shape_yx,
        pixel_size_A=pixel_size_A,
        defocus_u_A=exposure.ctf.defocus_u_A,
        defocus_v_A=exposure.ctf.defocus_v_A,
        defocus_angle_deg=exposure.ctf.defocus_angle_deg,
        true_xy_px=exposure.true_xy_px,
        picks_xy_px=picks,
        pick_scores=scores,
        pick_is_right=right,
        pick_psi_deg=psi_deg,
        pick_class=view,
    )
