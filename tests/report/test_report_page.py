"""The page shows data and does not run it; the figures say what they are given."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cryoflow.drawing import charts, figures
from cryoflow.report.page import (
    Code,
    Figures,
    Gallery,
    Picture,
    ReportTable,
    Section,
    Text,
    cell,
    render_page,
    write_report,
)

HOSTILE = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"


def sections_with(name: str) -> list[Section]:
    rng = np.random.default_rng(1)
    picture = figures.overlay(
        rng.normal(size=(60, 90)), [figures.Marks(np.array([[45.0, 30.0]]), "kept")], diameter_px=12, pixel_size_A=4.0
    )
    return [
        Section(name, [Text(name), Code(name), Figures([(name, name, name)])]),
        Section(
            "tables",
            [ReportTable([name], [[name], [1], [0.5]], name), ReportTable([name], [[name]], name, folded=True)],
        ),
        Section("pictures", [Gallery([Picture(picture, name, name, photo=True)]), Picture(figures.png(picture), name)]),
    ]


def test_text_from_data_is_escaped_everywhere():
    page = render_page(HOSTILE, sections_with(HOSTILE), subtitle=HOSTILE, footer=HOSTILE)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 12


def test_page_names_no_outside_resource_and_forbids_scripts():
    page = render_page("plain", sections_with("plain"))
    assert "default-src 'none'" in page
    for outside in ("http:", "https:", "//cdn", "<link", "<iframe", "@import"):
        assert outside not in page


@pytest.mark.browser
def test_a_hostile_name_runs_nothing_in_a_browser(tmp_path: Path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    page = write_report(tmp_path / "report.html", "safe", sections_with(HOSTILE))
    # the control: the same script in a page without our guard does run, so the test can fail
    unguarded = tmp_path / "unguarded.html"
    unguarded.write_text(f"<title>safe</title>{HOSTILE}")
    arguments = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    arguments += " --disable-component-update --disable-sync --virtual-time-budget=2000 --dump-dom"
    titles = []
    for number, file in enumerate((page, unguarded)):
        command = [chromium, *arguments.split(), f"--user-data-dir={tmp_path / str(number)}", file.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
        titles.append(shown.split("<title>")[1].split("</title>")[0])
    assert titles == ["safe", "ran"]


def test_report_is_the_same_bytes_for_the_same_content(tmp_path: Path):
    first = write_report(tmp_path / "a.html", "t", sections_with("x")).read_bytes()
    second = write_report(tmp_path / "b.html", "t", sections_with("x")).read_bytes()
    assert first == second


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.98765, "0.988"),
        (2500.4, "2,500"),
        ("a", "a"),
    ],
)
def test_cells_read_as_people_write_them(value: object, text: str):
    assert cell(value) == text


def test_overlay_draws_each_pick_where_it_is():
    """A circle's pixels lie around the pick, in a frame whose row 0 is on top, on a non-square micrograph."""
    micrograph = np.random.default_rng(0).normal(size=(200, 400)).astype(np.float32)
    figure = figures.overlay(micrograph, [figures.Marks(np.array([[300.0, 40.0]]), "kept", "#ff0000")], diameter_px=40)
    figure.set_dpi(100)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    axes_box = figure.axes[0].get_window_extent()
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
    red[: pixels.shape[0] - int(axes_box.y1)] = False  # the legend above the micrograph is red too
    rows, columns = np.nonzero(red)
    x_px = (columns.mean() - axes_box.x0) / axes_box.width * 400
    y_px = (rows.mean() - (pixels.shape[0] - axes_box.y1)) / axes_box.height * 200
    assert (x_px, y_px) == pytest.approx((300, 40), abs=2)


def test_montage_holds_every_box_and_png_is_a_png():
    figure = figures.montage(np.random.default_rng(0).normal(size=(13, 8, 8)), [str(i) for i in range(13)], columns=5)
    assert sum(bool(axes.images) for axes in figure.axes) == 13
    content = figures.png(figure)
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 300
    assert height > 200


def test_every_curve_figure_renders_with_and_without_data():
    line = charts.PlotLine(np.linspace(0, 1, 5), np.linspace(1, 0, 5), "ours", at=(0.5, 0.5))
    for figure in (
        charts.learning_curves({"loss": [1.0, 0.5], "val_loss": [1.1, 0.7]}, best_epoch=2),
        charts.learning_curves({}),
        charts.precision_recall([line]),
        charts.calibration([line]),
        charts.score_histogram(np.array([0.1, 0.9]), np.array([False, True]), threshold=0.5),
        charts.score_histogram(np.zeros(0)),
        figures.montage(np.zeros((0, 8, 8))),
    ):
        assert figures.png(figure).startswith(b"\x89PNG")
