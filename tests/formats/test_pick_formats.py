"""Every format of the registry: random picks on oblong micrographs come back, and damage is one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pick_writers import MICROGRAPH, WRITERS

from cryoflow.errors import CryoflowError
from cryoflow.formats.pick_tables import format_of, formats, suffixes
from cryoflow.micrographs.image import write_mrc
from cryoflow.projects.tables import read_tables

LISTS = {"RELION list of coordinate files"}
"""Formats of files that lead to tables; they are tested with projects around them."""
FORMATS = [form for form in formats() if form.name not in LISTS]
SCORED = {form.name for form in FORMATS if form.score}
SOME = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def file_of(form, folder: Path) -> Path:
    return folder / f"mic_001{form.suffixes[0]}"


@st.composite
def picks(draw):
    """Shape, positions that are apart by more than duplicates, and scores, with six decimals."""
    ny, nx = draw(st.sampled_from([(300, 520), (520, 300), (256, 1024)]))
    n = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    cells = rng.permutation((nx // 40) * (ny // 40))[:n]
    x = cells % (nx // 40) * 40 + 20 + rng.uniform(-8, 8, len(cells))
    y = cells // (nx // 40) * 40 + 20 + rng.uniform(-8, 8, len(cells))
    return (ny, nx), np.stack([x, y], 1).round(6), rng.uniform(0.1, 0.9, len(cells)).round(6)


def test_each_format_has_a_writer_that_does_not_know_its_reader() -> None:
    assert {form.name for form in FORMATS} == set(WRITERS)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@SOME
@given(made=picks())
def test_random_picks_come_back_within_the_rounding_of_the_format(tmp_path: Path, form, made) -> None:
    shape_yx, xy, score = made
    image = np.zeros(shape_yx, np.float32)
    columns, rows = xy.round().astype(int).T
    image[rows, columns] = 100
    write_mrc(tmp_path / MICROGRAPH, image, 1.25)
    path = file_of(form, tmp_path)
    WRITERS[form.name](path, xy, score, shape_yx)
    assert format_of(path) is form
    (pickset,) = read_tables(path, tmp_path).picksets
    assert len(pickset) == len(xy)
    order, found = np.lexsort(xy.round(2).T), pickset.centers_xy_px
    got = found[np.lexsort(found.round(2).T)]
    if form.rounding_px < 0.5:
        np.testing.assert_allclose(got, xy[order], atol=max(form.rounding_px, 1e-6))
    else:  # rounding may change the order
        nearest = np.hypot(*(found[:, None] - xy[None]).transpose(2, 0, 1)).min(0)
        assert nearest.max() <= form.rounding_px * np.sqrt(2) + 1e-6
    assert pickset.micrographs.loc[0, ["ny", "nx"]].tolist() == list(shape_yx)
    assert pickset.micrographs["status"].tolist() == ["found"]
    x, y = found.round().astype(int).T
    if form.rounding_px == 0:
        assert (image[y, x] == 100).all()  # the pixels under the picks
    if form.name in SCORED:
        np.testing.assert_allclose(np.sort(pickset.picks["score"]), np.sort(score), rtol=1e-5)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_exactly_one_format_is_found_for_each_whatever_the_suffix(tmp_path: Path, form) -> None:
    path = file_of(form, tmp_path)
    WRITERS[form.name](path, np.array([[100.25, 50.5], [200.5, 80.25]]), np.array([0.5, 0.25]), (300, 520))
    assert format_of(path) is form
    if form.name != "EPicker coord":  # the one that needs its suffix
        other = path.with_suffix(".picks")
        other.write_bytes(path.read_bytes())
        assert format_of(other) is form


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@SOME
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12), st.integers(0, 12)), max_size=5),
    cut=st.floats(0, 1.5),
)
def test_a_damaged_file_is_read_or_is_one_clear_error(tmp_path: Path, form, edits, cut: float) -> None:
    path = file_of(form, tmp_path)
    xy = np.array([[100.25, 50.5], [200.5, 80.25], [40.0, 250.0]])
    WRITERS[form.name](path, xy, np.array([0.5, 0.25, 0.125]), (300, 520))
    content = path.read_bytes()
    for at, new, n in edits:
        place = int(at * len(content))
        content = content[:place] + new + content[place + n :]
    path.write_bytes(content[: int(cut * len(content))] if cut < 0.9 else content)
    try:
        picksets, message = read_tables(path).picksets, str(path)
    except CryoflowError as error:
        picksets, message = (), str(error)
    assert str(path) in message
    assert all(np.isfinite(pickset.centers_xy_px).all() for pickset in picksets)


def test_suffixes_of_folders_are_those_of_the_formats() -> None:
    assert set(suffixes()) == {suffix for form in formats() for suffix in form.suffixes}
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes())
