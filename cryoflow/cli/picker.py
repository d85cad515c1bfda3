"""`cryoflow picker`: train pickers, run them, read their picks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from cryoflow.cli import output as out
from cryoflow.cli.export import Db, load, settings_of
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
from cryoflow.cli.train_and_pick import train_and_pick

app = App(name="picker", help="Train pickers, run them and read their picks.", help_format="plaintext")

MaybeDb = Annotated[Path | None, Parameter(name=["--database", "--db"])]


@app.command(name="list")
def list_pickers(*, json: out.Json = False) -> None:
    """List the pickers that cryoflow knows, and what it can do with each."""
    from cryoflow.pickers.registry import pickers

    rows = [
        {"name": name, "title": p.title, "export": True, "train": p.trains, "pick": p.picks, "read": bool(p.suffixes)}
        for name, p in pickers().items()
    ]
    out.emit_table(rows, as_json=json, title="Pickers")


@app.command
def train(
    name: str,
    folder: Path,
    *,
    where: ExecutorOptions | None = None,
    again: Flag = False,
    script_only: Flag = False,
    json: out.Json = False,
) -> None:
    """Train a picker on what `cryoflow export` wrote.

    Parameters
    ----------
    name
        The picker.
    folder
        The exported folder.
    again
        Train anew where there is a model already.
    script_only
        Write a job script instead, and run nothing.
    """
    from cryoflow.pickers.running.run import train as run

    result = run(
        name,
        folder,
        executor_of(where, script=script_only),
        again=again,
        script_only=script_only,
        on_line=say_lines(),
    )
    if result.script:
        again_ = shlex.join(["cryoflow", "picker", "train", name, str(folder)])
        show_script(result, f"then, again: {again_}  (its model and curve)", as_json=json)
    else:
        out.emit_record(_known(result), as_json=json)
        model = shlex.quote(str(result.model))
        out.say(f"next: cryoflow picker pick {name} --model {model} ENTRY... --database DB --output FOLDER")


@app.command
def pick(
    name: str,
    *entries: str,
    model: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    database: MaybeDb = None,
    picking: Picking | None = None,
    where: ExecutorOptions | None = None,
    overwrite: Flag = False,
    script_only: Flag = False,
    json: out.Json = False,
) -> None:
    """Pick micrographs with a trained model, and add the picks to the database.

    Parameters
    ----------
    name
        The picker.
    entries
        Entries of the database, whose micrographs are picked (their picks are not looked at).
    model
        The model's file, or a name that the picker knows.
    output
        Folder to write.
    database
        Where the entries are, and where the picks are added.
    overwrite
        Replace an earlier run in that folder.
    script_only
        Write a job script instead, and run nothing.
    """
    from cryoflow.pickers.running.run import pick as run

    picking = picking or Picking()
    picksets = picking.picksets(entries, database)
    if not picksets:
        raise out.UsageError("name entries of a --database, or --micrographs.")
    result = run(
        name,
        model,
        picksets,
        output,
        executor_of(where, script=script_only),
        diameter_A=picking.diameter,
        settings=settings_of(picking.set_),
        threshold=picking.threshold,
        overwrite=overwrite,
        script_only=script_only,
        on_line=say_lines(),
    )
    if result.script:
        show_script(result, reading(name, result.folder, database, result.folder.name, picking.threshold), as_json=json)
        return
    show_picks(result.picksets, database, as_json=json)


@app.command
def read(
    name: str,
    folder: Path,
    *,
    manifest: Path | None = None,
    database: MaybeDb = None,
    run: str = "",
    threshold: float | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    micrograph_pixels: Flag = False,
    flip_y: bool | None = None,
    model: str = "",
    json: out.Json = False,
) -> None:
    """Read picks that a picker wrote elsewhere, and add them to the database.

    Parameters
    ----------
    name
        The picker.
    folder
        Its output: a folder, or one file.
    manifest
        The manifest.tsv of the set that was picked, or its folder; by default the one that the picks lie in.
    database
        Where to add them; without, they are only counted.
    run
        Name of the run, part of the entry's name; by default the folder's.
    threshold
        Picks of a lower score are left out; the picker's default where not given.
    all_
        Keep all picks, whatever their score.
    micrograph_pixels
        The positions are scaled back already, as by `topaz extract -x`.
    flip_y
        Count y from the last row; by default of CryoPPP's tables alone.
    model
        Kept with the picks.
    """
    from cryoflow.pickers.importing.import_picks import read_back

    found = read_back(
        name,
        folder,
        manifest,
        name=run,
        threshold=threshold,
        keep_all=all_,
        scaled=False if micrograph_pixels else None,
        flip_y=flip_y,
        model=model,
    )
    show_picks(found, database, as_json=json)


@app.command
def consensus(
    *entries: str,
    database: Db,
    at_least: int = 2,
    radius: float = 0.25,
    diameter: float | None = None,
    name: str = "",
    json: out.Json = False,
) -> None:
    """Add an entry of the picks on which several entries agree.

    Parameters
    ----------
    entries
        Two entries or more of the same micrographs.
    database
        Where they are, and where the new one is added.
    at_least
        How many must agree; 1 gives all picks without their duplicates.
    radius
        Picks within so many diameters of each other are one.
    diameter
        Particle diameter in angstrom, where the entries do not know it.
    name
        Of the new entry, Consensus_<name>.
    """
    from cryoflow.pickers.comparing.consensus import consensus as agree

    picksets = load(entries, database)
    show_picks(
        [agree(picksets, at_least=at_least, radius=radius, diameter_A=diameter, name=name)], database, as_json=json
    )


def _known(result: object) -> dict[str, object]:
    return {k: v for k, v in vars(result).items() if v is not None and v is not False}


app.command(train_and_pick)
