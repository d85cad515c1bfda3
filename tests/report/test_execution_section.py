"""What a run cost: the file holds all, the page shows it, and what is not known is empty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.drawing.figures import KEPT, REMOVED, WAITING
from cryoflow.errors import BadInput
from cryoflow.report.execution import TraceRow, execution_section, read_trace, timeline, write_trace
from cryoflow.report.page import Figures, Picture, ReportTable, render_page

JOB = TraceRow(
    "train unpicker", "train unpicker · model · 2026-11-21", "Completed", 9, "COMPLETED", "0:0", "2026-11-21T10:00:00",
    "2026-11-21T10:01:00", "2026-11-21T10:11:00", 60.0, 600.0, 4, 195.5, 8192.0, 4812.5, "gpu", "gpu1", "id",
)  # fmt: skip
KILLED = replace(JOB, slurm_job=8, status="Crashed", slurm_state="OUT_OF_MEMORY", exit="0:9", cpu_percent=None)
LOCAL = TraceRow("report", "report", "Completed", started="2026-11-21T10:11:00", ended="2026-11-21T10:11:30")


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = (KILLED, JOB, LOCAL)
    write_trace(tmp_path / "trace.tsv", rows)
    assert read_trace(tmp_path / "trace.tsv") == rows


@pytest.mark.parametrize("text", ["", "a\tb\n1\t2\n", "stage\tname\tstatus\tslurm_job\na\tb\tc\tx\n", "\x00"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace.tsv"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"trace\.tsv"):
        read_trace(file)


def test_the_page_shows_each_attempt_with_its_job_memory_and_reason() -> None:
    section = execution_section([KILLED, JOB, LOCAL])
    numbers = next(block for block in section.blocks if isinstance(block, Figures))
    assert ("11 min 30 s", "from first to last", "") in numbers.items
    assert ("2", "SLURM jobs", "1 did not complete") in numbers.items
    assert ("19 min 33 s", "CPU time", "of all stages") in numbers.items
    table = next(block for block in section.blocks if isinstance(block, ReportTable))
    assert len(table.rows) == 3
    assert {len(row) for row in table.rows} == {len(table.head)}
    page = render_page("t", [section])
    for text in ("Crashed (OUT_OF_MEMORY)", "gpu1 gpu", "4,812", "196", "train unpicker · model<"):
        assert text in page


def test_the_table_has_no_column_that_no_stage_fills() -> None:
    (table,) = (block for block in execution_section([LOCAL]).blocks if isinstance(block, ReportTable))
    assert tuple(table.head) == ("run", "status")
    (table,) = (block for block in execution_section([LOCAL, JOB]).blocks if isinstance(block, ReportTable))
    assert table.rows[0][table.head.index("peak (MB)")] is None
    assert table.rows[1][table.head.index("peak (MB)")] == 4812.5


def test_the_timeline_has_a_bar_for_waiting_and_one_for_work_at_the_right_minutes() -> None:
    (drawn,) = timeline([LOCAL, KILLED, JOB]).axes[0].collections
    extents = [path.get_extents() for path in drawn.get_paths()]
    colors = [_hex(color) for color in drawn.get_facecolor()]
    bars = [(round(e.x0, 2), round(e.width, 2), color) for e, color in zip(extents, colors, strict=True)]
    assert bars.count((0.0, 1.0, WAITING)) == 2
    assert {(1.0, 10.0, REMOVED), (1.0, 10.0, KEPT), (11.0, 0.5, KEPT)} < set(bars)


def test_a_thousand_shards_are_one_picture_of_bounded_size() -> None:
    shards = [replace(JOB, stage="judge", name=f"judge {i}") for i in range(1000)]
    figure = timeline([*shards, LOCAL])
    assert figure.get_figheight() < 14
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["judge", "report"]


def test_rows_without_any_time_make_a_section_without_a_picture() -> None:
    section = execution_section([TraceRow("report", "report", "Pending")])
    assert not any(isinstance(block, Picture) for block in section.blocks)


def _hex(color: tuple[float, ...]) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in np.array(color)[:3])
