"""`manifest.json`: checksums of an entry's files, when it was written, and the sources that it was read from.

It is the only file of an entry with times in it: info.txt and data.txt are the same bytes for the same input. Its own
last field is the checksum of the rest, so that a flipped bit in it is found too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cryoflow.database import layout
from cryoflow.errors import BadInput
from cryoflow.picks import SourceFile
from cryoflow.storage.safe_names import short_hash

NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The manifest of one entry; `entry` is its folder's name, `sums` has (bytes, checksum) a file."""

    entry: str
    written: str
    cryoflow: str
    sums: dict[str, tuple[int, str]]
    sources: tuple[SourceFile, ...]


def manifest_text(manifest: Manifest) -> str:
    """The text of a manifest.json."""
    return sealed(
        {
            "format": VERSION,
            "entry": manifest.entry,
            "written": manifest.written,
            "cryoflow": manifest.cryoflow,
            "files": {name: {"bytes": n, "blake2b": mark} for name, (n, mark) in sorted(manifest.sums.items())},
            "sources": [{"path": str(s.path), "bytes": s.size_bytes, "mtime_ns": s.mtime_ns} for s in manifest.sources],
        }
    )


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.json.

    Raises
    ------
    BadInput
        Where its checksum is wrong or a newer cryoflow wrote it.
    """
    record = unsealed(path, layout.content(path), VERSION)
    try:
        sums = _dict(record["files"])
        return Manifest(
            entry=_str(record["entry"]),
            written=_str(record["written"]),
            cryoflow=_str(record["cryoflow"]),
            sums={name: (_int(_dict(f)["bytes"]), _str(_dict(f)["blake2b"])) for name, f in sums.items()},
            sources=tuple(
                SourceFile(Path(_str(_dict(s)["path"])), _int(_dict(s)["bytes"]), _int(_dict(s)["mtime_ns"]))
                for s in _list(record["sources"])
            ),
        )
    except (KeyError, TypeError) as error:
        raise BadInput(path, f"a manifest without {error}.", "Ingest the job again.") from None


def sealed(record: dict[str, object]) -> str:
    """JSON text with the checksum of the record as its last field."""
    return json.dumps({**record, "checksum": _checksum(record)}, indent=1) + "\n"


def unsealed(path: Path, raw: bytes, newest: int) -> dict[str, object]:
    """The record that `sealed` wrote.

    Raises
    ------
    BadInput
        Where the text is not exactly what `sealed` makes of its content, or its format is newer than `newest`.
    """
    hint = "Run 'cryoflow database verify --repair', then ingest again."
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise BadInput(path, "damaged: it is not JSON.", hint)
    mark = record.pop("checksum", None)
    if mark != _checksum(record) or sealed(record).encode() != raw:
        raise BadInput(path, "damaged: its checksum does not fit its content.", hint)
    version = record.get("format")
    if not isinstance(version, int) or version > newest:
        raise BadInput(
            path, f"it was written by a newer cryoflow (version {version} of the format).", "Update cryoflow."
        )
    return record


def _checksum(record: dict[str, object]) -> str:
    return short_hash(json.dumps(record, indent=1), 32)


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("an object")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list")
    return value


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("a number")
    return value
