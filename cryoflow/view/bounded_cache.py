"""A cache of bounded size whose values are made once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values that are made once, also when several threads ask at the same time; the least used are dropped.

    Parameters
    ----------
    most_bytes
        Sum of the sizes that are kept.
    size
        Bytes of a value.
    """

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most, self._size, self._held = most_bytes, size, 0
        self._lock = threading.Lock()
        self._futures: OrderedDict[Hashable, Future[Value]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made by `make` where it is not held. An error of `make` is not kept."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                self._futures.move_to_end(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
        if not mine:
            return future.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                self._futures.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(value)
        with self._lock:
            self._held += self._size(value)
            for old in list(self._futures):
                if self._held <= self._most or old == key:
                    break
                if self._futures[old].done():
                    self._held -= self._size(self._futures.pop(old).result())
        return value
