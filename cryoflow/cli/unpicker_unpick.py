"""`cryoflow unpicker unpick`: remove the wrong picks of STAR files or of a database's entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.cli.emunpicker_options import check_as_trained
from cryoflow.cli.entries import add, entry_names, load
from cryoflow.cli.unpicker_input import ending, scoring, warn_coverage
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.storage.safe_names import safe_name
from cryoflow.unpicker.parameters import UnpickParameters
from cryoflow.wording import counted

if TYPE_CHECKING:
    from cryoflow.detector.bundle import Detector
    from cryoflow.picks import PickSet
    from cryoflow.unpicker.bundle import ModelBundle

DOUBTFUL_SUFFIX = "_autopick_doubtful"
"""Of the files of doubtful picks in STAR folders."""


@declared
def unpick(parameters: UnpickParameters, *, json: out.Json = False) -> int:
    """Remove the wrong picks from STAR files of a folder, or from entries of a database.

    With --folder: X_autopick_unpick.star is written to --output, its rows as they were. With --database: an entry
    Unpicked_<job> is added for each entry; --output gets STAR files that RELION displays and a .cs for CryoSPARC.
    The model `general` is the detector that ships with cryoflow: it cleans picks of any specimen without labels.
    """
    from cryoflow.detector.bundle import Detector, is_detector
    from cryoflow.models.find_model import with_model
    from cryoflow.unpicker.bundle import ModelBundle

    p = with_model(parameters)
    if is_detector(p.model):
        if p.folder is not None:
            raise out.UsageError(
                f"{p.model} is a detector, which cleans entries of a --database, not the STAR files of a --folder. "
                "Add the picks to a database (`cryoflow ingest FOLDER --micrographs FOLDER --database DB`) and name "
                "the entry, or give an unpicker."
            )
        return _unpick_entries(Detector.load(p.model), p, json=json)
    bundle = ModelBundle.load(p.model)
    older = ("boxsize", "sigma_contrast", "lowpass", "highpass", "gaussian_sigma", "resized_box")
    check_as_trained(bundle, {name.replace("_", "-"): getattr(p, name) for name in older})
    if p.folder is None or p.output is None:
        return _unpick_entries(bundle, p, json=json)
    from cryoflow.unpicker.unpick_star import unpick_star_folder

    with scoring("unpick", json=json) as (on_progress, on_scored):
        report = unpick_star_folder(
            bundle,
            p.folder,
            p.output,
            suffix=p.suffix,
            unpick_suffix=p.unpick_suffix,
            scored_suffix=p.scored_suffix,
            diameter_A=p.diameter_A,
            pixel_size_A=p.pixel_size_A,
            micrographs_dir=p.micrographs,
            ctf_star=p.ctf_star,
            doubtful_suffix=DOUBTFUL_SUFFIX if p.doubtful else None,
            goal=p.goal,
            orientations=p.orientations,
            workers=p.workers,
            on_progress=on_progress,
            on_scored=on_scored,
        )
    warn_coverage(bundle, [j.micrograph for j in report.scored])
    if json:
        out.emit_json(
            [{"name": j.micrograph.name, "n": len(j.kept), "n_kept": int(j.kept.sum())} for j in report.scored]
        )
    for decision in report.decisions:
        out.say(f"note: {decision.note()}")
    for shortfall in report.shortfalls:
        out.say(f"warning: {shortfall}")
    earlier = [] if p.doubtful else list(p.output.glob(f"*{DOUBTFUL_SUFFIX}.star"))
    if earlier:
        out.say(f"note: {len(earlier)} *{DOUBTFUL_SUFFIX}.star in {p.output} are of an earlier run with --doubtful")
    out.say(f"kept {report.n_kept} of {report.n_picks} picks on {counted(len(report.scored), 'micrograph')}")
    return ending(report.failed, len(report.scored))


def _unpick_entries(model: ModelBundle | Detector, parameters: UnpickParameters, *, json: bool) -> int:
    """Un-pick one entry after the other; one that cannot be un-picked does not keep the others from it."""
    p = parameters
    rows: list[dict[str, object]] = []
    failed: list[CryoflowError] = []
    names = entry_names(p.entries, p.database)
    for name, picks in zip(names, load(names, p.database, diameter_A=p.diameter_A), strict=True):
        try:
            row, left_out = _unpick_entry(model, name, picks, p, json=json)
        except CryoflowError as error:
            if len(names) == 1:
                raise
            failed.append(error)
            continue
        rows.append(row)
        failed += left_out
    out.emit_table(rows, as_json=json)
    return ending(failed, len(rows))


def _unpick_entry(
    model: ModelBundle | Detector, name: str, picks: PickSet, p: UnpickParameters, *, json: bool
) -> tuple[dict[str, object], Sequence[BadInput]]:
    """Add the cleaned picks of an entry to the database and write their files; a line of the table, and what failed."""
    from cryoflow.database import Database
    from cryoflow.detector.bundle import Detector
    from cryoflow.pickers.training_sets.export import export
    from cryoflow.unpicker.unpick import doubtful_picks, supersede_doubtful
    from cryoflow.unpicker.unpick import unpick as run
    from cryoflow.unpicker.unpick_with_detector import unpick_with_detector

    with scoring(name, json=json) as (on_progress, on_scored):
        if isinstance(model, Detector):
            kept, report = unpick_with_detector(
                model, picks, diameter_A=p.diameter_A, goal=p.goal, on_progress=on_progress, on_scored=on_scored
            )
        else:
            kept, report = run(
                model,
                picks,
                goal=p.goal,
                orientations=p.orientations,
                workers=p.workers,
                work=p.work_folder,
                n_a_shard=p.chunk_micrographs,
                on_progress=on_progress,
                on_scored=on_scored,
            )
            warn_coverage(model, [j.micrograph for j in report.scored])
    for note in (*report.notes, *(d.note() for d in report.decisions)):
        out.say(f"note: {note}")
    for shortfall in report.shortfalls:
        out.say(f"warning: {shortfall}")
    entry = add(kept, p.database_folder)
    doubtful = doubtful_picks(model, picks, report)
    doubtful_entry = ""
    if p.doubtful and len(doubtful):
        doubtful_entry = add(doubtful, p.database_folder)["entry"]
    for program in ("relion", "cryosparc") if p.output else ():
        assert p.output is not None
        folder = p.output / safe_name(name.replace("/", "_")) / program
        written = export(program, [kept], folder, diameter_A=kept.diameter_A, overwrite=True)
        for command in written.next_commands:
            out.say(f"next: {command}")
    if not doubtful_entry and (older := supersede_doubtful(Database(p.database_folder), doubtful)):
        out.say(f"note: {older.name} holds doubtful picks of an earlier run and is marked as superseded")
    row: dict[str, object] = {
        "entry": entry["entry"],
        "from": name,
        "picks": len(picks),
        "kept": len(kept),
        "doubtful": report.n_doubtful,
        "micrographs": len(report.scored),
        "state": entry["state"],
    }
    if p.doubtful:
        row["doubtful_entry"] = doubtful_entry
    return row, report.failed
