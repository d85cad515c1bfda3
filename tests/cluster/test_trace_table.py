"""The trace: sacct's lines become figures, and what is not known stays empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoflow.cluster.accounting import JobRecord, job_records, megabytes, parse_records, seconds
from cryoflow.report.execution import TraceRow, write_trace

PRINTED = """\
7|COMPLETED|0:0|cpu|cpu1|2|4000M||01:30.500|60|2026-11-21T10:00:00|2026-11-21T10:00:30|2026-11-21T10:01:30
7.batch|COMPLETED|0:0||cpu1|2||1536K|01:30.500|60|2026-11-21T10:00:30|2026-11-21T10:00:30|2026-11-21T10:01:30
7.0|COMPLETED|0:0||cpu1|2||2G|00:00.1|60|2026-11-21T10:00:30|2026-11-21T10:00:30|2026-11-21T10:01:30
8|CANCELLED by 1000|0:0|gpu|None assigned|0|2Gn||00:00:00|0|2026-11-21T10:00:00|Unknown|2026-11-21T10:00:10
"""


def test_memory_is_the_most_of_any_step() -> None:
    records = parse_records(PRINTED)
    assert records[7] == JobRecord(
        7, "COMPLETED", "0:0", "cpu", "cpu1", 2, 4000, 2048, 90.5, 60,
        "2026-11-21T10:00:00", "2026-11-21T10:00:30", "2026-11-21T10:01:30",
    )  # fmt: skip
    assert records[8].peak_mb is None
    assert records[8].started == ""
    assert records[8].requested_mb == 2048


@pytest.mark.parametrize(
    ("text", "mb"), [("0", 0), ("512K", 0.5), ("1.50G", 1536), ("1T", 1048576), ("", None), ("16?", None)]
)
def test_sizes(text: str, mb: float | None) -> None:
    assert megabytes(text) == mb


@pytest.mark.parametrize(("text", "s"), [("02:03:04", 7384), ("2-00:00:00", 172800), ("00:01", 1), ("x", None)])
def test_times(text: str, s: float | None) -> None:
    assert seconds(text) == s


def test_without_accounting_there_are_no_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_records([7]) == {}
    assert job_records([]) == {}


def test_a_table_has_one_line_a_run_whatever_its_name(tmp_path: Path) -> None:
    row = TraceRow(
        "ingest", "a\tb\nc", "Completed", None, "", "", "", "", "", None, 1.5, None, None, None, None, "", "", "id"
    )
    write_trace(tmp_path / "trace.tsv", [row, row])
    lines = (tmp_path / "trace.tsv").read_text().splitlines()
    assert len(lines) == 3
    assert len({line.count("\t") for line in lines}) == 1
    assert dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))["name"] == "a b c"
