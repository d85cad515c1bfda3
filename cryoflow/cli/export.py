"""`cryoflow export PICKER`: training sets for pickers, and picks for RELION and CryoSPARC."""

from __future__ import annotations

from cyclopts import App

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.cli.export_verify import verify
from cryoflow.errors import ExitCode
from cryoflow.pickers.parameters import ExportParameters, TrainingSource
from cryoflow.wording import counted

app = App(name="export", help_format="plaintext")


@app.default
@declared
def export(parameters: ExportParameters, *, json: out.Json = False) -> int:
    """Write training sets for pickers, and picks for RELION and CryoSPARC.

    `cryoflow picker list` describes the pickers.
    """
    from cryoflow.pickers.stages import write_export

    require_entries(parameters)
    result = write_export(parameters)
    show(result, as_json=json)
    return ExitCode.PARTLY_FAILED if result.skipped else ExitCode.OK


def require_entries(parameters: TrainingSource) -> None:
    """Refuse a command that neither names entries nor says `--best`; list the best entries."""
    p = parameters
    if bool(p.entries) == p.best or (p.projects and not p.best):
        raise out.UsageError(
            "name entries, or say --best (and --project for some projects only); `cryoflow database list` shows them."
        )
    if p.best:
        from cryoflow.pickers.stages import entries_to_train_on

        out.say(f"entries: {' '.join(entries_to_train_on(p))}")


def show(result: object, *, as_json: bool) -> None:
    """Print what an export wrote, its settings with their reasons, and the next commands."""
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
        record["left out"] = counted(len(result.skipped), "micrograph")
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
