"""Code and arrays are parsed while the garbage collector runs code that parses, as the end of an object may."""

from __future__ import annotations

import ast
import gc
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from cryoflow.annotations import attribute_docstrings
from cryoflow.storage.inputs import load_npy
from cryoflow.system import garbage_collector


@dataclass
class Declared:
    """A declaration of two fields."""

    edge_px: int = 1
    """First."""
    workers: int = 2
    """Second."""


@contextmanager
def parsing_collector() -> Iterator[None]:
    def parse(phase: str, _: object) -> None:
        if phase == "start":
            ast.parse("f(1)")

    before = gc.get_threshold()
    gc.callbacks.append(parse)
    gc.set_threshold(1, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(parse)


def test_docstrings_of_fields_are_read() -> None:
    attribute_docstrings.cache_clear()
    with parsing_collector():
        docstrings = attribute_docstrings(Declared)
    assert docstrings == {"edge_px": "First.", "workers": "Second."}


def test_arrays_are_loaded() -> None:
    file = io.BytesIO()
    np.save(file, np.arange(6).reshape(2, 3))
    arrays = []
    with parsing_collector():
        for _ in range(50):
            file.seek(0)
            arrays.append(load_npy(file))
    np.testing.assert_array_equal(arrays, [[[0, 1, 2], [3, 4, 5]]] * 50)


def test_a_child_that_is_forked_within_a_pause_collects_and_can_pause() -> None:
    with garbage_collector.paused():
        child = os.fork()
        if child == 0:
            ok = gc.isenabled()
            with garbage_collector.paused():
                ok = ok and not gc.isenabled()
            os._exit(0 if ok and gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_goes_on_after_the_last_of_several_threads_and_stays_off_where_it_was_off() -> None:
    def pause(_: int) -> bool:
        with garbage_collector.paused():
            return gc.isenabled()

    assert gc.isenabled()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(pause, range(200)))
    assert gc.isenabled()
    gc.disable()
    try:
        pause(0)
        assert not gc.isenabled()
    finally:
        gc.enable()
