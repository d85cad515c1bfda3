"""Networks depend on their seed alone: threads of the same process draw random numbers at any time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from cryoflow.detector import network as detector_network
from cryoflow.detector.network import DetectorArchitecture
from cryoflow.preparation.devices import load_keras
from cryoflow.unpicker import network as unpicker_network
from cryoflow.unpicker.network import Architecture

if TYPE_CHECKING:
    import keras

BUILDS: dict[str, Callable[[int], keras.Model]] = {
    "detector": lambda seed: detector_network.build(DetectorArchitecture(2, (4, 6, 8, 8), (1, 1, 1, 1)), seed=seed),
    "unpicker: features": lambda seed: unpicker_network.build(Architecture("detector", 1, 12, (16, 8)), seed=seed),
    "unpicker: residual": lambda seed: unpicker_network.build(Architecture("residual", 16, 2, (4, 6, 8)), seed=seed),
    "unpicker: emunpicker": lambda seed: unpicker_network.build(Architecture("emunpicker", 16, 1), seed=seed),
}


@pytest.fixture
def another_draws() -> Iterator[None]:
    """Draw from Python's generator without a pause, and now and then seed it, in another thread."""
    ended, before = threading.Event(), random.getstate()

    def draw() -> None:
        while not ended.is_set():
            random.seed()
            ended.wait(1e-4)

    thread = threading.Thread(target=draw)
    thread.start()
    yield
    ended.set()
    thread.join()
    random.setstate(before)


def learned(model: keras.Model) -> list[npt.NDArray[np.float32]]:
    """Return the weights after three steps, with dropout and noise."""
    model.compile(optimizer="adam", loss="mean_squared_error")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, *(n or 32 for n in model.input_shape[1:]))).astype(np.float32)
    y = rng.standard_normal(model.compute_output_shape(x.shape)).astype(np.float32)
    for _ in range(3):
        model.train_on_batch(x, y)
    return [np.asarray(w) for w in model.get_weights()]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDS)
def test_whoever_draws_meanwhile_the_same_seed_learns_the_same(name: str, another_draws: None) -> None:
    load_keras()
    first, again, other = (learned(BUILDS[name](seed)) for seed in (3, 3, 4))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert any(np.abs(one - two).max() > 0.01 for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("name", BUILDS)
def test_a_network_draws_no_random_number_of_its_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_keras()
    drawn_by: list[int] = []
    draw = random.randint
    monkeypatch.setattr(random, "randint", lambda *limits: drawn_by.append(threading.get_ident()) or draw(*limits))
    random.randint(1, 2)
    assert drawn_by.count(threading.get_ident()) == 1
    BUILDS[name](3)
    assert drawn_by.count(threading.get_ident()) == 1
