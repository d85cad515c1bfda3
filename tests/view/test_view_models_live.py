"""The viewer in a real browser: the page of models while a training runs, and its registry's versions."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromium import Page
from view_browser import Viewer

from cryoflow.models.card import TrainedOn
from cryoflow.models.registry import ModelRegistry
from cryoflow.storage.files import write_atomically

pytestmark = pytest.mark.browser


def epochs(n: int) -> list[dict[str, float]]:
    return [{"loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1)} for i in range(n)]


def train_for(folder: Path, n_epochs: int) -> None:
    """Write what the unpicker's training writes after each epoch."""
    stream = io.BytesIO()
    np.savez(stream, history=np.frombuffer(json.dumps(epochs(n_epochs)).encode(), np.uint8))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "checkpoints" / "state.npz", stream.getvalue())


def finish(folder: Path) -> None:
    (folder / "metrics.json").write_text(json.dumps({"validation_f1": 0.9}))
    (folder / "history.json").write_text(json.dumps(epochs(4)))
    (folder / "bundle.json").write_text("{}")


def test_curves_grow_and_versions_appear_while_the_page_is_open(
    start: Callable[..., Viewer], page: Page, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    viewer = start("--models", str(models))
    page.call("Page.navigate", url=viewer.read)
    page.wait_for("document.readyState === 'complete' && !location.search.includes('token')")
    page.open(viewer.read.split("/look")[0] + "/models", shows="There are no models in")
    page.js("window.same = 'the same page'")
    train_for(models / "new", 2)
    page.wait_for("document.body.innerText.includes('training, epoch 2')")
    first = page.js("document.querySelector('polyline.validation').getAttribute('points').split(' ').length")
    train_for(models / "new", 4)
    page.wait_for("document.body.innerText.includes('training, epoch 4')")
    last = page.js("document.querySelector('polyline.validation').getAttribute('points').split(' ').length")
    assert (first, last) == (2, 4)
    finish(models / "new")
    page.wait_for("document.body.innerText.includes('validation f1') && !document.body.innerText.includes('epoch 4')")
    registry = ModelRegistry(models)
    learned = (TrainedOn("P1", ("P1/x",), "f", 12, 1234),)
    for f1, status, why in ((0.91, "accepted", ()), (0.83, "candidate", ("F1 of P1 falls by 0.080",))):
        registry.add(
            "picker", "unpicker", models / "new", trained_on=learned, metrics={"P1": {"f1": f1}}, status=status,
            reasons=why,
        )  # fmt: skip
    registry.promote("picker", 1, "the first one")
    page.wait_for("document.body.innerText.includes('F1 of P1 falls by 0.080')")
    text = page.text()
    assert "v0001" in text
    assert "v0002" in text
    assert "the first one" in text
    assert page.js("window.same") == "the same page"
    viewer.kill()
    page.wait_for("!document.getElementById('lost').hidden")
    assert "v0002" in page.text()
    start("--models", str(models))
    page.wait_for("document.getElementById('lost').hidden")
