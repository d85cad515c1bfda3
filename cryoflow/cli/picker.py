"""`cryoflow picker`: train pickers, run them, read their picks; and `cryoflow evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from cryoflow.cli import output as out
from cryoflow.cli.export import settings_of

if TYPE_CHECKING:
    from cryoflow.pickers.execution import Place
    from cryoflow.picks import PickSet

app = App(name="picker", help="Train pickers, run them and read their picks.", help_format="plaintext")

Db = Annotated[Path, Parameter(name=["--database", "--db"])]
MaybeDb = Annotated[Path | None, Parameter(name=["--database", "--db"])]
Set = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
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


def _place(where: Where | None, *, script: bool = False) -> Place:
    from cryoflow.pickers.base import Hardware
    from cryoflow.pickers.execution import Place

    where = where or Where()
    try:
        numbers = () if where.gpus in ("none", "-1", "") else tuple(int(g) for g in where.gpus.split(","))
    except ValueError:
        raise out.UsageError(f"--gpus {where.gpus}: write numbers as in 0,1, or none.") from None
    scheduled = where.slurm or script
    gpus = tuple(range(len(numbers))) if scheduled else numbers
    return Place(
        container=where.container or "",
        image=where.image,
        slurm=where.slurm,
        sbatch_options=where.sbatch,
        programs=where.programs,
        hardware=Hardware(gpus, where.cpus, allocated=scheduled),
        timeout_s=where.timeout_h * 3600 if where.timeout_h else None,
    )


@app.command(name="list")
def list_pickers(*, json: out.Json = False) -> None:
    """List the pickers that cryoflow knows, and what it can do with each."""
    from cryoflow.pickers.base import Picker, pickers

    rows = []
    for name, picker in pickers().items():
        trains = type(picker).train_steps is not Picker.train_steps
        picks = type(picker).pick_steps is not Picker.pick_steps
        rows.append({"name": name, "title": picker.title, "export": True, "train": trains, "pick": picks, "read": True})
    out.emit_table(rows, as_json=json, title="Pickers")


@app.command
def train(
    name: str,
    folder: Path,
    *,
    where: Where | None = None,
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
    from cryoflow.pickers.run import train as run

    result = run(
        name,
        folder,
        _place(where, script=script_only),
        again=again,
        script_only=script_only,
        on_line=_say_lines(),
    )
    out.emit_record(_known(result), as_json=json)
    if result.script:
        out.say(f"next: cd {result.folder} && sbatch {result.script.name}")
    else:
        out.say(f"next: cryoflow picker pick {name} --model {result.model} ENTRY... --database DB --output FOLDER")


@app.command
def pick(
    name: str,
    *entries: str,
    model: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    database: MaybeDb = None,
    micrographs: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    pixel_size: float | None = None,
    diameter: float | None = None,
    threshold: float | None = None,
    set_: Set = (),
    where: Where | None = None,
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
    micrographs
        MRC files, or folders of them, instead of entries.
    pixel_size
        Of these micrographs, in angstrom, where their headers have none.
    diameter
        Particle diameter in angstrom.
    threshold
        Picks of a lower score are left out; the picker's default where not given.
    set_
        A setting of the picker by hand, NAME=VALUE.
    overwrite
        Replace an earlier run in that folder.
    script_only
        Write a job script instead, and run nothing.
    """
    from cryoflow.pickers.run import micrographs_to_pick
    from cryoflow.pickers.run import pick as run

    picksets = _load(entries, database) if entries else []
    if micrographs:
        picksets.append(micrographs_to_pick(micrographs, pixel_size_A=pixel_size))
    if not picksets:
        raise out.UsageError("name entries of a --database, or --micrographs.")
    result = run(
        name,
        model,
        picksets,
        output,
        _place(where, script=script_only),
        diameter_A=diameter,
        settings=settings_of(set_),
        threshold=threshold,
        overwrite=overwrite,
        script_only=script_only,
        on_line=_say_lines(),
    )
    if result.script:
        out.emit_record({"folder": result.folder, "script": result.script}, as_json=json)
        out.say(f"next: cd {result.folder} && sbatch {result.script.name}")
        out.say(f"then: cryoflow picker read {name} {result.folder}/picks --manifest {result.folder} --database DB")
        return
    _show_picks(result.picksets, database, as_json=json)


