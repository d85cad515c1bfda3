"""`cryoflow pick` and `cryoflow detector`: train, run and evaluate cryoflow's own particle detector."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.cli.entries import add, load
from cryoflow.cli.learning import update_detector
from cryoflow.detector.parameters import EvaluateDetectorParameters, PickWithDetectorParameters, TrainDetectorParameters
from cryoflow.errors import BadInput, ExitCode
from cryoflow.wording import counted

if TYPE_CHECKING:
    from cryoflow.detector.pick import PickedResult
    from cryoflow.picks import PickSet

app = App(name="detector", help="Train, run and evaluate cryoflow's own particle detector.", help_format="plaintext")


@declared
def pick(parameters: PickWithDetectorParameters, *, json: out.Json = False) -> int:
    """Pick particles with the detector; no labels, no training.

    The picks have calibrated probabilities as scores. They go into the database (--database), or into files
    (--output): relion/ and cryosparc/ to import there (a .cs where CryoSPARC's uids are known), and box/ with one
    EMAN box file a micrograph.
    """
    from cryoflow.detector.bundle import Detector
    from cryoflow.detector.pick_set import pick_set
    from cryoflow.models.find_model import with_model

    p = with_model(parameters)
    detector = Detector.load(p.model)
    rows: list[dict[str, object]] = []
    failed: list[BadInput] = []
    n_missing = 0
    for number, source in enumerate(_sources(p), start=1):
        folder = p.output if p.output is None or number == 1 else p.output / f"set{number}"
        with _telling(len(source.micrographs)) as on_picked:
            picks, report = pick_set(
                detector,
                source,
                diameter_A=p.diameter_A,
                pixel_size_A=p.pixel_size_A,
                threshold=p.threshold,
                name=p.name,
                masks=folder / "masks" if p.masks and folder else None,
                workers=p.workers,
                on_picked=on_picked,
            )
        failed += report.failed
        n_missing += report.n_missing
        for note in report.notes:
            out.say(f"warning: {note}")
        if report.diameter is not None:
            out.say(
                f"note: the particle diameter was estimated: {report.diameter.diameter_A:.0f} A (--diameter sets it)"
            )
        if n_empty := len(picks.micrographs) - picks.picks["micrograph"].nunique():
            out.say(f"note: {counted(n_empty, 'micrograph')} of {len(picks.micrographs)} without a pick")
        if report.n_junk:
            out.say(f"note: {counted(report.n_junk, 'peak')} on carbon, ice or aggregates left out (on_junk)")
        row = {"entry": f"{picks.provenance.project_name}/{picks.provenance.entry_name}"}
        if p.database is not None:
            row = add(picks, p.database)
        if folder is not None:
            _write_files(picks, folder)
        rows.append(
            {
                **row,
                "picks": len(picks),
                "micrographs": len(picks.micrographs),
                "diameter_A": round(picks.diameter_A or 0, 1),
                "threshold": round(report.threshold, 4),
                "expected_f1": round(report.expected_f1, 3),
                "on_junk": report.n_junk,
            }
        )
    out.emit_table(rows, as_json=json, title="Picks")
    return _ending(len(failed), n_missing)


@app.command
@declared
def evaluate(parameters: EvaluateDetectorParameters, *, json: out.Json = False) -> int:
    """Compare a detector's picks with entries that hold all particles, or with CryoPPP's expert labels."""
    from cryoflow.detector.bundle import Detector
    from cryoflow.detector.cryoppp import evaluate_tree
    from cryoflow.detector.evaluate import evaluate_set
    from cryoflow.models.find_model import with_model

    p = with_model(parameters)
    detector = Detector.load(p.model)
    if p.cryoppp is not None:
        diameters = {} if p.diameter_A is None else {f.name: p.diameter_A for f in p.cryoppp.glob("*") if f.is_dir()}
        rows = list(evaluate_tree(detector, p.cryoppp, diameters))
    else:
        rows = [
            evaluate_set(detector, picks, diameter_A=p.diameter_A, limit=p.limit)
            for picks in load(p.entries, p.database, diameter_A=p.diameter_A)
        ]
    out.emit_table(rows, as_json=json, title="Figures")
    return ExitCode.PARTLY_FAILED if any(r["not_picked"] for r in rows) else ExitCode.OK


@app.command
def info(model: str = "general", *, json: out.Json = False) -> None:
    """Show what a detector is: its card, and what was measured.

    Parameters
    ----------
    model
        Folder of a detector, NAME or NAME@VERSION of the registry, or general for the one that ships.
    """
    from cryoflow.detector.bundle import Detector
    from cryoflow.models.find_model import find_model

    detector = Detector.load(find_model(model))
    record: dict[str, object] = {
        "model": model,
        "fingerprint": detector.fingerprint,
        "folder": detector.folder,
        "pixels_per_diameter": detector.pixels_per_diameter,
        "diameter_A": detector.diameter_A,
        "threshold": detector.threshold,
        **{f"recipe.{k}": v for k, v in detector.recipe.items()},
        **dict(detector.metrics),
    }
    out.emit_record(record, as_json=json)
    if not json:
        print(f"\n{out.visible(detector.card.rstrip())}", flush=True)


@app.command
@declared
def train(parameters: TrainDetectorParameters, *, json: out.Json = False) -> int:
    """Train a detector on finished projects. The same command goes on where it was stopped."""
    from cryoflow.detector.train import train_as_asked
    from cryoflow.models.find_model import with_model

    p = with_model(parameters, "start")
    detector, prepared = train_as_asked(p, say=out.say)
    for note in prepared.notes:
        out.say(f"note: {note}")
    for error in prepared.failed:
        out.say(f"not used: {error}")
    out.emit_record({"model": p.output, "fingerprint": detector.fingerprint, **dict(detector.metrics)}, as_json=json)
    return ExitCode.PARTLY_FAILED if prepared.failed else ExitCode.OK


@app.command(name="train-general")
def train_general(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    work: Path,
    workers: int = 2,
) -> None:
    """Train the general model anew, from nothing but simulated specimens; some hours on two cores.

    Parameters
    ----------
    output
        Folder of the model.
    work
        Folder for simulated micrographs (2 GB) and checkpoints; the same command goes on where it was stopped.
    workers
        Processes that simulate.
    """
    from cryoflow.detector.general import train_general as run
    from cryoflow.preparation.devices import list_gpus, load_keras

    load_keras()
    detector = run(output, work, workers=workers, say=out.say, devices=list_gpus())
    out.emit_record({"model": output, "fingerprint": detector.fingerprint, **dict(detector.metrics)})


@app.command(name="train-exported", show=False)
def train_exported(folder: Path) -> int:
    """Train on a folder that `cryoflow export cryoflow` wrote, into its model/; `cryoflow picker train` runs this.

    Parameters
    ----------
    folder
        The exported folder. The same command goes on where it was stopped.
    """
    from cryoflow.preparation.devices import list_gpus, load_keras

    load_keras()
    from cryoflow.pickers.programs.detector.exported import train_exported as run

    detector, prepared = run(folder, say=out.say, devices=list_gpus())
    for error in prepared.failed:
        out.say(f"not used: {error}")
    out.emit_record({"model": folder / "model", "fingerprint": detector.fingerprint, **dict(detector.metrics)})
    return ExitCode.OK  # a micrograph that cannot be used is no reason to discard the model


@app.command(name="pick-exported", show=False)
def pick_exported(folder: Path, *, model: str = "general", workers: int = 2) -> int:
    """Pick the micrographs of a folder that `cryoflow picker pick` wrote, into its picks/; that command runs this.

    Parameters
    ----------
    folder
        The folder, with manifest.tsv and micrographs/.
    model
        Folder of a detector, or general for the one that ships.
    workers
        Micrographs that are read and prepared at the same time.
    """
    from cryoflow.pickers.programs.detector.exported import pick_exported as run
    from cryoflow.pickers.training_sets.manifest import read_manifest

    with _telling(len(read_manifest(folder))) as on_picked:
        picked, failed = run(folder, model, workers=workers, on_picked=on_picked, say=out.say)
    out.emit_record({"picked": picked, "not_picked": failed})
    return ExitCode.OK  # those that failed are named in picks/, and counted on import


app.command(pick)
app.command(update_detector, name="update")


def _sources(p: PickWithDetectorParameters) -> Iterator[PickSet]:
    """Yield what is to be picked: files and folders that are there, else entries of the database."""
    from cryoflow.pickers.running.run_picker import micrographs_to_pick

    paths = [Path(s) for s in p.sources if Path(s).exists()]
    entries = [s for s in p.sources if not Path(s).exists()]
    if paths:
        yield micrographs_to_pick(paths, pixel_size_A=p.pixel_size_A)
    if entries and p.database is None:
        raise BadInput(entries[0], "is no file or folder, and no database was named.", "Give --database for entries.")
    if entries:
        yield from load(entries, p.database, diameter_A=p.diameter_A)


def _write_files(picks: PickSet, output: Path) -> None:
    from cryoflow.detector.pick_set import write_boxes
    from cryoflow.pickers.training_sets.export import export

    for program in ("relion", "cryosparc"):
        written = export(program, [picks], output / program, diameter_A=picks.diameter_A, overwrite=True)
        for command in written.next_commands:
            out.say(f"next: {command}")
    write_boxes(picks, output / "box")


@contextlib.contextmanager
def _telling(total: int) -> Iterator[Callable[[PickedResult | BadInput], None]]:
    """Yield a progress line, and log each micrograph that could not be picked."""
    with out.progress("micrographs", total) as advance:

        def on_picked(result: PickedResult | BadInput) -> None:
            if isinstance(result, BadInput):
                advance(note="")
                out.say(f"not picked: {result}")
            else:
                advance(note=Path(result.name).name)

        yield on_picked


def _ending(n_failed: int, n_missing: int) -> int:
    """Print how many micrographs are not picked, and return the exit code."""
    if n_missing:
        out.say(f"not picked: {counted(n_missing, 'micrograph')} not found")
    if n_failed:
        out.say(f"{counted(n_failed, 'micrograph')} could not be picked, see above")
    return ExitCode.PARTLY_FAILED if n_failed or n_missing else ExitCode.OK
