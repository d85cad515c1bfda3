"""Short work on many files at the same time: `cryoflow.system.threads`."""

from __future__ import annotations

import threading

import pytest

from cryoflow.system.threads import on_each_file


@pytest.mark.parametrize("n", [0, 1, 7, 8, 33, 1000])
def test_results_come_in_the_order_of_the_files(n: int) -> None:
    assert on_each_file(lambda i: i * i, range(n)) == [i * i for i in range(n)]


def test_few_files_are_worked_on_at_the_same_time() -> None:
    """Eight pieces of work that wait for each other end, which they would not one after the other."""
    together = threading.Barrier(8, timeout=300)
    assert sorted(on_each_file(lambda _: together.wait(), range(8))) == list(range(8))


def test_an_error_is_raised_as_it_is() -> None:
    def work(i: int) -> int:
        if i == 500:
            raise FileNotFoundError(i)
        return i

    with pytest.raises(FileNotFoundError, match="500"):
        on_each_file(work, range(1000))
