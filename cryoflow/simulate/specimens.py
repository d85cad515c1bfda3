"""Specimens from what a user has: a name, a family and seed, a density map, or the structure of a complex."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, CryoflowError
from cryoflow.micrographs.header import read_header
from cryoflow.micrographs.image import read_stack
from cryoflow.simulate.density import SPECIMENS, Specimen, find_specimen, random_rotation
from cryoflow.simulate.families import FAMILIES, make_specimen, specimen_of_points
from cryoflow.storage import inputs

if TYPE_CHECKING:
    import gemmi

RESIDUE_A3 = 130.0
"""Volume of protein for each residue."""

RESIDUE_DA = 110.0
_POINTS = 40_000
_LARGEST_VOXELS = 512
_FIELD = 0.15  # density below this part of the highest 0.1 % is noise or solvent
_HALF = 0.35  # at 10 A, the contour at this part encloses about the volume of the protein
_LARGEST_STRUCTURE = 512 << 20


def specimen_named(text: str) -> Specimen:
    """Return the specimen of a name: `barrel`, or a family and a seed, as in `shell:7`.

    Raises
    ------
    ValueError
        Where there is none; lists names and families.
    """
    if text in SPECIMENS:
        return find_specimen(text)
    family, colon, seed = text.partition(":")
    if family in FAMILIES and colon and seed.isascii() and seed.isdigit() and len(seed) < 10:
        return make_specimen(family, int(seed))
    raise ValueError(
        f"there is no specimen {text!r}; there are {', '.join(SPECIMENS)}, and new ones of the families "
        f"{', '.join(FAMILIES)}, each with a number, as in {FAMILIES[0]}:1"
    )


def specimen_from_density(
    path: str | Path,
    *,
    voxel_size_A: float | None = None,
    diameter_A: float | None = None,
) -> Specimen:
    """Return the specimen that a density map shows.

    What is denser than a sixth of the densest parts counts as the complex; its volume gives the number of residues.

    Parameters
    ----------
    voxel_size_A
        None takes the header's.
    diameter_A
        None measures it: 98.5 % of the mass lies within.

    Raises
    ------
    BadInput
        Where the file is no map, or shows nothing.
    """
    path = Path(path)
    header = read_header(path)
    n_z, (n_y, n_x) = header.n_sections, header.shape_yx
    if n_z < 8 or max(n_z, n_y, n_x) > _LARGEST_VOXELS:
        raise BadInput(
            path,
            f"is {n_x} x {n_y} x {n_z} voxels: a density map has 8 to {_LARGEST_VOXELS} along each axis.",
            "Give a map, not an image; bin a larger one.",
        )
    voxel = voxel_size_A or header.pixel_size_A
    if not voxel or not voxel > 0:
        raise BadInput(path, "has no voxel size in its header.", "Give it in angstrom (--voxel-size).")
    density = read_stack(path)
    if not np.isfinite(density).all():
        raise BadInput(path, "has voxels that are NaN or infinite.")
    dense = np.sort(density.ravel())[-max(8, density.size // 1000) :].mean()
    share = np.clip(density / dense - _FIELD, 0, None) if dense > 0 else np.zeros_like(density)
    occupied = int((share > 0).sum())
    if not occupied or occupied > 0.6 * density.size:
        raise BadInput(
            path, "shows no complex that stands out from its surroundings.", "Is it masked, and not inverted?"
        )
    rng = np.random.default_rng(0)
    chosen = rng.choice(density.size, _POINTS, p=(share / share.sum(dtype=np.float64)).ravel())
    z, y, x = np.unravel_index(chosen, density.shape)
    points = np.stack([x, y, z], axis=1) + rng.uniform(-0.5, 0.5, (_POINTS, 3))
    residues = int((density > _HALF * dense).sum()) * voxel**3 / RESIDUE_A3
    weights = np.full(_POINTS, residues / _POINTS, np.float32)
    return _specimen(path.stem, points * voxel, weights, diameter_A)


def specimen_from_structure(
    path: str | Path,
    *,
    assembly: str | None = None,
    diameter_A: float | None = None,
) -> Specimen:
    """Return the specimen of a structure in a PDB or mmCIF file: its biological assembly.

    Parameters
    ----------
    assembly
        Name of the assembly in the file; None takes the first, and the chains as they are where there is none.

    Raises
    ------
    BadInput
        Where the file cannot be read, has no atoms, or no such assembly.
    """
    path = Path(path)
    structure = _read_structure(path)
    names = [a.name for a in structure.assemblies]
    if assembly is not None and assembly not in names:
        raise BadInput(path, f"has no assembly {assembly!r}; it has {', '.join(names) or 'none'}.")
    model = structure[0]
    if names:
        import gemmi

        wanted = structure.assemblies[names.index(assembly) if assembly else 0]
        try:
            model = gemmi.make_assembly(wanted, model, gemmi.HowToNameCopiedChain.Dup)
        except (RuntimeError, ValueError) as error:
            raise BadInput(path, f"its assembly {wanted.name} cannot be built: {error}.") from error
    centers, masses = [], []
    for chain in model:
        for residue in chain:
            if residue.is_water() or not len(residue):
                continue
            atoms = np.array([a.pos.tolist() for a in residue])
            centers.append(atoms.mean(axis=0))
            masses.append(sum(a.element.weight * a.occ for a in residue) / RESIDUE_DA)
    if len(centers) < 20 or not np.isfinite(centers).all():
        raise BadInput(path, f"has {len(centers)} residues: too few for a particle.")
    return _specimen(path.stem, np.array(centers), np.array(masses, np.float32), diameter_A)


def _read_structure(path: Path) -> gemmi.Structure:
    try:
        import gemmi
    except ImportError as error:
        raise CryoflowError("Structures are read with gemmi, which is not installed: pip install gemmi.") from error
    try:
        content = inputs.read_bytes(path, at_most=_LARGEST_STRUCTURE)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    try:
        if path.suffix.lower() in (".cif", ".mmcif"):
            block = gemmi.cif.read_string(content.decode(errors="replace")).sole_block()
            structure = gemmi.make_structure_from_block(block)
        else:
            structure = gemmi.read_pdb_string(content.decode(errors="replace"))
    except (RuntimeError, ValueError, IndexError) as error:
        raise BadInput(path, f"is no structure: {error}.", "Give a PDB or mmCIF file.") from error
    structure.setup_entities()
    if not len(structure) or not any(len(chain) for chain in structure[0]):
        raise BadInput(path, "has no atoms.", "Give a PDB or mmCIF file of a structure.")
    return structure


def _specimen(
    name: str,
    points: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float32],
    diameter_A: float | None,
) -> Specimen:
    """Return a specimen in a random orientation: maps and structures come with axes of their own."""
    rng = np.random.default_rng([len(points), *name.encode()[:64]])
    turned = (points @ random_rotation(rng).T).astype(np.float32)
    specimen = specimen_of_points(name, "C1", turned, weights, rng, diameter_A=diameter_A, contrast=0.5)
    if not math.isfinite(specimen.diameter_A) or not 20 < specimen.diameter_A < 5000:
        raise BadInput(Path(name), f"is {specimen.diameter_A:.3g} A across.", "Are its coordinates in angstrom?")
    return specimen
