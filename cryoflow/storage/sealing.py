"""Records with a checksum of their own, and the one check of format versions.

A sealed record is JSON whose last field, `checksum`, is the fingerprint of the fields before it. The text must be
exactly what `sealed` writes for its content, so that every flipped bit is found, also one that JSON does not notice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cryoflow.errors import BadInput, NewerFormat
from cryoflow.storage.budgets import check_json
from cryoflow.storage.fingerprints import fingerprint_of

REPAIR_HINT = "Run 'cryoflow database verify --repair', then ingest again."


def sealed(record: Mapping[str, object]) -> str:
    """Return JSON text with the checksum of the record as its last field."""
    return json.dumps({**record, "checksum": _checksum(record)}, indent=1) + "\n"


def unsealed(path: Path, raw: bytes, newest: int, hint: str = REPAIR_HINT) -> dict[str, object]:
    """Check a sealed record and return its fields without the checksum.

    Parameters
    ----------
    path
        The file that holds the record, for error messages.
    raw
        The content of the file.
    newest
        Newest version of the format, field `format`, that this code reads.
    hint
        What the user can do about a damaged record.

    Raises
    ------
    NewerFormat
        If a newer cryoflow wrote the record.
    BadInput
        If the text is not exactly what `sealed` writes for its content.
    """
    if b'"checksum": "' not in raw[-200:]:  # before parsing, which may take long
        raise BadInput(path, "damaged: it does not end with its checksum.", hint)
    try:
        check_json(path, raw)
        record = json.loads(raw)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise BadInput(path, "damaged: it is not JSON.", hint)
    recorded = record.pop("checksum", None)
    try:
        is_sound = recorded == _checksum(record) and sealed(record).encode() == raw
    except (ValueError, RecursionError):  # nesting or numbers that JSON reads and cannot write
        is_sound = False
    if not is_sound:
        raise BadInput(path, "damaged: its checksum does not fit its content.", hint)
    refuse_newer(path, record.get("format"), newest)
    return record


def refuse_newer(path: Path, version: object, newest: int) -> int:
    """Return the version of a file's format if this code reads it. All formats of cryoflow are checked here.

    Raises
    ------
    NewerFormat
        If the version is greater than `newest`, or is not a whole number of at least 1.
    """
    if isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 10:
        version = int(version)
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= newest:
        shown = str(version)[:20] if not isinstance(version, int) else f"{version:.6g}" if version > 1e9 else version
        raise NewerFormat(
            path,
            f"it was written by a newer cryoflow (version {shown} of the format; this one reads {newest}).",
            "Update cryoflow.",
        )
    return version


def _checksum(record: Mapping[str, object]) -> str:
    return fingerprint_of(json.dumps(record, indent=1))
