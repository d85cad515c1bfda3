"""Tables of picks with a word changed, a byte changed or the end cut off: no row is lost or changed in silence.

Each result is one error that names the file, or the picks: all rows but the changed one as they were, and every row
that is not among them counted by its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pick_writers import MICROGRAPH, WRITERS

from cryoflow.errors import CryoflowError
from cryoflow.formats.pick_tables import formats
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import PickSet
from cryoflow.projects.tables import read_tables

SOME = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SHAPE_YX = (300, 520)
CASES = (
    "cbox_filament_vertices/micA.cbox",
    "two_particle_blocks/two.star",
    "optics_one_group_no_column/with.star",
    "optics_one_group_no_column/without.star",
    "eman1_helix_box/micA.box",
    "eman1_fifth_column/micA.box",
    "box_of_size_zero/2d_center.box",
    "eman2_json_message/micA_info.json",
    "gautomatch_suffix/picks/micA_automatch.star",
    "gautomatch_suffix/picks/micA_automatch.box",
    "relion31_import_coordinates/proj/Import/job021/Movies/barrel_0001.box",
)
REAL = ("relion3_micrograph/Ucsf_stack_1142_DW_autopick.star",)
DATASETS = ("cross_program_match/picked.cs", "cs_pair_without_csg/P12_J11_passthrough_particles.cs")
WRITTEN = [form.name for form in formats() if form.name in WRITERS and form.name != "CryoSPARC dataset"]
LINES = [form.name for form in formats() if form.is_lines and form.name in WRITERS]
WORDS = st.sampled_from(
    ["x", "nan", "inf", "-inf", "1e400", "1e9", "9999", "", "7 8", "1,5", "--3", "'", '"', "7", "-2.5"]
)
Sample = Callable[[str, Path], Path]


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Sample:
    """Writes a sample into a folder: a format of the registry by its name, or a copy of a file that is there."""

    def write(name: str, folder: Path) -> Path:
        if name in WRITERS:
            write_mrc(folder / MICROGRAPH, np.zeros(SHAPE_YX, np.float32), 1.25)
            path = folder / f"mic_001{next(form for form in formats() if form.name == name).suffixes[0]}"
            xy = np.array([[100.25, 50.5], [200.5, 80.25], [40.0, 250.75], [410.5, 200.25]])
            WRITERS[name](path, xy, np.array([0.5, 0.25, 0.125, 0.75]), SHAPE_YX)
            return path
        source = request.getfixturevalue("realdata" if name in REAL else "cases")
        path = folder / Path(name).name
        path.write_bytes((source / name if name in REAL else source / "readers" / name).read_bytes())
        return path

    return write


def positions(pickset: PickSet) -> Counter[tuple[float, float]]:
    return Counter(map(tuple, pickset.centers_xy_px.round(3).tolist()))


def n_rows(pickset: PickSet) -> int:
    """Number of rows that a set accounts for: its picks, and those that it counts as left out."""
    return len(pickset) + sum(pickset.counts.values())


def result_of(path: Path) -> PickSet | None:
    """The picks of a file; None where it is one clear error, which names the file."""
    try:
        (pickset,) = read_tables(path).picksets
    except CryoflowError as error:
        message = str(error)
    else:
        return pickset
    assert path.name in message
    return None


def rows_with_positions(lines: list[str]) -> list[int]:
    """The lines that hold the values of picks."""
    in_star = any(line.startswith("data_") for line in lines)
    rows, is_inside = [], not in_star
    for i, line in enumerate(lines):
        if line.startswith("data_"):
            is_inside = False
        elif re.match(r"\s*_\w*(Coordinate|coor|OriginalXPosition)", line):
            is_inside = True
        elif is_inside and not re.match(r"\s*(_|#|\[P|\[E|loop_)", line) and len(re.findall(r"\d", line)) > 1:
            rows.append(i)
    return rows


@pytest.mark.parametrize("name", [*WRITTEN, *CASES, *REAL])
@SOME
@given(row=st.integers(0, 10_000), column=st.integers(0, 20), word=WORDS)
@example(row=0, column=12, word="1e400")  # EMAN2 JSON: a box that is infinite
@example(row=0, column=2, word="1e9")  # boxes: one that is far larger than the others
def test_a_changed_word_costs_no_other_row_and_no_row_in_silence(
    tmp_path: Path, sample: Sample, name: str, row: int, column: int, word: str
) -> None:
    path = sample(name, tmp_path)
    whole = result_of(path)
    assert whole is not None
    assert len(whole)
    lines = path.read_text().splitlines()
    rows = rows_with_positions(lines)
    at = rows[row % len(rows)]
    # a changed name of a list in JSON is another file, of a micrograph without picks
    words = list(re.finditer(r"-?[\d.]+" if path.suffix == ".json" else r'[^\s,"\[\]{}:]+', lines[at]))
    changed = words[column % len(words)]
    lines[at] = lines[at][: changed.start()] + word + lines[at][changed.end() :]
    path.write_text("\n".join(lines) + "\n")
    found = result_of(path)
    if found is not None:
        assert sum((positions(whole) - positions(found)).values()) <= 1, "another row changed"
        assert n_rows(found) == n_rows(whole), (found.counts, found.notes)


@pytest.mark.parametrize("name", [*WRITERS, *CASES, *REAL, *DATASETS])
@SOME
@given(cut=st.floats(0, 1))
def test_a_file_that_was_cut_short_gives_the_rows_before_or_says_so(
    tmp_path: Path, sample: Sample, name: str, cut: float
) -> None:
    path = sample(name, tmp_path)
    whole = result_of(path)
    assert whole is not None
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    found = result_of(path)
    if found is not None and (other := positions(found) - positions(whole)):
        assert sum(other.values()) == 1
        assert any("cut short" in note for note in found.notes)


@pytest.mark.parametrize("name", LINES)
def test_a_last_line_without_an_end_is_noted(tmp_path: Path, sample: Sample, name: str) -> None:
    path = sample(name, tmp_path)
    whole = result_of(path)
    assert whole is not None
    assert not any("cut short" in note for note in whole.notes)
    path.write_bytes(path.read_bytes().rstrip())
    found = result_of(path)
    assert found is not None
    assert positions(found) == positions(whole)
    assert any("1 row may have been cut short" in note for note in found.notes)


@pytest.mark.parametrize("name", ["CryoSPARC dataset", *DATASETS])
@SOME
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@example(at=0.171875, byte=0)  # of the first row's shape of the micrograph
def test_a_changed_byte_of_a_dataset_costs_no_other_row(
    tmp_path: Path, sample: Sample, name: str, at: float, byte: int
) -> None:
    path = sample(name, tmp_path)
    whole = result_of(path)
    assert whole is not None
    content = bytearray(path.read_bytes())
    start = content.index(b"\n") + 1  # the rows follow the header of NumPy's container
    content[start + int(at * (len(content) - start))] = byte
    path.write_bytes(bytes(content))
    found = result_of(path)
    if found is not None:
        assert sum((positions(whole) - positions(found)).values()) <= 1
        assert n_rows(found) == n_rows(whole)
