"""Promise 5: a record of JSON on disk that is hostile or damaged is one clear error that names the file.

Sealed records get a checksum that fits, as their author would make it: the checksum must not be the only guard.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from record_readers import READERS, Reader, detector, unpicker

from cryoflow.errors import BadInput


def hostile(sound: Any) -> list[object]:
    """Return records of which none is sound: each value exchanged, at any depth, and each field left out."""
    others: tuple[object, ...] = (None, True, -1, 1e999, float("nan"), 10**400, "x" * 10, [], {}, [[]], {"a": {}})
    found: list[object] = [other for other in others if type(other) is not type(sound)]
    for change in _exchanged(sound, others):
        found.append(change)
    return found


def _exchanged(value: Any, others: tuple[object, ...], depth: int = 0) -> list[object]:
    if depth > 3:
        return []
    found: list[object] = []
    if isinstance(value, dict):
        for name, inner in value.items():
            found.append({k: v for k, v in value.items() if k != name})
            found += [value | {name: other} for other in others if type(other) is not type(inner)]
            found += [value | {name: other} for other in _exchanged(inner, others, depth + 1)]
    elif isinstance(value, list) and value:
        found += [[other, *value[1:]] for other in others if type(other) is not type(value[0])]
        found += [[other, *value[1:]] for other in _exchanged(value[0], others, depth + 1)]
    return found


@pytest.mark.parametrize("reader", READERS, ids=lambda f: f.__name__)
def test_a_hostile_record_is_read_or_is_one_clear_error_that_names_its_file(
    reader: Callable[[Path], Reader], tmp_path: Path
) -> None:
    made = reader(tmp_path)
    made.write(made.sound)
    made.read()
    errors, bad = [], []
    for record in hostile(made.sound):
        made.write(record)
        try:
            made.read()
        except BadInput as error:
            errors.append(str(error))
        except Exception as error:
            bad.append(f"{error!r} for {str(record)[:300]}")
    assert bad == []
    assert len(errors) >= 10
    assert [error for error in errors if str(tmp_path) not in error or len(error) > 2000] == []


@pytest.mark.parametrize("reader", READERS, ids=lambda f: f.__name__)
def test_another_type_in_place_of_a_record_is_refused(reader: Callable[[Path], Reader], tmp_path: Path) -> None:
    made = reader(tmp_path)
    wrong: tuple[object, ...] = (None, 3, "text", [1], {"a": 1} if isinstance(made.sound, list) else [[]])
    for record in wrong:
        made.write(record)
        with pytest.raises(BadInput, match=made.file.replace(".", r"\.")):
            made.read()


@pytest.mark.parametrize("value", [None, "much", [], {}, float("nan"), 1e999, -1.0, 10**400])
@pytest.mark.parametrize(
    ("reader", "name"),
    [(unpicker, "threshold"), (unpicker, "temperature"), (unpicker, "diameter_A"), (detector, "threshold")],
)
def test_a_model_whose_numbers_cannot_be_is_refused(
    reader: Callable[[Path], Reader], name: str, value: object, tmp_path: Path
) -> None:
    """A threshold of NaN would keep no pick, or all of them, without a word."""
    made = reader(tmp_path)
    made.write(made.sound | {name: value})
    with pytest.raises(BadInput, match=rf"bundle\.json: {name}: "):
        made.read()
