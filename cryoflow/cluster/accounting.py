"""SLURM's accounting: what jobs used, from one sacct for all of them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from cryoflow.errors import ToolFailed
from cryoflow.system.programs import run

_COLUMNS = (
    "JobIDRaw", "State", "ExitCode", "Partition", "NodeList", "AllocCPUS", "ReqMem", "MaxRSS", "TotalCPU", "ElapsedRaw",
    "Submit", "Start", "End",
)  # fmt: skip


@dataclass(frozen=True)
class JobRecord:
    """State of one job in SLURM's accounting; None is unknown."""

    job_id: int
    state: str
    exit: str
    partition: str
    nodes: str
    cpus: int | None
    requested_mb: float | None
    peak_mb: float | None
    """The most that one step used at once."""
    cpu_s: float | None
    elapsed_s: int | None
    submitted: str
    started: str
    ended: str


def job_records(job_ids: Collection[int]) -> dict[int, JobRecord]:
    """Return the accounting records of jobs, read in one call; none where SLURM keeps no accounts."""
    if not job_ids:
        return {}
    jobs = ",".join(map(str, sorted(job_ids)))
    try:
        printed = run(
            ["sacct", "--noheader", "--parsable2", f"--jobs={jobs}", f"--format={','.join(_COLUMNS)}"], timeout_s=120
        )
    except ToolFailed:
        return {}
    return parse_records(printed)


def parse_records(printed: str) -> dict[int, JobRecord]:
    """Read `sacct --parsable2`: a job's own line, then those of its steps, which contain the memory."""
    lines = [line.split("|") for line in printed.splitlines()]
    rows = [dict(zip(_COLUMNS, parts, strict=True)) for parts in lines if len(parts) == len(_COLUMNS)]
    peaks: dict[int, float] = {}
    for row in rows:
        number, _, step = row["JobIDRaw"].partition(".")
        peak = megabytes(row["MaxRSS"])
        if step and number.isdigit() and peak is not None:
            peaks[int(number)] = max(peak, peaks.get(int(number), 0.0))
    return {
        int(row["JobIDRaw"]): JobRecord(
            int(row["JobIDRaw"]),
            row["State"].split(" ")[0],
            row["ExitCode"],
            row["Partition"],
            row["NodeList"],
            int(row["AllocCPUS"]) if row["AllocCPUS"].isdigit() else None,
            megabytes(row["ReqMem"]),
            peaks.get(int(row["JobIDRaw"])),
            seconds(row["TotalCPU"]),
            int(row["ElapsedRaw"]) if row["ElapsedRaw"].isdigit() else None,
            *(("" if row[name] in ("Unknown", "None") else row[name]) for name in ("Submit", "Start", "End")),
        )
        for row in rows
        if row["JobIDRaw"].isdigit()
    }


def megabytes(text: str) -> float | None:
    """Return `1536K`, `2G`, or `4000Mn` (per node) in MB of 1024 KB; None for anything else.

    >>> megabytes("1536K"), megabytes("2G"), megabytes("")
    (1.5, 2048.0, None)
    """
    match = re.fullmatch(r"([0-9.]+)([KMGT]?)[nc]?", text)
    if not match:
        return None
    return float(match[1]) * {"": 1 / 1024**2, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}[match[2]]


def seconds(text: str) -> float | None:
    """Return `1-02:03:04`, `02:03:04`, or `03:04.500` in seconds; None for anything else.

    >>> seconds("01:30.500"), seconds("1-00:00:01"), seconds("")
    (90.5, 86401.0, None)
    """
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if not match:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4])
