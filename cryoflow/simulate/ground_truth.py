"""What is true of simulated micrographs, as a text file beside them, and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph
from cryoflow.storage.files import write_atomically
from cryoflow.storage.parsing import read_json

TRUTH_FILE = "truth.json"
"""Its name, in the folder of a data set. JSON; positions in pixels, in the frame of `cryoflow.picks`."""

_PICK_COLUMNS = ("x_px", "y_px", "score", "right", "psi_deg", "class")


def write_truth(folder: Path, dataset: SimulatedDataset, recipe: Mapping[str, object]) -> Path:
    """Write the truth of a data set; the same data set gives the same bytes.

    Parameters
    ----------
    recipe
        The arguments that it was made from, which a second run compares.
    """
    head = {
        "recipe": dict(recipe),
        "name": dataset.name,
        "diameter_A": dataset.diameter_A,
        "voltage_kV": dataset.voltage_kV,
        "cs_mm": dataset.cs_mm,
        "amplitude_contrast": dataset.amplitude_contrast,
        "seed": dataset.seed,
        "pick_columns": _PICK_COLUMNS,
    }
    lines = [json.dumps(head)[:-1] + ', "micrographs": [']
    lines.append(",\n".join(_micrograph_text(folder, m) for m in dataset.micrographs))
    lines.append("]}\n")
    file = folder / TRUTH_FILE
    write_atomically(file, "\n".join(lines))
    return file


def load_dataset(folder: str | Path) -> SimulatedDataset:
    """Read a data set that `simulate_dataset` made.

    Raises
    ------
    BadInput
        Where there is no truth file, or it is not one.
    """
    folder = Path(folder).absolute()
    document = _read(folder)
    try:
        return SimulatedDataset(
            name=str(document["name"]),
            micrographs=tuple(_micrograph(folder, m) for m in document["micrographs"]),  # type: ignore[attr-defined]
            diameter_A=float(document["diameter_A"]),  # type: ignore[arg-type]
            voltage_kV=float(document["voltage_kV"]),  # type: ignore[arg-type]
            cs_mm=float(document["cs_mm"]),  # type: ignore[arg-type]
            amplitude_contrast=float(document["amplitude_contrast"]),  # type: ignore[arg-type]
            seed=int(document["seed"]),  # type: ignore[call-overload]
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise BadInput(
            folder / TRUTH_FILE, f"is not the truth of a simulated data set ({error}).", "Simulate it again."
        ) from error


def read_recipe(folder: Path) -> Mapping[str, object]:
    """Return what a data set was made from; empty where there is none."""
    try:
        recipe = _read(folder).get("recipe")
    except BadInput:
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _read(folder: Path) -> Mapping[str, object]:
    file = folder / TRUTH_FILE
    try:
        document = read_json(file)
    except OSError as error:
        raise BadInput(
            file, f"cannot be read: {error.strerror}.", "Simulate it first: cryoflow simulate DIR."
        ) from error
    if not isinstance(document, dict):
        raise BadInput(file, "is not the truth of a simulated data set.", "Simulate it again.")
    return document


def _micrograph_text(folder: Path, micrograph: SimulatedMicrograph) -> str:
    m = micrograph
    picks = [
        [round(x, 2), round(y, 2), round(score, 4), int(right), None if np.isnan(psi) else round(psi, 2), int(number)]
        for (x, y), score, right, psi, number in zip(
            m.picks_xy_px.tolist(),
            m.pick_scores.tolist(),
            m.pick_is_right,
            m.pick_psi_deg.tolist(),
            m.pick_class,
            strict=True,
        )
    ]
    record = {
        "file": m.path.relative_to(folder).as_posix(),
        "shape_yx": list(m.shape_yx),
        "pixel_size_A": m.pixel_size_A,
        "defocus_u_A": round(m.defocus_u_A, 1),
        "defocus_v_A": round(m.defocus_v_A, 1),
        "defocus_angle_deg": round(m.defocus_angle_deg, 2),
        "particles_xy_px": [[round(x, 2), round(y, 2)] for x, y in m.true_xy_px.tolist()],
        "picks": picks,
    }
    return json.dumps(record)


def _micrograph(folder: Path, record: Mapping[str, object]) -> SimulatedMicrograph:
    particles = np.array(record["particles_xy_px"], np.float64).reshape(-1, 2)
    picks = np.array(record["picks"], np.float64).reshape(-1, len(_PICK_COLUMNS))
    ny, nx = np.array(record["shape_yx"], np.int64).tolist()
    return SimulatedMicrograph(
        path=folder / str(record["file"]),
        shape_yx=(ny, nx),
        pixel_size_A=float(record["pixel_size_A"]),  # type: ignore[arg-type]
        defocus_u_A=float(record["defocus_u_A"]),  # type: ignore[arg-type]
        defocus_v_A=float(record["defocus_v_A"]),  # type: ignore[arg-type]
        defocus_angle_deg=float(record["defocus_angle_deg"]),  # type: ignore[arg-type]
        true_xy_px=particles,
        picks_xy_px=picks[:, :2].copy(),
        pick_scores=picks[:, 2].copy(),
        pick_is_right=picks[:, 3] != 0,
        pick_psi_deg=picks[:, 4].copy(),
        pick_class=picks[:, 5].astype(np.int32),
    )
