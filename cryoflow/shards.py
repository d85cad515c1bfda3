"""Work in shards: cut, fingerprint what goes in, skip what is done, run, and report the rate.

A shard is some consecutive items of a piece of work and the path of its result, a file or folder that is complete or
absent. Its name has the fingerprint of everything that the result depends on: a result of other input, another model or
other settings has another name, and is never taken. So a second run repeats nothing, and several machines can run
shards of the same work at the same time. Un-picking, picking, export and ingest are small adapters of this module; the
command line and the flows use the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.storage.fingerprints import fingerprint_of

OnProgress = Callable[[int, int], None]
"""Called with the number of items done and of all items."""

FINGERPRINT_DIGITS = 16


@dataclass(frozen=True)
class Shard:
    """Items `first` to `last` (not included) of a piece of work, and where their result goes."""

    first: int
    last: int
    result: Path

    @property
    def is_done(self) -> bool:
        """Whether the result is there."""
        return self.result.exists()

    def __len__(self) -> int:
        return self.last - self.first


def cut(n_items: int, n_a_job: int, n_a_shard: int = 1) -> Iterator[tuple[int, int]]:
    """Return ranges of about `n_a_job` items, each a whole number of shards.

    >>> list(cut(250, 100, 30))
    [(0, 90), (90, 180), (180, 250)]
    """
    step = max(1, n_a_job // n_a_shard) * n_a_shard
    for first in range(0, n_items, step):
        yield first, min(first + step, n_items)


def shard(first: int, last: int, folder: Path, stem: str, content: Iterable[object], suffix: str = "") -> Shard:
    """Return the shard whose result is named by its range and the fingerprint of what it depends on.

    Parameters
    ----------
    content
        Values that decide the result. Buffers count by their bytes, all others by their `repr`.
    """
    pieces = (v if isinstance(v, bytes | memoryview) else f"{v!r}\n" for v in content)
    digits = fingerprint_of(*pieces, digits=FINGERPRINT_DIGITS)
    return Shard(first, last, folder / f"{stem}-{first:07d}-{last:07d}-{digits}{suffix}")


def remaining(shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards without a result."""
    return [s for s in shards if not s.is_done]


def run(shards: Sequence[Shard], do: Callable[[Shard], None], *, on_progress: OnProgress | None = None) -> None:
    """Run the shards that are not done, one after the other.

    Parameters
    ----------
    do
        Writes the result of a shard, complete or not at all.
    on_progress
        Called after each shard; those that were done before count at once.
    """
    total = sum(map(len, shards))
    left = remaining(shards)
    done = total - sum(map(len, left))
    if on_progress and done:
        on_progress(done, total)
    for each in left:
        do(each)
        done += len(each)
        if on_progress:
            on_progress(done, total)


@dataclass
class Rate:
    """Rate and time left of work whose items take about equally long. Items that were done before do not count."""

    clock: Callable[[], float] = time.monotonic
    _started: float | None = field(default=None, init=False)
    _done_before: int = field(default=0, init=False)

    def text(self, done: int, total: int) -> str:
        """Return `120 of 1000, 3.2 a second, 4 min left`; only the numbers until a rate is known.

        >>> now = iter((0.0, 10.0))
        >>> rate = Rate(clock=lambda: next(now))
        >>> rate.text(100, 1000), rate.text(140, 1000)
        ('100 of 1000', '140 of 1000, 4.0 a second, 4 min left')
        """
        now = self.clock()
        if self._started is None:
            self._started, self._done_before = now, done
        new, seconds = done - self._done_before, now - self._started
        if new <= 0 or seconds <= 0:
            return f"{done} of {total}"
        return f"{done} of {total}, {new / seconds:.1f} a second, {_duration((total - done) * seconds / new)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
