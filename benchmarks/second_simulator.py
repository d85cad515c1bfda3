"""How far an unpicker goes on the images of another simulator than that of its training.

    python benchmarks/second_simulator.py --folder DIR --densities MAPS [--maps 1bxn 4v4r] [--architecture residual]

The same complexes are simulated twice: by `cryoflow simulate --density`, and by this file, which makes images without
it. The first projects residues, counts electrons and draws ice from phases. The second projects the voxels of the map.
It differs in the contrast transfer (focal spread, little B factor), the noise (Gaussian, pink and white, with the
fall-off of a camera), the background (smooth gradients of ice) and the contamination (discs, and the soft edge of a
film). A model is trained on each and tested on unseen micrographs of both; every row is kept in DIR/second.json, and
`--table` prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, spatial

from cryoflow.micrographs.header import read_header
from cryoflow.micrographs.image import read_stack, write_mrc
from cryoflow.preparation.devices import load_keras
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.simulate.blob_picker import match_to_truth, pick_blobs
from cryoflow.simulate.conditions import STANDARD
from cryoflow.simulate.simulation import simulate_dataset
from cryoflow.simulate.specimens import specimen_from_density
from cryoflow.storage.files import write_atomically
from cryoflow.unpicker.evaluate import evaluate
from cryoflow.unpicker.labeled import LabeledSet, Split
from cryoflow.unpicker.train import train
from cryoflow.unpicker.train_options import TrainOptions

Image = npt.NDArray[np.float32]
TRAIN, VALIDATION, TEST = 12, 4, 8
PIXELS_PER_DIAMETER, SHAPE_DIAMETERS = 36, (24, 28)
WAVELENGTH_A, CS_A, AMPLITUDE_CONTRAST, FOCAL_SPREAD_A = 0.0197, 2.7e7, 0.07, 90.0


@dataclass(frozen=True)
class Scene:
    """Centers in pixels, the kind of each object (0 is a whole particle), and where the field is contaminated."""

    xy_px: npt.NDArray[np.float64]
    kind: npt.NDArray[np.intp]
    junk: npt.NDArray[np.bool_]


def projections(path: Path, pixel_size_A: float, rng: np.random.Generator) -> list[list[Image]]:
    """Return views of the whole complex, of a broken half and of a smaller complex, 40 each."""
    density = np.clip(np.asarray(read_stack(path), np.float32), 0, None)
    voxel_A = read_header(path).pixel_size_A or 10.0
    edge = 2 * int(np.ceil(0.9 * max(density.shape)))
    box = np.zeros((edge,) * 3, np.float32)
    corner = [(edge - n) // 2 for n in density.shape]
    box[tuple(slice(c, c + n) for c, n in zip(corner, density.shape, strict=True))] = density
    center = (edge - 1) / 2
    half = box.copy()
    half[: edge // 2] = 0

    def view(volume: Image, scale: float) -> Image:
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        turned = ndimage.affine_transform(volume, q / scale, center - q @ np.full(3, center) / scale, order=1)
        return np.asarray(ndimage.zoom(turned.sum(axis=0), voxel_A / pixel_size_A, order=1), np.float32)

    return [[view(volume, scale) for _ in range(40)] for volume, scale in ((box, 1.0), (half, 1.0), (box, 0.6))]


def place(shape: tuple[int, int], diameter_px: float, rng: np.random.Generator) -> Scene:
    """Draw where objects lie: whole ones at least a diameter apart, the others anywhere, and contamination."""
    ny, nx = shape
    tries = rng.uniform((0, 0), (nx, ny), (1500, 2))
    chosen: list[npt.NDArray[np.float64]] = []
    for one in tries:
        if len(chosen) < 0.22 * ny * nx / diameter_px**2 and all(
            np.hypot(*(one - other)) > 1.1 * diameter_px for other in chosen
        ):
            chosen.append(one)
    n = len(chosen)
    others = rng.uniform((0, 0), (nx, ny), (int(0.9 * n), 2))
    beside = np.array(chosen[: n // 8]) + rng.normal(0, 0.45 * diameter_px, (n // 8, 2))
    xy = np.concatenate([np.array(chosen), others, beside])
    kind = np.concatenate([np.zeros(n, int), rng.integers(1, 3, len(others)), np.zeros(len(beside), int)])
    y, x = np.mgrid[:ny, :nx]
    junk = np.zeros(shape, bool)
    for _ in range(rng.poisson(6)):
        cx, cy, r = rng.uniform(0, nx), rng.uniform(0, ny), rng.uniform(0.2, 0.8) * diameter_px
        junk |= (x - cx) ** 2 + (y - cy) ** 2 < r**2
    if rng.random() < 0.4:
        angle = rng.uniform(0, 2 * np.pi)
        junk |= np.cos(angle) * (x - nx / 2) + np.sin(angle) * (y - ny / 2) > 0.35 * nx
    return Scene(xy, kind, junk)


def render(
    scene: Scene, views: list[list[Image]], diameter_px: float, pixel_size_A: float, rng: np.random.Generator
) -> Image:
    """Return a micrograph of the scene, particles dark."""
    ny, nx = scene.junk.shape
    phase = np.zeros((ny, nx), np.float32)
    for (cx, cy), kind in zip(scene.xy_px, scene.kind, strict=True):
        view = np.rot90(views[kind][rng.integers(len(views[kind]))], rng.integers(4))
        h, w = view.shape
        top, left = round(cy - (h - 1) / 2), round(cx - (w - 1) / 2)
        rows, columns = slice(max(top, 0), min(top + h, ny)), slice(max(left, 0), min(left + w, nx))
        if rows.start < rows.stop and columns.start < columns.stop:
            phase[rows, columns] += view[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    k2 = (fft.fftfreq(ny)[:, None] ** 2 + fft.rfftfreq(nx)[None] ** 2) / pixel_size_A**2
    defocus = rng.uniform(8_000, 28_000)
    chi = (
        np.pi * WAVELENGTH_A * defocus * k2 - np.pi / 2 * CS_A * WAVELENGTH_A**3 * k2**2 + np.arcsin(AMPLITUDE_CONTRAST)
    )
    envelope = np.exp(-((np.pi * WAVELENGTH_A * FOCAL_SPREAD_A * k2) ** 2) / 2) * np.exp(-20 * k2)

    def filtered(image: Image, transfer: npt.NDArray[np.float64]) -> Image:
        return np.asarray(fft.irfft2(fft.rfft2(image) * transfer, s=(ny, nx)), np.float32)

    signal = filtered(phase, -np.sin(chi) * envelope)
    signal *= rng.uniform(0.5, 0.8) / max(float(np.abs(signal).std()), 1e-6)
    pink = filtered(
        rng.normal(0, 1, (ny, nx)).astype(np.float32), (1 + k2 * (2 * diameter_px * pixel_size_A) ** 2) ** -0.25
    )
    white = filtered(rng.normal(0, 1, (ny, nx)).astype(np.float32), np.exp(-0.6 * k2 * pixel_size_A**2))
    ice = ndimage.gaussian_filter(rng.normal(0, 1, (ny // 8 + 1, nx // 8 + 1)), diameter_px / 4)
    ice = ndimage.zoom(ice / ice.std(), 8, order=1)[:ny, :nx]
    film = ndimage.gaussian_filter(scene.junk.astype(np.float32), 0.05 * diameter_px)
    image = signal * (1 - 0.5 * film) + 1.4 * pink / pink.std() * (1 + film) + 1.6 * white + 1.5 * ice - 4 * film
    return np.asarray(image + 100, np.float32)


def second_set(
    folder: Path, name: str, path: Path, diameter_A: float, threshold: float
) -> tuple[PickedMicrograph, ...]:
    """Simulate the micrographs of one map with the second simulator, pick blobs on them, and label the picks."""
    pixel_size_A = diameter_A / PIXELS_PER_DIAMETER
    ny, nx = (PIXELS_PER_DIAMETER * n for n in SHAPE_DIAMETERS)
    folder.mkdir(parents=True, exist_ok=True)
    views = projections(path, pixel_size_A, np.random.default_rng(7))
    micrographs = []
    for i in range(TRAIN + VALIDATION + TEST):
        rng = np.random.default_rng([7, i])
        scene = place((ny, nx), PIXELS_PER_DIAMETER, rng)
        image = render(scene, views, PIXELS_PER_DIAMETER, pixel_size_A, rng)
        file = folder / f"{name}_{i:02d}.mrc"
        write_mrc(file, image, pixel_size_A)
        xy, _ = pick_blobs(image, pixel_size_A, diameter_A, threshold=threshold)
        near = spatial.cKDTree(scene.xy_px).query(scene.xy_px, k=2)[0][:, 1]
        row, column = (
            np.clip(np.rint(v).astype(int), 0, n - 1) for v, n in zip(scene.xy_px.T[::-1], (ny, nx), strict=True)
        )
        whole = (scene.kind == 0) & (near > 0.8 * PIXELS_PER_DIAMETER) & ~scene.junk[row, column]
        right = match_to_truth(xy, scene.xy_px[whole], PIXELS_PER_DIAMETER / 4) >= 0
        labels = np.where(right, 1, -1).astype(np.int8)
        micrographs.append(PickedMicrograph(file.stem, file, pixel_size_A, diameter_A, xy, labels, f"{name} second"))
    return tuple(micrographs)


def first_set(folder: Path, name: str, path: Path) -> tuple[PickedMicrograph, ...]:
    """Simulate the micrographs of one map by `cryoflow simulate`'s simulator."""
    specimen = specimen_from_density(path)
    pixel_size_A = specimen.diameter_A / PIXELS_PER_DIAMETER
    simulated = simulate_dataset(
        folder,
        specimen=specimen,
        n_micrographs=TRAIN + VALIDATION + TEST,
        shape_yx=(PIXELS_PER_DIAMETER * SHAPE_DIAMETERS[0], PIXELS_PER_DIAMETER * SHAPE_DIAMETERS[1]),
        pixel_size_A=pixel_size_A,
        seed=7,
        conditions=replace(STANDARD, points_per_object=3000),
    )
    return tuple(
        PickedMicrograph(
            m.path.stem,
            m.path,
            pixel_size_A,
            simulated.diameter_A,
            m.picks_xy_px,
            np.where(m.pick_is_right, 1, -1).astype(np.int8),
            f"{name} first",
        )
        for m in simulated.micrographs
    )


