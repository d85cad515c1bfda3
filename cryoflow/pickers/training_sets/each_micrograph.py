"""Work on many micrographs, some at the same time; one that fails does not take the others along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cryoflow.errors import BadInput, NotWritten
from cryoflow.system.cpus import available_cpus

T = TypeVar("T")
AT_ONCE = 4
"""Threads at most: each holds a micrograph and its transform."""
NAMED = 10


def each_micrograph(work: Callable[[T], None], jobs: Sequence[T]) -> None:
    """Do `work` for each of `jobs`, one a micrograph; a bad micrograph does not keep the others from being tried.

    Raises
    ------
    BadInput
        The error of the one that failed; where it is more than one, all of them, the first ten in words.
    """

    def tried(job: T) -> BadInput | None:
        try:
            work(job)
        except NotWritten:
            raise
        except BadInput as error:
            return error
        return None

    with ThreadPoolExecutor(min(AT_ONCE, available_cpus())) as pool:
        failed = [error for error in pool.map(tried, jobs) if error]
    if len(failed) > 1:
        raise several(failed, f"{len(failed)} of {len(jobs)} micrographs")
    if failed:
        raise failed[0]


def several(errors: Sequence[BadInput], what: str) -> BadInput:
    """Return many errors as one that names the first of them."""
    named = " ".join(f"{str(error).rstrip('.')}." for error in errors[:NAMED])
    more = f" And {len(errors) - NAMED} more." if len(errors) > NAMED else ""
    return BadInput(what, f"cannot be used. {named}{more}")
