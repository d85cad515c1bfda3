"""`cryoflow export NAME`: training sets for pickers, and picks for RELION and CryoSPARC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from cryoflow.cli import output as out
from cryoflow.cli.export_verify import verify
from cryoflow.errors import ExitCode
from cryoflow.pickers.registry import pickers

if TYPE_CHECKING:
    from cryoflow.picks import PickSet

Db = Annotated[Path, Parameter(name=["--database", "--db"])]

app = App(
    name="export", help="Write training sets for pickers, and picks for RELION and CryoSPARC.", help_format="plaintext"
)


def _make(name: str, title: str) -> None:
    @app.command(name=name, help=title)
    def command(
        *entries: str,
        database: Db,
        output: Annotated[Path, Parameter(name=["--output", "-o"])],
        best: Annotated[bool, Parameter(negative="")] = False,
        project: Annotated[tuple[str, ...], Parameter(negative="")] = (),
        diameter: float | None = None,
        box: int | None = None,
        validation: float = 0.2,
        test: float = 0.0,
        seed: int = 0,
        set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
        negatives: bool = True,
        force: Annotated[bool, Parameter(negative="")] = False,
        overwrite: Annotated[bool, Parameter(negative="")] = False,
        json: out.Json = False,
    ) -> int:
        """Write what the picker trains from.

        Parameters
        ----------
        entries
            Database entries, <project>/<Kind>_<job>; several make one training set.
        database
            The database's folder.
        output
            Folder to write.
        best
            Take the best entry of each project instead: cryoflow database select shows which and why.
        project
            Of this project only, with --best; may be given several times.
        diameter
            Particle diameter in angstrom: each entry gets its own box from it.
        box
            One box for all entries instead, in pixels.
        validation
            Share of the micrographs that validate.
        test
            Share of the micrographs that the picker never sees.
        seed
            Another number is another split.
        set_
            A setting of the picker by hand, NAME=VALUE; may be given several times.
        negatives
            Keep micrographs without picks as examples of no particles.
        force
            Export even where the pixels say that the picks are flipped.
        overwrite
            Replace an earlier export of cryoflow in that folder, trained models included.
        """
        from cryoflow.pickers.training_sets.export import export
        from cryoflow.pickers.training_sets.split import Fractions

        if diameter is not None and box is not None:
            raise out.UsageError("give --diameter or --box, not both.")
        result = export(
            name,
            load(chosen(entries, database, best=best, project=project), database),
            output,
            diameter_A=diameter,
            box_px=box,
            split=Fractions(validation, test),
            seed=seed,
            negatives=negatives,
            force=force,
            overwrite=overwrite,
            settings=settings_of(set_),
        )
        show(result, as_json=json)
        return ExitCode.PARTLY_FAILED if result.skipped else ExitCode.OK


def chosen(entries: Sequence[str], database: Path, *, best: bool, project: Sequence[str]) -> tuple[str, ...]:
    """The entries that were named, or the best ones of all projects or some; one of the two must be asked for."""
    if bool(entries) == best or (project and not best):
        raise out.UsageError(
            "name entries, or say --best (and --project for some projects only); `cryoflow database list` shows them."
        )
    if entries:
        return tuple(entries)
    from cryoflow.database import Database
    from cryoflow.pickers.running.train_and_pick import best_entries

    names = best_entries(Database(database), project)
    out.say(f"entries: {' '.join(names)}")
    return names


def load(entries: Sequence[str], database: Path | None) -> list[PickSet]:
    """The picks of some entries; diameters that they do not know are those of their projects."""
    from cryoflow.database import Database
    from cryoflow.pickers.running.train_and_pick import load_entries

    if database is None:
        raise out.UsageError("say which --database the entries are of.")
    if not entries:
        raise out.UsageError("name one entry or more; `cryoflow database list` shows them.")
    return load_entries(Database(database), entries)


def settings_of(texts: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise out.UsageError(f"--set {text}: write NAME=VALUE.")
        settings[name] = value
    return settings


def show(result: object, *, as_json: bool) -> None:
    """Print what an export wrote, its settings with their reasons, and what to do next."""
    from cryoflow.pickers.training_sets.export import ExportResult

    assert isinstance(result, ExportResult)
    if as_json:
        out.emit_json(result)
        return
    splits = ", ".join(f"{count} {split}" for split, count in result.splits.items() if count)
    record: dict[str, object] = {
        "folder": result.folder,
        "micrographs": f"{result.n_micrographs} ({splits})" if splits else result.n_micrographs,
    }
    record |= {"picks": result.n_picks, "manifest": result.manifest}
    if result.skipped:
        record["left out"] = f"{len(result.skipped)} micrographs"
    if result.reused:
        record["state"] = "was there already, with the same content"
    out.emit_record(record)
    out.emit_table(
        result.settings, columns=("name", "value", "why"), title="Settings (change one with --set NAME=VALUE)"
    )
    for note in result.notes:
        out.say(f"note: {note}")
    for command in result.next_commands:
        out.say(f"next: {command}")


app.command(verify)
for _name, _picker in pickers().items():
    _make(_name, _picker.help)