@app.command
def read(
    name: str,
    folder: Path,
    *,
    manifest: Path,
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
        The manifest.tsv of the set that was picked, or its folder.
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
    from cryoflow.pickers.read_back import read_back

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
    _show_picks(found, database, as_json=json)


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
    from cryoflow.pickers.consensus import consensus as agree

    picksets = _load(entries, database)
    _show_picks(
        [agree(picksets, at_least=at_least, radius=radius, diameter_A=diameter, name=name)], database, as_json=json
    )


def evaluate(
    *entries: str,
    reference: str,
    database: Db,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    radius: float = 0.25,
    diameter: float | None = None,
    method: Literal["optimal", "greedy"] = "optimal",
    split_of: Path | None = None,
    split: Literal["train", "validation", "test"] = "test",
    micrographs: Flag = False,
    json: out.Json = False,
) -> None:
    """Compare picks with reference picks: precision, recall, F1, average precision and localisation error.

    Parameters
    ----------
    entries
        Entries to judge, one picker each.
    reference
        The entry that is taken to be right.
    database
        Where they are.
    output
        Folder for the tables and the figure.
    radius
        A pick is right within so many diameters of a reference pick.
    diameter
        Particle diameter in angstrom, where the reference does not know it.
    method
        optimal: as many pairs as can be; greedy: the nearest pair first.
    split_of
        Count only the micrographs of one split of this exported folder: what a picker trained on must not judge it.
    split
        Which.
    micrographs
        One line a micrograph instead of one an entry.
    """
    from cryoflow.pickers.compare import compare
    from cryoflow.pickers.evaluate import per_micrograph, table_of, write_evaluation

    right = _load([reference], database)[0]
    only = _names_of(split_of, split) if split_of else None
    results = [
        compare(p, right, radius=radius, diameter_A=diameter, only=only, method=method)
        for p in _load(entries, database)
    ]
    table = per_micrograph(results) if micrographs else table_of(results)
    out.emit_table(table.to_dict("records"), as_json=json, title=f"Against {reference}")
    for result in results:
        if result.only_in_reference or result.only_in_picks:
            out.say(
                f"note: {result.entry}: {result.only_in_reference} micrographs of the reference were not picked and "
                f"{result.only_in_picks} that were picked are not in the reference; they do not count."
            )
    if output:
        for path in write_evaluation(results, reference, output):
            out.say(f"wrote {path}")


def _names_of(folder: Path, split: str) -> frozenset[str]:
    from cryoflow.pickers.manifest import read_manifest

    table = read_manifest(folder)
    names = frozenset(map(str, table.loc[table["split"] == split, "name"]))
    if not names:
        raise out.UsageError(f"{folder} has no micrographs in the split {split}.")
    return names


def _load(entries: Sequence[str], database: Path | None) -> list[PickSet]:
    from cryoflow.database import Database

    if database is None:
        raise out.UsageError("say which --database the entries are of.")
    if not entries:
        raise out.UsageError("name one entry or more; `cryoflow database list` shows them.")
    source = Database(database)
    return [source.load(entry) for entry in entries]


def _show_picks(picksets: Sequence[PickSet], database: Path | None, *, as_json: bool) -> None:
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


def _known(result: object) -> dict[str, object]:
    return {k: v for k, v in vars(result).items() if v is not None and v is not False}


def _say_lines() -> Callable[[str], None] | None:
    """The program's own output, with --verbose."""
    import logging

    log = logging.getLogger("cryoflow.picker")
    return log.info if log.isEnabledFor(logging.INFO) else None
