"""How the older emUnpicker goes through micrographs, step by step, with today's libraries: to be timed, not used.

What costs it its time is kept: statistics of the whole micrograph after each step, boxes that are cut, scaled, resized
and appended one by one, one micrograph after the other, and a new piece of graph in one TensorFlow session for each of
them. Patches are resized by Pillow, as `scipy.misc.imresize` did. Where the model asks for phase flipping, the whole
transform is multiplied with the CTF in double precision, as the older program's second script did.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from cryoflow.micrographs.ctf import Ctf
from cryoflow.micrographs.header import read_header
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing

Float = npt.NDArray[np.float32]
Statistics = tuple[float, float, float, float]


def classic_way(bundle: ModelBundle, micrographs: Iterable[PickedMicrograph], *, num_cores: int = 4) -> list[float]:
    """Judge micrographs one by one; the seconds that each took."""
    seconds = []
    started = time.monotonic()
    for _ in judged_in_the_classic_way(bundle, micrographs, num_cores=num_cores):
        seconds.append(time.monotonic() - started)
        started = time.monotonic()
    return seconds


def judged_in_the_classic_way(
    bundle: ModelBundle, micrographs: Iterable[PickedMicrograph], *, num_cores: int = 4
) -> Iterator[Float]:
    """That each pick of a micrograph is right, (n,), one micrograph after the other."""
    import tensorflow

    tf = tensorflow.compat.v1
    preprocessing = bundle.preprocessing
    assert isinstance(preprocessing, EmUnpickerPreprocessing)
    graph = tf.Graph()
    cores = tf.ConfigProto(inter_op_parallelism_threads=num_cores, intra_op_parallelism_threads=num_cores)
    with graph.as_default(), tf.Session(graph=graph, config=cores) as session:
        weights = {name: tf.Variable(array) for name, array in bundle.weights.items() if "seed" not in name}
        session.run(tf.global_variables_initializer())
        for micrograph in micrographs:
            boxes = tf.constant(_boxes(preprocessing, micrograph))
            yield session.run(tf.nn.sigmoid(_network(tf, boxes, weights)))[:, 0]


def _network(tf, x, weights):
    for i in (1, 2):
        x = tf.nn.conv2d(x, weights[f"convolution_{i}/kernel"], strides=[1, 1, 1, 1], padding="SAME")
        x = tf.nn.relu(tf.nn.bias_add(x, weights[f"convolution_{i}/bias"]))
        x = tf.nn.max_pool(x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME")
    x = tf.reshape(x, [x.shape[0], -1])
    x = tf.nn.relu(tf.matmul(x, weights["dense/kernel"]) + weights["dense/bias"])
    return tf.matmul(x, weights["logit/kernel"]) + weights["logit/bias"]


def _boxes(preprocessing: EmUnpickerPreprocessing, micrograph: PickedMicrograph) -> Float:
    header = read_header(micrograph.path)
    raw = np.fromfile(micrograph.path, header.dtype, offset=header.data_offset).reshape(header.shape_yx)
    image = raw.astype(np.float32)
    mean, deviation, low, high = _statistics(image)
    if preprocessing.phase_flip:
        assert micrograph.ctf is not None
        image = _ctf_corrected(image, micrograph.pixel_size_A, micrograph.ctf)
        mean, deviation, low, high = _statistics(image)
    if preprocessing.sigma_contrast:
        reach = preprocessing.sigma_contrast * deviation
        image = np.clip(image, mean - reach, mean + reach)
        mean, deviation, low, high = _statistics(image)
    edge, small = round(preprocessing.boxsize_A / micrograph.pixel_size_A), preprocessing.resized_box_px
    boxes = np.zeros(0, np.float32)
    for x, y in micrograph.centers_xy_px:
        box = (_cut(image, int(x), int(y), edge, (low + high) / 2) - low) / (high - low) - 0.5
        resized = Image.fromarray(box.astype(np.float32)).resize((small, small), Image.Resampling.BILINEAR)
        boxes = np.append(boxes, np.asarray(resized))
    return boxes.reshape(-1, small, small, 1).astype(np.float32)


def _statistics(image: npt.NDArray[np.floating]) -> Statistics:
    return float(image.mean()), float(image.std()), float(image.min()), float(image.max())


def _cut(image: npt.NDArray[np.floating], x: int, y: int, edge: int, gray: float) -> npt.NDArray[np.floating]:
    """A box; what lies beyond the micrograph is gray."""
    ny, nx = image.shape
    y0, x0 = y - edge // 2, x - edge // 2
    if y0 >= 0 and x0 >= 0 and y0 + edge < ny and x0 + edge < nx:
        return image[y0 : y0 + edge, x0 : x0 + edge].copy()
    box = np.full((edge, edge), gray, np.float32)
    rows, columns = slice(max(y0, 0), min(y0 + edge, ny)), slice(max(x0, 0), min(x0 + edge, nx))
    box[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = image[rows, columns]
    return box


def _ctf_corrected(image: Float, pixel_size_A: float, ctf: Ctf) -> npt.NDArray[np.float64]:
    """Multiplied with its CTF, on the full complex transform."""
    ny, nx = image.shape
    y, x = np.fromfunction(lambda y, x: (y - ny / 2, x - nx / 2), image.shape, dtype=np.float32)
    ky, kx = y / (ny * pixel_size_A), x / (nx * pixel_size_A)
    k2 = kx * kx + ky * ky
    wavelength_A = ctf.wavelength_A
    mean, half = (ctf.defocus_u_A + ctf.defocus_v_A) / 2, (ctf.defocus_u_A - ctf.defocus_v_A) / 2
    defocus_A = mean + half * np.cos(2 * (np.arctan2(ky, kx) - np.deg2rad(ctf.defocus_angle_deg)))
    cs_A = ctf.cs_mm * 1e7
    phase = np.pi * wavelength_A * k2 * (0.5 * cs_A * wavelength_A**2 * k2 - defocus_A)
    contrast = ctf.amplitude_contrast
    values = -(np.sqrt(1 - contrast**2) * np.sin(phase) - contrast * np.cos(phase))
    spectrum = np.fft.fftshift(np.fft.fft2(image.astype(np.float64)))
    return np.fft.ifft2(np.fft.ifftshift(spectrum * values)).real
