"""What the commands of pickers share: where a program runs, its output on the terminal, and picks as a table."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cryoflow.cli import output as out

if TYPE_CHECKING:
    from cryoflow.execution.executor import Executor
    from cryoflow.pickers.running.run import Picked, Trained
    from cryoflow.picks import PickSet

Flag = Annotated[bool, Parameter(negative="")]
Set = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class ExecutorOptions:
    """Where the program runs."""

    programs: Path | None = None
    """Folder with the picker's programs; PATH is searched after it."""
    container: Literal["docker", "apptainer"] | None = None
    """Run it in an image: docker or apptainer."""
    image: str = ""
    """That image."""
    slurm: Flag = False
    """Submit it as a job, and wait for its end."""
    sbatch: Annotated[tuple[str, ...], Parameter(negative="", allow_leading_hyphen=True)] = ()
    """An option for sbatch, such as --sbatch=--partition=gpu; may be given several times."""
    gpus: str = "0"
    """Numbers of the GPUs, as in 0,1; for a job only how many there are counts; none for a CPU."""
    cpus: int = 4
    """Processes that read and write."""
    timeout_h: float | None = None
    """End it after so many hours."""


@Parameter(name="*")
@dataclass(frozen=True)
class Picking:
    """What is picked besides entries, and how."""

    micrographs: Annotated[tuple[Path, ...], Parameter(negative="")] = ()
    """MRC files, or folders of them, to pick."""
    pixel_size: float | None = None
    """Of these micrographs, in angstrom, where their headers have none."""
    diameter: float | None = None
    """Particle diameter in angstrom."""
    threshold: float | None = None
    """Picks of a lower score are left out; the picker's default where not given."""
    set_: Set = ()
    """A setting of the picker by hand, NAME=VALUE; may be given several times."""

    def picksets(self, entries: Sequence[str], database: Path | None) -> list[PickSet]:
        """What is to be picked: the micrographs of entries, and those that were named themselves."""
        from cryoflow.cli.export import load
        from cryoflow.pickers.running.run import micrographs_to_pick

        picksets = load(entries, database) if entries else []
        if self.micrographs:
            picksets.append(micrographs_to_pick(self.micrographs, pixel_size_A=self.pixel_size))
        return picksets


def executor_of(where: ExecutorOptions | None, *, script: bool = False) -> Executor:
    """Where to run, from what was typed; for a script GPUs are counted only."""
    from cryoflow.execution.executor import Executor
    from cryoflow.execution.resources import Resources

    where = where or ExecutorOptions()
    try:
        numbers = () if where.gpus in ("none", "-1", "") else tuple(int(g) for g in where.gpus.split(","))
    except ValueError:
        raise out.UsageError(f"--gpus {where.gpus}: write numbers as in 0,1, or none.") from None
    scheduled = where.slurm or script
    gpus = tuple(range(len(numbers))) if scheduled else numbers
    return Executor(
        container=where.container or "",
        image=where.image,
        slurm=where.slurm,
        sbatch_options=where.sbatch,
        programs=where.programs,
        resources=Resources(gpus, where.cpus, allocated=scheduled),
        timeout_s=where.timeout_h * 3600 if where.timeout_h else None,
    )


def show_picks(picksets: Sequence[PickSet], database: Path | None, *, as_json: bool) -> None:
    """Add picks to the database, where one is named, and list them."""
    rows = []
    for picks in picksets:
        entry = f"{picks.provenance.project_name}/{picks.provenance.entry_name}"
        if database is not None:
            from cryoflow.database import Database

            entry = Database(database).add(picks).name
        rows.append(
            {
                "entry": entry,
                "picks": len(picks),
                "micrographs": len(picks.micrographs),
                "left_out": dict(picks.counts),
                "in_database": database is not None,
                "about": picks.provenance.title,
            }
        )
    out.emit_table(rows, as_json=as_json, title="Picks")


def show_script(result: Trained | Picked, then: str, *, as_json: bool) -> None:
    """Say where a job script was written, and what to do with it."""
    out.emit_record({"folder": result.folder, "script": result.script}, as_json=as_json)
    out.say(f"next: {shlex.join(['sbatch', str(result.script)])}")
    out.say(then)


def reading(name: str, folder: Path, database: Path | None, run: str, threshold: float | None) -> str:
    """The command that brings a picking job's picks back."""
    words = ["cryoflow", "picker", "read", name, f"{folder}/picks", "--database", str(database or "DB"), "--run", run]
    words += [] if threshold is None else ["--threshold", f"{threshold:g}"]
    return f"then: {shlex.join(words)}"


def say_lines() -> Callable[[str], None] | None:
    """The program's own output, with --verbose."""
    import logging

    log = logging.getLogger("cryoflow.picker")
    return log.info if log.isEnabledFor(logging.INFO) else None
