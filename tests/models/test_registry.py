"""The registry of models: versions are complete or absent, one is in use, and nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from killed import fork

from cryoflow.database.lock import locked
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.models.card import TrainedOn, read_card
from cryoflow.models.held_out import NAME, HeldOut
from cryoflow.models.registry import CURRENT, ModelRegistry, OtherInUse, Pruned
from cryoflow.storage import fault_points


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "bundle.json").write_text("{}")
    (folder / "checkpoints" / "weights.npz").write_bytes(bytes(range(256)))
    return folder


def test_versions_are_numbered_and_hold_what_the_training_left(registry: ModelRegistry, model: Path) -> None:
    learned = (TrainedOn("P190", ("P190/Homo_J5",), "ab12", 30, 4000),)
    metrics = {"P190": {"f1": 0.91, "recall": float("nan")}}
    first = registry.add("unpicker", "unpicker", model, trained_on=learned, metrics=metrics)
    second = registry.add("unpicker", "unpicker", model, parent=1)
    assert [v.label for v in registry.versions("unpicker")] == ["unpicker@v0001", "unpicker@v0002"]
    assert (first.model / "checkpoints" / "weights.npz").read_bytes() == bytes(range(256))
    card = read_card(first.folder / "card.json")
    assert card.trained_on == learned
    assert card.metrics["P190"]["f1"] == 0.91
    assert card.metrics["P190"]["recall"] != card.metrics["P190"]["recall"]  # unknown stays unknown
    assert second.card.parent == 1
    assert first.problems() == []


def test_nothing_is_in_use_until_it_is_promoted_and_a_rollback_goes_back(registry: ModelRegistry, model: Path) -> None:
    for _ in range(3):
        registry.add("unpicker", "unpicker", model)
    assert registry.current("unpicker") is None
    with pytest.raises(BadInput, match="no version in use"):
        registry.resolve("unpicker")
    registry.promote("unpicker", 1, "first")
    registry.promote("unpicker", 3, "better")
    registry.promote("unpicker", 3, "again")  # nothing changes
    assert registry.resolve("unpicker") == registry.version("unpicker", 3).model
    registry.rollback("unpicker")
    assert registry.current("unpicker").number == 1  # type: ignore[union-attr]
    assert [(s.version, s.reason) for s in registry.history("unpicker")] == [
        (1, "first"),
        (3, "better"),
        (1, "rolled back"),
    ]


def test_without_an_earlier_version_there_is_nothing_to_go_back_to(registry: ModelRegistry, model: Path) -> None:
    registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 1, "first")
    with pytest.raises(BadInput, match="no earlier version"):
        registry.rollback("unpicker")


def test_a_model_is_named_by_folder_name_or_version(registry: ModelRegistry, model: Path) -> None:
    registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 1, "first")
    place = registry.version("unpicker", 1).model
    assert registry.resolve(model) == model
    assert registry.resolve("unpicker") == place
    assert registry.resolve("unpicker@v0001") == registry.resolve("unpicker@1") == place


@pytest.mark.parametrize("reference", ["nobody", "unpicker@v0009", "../trained@v1", "/no/such/folder", "unpicker@"])
def test_a_reference_to_nothing_is_one_clear_error(registry: ModelRegistry, model: Path, reference: str) -> None:
    registry.add("unpicker", "unpicker", model)
    with pytest.raises(BadInput):
        registry.resolve(reference)


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "", ".hidden", "a@b", "a\nb"])
def test_names_stay_inside_the_registry(registry: ModelRegistry, model: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be the name"):
        registry.add(name, "unpicker", model)
    assert not registry.root.exists()


def test_a_changed_file_keeps_a_version_from_being_put_into_use(registry: ModelRegistry, model: Path) -> None:
    version = registry.add("unpicker", "unpicker", model)
    weights = version.model / "checkpoints" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    (version.model / "more.py").write_text("")
    assert version.problems() == ["checkpoints/weights.npz was changed", "more.py is not of this version"]
    with pytest.raises(BadInput, match=r"weights\.npz was changed"):
        registry.promote("unpicker", 1, "damaged")
    assert registry.current("unpicker") is None


@pytest.mark.parametrize("field", ["kind", "parent", "metrics", "version"])
def test_a_changed_card_is_refused(registry: ModelRegistry, model: Path, field: str) -> None:
    version = registry.add("unpicker", "unpicker", model)
    path = version.folder / "card.json"
    record = json.loads(path.read_text())
    record[field] = 5
    path.write_text(json.dumps(record, indent=1) + "\n")
    with pytest.raises(BadInput, match="checksum"):
        registry.version("unpicker", 1)


@pytest.mark.parametrize(
    "values",
    [
        {"parent": 1},  # itself
        {"parent": 10**4000},
        {"compared_with": -1},
        {"trained_on": [["P", [], "x", 10**400, 0]]},
        {"files": {"bundle.json": (-1, "x")}},
    ],
)
def test_a_card_with_numbers_that_cannot_be_is_refused(
    registry: ModelRegistry, model: Path, values: dict[str, Any]
) -> None:
    version = registry.add("unpicker", "unpicker", model)
    learned = tuple(TrainedOn(*row) for row in values.pop("trained_on", ()))
    card = replace(version.card, trained_on=learned, **values)
    (version.folder / "card.json").write_text(card.text())
    with pytest.raises(BadInput, match=r"card\.json: "):
        registry.version("unpicker", 1)


def test_records_that_are_no_files_and_numbers_that_no_version_has_are_clear_errors(
    registry: ModelRegistry, model: Path
) -> None:
    version = registry.add("unpicker", "unpicker", model)
    home = registry.root / "unpicker"
    (home / "v00001").mkdir()  # not v0001
    assert registry.numbers("unpicker") == [1]
    for number in (0, 10**4000):
        with pytest.raises(BadInput, match="is no version"):
            registry.version("unpicker", number)
    with pytest.raises(BadInput, match="neither a folder nor a model"):
        registry.find("unpicker@" + "9" * 5000)
    for name, read in ((CURRENT, registry.history), (NAME, lambda _: HeldOut(home).read())):
        os.mkfifo(home / name)
        with pytest.raises(BadInput, match="named pipe"):
            read("unpicker")
    long = replace(version, card=replace(version.card, files={"x" * 300: (1, "x")}))
    assert "cannot be read (File name too long)" in long.problems()[0]
    (home / "v999999999").mkdir()
    with pytest.raises(BadInput, match="largest number"):
        registry.add("unpicker", "unpicker", model)


def test_a_card_of_a_newer_version_is_refused(registry: ModelRegistry, model: Path) -> None:
    from cryoflow.database.entry_manifest import sealed

    version = registry.add("unpicker", "unpicker", model)
    path = version.folder / "card.json"
    record = json.loads(path.read_text())
    record.pop("checksum")
    path.write_text(sealed({**record, "format": 99}))
    with pytest.raises(BadInput, match="newer"):
        registry.version("unpicker", 1)


def test_the_card_of_another_version_is_refused(registry: ModelRegistry, model: Path) -> None:
    first, second = (registry.add("unpicker", "unpicker", model) for _ in range(2))
    (second.folder / "card.json").write_bytes((first.folder / "card.json").read_bytes())
    with pytest.raises(BadInput, match="is the card of unpicker@v0001"):
        registry.version("unpicker", 2)


def test_a_model_with_links_is_refused_and_leaves_nothing(registry: ModelRegistry, model: Path) -> None:
    (model / "secret").symlink_to("/etc/passwd")
    with pytest.raises(BadInput, match="not a regular file"):
        registry.add("unpicker", "unpicker", model)
    assert [p.name for p in (registry.root / "unpicker").iterdir() if p.name.startswith("v")] == []


def test_prune_keeps_what_is_in_use_what_was_before_and_what_these_started_from(
    registry: ModelRegistry, model: Path
) -> None:
    for parent in (None, None, 2, 3, None, None, None):
        registry.add("unpicker", "unpicker", model, parent=parent)
    registry.promote("unpicker", 1, "first")
    registry.promote("unpicker", 4, "in use")
    assert registry.prune("unpicker", keep=1) == Pruned(("unpicker@v0005", "unpicker@v0006"))
    assert [v.number for v in registry.versions("unpicker")] == [1, 2, 3, 4, 7]
    assert registry.add("unpicker", "unpicker", model).number == 8


def test_prune_keeps_what_cannot_be_read_and_all_that_it_may_have_started_from(
    registry: ModelRegistry, model: Path
) -> None:
    for parent in (None, 1, 2, None, None, 3):
        registry.add("unpicker", "unpicker", model, parent=parent)
    registry.promote("unpicker", 6, "in use")
    (registry.root / "unpicker" / "v0003" / "card.json").write_text("{")
    pruned = registry.prune("unpicker", keep=1)
    assert pruned.removed == ("unpicker@v0004", "unpicker@v0005")
    assert registry.numbers("unpicker") == [1, 2, 3, 6]
    unreadable, older = pruned.notes
    assert unreadable.startswith("unpicker@v0003 is kept, because it cannot be read: ")
    assert older == "2 older versions kept with unpicker@v0003: what it started from is not known"
    assert [v.number for v in registry.readable_versions("unpicker")[0]] == [1, 2, 6]
    assert registry.readable_versions("nobody") == ([], {})


def test_prune_removes_nothing_while_no_version_is_in_use(registry: ModelRegistry, model: Path) -> None:
    for _ in range(4):
        registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 2, "in use")
    (registry.root / "unpicker" / "current.json").unlink()
    kept = "no version of 'unpicker' is in use: all are kept until one is (cryoflow model promote)"
    assert registry.prune("unpicker", keep=1) == Pruned((), (kept,))
    assert registry.prune("unpicker", keep=4) == Pruned(())
    registry.promote("unpicker", 2, "in use again")
    assert registry.prune("unpicker", keep=1).removed == ("unpicker@v0001", "unpicker@v0003")


@pytest.fixture
def just_before_the_lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Return what has another process change the registry once, just before the next writer gets the lock."""

    def arrange(change: Callable[[], object]) -> None:
        @contextmanager
        def late(folder: Path, *, timeout_s: float) -> Iterator[bool]:
            monkeypatch.setattr("cryoflow.models.registry.locked", locked)
            change()
            with locked(folder, timeout_s=timeout_s) as taken_over:
                yield taken_over

        monkeypatch.setattr("cryoflow.models.registry.locked", late)

    return arrange


