"""Real files with bytes changed, put in and cut off: each reader gives what is there or cryoflow's own error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoflow.errors import CryoflowError
from cryoflow.formats.cs import read_cs, read_cs_header
from cryoflow.formats.pick_tables import read_file
from cryoflow.formats.star import list_blocks, read_blocks
from cryoflow.ingest import ingest_tables
from cryoflow.micrographs.header import read_header
from cryoflow.micrographs.image import read_micrograph
from cryoflow.projects import relion
from cryoflow.projects.relion.sniff import sniff
from cryoflow.projects.tables import read_table_of_picks

EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12), st.integers(0, 12)), max_size=6)
"""Where, what is put in, how many bytes it takes the place of."""
SOME = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
_LARGEST_BYTES = 200_000


def mutated(content: bytes, edits: list[tuple[float, bytes, int]], cut: float) -> bytes:
    for at, new, n in edits:
        place = int(at * len(content))
        content = content[:place] + new + content[place + n :]
    return content[: int(cut * len(content))] if cut < 0.9 else content


def tried(path: Path, *readers: Callable[[Path], object]) -> None:
    for read in readers:
        try:
            read(path)
        except CryoflowError:
            continue


@SOME
@given(which=st.integers(0, 100), edits=EDITS, cut=st.floats(0, 1.5))
def test_star_files(realdata: Path, tmp_path: Path, which: int, edits, cut: float) -> None:
    real = sorted(realdata.rglob("*.star"))
    path = tmp_path / "a.star"
    path.write_bytes(mutated(real[which % len(real)].read_bytes(), edits, cut))
    tried(path, read_blocks, list_blocks, sniff, read_file, read_table_of_picks)
    (line,) = ingest_tables([path], tmp_path / "DB", check_orientation=False).lines
    assert "defect of cryoflow" not in line.reason


@SOME
@given(edits=EDITS, cut=st.floats(0, 1.5))
def test_a_pipeline(realdata: Path, tmp_path: Path, edits, cut: float) -> None:
    whole = (realdata / "relion31_pipeline" / "default_pipeline.star").read_bytes()
    (tmp_path / "default_pipeline.star").write_bytes(mutated(whole, edits, cut))
    project = relion.recognize(tmp_path, os.listdir(tmp_path))
    assert all(job.reason for job in (relion.find_jobs(project) if project else []))  # no job's folder is there


@SOME
@given(edits=EDITS, cut=st.floats(0, 1.5))
def test_a_dataset(realdata: Path, tmp_path: Path, edits, cut: float) -> None:
    path = tmp_path / "a.cs"
    path.write_bytes(mutated((realdata / "cryosparc_files" / "4k_dataset.cs").read_bytes(), edits, cut))
    tried(path, read_cs_header, read_cs, read_table_of_picks)


@SOME
@given(edits=EDITS, cut=st.floats(0, 1.5))
def test_a_micrograph(realdata: Path, tmp_path: Path, edits, cut: float) -> None:
    with (realdata / "relion3_micrograph" / "Ucsf_stack_1142_DW.mrc").open("rb") as file:
        head = file.read(_LARGEST_BYTES)
    path = tmp_path / "a.mrc"
    edits = [(at * 1024 / len(head), new, len(new)) for at, new, _ in edits]  # in the header
    path.write_bytes(mutated(head, edits, cut))
    tried(path, read_header, read_micrograph)
