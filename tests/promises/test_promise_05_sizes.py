"""Promise 5: micrographs of 1 x 1 and of 20000 x 20000 pixels cost one clear error, or a bounded memory."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryoflow.errors import ExitCode, OverBudget
from cryoflow.micrographs.image import MicrographFile
from cryoflow.view import pictures
from cryoflow.view.pyramid import read_pyramid

EDGE = {"small": 1, "large": 20_000}
CENTERS = {"small": [(0, 0)], "large": [(600, 110), (10_000, 150), (19_000, 19_000), (3000, 15_000)]}
MOST_MB = 1400
"""Memory of a command: TensorFlow with a network takes 750 MB; the large micrograph has 1,600 MB as numbers."""


def write_sparse_mrc(path: Path, edge: int, mode: int = 0) -> None:
    """Write a square micrograph of 1 A/px: noise in its first rows, and a hole of zeros below."""
    head = bytearray(1024)
    struct.pack_into("<4i", head, 0, edge, edge, 1, mode)
    struct.pack_into("<3i3f", head, 28, edge, edge, 1, edge, edge, 1)
    struct.pack_into("<i", head, 108, 20140)
    head[208:216] = b"MAP \x44\x44\0\0"
    dtype = {0: np.int8, 2: np.float32}[mode]
    noise = np.random.default_rng(0).integers(-50, 50, (min(edge, 200), edge)).astype(dtype)
    path.write_bytes(bytes(head) + noise.tobytes())
    os.truncate(path, len(head) + edge * edge * np.dtype(dtype).itemsize)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both micrographs, their picks, and a database of them."""
    folder = tmp_path_factory.mktemp("sizes")
    for name, edge in EDGE.items():
        write_sparse_mrc(folder / f"{name}.mrc", edge)
        rows = "".join(f"{x},{y}\n" for x, y in CENTERS[name])
        (folder / f"{name}.csv").write_text("x,y\n" + rows)
        code, output, used_mb = command(folder, "ingest", f"{name}.csv", "--micrographs", ".", "--database", "DB")
        assert code == ExitCode.OK, output
        assert used_mb < MOST_MB
    return folder


MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""


def command(folder: Path, *words: str) -> tuple[int, str, float]:
    """Run a command in a folder; returns exit code, all output, and megabytes at its highest.

    A small process starts it: Linux counts to a program what the process that started it held (`exec_mmap`).
    """
    argv = [sys.executable, "-I", "-S", "-c", MEASURED, sys.executable, "-m", "cryoflow", *words]
    env = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        argv, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    output, _, used_mb = done.stdout.rstrip("\n").rpartition("\n")
    return done.returncode, output, float(used_mb)


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("cryoflow: ")]


def test_export_links_what_is_large_and_refuses_what_must_be_converted_whole(place: Path) -> None:
    line = ("export", "topaz", "entry", "--database", "DB", "--diameter", "150", "--output", "set")
    for name, reason in (("small", "larger than its micrograph of 1 px"), ("large", "20000 x 20000 pixels")):
        code, output, used_mb = command(place, *line[:2], f"{place.name}/Import_{name}", *line[3:])
        assert (code, len(errors(output))) == (ExitCode.FAILED, 1), output
        assert reason in errors(output)[0]
        assert used_mb < MOST_MB
    # RELION reads pixels of one byte itself, so that its micrograph is a link and its pixels are not read.
    code, output, used_mb = command(
        place, "export", "relion", f"{place.name}/Import_large", *line[3:-1], "linked", "--force"
    )
    assert code == ExitCode.OK, output
    assert used_mb < MOST_MB


def test_a_micrograph_that_is_too_large_to_be_held_is_refused_in_words_and_read_in_blocks(
    place: Path, grown_mb
) -> None:
    file = MicrographFile.open(place / "large.mrc")
    with pytest.raises(OverBudget, match=r"large\.mrc: has 20000 x 20000 pixels"):
        file.whole()
    assert sum(len(block) for block in file.blocks(128)) == EDGE["large"]
    assert grown_mb() < 200
    assert MicrographFile.open(place / "small.mrc").whole().shape == (1, 1)


def test_pictures_of_both_are_drawn(place: Path, grown_mb) -> None:
    """The levels of the large one hold a third of its pixels, 530 MB."""
    for name in EDGE:
        pyramid = read_pyramid(place / f"{name}.mrc")
        assert pictures.tile(pyramid, len(pyramid.levels) - 1, 0, 0, 0.0, 1.0).startswith(b"\xff\xd8")
        drawn = pictures.patch(pyramid, CENTERS[name][0], 150.0, 0.0, 1.0)
        assert drawn.shape == (pictures.PATCH_PX, pictures.PATCH_PX)
    assert grown_mb() < 900


def test_pick_refuses_the_small_one_in_words_and_picks_the_large_one(place: Path) -> None:
    code, output, used_mb = command(place, "pick", "small.mrc", "large.mrc", "--diameter", "200", "--output", "picked")
    assert code == ExitCode.PARTLY_FAILED, output
    assert output.count("its 1 x 1 pixels are too few for particles of 200 A") == 1
    assert used_mb < MOST_MB


@pytest.mark.parametrize("name", EDGE)
def test_unpick_scores_the_picks_of_the_large_one_and_says_why_nothing_is_left(place: Path, name: str) -> None:
    """On noise and on zeros no pick is kept, which is an error in words."""
    code, output, used_mb = command(
        *(place, "unpicker", "unpick", "general", f"{place.name}/Import_{name}"),
        *("--database", "DB", "--diameter", "200", "--output", f"kept-{name}"),
    )
    assert (code, len(errors(output))) == (ExitCode.FAILED, 1), output
    reason = {"small": "none of its 1 picks can be scored", "large": "has no picks on any micrograph that can be used"}
    assert reason[name] in errors(output)[0]
    assert ("large.mrc: kept 0/4" in output) == (name == "large")
    assert used_mb < MOST_MB