def test_a_version_that_another_process_puts_into_use_meanwhile_is_not_pruned(
    registry: ModelRegistry, model: Path, just_before_the_lock: Callable[[Callable[[], object]], None]
) -> None:
    for _ in range(4):
        registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 3, "in use")
    just_before_the_lock(lambda: registry.promote("unpicker", 1, "an old one"))
    assert registry.prune("unpicker", keep=1).removed == ("unpicker@v0002",)
    assert registry.current("unpicker").number == 1  # type: ignore[union-attr]


def test_a_version_that_an_update_is_about_to_put_into_use_is_not_pruned(registry: ModelRegistry, model: Path) -> None:
    learned = (TrainedOn("P190", ("P190/Homo_J5",), "ab12", 30, 4000),)
    for in_use, removed in ((None, ()), (1, ("unpicker@v0002",))):
        update = registry.add("unpicker", "unpicker", model, trained_on=learned, compared_with=in_use)
        registry.add("unpicker", "unpicker", model)  # by a user, meanwhile
        assert registry.prune("unpicker", keep=1).removed == removed
        assert registry.promote("unpicker", update.number, "better", expected=in_use) == update


def test_a_rollback_goes_back_from_the_version_that_is_in_use_under_the_lock(
    registry: ModelRegistry, model: Path, just_before_the_lock: Callable[[Callable[[], object]], None]
) -> None:
    for number in (1, 2, 3):
        registry.add("unpicker", "unpicker", model)
        if number < 3:
            registry.promote("unpicker", number, "better")
    just_before_the_lock(lambda: registry.promote("unpicker", 3, "an update"))
    assert registry.rollback("unpicker").number == 2
    assert [s.version for s in registry.history("unpicker")] == [1, 2, 3, 2]