def compare(folder: Path, name: str, path: Path, architecture: str, seed: int) -> None:
    """Train on each simulator's images of a map, and measure on both."""
    specimen = specimen_from_density(path)
    sets = {
        "first": first_set(folder / "data" / f"{name}_first", name, path),
        "second": second_set(
            folder / "data" / f"{name}_second", name, path, specimen.diameter_A, specimen.picker_sigma
        ),
    }
    for trained_on, members in sets.items():
        split = Split(members[:TRAIN], members[TRAIN : TRAIN + VALIDATION], members[TRAIN + VALIDATION :])
        options = TrainOptions.of(architecture, cache_dir=folder / "cache", seed=seed)  # type: ignore[arg-type]
        started = time.process_time()
        output = folder / "models" / f"{name}_{trained_on}_{architecture}_{seed}"
        bundle = train(LabeledSet(members), output, options, split=split, overwrite=True)
        seconds = time.process_time() - started
        for tested_on, others in sets.items():
            test = others[TRAIN + VALIDATION :]
            found = evaluate(bundle, LabeledSet(test))
            row = {
                "map": name,
                "architecture": architecture,
                "seed": seed,
                "trained_on": trained_on,
                "tested_on": tested_on,
                "test_error": found.error.value,
                "roc_auc": found.roc_auc.value,
                "calibration_error": found.calibration_error.value,
                "n_test": found.n_picks,
                "share_right": float(np.mean(np.concatenate([m.labels for m in test]) > 0)),
                "train_cpu_seconds": seconds,
                "load": round(os.getloadavg()[0], 1),
            }
            keep(folder, row)


