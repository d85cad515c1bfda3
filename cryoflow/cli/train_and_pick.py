"""`cryoflow picker train-and-pick`: from the best entries to picks on new micrographs, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cryoflow.cli import output as out
from cryoflow.cli.export import Db, chosen, load, settings_of
from cryoflow.cli.picker_common import (
    ExecutorOptions,
    Flag,
    Picking,
    executor_of,
    reading,
    say_lines,
    show_picks,
    show_script,
)
from cryoflow.errors import ExitCode


def train_and_pick(
    name: str,
    *entries: str,
    database: Db,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    best: Flag = False,
    project: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    to_pick: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    picking: Picking | None = None,
    validation: float = 0.2,
    seed: int = 0,
    run: str = "",
    where: ExecutorOptions | None = None,
    script_only: Flag = False,
    json: out.Json = False,
) -> int:
    """Train a picker on entries, or on the best one of each project, and pick new micrographs with it.

    Parameters
    ----------
    name
        The picker.
    entries
        Entries to train on.
    database
        Where they are, and where the picks are added.
    output
        Folder for the training set, the model and the run; a second call goes on from what is there.
    best
        Train on the best entry of each project instead.
    project
        Of this project only, with --best; may be given several times.
    to_pick
        An entry whose micrographs are picked (its picks are not looked at); may be given several times.
    validation
        Share of the training micrographs that validate.
    seed
        Another number is another split.
    run
        Name of the run, part of the new entry's name; by default the picker's.
    script_only
        Run nothing: write the script that trains, and once that has run, with the same command, the one that picks.
    """
    from cryoflow.pickers.running.train_and_pick import train_and_pick as both
    from cryoflow.pickers.training_sets.split import Fractions

    picking = picking or Picking()
    new = picking.picksets(to_pick, database)
    if not new:
        raise out.UsageError("say what to pick: --micrographs, or --to-pick an entry.")
    result = both(
        name,
        load(chosen(entries, database, best=best, project=project), database),
        new,
        output,
        executor_of(where, script=script_only),
        diameter_A=picking.diameter,
        split=Fractions(validation),
        seed=seed,
        settings=settings_of(picking.set_),
        threshold=picking.threshold,
        name=run,
        script_only=script_only,
        on_stage=out.say,
        on_line=say_lines(),
    )
    exported, trained, picked = result.exported, result.trained, result.picked
    code = ExitCode.PARTLY_FAILED if exported.skipped else ExitCode.OK
    if picked is None:
        show_script(trained, "then: the same command again, for the script that picks", as_json=json)
        return code
    out.say(f"model: {trained.model}")
    if trained.figure:
        out.say(f"training curve: {trained.figure}")
    if picked.script:
        show_script(picked, reading(name, picked.folder, database, run or name, picking.threshold), as_json=json)
    else:
        show_picks(picked.picksets, database, as_json=json)
    return code
