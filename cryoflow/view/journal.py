"""The journal of a review: each action of a person as one line of JSON, appended and synced before it is confirmed.

Nothing is lost when the browser or the server is killed: at most a torn last line is left, which nobody was told is
kept, and which the next append removes. Several servers may append to one journal, on one host or many: each takes a
lock of the file, reads what others appended, and appends behind that.

The first line names the format, the entry, and the fingerprint of its picks. The journal of a database that can be
written lies in `DB/.reviews/`, else in the user's state folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryoflow.database import layout
from cryoflow.errors import BadInput
from cryoflow.storage import folders, inputs, write_errors
from cryoflow.storage.parsing import parse_record
from cryoflow.storage.safe_names import safe_name, short_hash

FORMAT = 1
LONGEST_LINE_BYTES = 1 << 20
"""Most bytes of one action: more than 100,000 picks at once."""
MOST_BYTES = 1 << 30
"""Size at which a journal takes no more actions."""


@dataclass(frozen=True)
class Line:
    """One action: its number from 1, when, by whom, from which browser window, and what was done."""

    number: int
    at: str
    by: str
    window: str
    action: Mapping[str, object]


@dataclass(frozen=True)
class _StoredLine:
    """A line of the file, behind the first."""

    n: int
    at: str
    by: str
    window: str
    do: dict[str, object]


class Journal:
    """An append-only file of actions. Made with the first `append`.

    Parameters
    ----------
    path
        The file.
    entry
        Name of the entry that is reviewed.
    fingerprint
        Of its picks.
    """

    def __init__(self, path: Path, entry: str, fingerprint: str) -> None:
        self.path, self._head = path, {"format": FORMAT, "entry": entry, "fingerprint": fingerprint}
        self._lock = threading.RLock()
        self._read_to = 0
        self.lines: list[Line] = []

    def read(self) -> Sequence[Line]:
        """Read what was appended since the last call, by whomever, and return those lines.

        Raises
        ------
        BadInput
            Where the file is damaged, or of another entry.
        """
        with self._lock:
            try:
                with inputs.unbuffered(self.path) as file:
                    return self._read(file.fileno())
            except FileNotFoundError:
                return ()
            except OSError as error:
                raise BadInput(self.path, f"cannot be read: {error.strerror or error}.") from error

    def append(self, by: str, window: str, action: Callable[[], Mapping[str, object] | None]) -> Line | None:
        """Append an action and sync; return it with its number once it is on the disk.

        Parameters
        ----------
        action
            Called when all lines of others were read, under the lock; what it returns is appended, None appends
            nothing.

        Raises
        ------
        NotWritten
            Where the disk is full, read-only or failing. The journal is then what it was.
        BadInput
            As `read`; and where the action is too long or the journal is full.
        """
        with self._lock, write_errors.clear_errors(self.path), self._locked() as number:
            self._read(number)
            content = action()
            if content is None:
                return None
            line = Line(len(self.lines) + 1, datetime.now(UTC).isoformat(timespec="seconds"), by, window, content)
            record = {"n": line.number, "at": line.at, "by": by, "window": window, "do": content}
            text = json.dumps(record, separators=(",", ":")).encode() + b"\n"
            if not self._read_to:
                text = json.dumps(self._head).encode() + b"\n" + text
            if len(text) > LONGEST_LINE_BYTES or self._read_to + len(text) > MOST_BYTES:
                raise BadInput(self.path, "has no room for this action.", "Save the review, and start a new one.")
            os.ftruncate(number, self._read_to)  # a torn line of a server that was killed
            try:
                _write_all(number, text, self._read_to)
                os.fsync(number)
            except OSError:
                os.ftruncate(number, self._read_to)
                raise
            self._read_to += len(text)
            self.lines.append(line)
            return line

    @contextmanager
    def _locked(self) -> Iterator[int]:
        new = not self.path.exists()
        folders.make_folder(self.path.parent)
        number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(number, fcntl.LOCK_EX)  # also between hosts that share the file over NFS
            if new:
                folders.sync_folder(self.path.parent)
            yield number
        finally:
            os.close(number)

    def _read(self, number: int) -> Sequence[Line]:
        size = os.fstat(number).st_size
        if size < self._read_to:
            raise BadInput(self.path, "became shorter: another program changed it.", "Restart the viewer.")
        if size > MOST_BYTES:
            raise BadInput(self.path, f"is larger than {MOST_BYTES >> 20} MiB.")
        content = b""
        while len(content) < size - self._read_to:
            piece = os.pread(number, size - self._read_to - len(content), self._read_to + len(content))
            if not piece:
                break
            content += piece
        whole = content[: content.rfind(b"\n") + 1]
        found = [self._parsed(raw, first=not self._read_to and i == 0) for i, raw in enumerate(whole.splitlines())]
        lines = [line for line in found if line is not None]
        for i, line in enumerate(lines):
            if line.number != len(self.lines) + i + 1:
                raise BadInput(self.path, f"has action {line.number} where {len(self.lines) + i + 1} should be.")
        self._read_to += len(whole)
        self.lines += lines
        return lines

    def _parsed(self, raw: bytes, *, first: bool) -> Line | None:
        hint = "Restore it from a backup, or move it away."
        if first:
            if parse_record(self.path, raw, dict[str, object], hint) != self._head:
                raise BadInput(self.path, f"is not the journal of {self._head['entry']} as it is now.", "Move it away.")
            return None
        record = parse_record(self.path, raw, _StoredLine, hint)
        return Line(record.n, record.at, record.by, record.window, record.do)


def journal_of(database: Path, entry: str, fingerprint: str, *, state_folder: Path | None = None) -> Journal:
    """Return the journal of an entry's review.

    Parameters
    ----------
    database
        The database's folder: journals lie in its `.reviews`, where it can be written.
    state_folder
        Where they lie otherwise; None takes `$XDG_STATE_HOME/cryoflow/reviews`.
    """
    name = f"{safe_name(entry.replace('/', '_'))}-{short_hash(entry, 6)}-{fingerprint}.jsonl"
    beside = database / layout.REVIEWS
    if os.access(beside if beside.exists() else database, os.W_OK | os.X_OK) and not beside.is_symlink():
        return Journal(beside / name, entry, fingerprint)
    folder = state_folder or user_state_folder() / "reviews"
    return Journal(folder / short_hash(str(database), 12) / name, entry, fingerprint)


def user_state_folder() -> Path:
    """Return the folder of this user's state: `$XDG_STATE_HOME/cryoflow`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "cryoflow")


def _write_all(number: int, text: bytes, offset: int) -> None:
    written = 0
    while written < len(text):
        written += os.pwrite(number, text[written:], offset + written)