def test_a_version_that_another_process_removes_meanwhile_is_not_put_into_use(
    registry: ModelRegistry, model: Path, just_before_the_lock: Callable[[Callable[[], object]], None]
) -> None:
    for _ in range(3):
        registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 3, "in use")
    just_before_the_lock(lambda: registry.prune("unpicker", keep=1))
    with pytest.raises(BadInput, match="is no version of 'unpicker'"):
        registry.promote("unpicker", 1, "an old one")
    assert registry.current("unpicker").number == 3  # type: ignore[union-attr]


def test_a_version_is_put_into_use_only_in_place_of_the_expected_one(registry: ModelRegistry, model: Path) -> None:
    for _ in range(3):
        registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 1, "first", expected=None)
    for expected in (None, 2):
        with pytest.raises(OtherInUse, match=r"v0001 was put into use meanwhile \(first\)"):
            registry.promote("unpicker", 3, "an update", expected=expected)
    assert registry.current("unpicker").number == 1  # type: ignore[union-attr]
    assert registry.promote("unpicker", 3, "an update", expected=1).number == 3
    assert registry.promote("unpicker", 3, "again", expected=1).number == 3  # it is in use already


def test_a_model_that_is_not_there_is_neither_pruned_nor_rolled_back(registry: ModelRegistry) -> None:
    with pytest.raises(BadInput, match="holds no model called 'unpicker'"):
        registry.prune("unpicker", keep=1)
    with pytest.raises(BadInput, match="no earlier version"):
        registry.rollback("unpicker")
    assert not registry.root.exists()


