"""Scalars in the file format that TensorBoard reads, written without TensorFlow or TensorBoard.

A log is a chain of records: length (8 bytes), checksum of the length, a protobuf message `Event`, its checksum; the
checksums are CRC-32C, rotated and offset. Only three of its fields are needed: time (1), step (2), and a summary (5) of
values with a tag (1) and a number (2).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from pathlib import Path

from cryoflow.storage.files import clear_errors


class EventLog:
    """A log that scalars are added to; each record is whole when `add` returns."""

    def __init__(self, folder: Path, *, name: str = "cryoflow") -> None:
        with clear_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self.path = folder / f"events.out.tfevents.{now:.6f}.{name}"
        self._append(_double(1, now) + _bytes(3, b"brain.Event:2"))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add numbers by name at a step."""
        values = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, v)) for tag, v in scalars.items())
        self._append(_double(1, time.time()) + _varint(2 << 3) + _varint(step) + _bytes(5, values))

    def _append(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        record = length + _checksum(length) + event + _checksum(event)
        with clear_errors(self.path), self.path.open("ab") as file:
            file.write(record)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _table() -> tuple[int, ...]:
    """Of CRC-32C (Castagnoli), bits reversed."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _table()


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
