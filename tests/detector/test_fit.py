"""Training: killed and continued it comes to the same weights; it learns; what is not its own is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoflow.detector import fit as fit_module
from cryoflow.detector.checkpoint import STATE
from cryoflow.detector.examples import POSITIVE, UNKNOWN, Example
from cryoflow.detector.fit import FitOptions, Round, fit
from cryoflow.detector.loss import detector_loss
from cryoflow.detector.network import DetectorArchitecture
from cryoflow.detector.stream import CropStream, StreamOptions
from cryoflow.errors import BadInput
from cryoflow.preparation.devices import load_keras

TINY = DetectorArchitecture(2, (4, 6, 8, 8), (0, 1, 1, 1))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> CropStream:
    """Dark spots on noise."""
    load_keras()
    folder = tmp_path_factory.mktemp("spots")
    rng = np.random.default_rng(0)
    examples = []
    for i in range(3):
        pixels = rng.standard_normal((128, 192, 2))
        xy = rng.uniform(16, (176, 112), (10, 2))
        y, x = np.indices((128, 192))
        for cx, cy in xy:
            pixels -= 5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / 6**2)[..., None]
        np.save(folder / f"{i}.npy", pixels.astype(np.float16))
        examples.append(
            Example(folder / f"{i}.npy", str(i), xy, np.full(10, POSITIVE, np.int8), np.ones(10, np.float32), 0.1)
        )
    return CropStream(examples, 24.0, seed=1, options=StreamOptions(crop_px=64, batch=2))


OPTIONS = FitOptions(rounds=3, steps=4, seed=5, unlabeled_from=2 / 3)


@pytest.mark.slow
def test_a_training_that_was_killed_comes_to_the_same_weights(stream: CropStream, tmp_path: Path) -> None:
    whole, history = fit(TINY, stream, [], tmp_path / "whole", OPTIONS, fingerprint="a")

    class Killed(Exception):
        pass

    def kill(done: Round) -> None:
        if done.step == 8:
            raise Killed

    with pytest.raises(Killed):
        fit(TINY, stream, [], tmp_path / "cut", OPTIONS, fingerprint="a", on_round=kill)
    resumed, resumed_history = fit(TINY, stream, [], tmp_path / "cut", OPTIONS, fingerprint="a")
    assert [h["loss"] for h in resumed_history] == [h["loss"] for h in history]
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


@pytest.mark.slow
def test_candidates_of_unknown_fate_enter_the_loss_late_and_nothing_is_compiled_anew(
    stream: CropStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = np.where(np.arange(10) < 5, POSITIVE, UNKNOWN).astype(np.int8)
    examples = [replace(e, kind=kind) for e in stream.examples]
    some = CropStream(examples, 24.0, seed=1, options=stream.options)
    losses: list[dict[str, object]] = []

    def loss(**options: Any) -> object:
        losses.append(options)
        return detector_loss(**options)

    monkeypatch.setattr(fit_module, "detector_loss", loss)
    options = FitOptions(rounds=2, steps=2, seed=5)
    _, late = fit(TINY, some, [], tmp_path / "late", replace(options, unlabeled_from=0.5), fingerprint="a")
    assert losses == [{"unlabeled": True, "distill": 0.0}]
    _, never = fit(TINY, some, [], tmp_path / "never", replace(options, unlabeled_from=1.0), fingerprint="b")
    assert losses[1:] == [{"unlabeled": False, "distill": 0.0}]
    assert late[0]["loss"] == pytest.approx(never[0]["loss"], rel=1e-6)
    assert late[1]["loss"] > (1 + 3e-6) * never[1]["loss"]  # a new network is sure of nothing: they add little


@pytest.mark.slow
def test_it_learns_reports_and_starts_from_given_weights(stream: CropStream, tmp_path: Path) -> None:
    rounds: list[Round] = []
    validation = [stream.batch(1000)]
    options = replace(OPTIONS, rounds=4, steps=15, learning_rate=1e-2, tensorboard=True)
    weights, history = fit(TINY, stream, validation, tmp_path / "a", options, fingerprint="a", on_round=rounds.append)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert [r.step for r in rounds] == [15, 30, 45, 60]
    assert rounds[-1].seconds_left == 0
    assert list((tmp_path / "a" / "logs").iterdir())
    more, started = fit(
        TINY, stream, validation, tmp_path / "b", replace(options, rounds=1), fingerprint="b", start=weights
    )
    assert started[0]["loss"] < 0.7 * history[0]["loss"]
    assert set(more) == set(weights)


@pytest.mark.slow
def test_a_state_of_another_training_or_a_damaged_one_is_refused(stream: CropStream, tmp_path: Path) -> None:
    options = replace(OPTIONS, rounds=1, steps=1)
    fit(TINY, stream, [], tmp_path, options, fingerprint="a")
    with pytest.raises(BadInput, match="other labels"):
        fit(TINY, stream, [], tmp_path, options, fingerprint="b")
    os.truncate(tmp_path / STATE, 1000)
    with pytest.raises(BadInput, match="no state of this training"):
        fit(TINY, stream, [], tmp_path, options, fingerprint="a")


SHARED = """
import sys
from pathlib import Path
import numpy as np
from cryoflow.preparation.devices import load_keras
load_keras()
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    DEVICES = ("CPU:0", "CPU:1")
else:
    DEVICES = tuple(keras.distribution.list_devices())
    assert len(DEVICES) == 2, DEVICES
from cryoflow.detector.fit import FitOptions, fit
from cryoflow.detector.network import DetectorArchitecture
made = np.load(sys.argv[1])

class Twice:
    # The same crop twice: each device sees what one device alone sees, so that weights and losses must be the same.
    def batch(self, number):
        return tuple(np.repeat(a[number % len(a)][None], 2, axis=0) for a in (made["x"], made["y"]))

options = FitOptions(rounds=2, steps=3, seed=5)
tiny = DetectorArchitecture(2, (4, 6, 8, 8), (0, 1, 1, 1))
found = {}
for name, devices in (("one", ()), ("two", DEVICES)):
    weights, history = fit(tiny, Twice(), [], Path(sys.argv[2]) / name, options, fingerprint="a", devices=devices)
    found[name] = (weights, [h["loss"] for h in history])
again, _ = fit(tiny, Twice(), [], Path(sys.argv[2]) / "two", options, fingerprint="a", devices=DEVICES)
(one, loss), (two, shared_loss) = found["one"], found["two"]
np.testing.assert_allclose(shared_loss, loss, rtol=1e-3)
for key in one:
    np.testing.assert_allclose(two[key], one[key], atol=2e-3, err_msg=key)
    np.testing.assert_array_equal(again[key], two[key])
print("two devices")
"""


ON_JAX = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    # Two devices of one processor; without optimization, for compiling takes most of the time.
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_share_a_batch_and_come_to_what_one_comes_to(
    stream: CropStream, tmp_path: Path, backend: str
) -> None:
    pytest.importorskip(backend)  # JAX is no dependency: its compiler takes 350 MB
    x, y = stream.batch(0)
    np.savez(tmp_path / "made.npz", x=x, y=y)
    arguments = [sys.executable, "-c", SHARED, str(tmp_path / "made.npz"), str(tmp_path)]
    environment = {**os.environ, **(ON_JAX if backend == "jax" else {})}
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=900, env=environment)
    assert "two devices" in run.stdout, run.stderr[-3000:]