def _add(root: Path, model: Path) -> None:
    ModelRegistry(root).add("unpicker", "unpicker", model)


def test_two_writers_take_different_numbers(registry: ModelRegistry, model: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(registry.root, model)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [w.exitcode for w in writers] == [0, 0, 0]
    assert [v.number for v in registry.versions("unpicker")] == [1, 2, 3]
    assert all(v.problems() == [] for v in registry.versions("unpicker"))


@pytest.mark.forks
@pytest.mark.parametrize("call", range(1, 25))
def test_a_kill_at_any_write_leaves_whole_versions_and_the_next_add_goes_on(
    registry: ModelRegistry, model: Path, call: int
) -> None:
    registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 1, "first")
    if (pid := fork()) == 0:
        left = call

        def die(_name: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)

        fault_points.on_fault_point = die
        registry.add("unpicker", "unpicker", model)
        registry.promote("unpicker", 2, "second")
        os._exit(0)
    os.waitpid(pid, 0)
    for version in registry.versions("unpicker"):
        assert version.problems() == []
    assert registry.current("unpicker").number in (1, 2)  # type: ignore[union-attr]
    added = registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", added.number, "after the kill")
    assert registry.resolve("unpicker") == added.model
    left_over = [p.name for p in (registry.root / "unpicker").iterdir() if p.name.startswith((".v", ".c"))]
    assert left_over == []


def test_a_broken_history_is_an_error_and_not_another_version(registry: ModelRegistry, model: Path) -> None:
    registry.add("unpicker", "unpicker", model)
    registry.promote("unpicker", 1, "first")
    path = registry.root / "unpicker" / "current.json"
    path.write_text(path.read_text().replace("first", "other"))
    with pytest.raises(CryoflowError, match="checksum"):
        registry.resolve("unpicker")


@pytest.mark.parametrize("name", ["../../../home", "exemplars/../../../../home", "/home"])
def test_a_card_that_names_a_file_elsewhere_is_refused(registry: ModelRegistry, model: Path, name: str) -> None:
    version = registry.add("detector", "detector", model)
    card = replace(version.card, files={name: (1, "0" * 16)})
    (version.folder / "card.json").write_text(card.text())
    with pytest.raises(BadInput, match="outside this folder"):
        registry.version("detector", 1)


def test_files_carried_over_are_links_to_the_earlier_version_and_never_to_anything_else(
    registry: ModelRegistry, model: Path, tmp_path: Path
) -> None:
    weights = "checkpoints/weights.npz"
    first = registry.add("detector", "detector", model)
    small = tmp_path / "small"
    small.mkdir()
    (small / "bundle.json").write_text("{}")
    second = registry.add("detector", "detector", small, carried=(first, (weights,)))
    assert (second.model / weights).samefile(first.model / weights)
    assert second.problems() == []

    private = tmp_path / "private"
    private.write_text("secret")
    (second.model / weights).unlink()
    (second.model / weights).symlink_to(private)
    with pytest.raises(BadInput, match="is a link"):
        registry.add("detector", "detector", small, carried=(second, (weights,)))
    assert [v.number for v in registry.versions("detector")] == [1, 2]
    (small / "checkpoints").mkdir()
    (small / weights).write_text("of this training")
    with pytest.raises(CryoflowError):  # a name that is taken is not overwritten
        registry.add("detector", "detector", small, carried=(first, (weights,)))
