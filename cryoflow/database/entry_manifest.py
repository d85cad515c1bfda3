"""`manifest.json`: checksums of an entry's files, when it was written, and the sources that it was read from.

It is the only file of an entry with times in it: info.txt and data.txt are the same bytes for the same input. Its own
last field is the checksum of the rest, so that a flipped bit in it is found too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryoflow.database import layout
from cryoflow.storage.fingerprints import SourceFile
from cryoflow.storage.parsing import validated
from cryoflow.storage.sealing import REPAIR_HINT, sealed, unsealed

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
    """Return the text of a manifest.json."""
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
    content = validated(path, record, _Content, REPAIR_HINT)
    return Manifest(
        entry=content.entry,
        written=content.written,
        cryoflow=content.cryoflow,
        sums={name: (file.bytes, file.blake2b) for name, file in content.files.items()},
        sources=tuple(SourceFile(Path(s.path), s.bytes, s.mtime_ns) for s in content.sources),
    )


@dataclass(frozen=True)
class _File:
    bytes: int
    blake2b: str


@dataclass(frozen=True)
class _Source:
    path: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class _Content:
    """The fields of a manifest.json; pydantic ignores others."""

    entry: str
    written: str
    cryoflow: str
    files: dict[str, _File]
    sources: list[_Source]
