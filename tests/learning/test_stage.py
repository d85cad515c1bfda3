"""Records of the stages of learning."""

from __future__ import annotations

from pathlib import Path

from cryoflow.learning.stage import described
from cryoflow.learning.update import UpdateResult
from cryoflow.models.registry import ModelRegistry


def test_an_update_with_nothing_new_has_no_reasons_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    registry = ModelRegistry(tmp_path / "models")
    version = registry.add("unpicker", "unpicker", tmp_path / "trained", reasons=("A is new: F1 0.950",))
    assert described(UpdateResult("promoted", version))["reasons"] == ["A is new: F1 0.950"]
    unchanged = described(UpdateResult("nothing new", version))
    assert (unchanged["version"], unchanged["reasons"]) == ("unpicker@v0001", [])