def keep(folder: Path, row: dict[str, object]) -> None:
    """Print a row and add it to the file of results."""
    file = folder / "second.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    names = ("map", "architecture", "seed", "trained_on", "tested_on")
    rows = [r for r in rows if any(r[n] != row[n] for n in names)] + [row]
    write_atomically(file, json.dumps(rows, indent=1) + "\n")
    print(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def print_table(folder: Path) -> None:
    """Print the recorded rows as a table: mean and standard deviation over seeds."""
    print("| map | architecture | trained on | tested on | picks, right | test error | ROC AUC | calibration error |")
    print("|---|---|---|---|---|---|---|---|")
    groups: dict[tuple[object, ...], list[dict[str, float]]] = {}
    for r in json.loads((folder / "second.json").read_text()):
        key = (r["map"], r["architecture"], r["trained_on"], r["tested_on"], f"{r['n_test']}, {r['share_right']:.0%}")
        groups.setdefault(key, []).append(r)
    for key, rows in groups.items():
        cells = []
        for name, form in (("test_error", ".1%"), ("roc_auc", ".3f"), ("calibration_error", ".3f")):
            values = [r[name] for r in rows]
            spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):{form}}{spread}")
        print(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |")


def main() -> None:
    """Run the maps asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where data, models and results go")
    parser.add_argument("--densities", type=Path, help="folder of density maps, MAP.mrc")
    parser.add_argument("--maps", nargs="+", default=("1bxn", "4v4r"))
    parser.add_argument("--architecture", default="detector", choices=("detector", "residual"))
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3), help="of the trainings")
    parser.add_argument("--table", action="store_true", help="print the table of what was measured, and end")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.densities is None:
            parser.error("--densities names the folder of the density maps")
        load_keras()
        for name in arguments.maps:
            for seed in arguments.seeds:
                compare(arguments.folder, name, arguments.densities / f"{name}.mrc", arguments.architecture, seed)
    print_table(arguments.folder)


if __name__ == "__main__":
    main()
