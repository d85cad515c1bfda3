"""The network takes images of any size, and computes the same whatever the backend's own layers do."""

from __future__ import annotations

import numpy as np
import pytest

from cryoflow.detector.network import N_OUTPUTS, STRIDE, DetectorArchitecture, build, doubled
from cryoflow.preparation.devices import load_keras

TINY = DetectorArchitecture(2, (4, 6, 8, 8), (0, 1, 1, 1))


def test_answers_of_images_of_different_sizes_with_one_network() -> None:
    load_keras()
    network = build(TINY)
    for shape_yx in ((32, 48), (48, 32), (64, 64), (16, 96)):
        answers = np.asarray(network.predict_on_batch(np.zeros((1, *shape_yx, 2), np.float32)))
        assert answers.shape == (1, shape_yx[0] // STRIDE, shape_yx[1] // STRIDE, N_OUTPUTS)
        assert answers.dtype == np.float32


def test_particles_are_rare_before_training() -> None:
    load_keras()
    answers = np.asarray(build(TINY).predict_on_batch(np.zeros((1, 64, 64, 2), np.float32)))
    assert (1 / (1 + np.exp(-answers[..., 0]))).max() < 0.02


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 2, 4), (1, 6, 1, 1)])
def test_doubling_interpolates_as_keras_does(shape: tuple[int, ...]) -> None:
    load_keras()
    from keras import layers

    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(
        np.asarray(doubled(x)), np.asarray(layers.UpSampling2D(2, interpolation="bilinear")(x)), atol=1e-5
    )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_answers_in_float32_with_float32_weights(precision: str) -> None:
    load_keras()
    network = build(TINY, mixed_precision=precision)
    assert {str(w.dtype) for w in network.weights} == {"float32"}
    assert np.asarray(network(np.zeros((1, 32, 32, 2), np.float32))).dtype == np.float32


def test_an_architecture_survives_json_and_refuses_what_it_does_not_know() -> None:
    assert DetectorArchitecture.from_json(TINY.to_json()) == TINY
    for change in ({"more": 1}, {"widths": [1, 2, 3]}, {"widths": [0, 1, 1, 1]}, {"blocks": [1, 1, 1, 99]}):
        with pytest.raises(ValueError, match="detector"):
            DetectorArchitecture.from_json({**TINY.to_json(), **change})
