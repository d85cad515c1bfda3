"""Checks of what requests hold: JSON records of limited size, and numbers of micrographs that exist."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fastapi import Request
from fastapi.exceptions import HTTPException

from cryoflow.view.decisions import finite_number
from cryoflow.view.opened_entries import Opened


def check_micrograph(opened: Opened, micrograph: int) -> None:
    """Refuse the number of a micrograph that the entry does not have."""
    if micrograph >= len(opened.candidates.picks.micrographs):
        raise HTTPException(404, f"{opened.name} has no micrograph {micrograph}")


async def read_record(request: Request) -> Mapping[str, object]:
    """Return the JSON object of a request. `access` has checked its declared length; the server holds it to that."""
    try:
        record = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(422, "not JSON") from None
    if not isinstance(record, dict):
        raise HTTPException(422, "not an object")
    return record


def text_of(record: Mapping[str, object], name: str, longest: int = 600) -> str:
    """Return a text of a record, empty where it has none of this name."""
    value = record.get(name, "")
    if not isinstance(value, str) or len(value) > longest:
        raise HTTPException(422, f"{name} is a text of at most {longest} characters")
    return value


def count_of(record: Mapping[str, object], name: str) -> int:
    """Return a number from 0 of a record."""
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise HTTPException(422, f"{name} is a number from 0")
    return value


def number_of(record: Mapping[str, object], name: str) -> float:
    """Return a finite number of a record."""
    number = finite_number(record.get(name))
    if number is None:
        raise HTTPException(422, f"{name} is a number")
    return number
