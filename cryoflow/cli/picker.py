"""`cryoflow picker`: train pickers, run them, import their picks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.cli.entries import add, load
from cryoflow.cli.export import require_entries
from cryoflow.detector.parameters import ExcludeParameters
from cryoflow.errors import ExitCode
from cryoflow.pickers.parameters import (
    ConsensusParameters,
    ImportPicksParameters,
    PickParameters,
    TrainAndPickParameters,
    TrainPickerParameters,
)

if TYPE_CHECKING:
    from cryoflow.pickers.running.run_picker import Picked, Trained
    from cryoflow.picks import PickSet

app = App(name="picker", help="Train pickers, run them and import their picks.", help_format="plaintext")


@app.command(name="list")
def list_pickers(*, json: out.Json = False) -> None:
    """List the pickers, and what cryoflow can do with each."""
    from cryoflow.pickers.registry import pickers

    rows = [
        {
            "name": name,
            "title": p.title,
            "export": True,
            "train": p.trains,
            "pick": p.picks,
            "read": bool(p.suffixes),
            "help": p.help,
        }
        for name, p in pickers().items()
    ]
    out.emit_table(rows, as_json=json, title="Pickers")


@app.command
@declared
def train(parameters: TrainPickerParameters, *, json: out.Json = False) -> None:
    """Train a picker on a training set that `cryoflow export` wrote."""
    from cryoflow.pickers.running.run_picker import train as run
    from cryoflow.pickers.stages import check_training_set, executor_of

    p = parameters
    check_training_set(p)
    executor = executor_of(p, script=p.script_only)
    result = run(p.picker, p.folder, executor, again=p.again, script_only=p.script_only, on_line=log_lines())
    if result.script:
        again = shlex.join(["cryoflow", "picker", "train", p.picker, str(p.folder)])
        show_script(result, f"then, again: {again}  (its model and curve)", as_json=json)
    else:
        known = {k: v for k, v in vars(result).items() if v is not None and v is not False}
        out.emit_record(known, as_json=json)
        model = shlex.quote(str(result.model))
        out.say(f"next: cryoflow picker pick {p.picker} --model {model} ENTRY... --database DB --output FOLDER")


@app.command
@declared
def pick(parameters: PickParameters, *, json: out.Json = False) -> None:
    """Pick micrographs with a trained model, and add the picks to the database."""
    from cryoflow.models.find_model import with_model
    from cryoflow.pickers.running.run_picker import micrographs_to_pick
    from cryoflow.pickers.running.run_picker import pick as run
    from cryoflow.pickers.stages import executor_of

    p = with_model(parameters)
    picksets = load(p.entries, p.database) if p.entries else []
    if p.micrographs:
        picksets.append(micrographs_to_pick(p.micrographs, pixel_size_A=p.pixel_size_A))
    result = run(
        p.picker,
        p.model,
        picksets,
        p.output,
        executor_of(p, script=p.script_only),
        diameter_A=p.diameter_A,
        settings=p.settings,
        threshold=p.threshold,
        overwrite=p.overwrite,
        script_only=p.script_only,
        on_line=log_lines(),
    )
    if result.script:
        then = import_command(p.picker, result.folder, p.database, result.folder.name, p.threshold)
        show_script(result, then, as_json=json)
        return
    say_reused(result)
    show_picks(result.picksets, p.database, as_json=json)


@app.command(name=["import", "read"])
@declared
def import_picks(parameters: ImportPicksParameters, *, json: out.Json = False) -> None:
    """Import picks that a picker wrote elsewhere; without a database they are only counted."""
    from cryoflow.pickers.importing.import_picks import import_picks as run

    p = parameters
    found = run(
        p.picker,
        p.folder,
        p.manifest,
        name=p.run,
        threshold=p.threshold,
        keep_all=p.keep_all,
        scaled=False if p.micrograph_pixels else None,
        flip_y=p.flip_y,
        model=p.model,
    )
    show_picks(found, p.database, as_json=json)


@app.command
@declared
def consensus(parameters: ConsensusParameters, *, json: out.Json = False) -> None:
    """Add an entry of the picks on which several entries agree."""
    from cryoflow.pickers.comparing.consensus import consensus as agree

    p = parameters
    picks = agree(
        load(p.entries, p.database), at_least=p.at_least, radius=p.radius, diameter_A=p.diameter_A, name=p.name
    )
    show_picks([picks], p.database, as_json=json)


@app.command
@declared
def exclude(parameters: ExcludeParameters, *, json: out.Json = False) -> int:
    """Add entries without the picks that lie on masks of carbon, ice and aggregates, whatever picked them.

    `cryoflow pick --masks` writes such masks; masks of other programs (MicrographCleaner) are read as well.
    """
    from cryoflow.detector.masks import MaskOptions
    from cryoflow.detector.masks import exclude as without_masked

    p = parameters
    code = ExitCode.OK
    made = []
    for picks in load(p.entries, p.database):
        result, counts, failed = without_masked(picks, p.masks, MaskOptions(p.at_least, p.good))
        for error in failed:
            out.say(f"mask not used: {error}")
        if counts.get("no_mask"):
            out.say(f"note: {counts['no_mask']} micrographs have no mask, and keep all their picks")
        code = ExitCode.PARTLY_FAILED if failed else code
        made.append(result)
    show_picks(made, p.database, as_json=json)
    return code


@app.command
@declared
def train_and_pick(parameters: TrainAndPickParameters, *, json: out.Json = False) -> int:
    """Train a picker on entries, or on the best one of each project, and pick new micrographs with it.

    A second call goes on from what the output folder holds. With --script-only it writes the script that trains, and,
    once that has run, the one that picks.
    """
    from cryoflow.pickers.stages import train_then_pick

    p = parameters
    require_entries(p)
    result = train_then_pick(p, on_stage=out.say, on_line=log_lines())
    exported, trained, picked = result.exported, result.trained, result.picked
    code = ExitCode.PARTLY_FAILED if exported.skipped else ExitCode.OK
    if picked is None:
        show_script(trained, "then: the same command again, for the script that picks", as_json=json)
        return code
    out.say(f"model: {trained.model}")
    if trained.figure:
        out.say(f"training curve: {trained.figure}")
    if picked.script:
        then = import_command(p.picker, picked.folder, p.database, p.run or p.picker, p.threshold)
        show_script(picked, then, as_json=json)
    else:
        say_reused(picked)
        show_picks(picked.picksets, p.database, as_json=json)
    return code


def show_picks(picksets: Sequence[PickSet], database: Path | None, *, as_json: bool) -> None:
    """Add picks to the database, if one is named, and list them."""
    rows = []
    for picks in picksets:
        entry = {"entry": f"{picks.provenance.project_name}/{picks.provenance.entry_name}", "state": "not written"}
        if database is not None:
            entry = add(picks, database)
        rows.append(
            {
                **entry,
                "picks": len(picks),
                "micrographs": len(picks.micrographs),
                "left_out": dict(picks.counts),
                "in_database": database is not None,
                "about": picks.provenance.title,
            }
        )
    out.emit_table(rows, as_json=as_json, title="Picks")


def say_reused(result: Picked) -> None:
    """Print where picks came from that were there already."""
    if result.reused:
        out.say(f"{result.folder}: was picked before, with the same model and settings; remove it to pick again")


def show_script(result: Trained | Picked, then: str, *, as_json: bool) -> None:
    """Print where a job script was written, and what to do with it."""
    out.emit_record({"folder": result.folder, "script": result.script}, as_json=as_json)
    out.say(f"next: {shlex.join(['sbatch', str(result.script)])}")
    out.say(then)


def import_command(name: str, folder: Path, database: Path | None, run: str, threshold: float | None) -> str:
    """Return the command that imports the picks of a job."""
    words = ["cryoflow", "picker", "import", name, f"{folder}/picks", "--database", str(database or "DB"), "--run", run]
    words += [] if threshold is None else ["--threshold", f"{threshold:g}"]
    return f"then: {shlex.join(words)}"


def log_lines() -> Callable[[str], None] | None:
    """Return what prints a program's own output, with --verbose."""
    import logging

    log = logging.getLogger("cryoflow.picker")
    return log.info if log.isEnabledFor(logging.INFO) else None
