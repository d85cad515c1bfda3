"""Steps of a write at which tests end the process or make it fail."""

from __future__ import annotations

from collections.abc import Callable

FAULT_POINTS = frozenset(
    {
        *("file.opened", "file.piece", "file.written", "file.synced", "file.renamed"),
        *("folder.opened", "folder.written", "folder.synced", "folder.moved_aside", "folder.renamed", "folder.cleaned"),
        *("link.made", "link.renamed", "moved", "removed", "lock.written", "lock.taken", "lock.released"),
    }
)
"""Every place where a test ends the process. A step that writes, renames, syncs or removes is followed by one."""

on_fault_point: Callable[[str], None] | None = None
"""Called with the name of each step of a write; tests set it, to fail or to be killed there."""


def fault_point(name: str) -> None:
    """Let a test end the process or raise here; does nothing otherwise."""
    if on_fault_point is not None:
        if name not in FAULT_POINTS:
            raise ValueError(f"{name} is not in FAULT_POINTS")
        on_fault_point(name)
