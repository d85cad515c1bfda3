"""How fast micrographs are read, Fourier-cropped and cut into boxes, beside the box-by-box way.

    python benchmarks/micrographs.py

Both ways start from the same MRC files (float32, noise with dark squares), cut the same boxes and end with the same
number of pixels a box. The box-by-box way is that of the older programs: mrcfile reads the micrograph, each box is cut
at full size and brought down with skimage.transform.resize.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.fourier import fourier_resample, rescale_xy
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.system.cpus import available_cpus

PIXEL_SIZE_A = 1.0
DIAMETER_A = 160.0
BOX_PX = 48
TO_PIXEL_SIZE_A = 6.0


def ours(path: Path, centers_xy_px: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """The boxes, and how long each step took."""
    start = time.perf_counter()
    image = read_micrograph(path)
    read = time.perf_counter()
    small, _ = fourier_resample(image, PIXEL_SIZE_A, TO_PIXEL_SIZE_A)
    cropped = time.perf_counter()
    boxes = cut_boxes(small, rescale_xy(centers_xy_px, image.shape, small.shape), BOX_PX)
    cut = time.perf_counter()
    return boxes, {"read": read - start, "crop": cropped - read, "cut": cut - cropped, "all": cut - start}


def box_by_box(path: Path, centers_xy_px: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """The same with mrcfile and skimage, one box after the other."""
    import mrcfile
    from skimage.transform import resize

    start = time.perf_counter()
    with mrcfile.open(path) as mrc:
        image = np.array(mrc.data, np.float32)
    read = time.perf_counter()
    wide = int(BOX_PX * TO_PIXEL_SIZE_A / PIXEL_SIZE_A)
    padded = np.pad(image, wide, mode="reflect")
    boxes = []
    for x, y in np.rint(centers_xy_px).astype(int) + wide - wide // 2:
        boxes.append(resize(padded[y : y + wide, x : x + wide], (BOX_PX, BOX_PX), anti_aliasing=True))
    done = time.perf_counter()
    return np.array(boxes), {"read": read - start, "all": done - start}


def main() -> None:
    """Make the micrographs, time both ways, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=int, default=10)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--picks", type=int, default=300)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files, centers = [], []
        for number in range(options.micrographs):
            image = rng.standard_normal((options.size, options.size), np.float32)
            xy = rng.uniform(0, options.size - 1, (options.picks, 2))
            for x, y in xy.astype(int):
                image[max(0, y - 40) : y + 40, max(0, x - 40) : x + 40] -= 1
            files.append(Path(folder, f"{number}.mrc"))
            centers.append(xy)
            write_mrc(files[-1], image, PIXEL_SIZE_A)
        ours(files[0], centers[0])  # the first call imports and plans; the files are in the page cache
        took = [ours(f, c) for f, c in zip(files, centers, strict=True)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        slow = [box_by_box(f, c) for f, c in zip(files[:3], centers[:3], strict=True)]

    agreement = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for (a, _), (b, _) in zip(took, slow, strict=False)])
    median = {step: float(np.median([t[step] for _, t in took])) for step in ("read", "crop", "cut", "all")}
    slow_all = float(np.median([t["all"] for _, t in slow]))
    print(
        f"{options.picks} boxes of {BOX_PX} px from {options.size} x {options.size} float32, {available_cpus()} cores"
    )
    print(f"cryoflow, seconds a micrograph (median of {len(took)}):", end=" ")
    print(", ".join(f"{step} {seconds:.3f}" for step, seconds in median.items()))
    print(
        f"box by box (mrcfile, skimage.transform.resize): {slow_all:.3f}, {slow_all / median['all']:.0f} times as long"
    )
    print(f"correlation of the two ways' boxes {agreement:.3f}; peak memory of cryoflow's way {peak:.0f} MB")


if __name__ == "__main__":
    main()
