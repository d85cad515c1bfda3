"""Tests replace no private name of our code."""

from __future__ import annotations

import pytest

from cryoflow import shards
from cryoflow.shards import Rate


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        ("cryoflow.shards._duration", str, ()),
        (shards, "_duration", (str,)),
        (Rate, "_started", (1.0,)),
        (Rate(), "_started", (1.0,)),
    ],
)
def test_a_private_name_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, target: object, name: object, value: tuple[object, ...]
) -> None:
    with pytest.raises(pytest.fail.Exception, match="is private"):
        monkeypatch.setattr(target, name, *value)


def test_public_names_and_those_of_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoflow.shards.FINGERPRINT_DIGITS", 8)
    monkeypatch.setattr(shards, "FINGERPRINT_DIGITS", 9)
    monkeypatch.setattr("cryoflow.__version__", "0")
    monkeypatch.setattr("json.decoder._none", 1, raising=False)
    assert shards.FINGERPRINT_DIGITS == 9
