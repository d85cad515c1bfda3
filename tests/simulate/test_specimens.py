"""New specimens: of families, of density maps, of structures; and micrographs of them under other conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.simulate import load_dataset, simulate_dataset
from cryoflow.simulate.conditions import STANDARD, random_conditions
from cryoflow.simulate.density import find_specimen
from cryoflow.simulate.families import FAMILIES, make_specimen
from cryoflow.simulate.micrograph import simulate_exposure
from cryoflow.simulate.specimens import specimen_from_density, specimen_from_structure, specimen_named


def write_map(path: Path, density: np.ndarray, voxel_A: float) -> Path:
    write_mrc(path, density.astype("<f4"), voxel_A)
    return path


def ellipsoid(half_axes_zyx: tuple[float, float, float], edge: int = 40) -> np.ndarray:
    grid = np.indices((edge,) * 3) - edge / 2
    return (sum((g / a) ** 2 for g, a in zip(grid, half_axes_zyx, strict=True)) <= 1).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_makes_visible_complexes_of_the_stated_size_each_seed_another(family: str) -> None:
    made = [make_specimen(family, seed) for seed in range(6)]
    for specimen in made:
        assert 55 < specimen.diameter_A < 460
        mass = len(specimen.points) if specimen.weights is None else float(specimen.weights.sum())
        assert mass > 300  # 33 kDa: less than that nobody sees
        distance = np.linalg.norm(specimen.points, axis=1)
        assert 0.95 < (distance <= specimen.diameter_A / 2).mean() <= 1
    assert len({round(s.diameter_A, 3) for s in made}) == 6
    again = make_specimen(family, 3)
    np.testing.assert_array_equal(again.points, made[3].points)


def test_shells_are_hollow_and_rods_are_long() -> None:
    for seed in range(4):
        shell = make_specimen("shell", seed)
        inner = np.linalg.norm(shell.points, axis=1) < 0.2 * shell.diameter_A
        weight = np.ones(len(shell.points)) if shell.weights is None else shell.weights
        assert weight[inner].sum() < 0.06 * weight.sum()
        rod = make_specimen("rod", seed)
        lengths = np.sqrt(np.linalg.eigvalsh(np.cov(rod.points.T)))
        assert lengths[2] > 1.8 * lengths[1]


def test_a_density_becomes_a_specimen_of_its_size_and_mass(tmp_path: Path) -> None:
    specimen = specimen_from_density(write_map(tmp_path / "egg.mrc", ellipsoid((8, 8, 12)), 10.0))
    assert specimen.name == "egg"
    assert specimen.diameter_A == pytest.approx(240, rel=0.08)
    volume_A3 = 4 / 3 * np.pi * 80 * 80 * 120
    assert specimen.weights is not None
    assert float(specimen.weights.sum()) == pytest.approx(volume_A3 / 130, rel=0.1)
    lengths = np.sqrt(np.linalg.eigvalsh(np.cov(specimen.points.T)))
    assert lengths[2] / lengths[0] == pytest.approx(1.5, rel=0.08)


@pytest.mark.parametrize(
    ("density", "reason"),
    [
        (np.zeros((20, 20, 20)), "shows no complex"),
        (np.ones((20, 20, 20)), "shows no complex"),
        (np.ones((1, 20, 20)), "a density map has 8"),
        (np.full((20, 20, 20), np.nan), "NaN"),
    ],
)
def test_what_is_no_density_is_refused(tmp_path: Path, density: np.ndarray, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        specimen_from_density(write_map(tmp_path / "x.mrc", density, 10.0))


PDB_ATOM = "ATOM  {n:5d}  CA  ALA A{r:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C\n"
DIMER = """REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2  1.000000  0.000000  0.000000       80.00000
REMARK 350   BIOMT2   2  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
"""


def chain(number: int = 300) -> str:
    rng = np.random.default_rng(1)
    at = rng.normal(0, 12, (number, 3))
    atoms = [PDB_ATOM.format(n=i + 1, r=i + 1, x=x, y=y, z=z) for i, (x, y, z) in enumerate(at)]
    return "".join(atoms) + "END\n"


def test_a_structure_comes_with_its_biological_assembly(tmp_path: Path) -> None:
    pytest.importorskip("gemmi")
    (tmp_path / "one.pdb").write_text(chain())
    (tmp_path / "two.pdb").write_text(DIMER + chain())
    one, two = (specimen_from_structure(tmp_path / f"{n}.pdb") for n in ("one", "two"))
    assert one.weights is not None
    assert two.weights is not None
    assert float(two.weights.sum()) == pytest.approx(2 * float(one.weights.sum()), rel=1e-3)
    assert two.diameter_A == pytest.approx(one.diameter_A + 80, rel=0.15)
    with pytest.raises(BadInput, match="has no assembly '7'"):
        specimen_from_structure(tmp_path / "two.pdb", assembly="7")


@pytest.mark.parametrize("content", ["", "hello\n", "data_x\nloop_\n_a\n", chain(3)])
@pytest.mark.parametrize("ending", ["pdb", "cif"])
def test_what_is_no_structure_is_refused(tmp_path: Path, content: str, ending: str) -> None:
    pytest.importorskip("gemmi")
    (tmp_path / f"x.{ending}").write_text(content)
    with pytest.raises(BadInput):
        specimen_from_structure(tmp_path / f"x.{ending}")


def test_names_of_specimens() -> None:
    assert specimen_named("barrel") is find_specimen("barrel")
    assert specimen_named("shell:7").name == "shell-7"
    for wrong in ("cube", "shell", "shell:", "shell:-1", "shell:x", "cube:1"):
        with pytest.raises(ValueError, match="there is no specimen"):
            specimen_named(wrong)


def test_a_dataset_of_a_family_under_other_conditions_is_made_and_kept_apart(tmp_path: Path) -> None:
    conditions = replace(STANDARD, voltage_kV=200.0, dose_per_A2=20.0, carbon=1.0)
    given = {"n_micrographs": 1, "shape_yx": (300, 420), "pixel_size_A": 4.0, "seed": 3}
    dataset = simulate_dataset(tmp_path / "a", specimen="globular:5", conditions=conditions, **given)
    assert load_dataset(tmp_path / "a").voltage_kV == 200.0
    assert dataset.micrographs[0].path.name == "globular-5_0001.mrc"
    with pytest.raises(BadInput, match="another simulated data set"):
        simulate_dataset(tmp_path / "a", specimen="globular:5", **given)


def test_more_dose_means_less_noise() -> None:
    rng_of = np.random.default_rng
    quiet = replace(STANDARD, broken=0, denatured=0, copurified=0, pairs=0, clumps_per_um2=0, carbon=0, gold=0)
    quiet = replace(quiet, lattice=0, ice_crystals_per_um2=0, crowding=(0.0, 0.0))
    noise = []
    for dose in (20.0, 80.0):
        image = simulate_exposure(
            find_specimen("barrel"), (300, 400), 4.0, rng_of(1), replace(quiet, dose_per_A2=dose)
        ).image
        noise.append(np.diff(image, axis=1).std() / image.mean())
    assert noise[0] / noise[1] == pytest.approx(2, rel=0.1)


def test_random_conditions_stay_within_what_microscopes_do() -> None:
    drawn = [random_conditions(np.random.default_rng(i)) for i in range(60)]
    assert all(5_000 <= c.defocus_A[0] < c.defocus_A[1] <= 35_000 for c in drawn)
    assert {c.voltage_kV for c in drawn} == {200.0, 300.0}
    assert min(c.dose_per_A2 for c in drawn) < 30 < 60 < max(c.dose_per_A2 for c in drawn)


def test_real_densities_are_read(realdata: Path) -> None:
    for path in sorted((realdata / "densities").glob("*.mrc")):
        assert 80 < specimen_from_density(path).diameter_A < 330
