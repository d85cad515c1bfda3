"""The page of models that keep learning."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoflow.learning.update import QUARANTINE
from cryoflow.learning.update_records import add_quarantined
from cryoflow.learning.versions_page import LISTED_PROJECTS, draw, f1_over_time, newly_learned, write_page
from cryoflow.models.card import Status, TrainedOn
from cryoflow.models.registry import ModelRegistry
from flows.learning import write_models_page


def test_it_says_which_version_is_in_use_and_why_and_escapes_names(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "weights").write_text("w")
    odd = "<img src=x onerror=alert(1)>$x_1$"
    for f1 in (0.7, 0.9):
        metrics = {odd: {"f1": f1}, "A": {"f1": 0.5}}
        version = registry.add("detector", "detector", tmp_path / "trained", metrics=metrics)
        registry.promote("detector", version.number, f"F1 {f1} & more")
    registry.add("detector", "detector", tmp_path / "trained", status="candidate", reasons=("A: it fell",))
    text = write_page(registry, ("detector", "unpicker"), ["3 jobs <new>"]).read_text()
    assert "detector@v0002 is in use" in text
    assert "F1 0.9 &amp; more" in text
    assert "A: it fell" in text
    assert "3 jobs &lt;new&gt;" in text
    assert "<img src=x" not in text
    assert "data:image/png;base64," in text
    assert "<h2>unpicker" not in text
    assert "Quarantined" not in text
    add_quarantined(registry.root / "detector" / QUARANTINE, {"<b>X": ("1", "axes swapped")})
    text = write_page(registry, ("detector",)).read_text()
    assert "<tr><td>&lt;b&gt;X</td><td>axes swapped</td></tr>" in text
    over_time = f1_over_time(registry.versions("detector"))
    assert over_time[odd][:2] == [0.7, 0.9]
    assert over_time[odd][2] != over_time[odd][2]  # not measured


def test_versions_and_models_that_cannot_be_read_are_shown_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(tmp_path / "models")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "weights").write_text("w")
    for name in ("detector", "detector", "unpicker"):
        registry.add(name, "detector", tmp_path / "trained")
    registry.promote("detector", 1, "first")
    (registry.root / "detector" / "v0001" / "card.json").write_text("{")
    (registry.root / "unpicker" / "current.json").write_text("{")
    text = write_page(registry, ("detector", "unpicker")).read_text()
    assert "<p>detector@v0001 is in use since" in text
    assert "<td>v0001</td><td>cannot be read</td>" in text
    assert "<td>v0002</td><td>accepted</td>" in text
    assert "<h2>unpicker</h2>\n<p>" in text
    assert "current.json: damaged" in text
    shown: list[object] = []
    monkeypatch.setattr("flows.learning.show_table", lambda key, rows, description: shown.extend(rows))
    assert write_models_page.fn(registry.root, ("detector", "unpicker"), ()).read_text() == text
    assert shown == [{"model": "detector", "in use": "detector@v0001", "why": "first"}]


def test_it_names_what_each_version_learned_anew(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "weights").write_text("w")

    def add(status: Status, **fingerprints: str) -> None:
        learned = tuple(TrainedOn(p, (), fingerprint, 1, 1) for p, fingerprint in fingerprints.items())
        registry.add("detector", "detector", tmp_path / "trained", trained_on=learned, status=status)

    add("accepted", A="1", B="1")
    add("candidate", A="1", B="1", C="1")
    add("accepted", A="1", B="2", C="2")
    add("accepted", A="1", B="2", C="2", **{f"P{i:02d}": "1" for i in range(LISTED_PROJECTS + 5)})
    learned = newly_learned(registry.versions("detector"))
    assert learned[:3] == [["A", "B"], ["C"], ["B", "C"]]
    text = write_page(registry, ("detector",)).read_text()
    assert "<td>B, C</td>" in text
    assert f"P{LISTED_PROJECTS - 1:02d} and 5 more" in text


def test_lines_of_projects_differ_in_color_or_style(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "weights").write_text("w")
    registry.add("detector", "detector", tmp_path / "trained", metrics={f"P{i:02d}": {"f1": 0.5} for i in range(30)})
    lines = draw(registry.versions("detector")).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}) == 30
