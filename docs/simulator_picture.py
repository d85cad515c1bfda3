"""Makes docs/simulator.jpg: python docs/simulator_picture.py [FOLDER FOR THE MICROGRAPHS]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from cryoflow.micrographs.fourier import fourier_resample, rescale_xy
from cryoflow.micrographs.image import read_micrograph
from cryoflow.simulate import simulate_dataset
from cryoflow.simulate.density import SPECIMENS

SHOWN = (0, 4)
RIGHT, WRONG = "#2ee62e", "#ff4040"


def main() -> None:
    """Two micrographs of each specimen, one of them with the picks."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "simulated")
    figure, axes = plt.subplots(2, len(SPECIMENS), figsize=(12, 6.3), layout="compressed")
    for column, name in enumerate(SPECIMENS):
        dataset = simulate_dataset(folder / name, specimen=name, n_micrographs=max(SHOWN) + 1, seed=3)
        for row, number in enumerate(SHOWN):
            micrograph, axis = dataset.micrographs[number], axes[row, column]
            image, (pixel_size_A, _) = fourier_resample(read_micrograph(micrograph.path), micrograph.pixel_size_A, 6.0)
            axis.imshow(image, cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.5))
            axis.axis("off")
            if row == 0:
                axis.set_title(f"{name}, {dataset.diameter_A:g} Å", fontsize=10)
                continue
            xy = rescale_xy(micrograph.picks_xy_px, micrograph.shape_yx, image.shape)
            for center, is_right in zip(xy, micrograph.pick_is_right, strict=True):
                color = RIGHT if is_right else WRONG
                axis.add_patch(plt.Circle(center, dataset.diameter_A / 2 / pixel_size_A, ec=color, fc="none", lw=0.8))
    figure.savefig(Path(__file__).with_name("simulator.jpg"), dpi=100, pil_kwargs={"quality": 70})


if __name__ == "__main__":
    main()
