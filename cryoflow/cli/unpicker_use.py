"""`cryoflow unpicker evaluate`, `unpick`, `suggest` and `info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from cryoflow.cli import output as out
from cryoflow.cli.unpicker_input import (
    CHANCE,
    COUNT,
    STAR,
    Apix,
    CtfStar,
    DatabaseOption,
    Diameter,
    Micrographs,
    NumCores,
    any_picks,
    ending,
    judging,
    labelled,
    load_entries,
)
from cryoflow.cli.unpicker_older import OlderOption, check_as_trained
from cryoflow.errors import BadInput, ExitCode
from cryoflow.safe_names import safe_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryoflow.unpicker.labelled import PickedMicrograph


def evaluate(
    model: Path,
    *entries: str,
    train_root: Annotated[Path | None, Parameter(group=STAR)] = None,
    suffix: Annotated[str, Parameter(group=STAR)] = "_autopick_train",
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: Diameter = None,
    orientations: Literal[1, 2, 4, 8] = 1,
    num_cores: NumCores = None,
    table: Literal["summary", "micrographs", "defocus"] = "summary",
    report: Path | None = None,
    json: out.Json = False,
) -> int:
    """Measure a model on labelled micrographs that were used for nothing else.

    Parameters
    ----------
    model
        Folder of the model, or of one of its checkpoints.
    entries
        Labelled entries of a database; those it was trained from will do: their test micrographs are taken.
    train_root
        Folder of labelled STAR files and their micrographs.
    suffix
        What the labelled files end in.
    micrographs
        Folder of the images, where it is another.
    apix
        Pixel size in angstrom; by default from each image's header.
    ctf
        STAR file with the CTF of all micrographs.
    database
        The database's folder.
    diameter
        Particle diameter in angstrom; the model's by default.
    orientations
        Look at each box in so many orientations.
    num_cores
        Micrographs prepared at a time.
    table
        What to print; --json prints all of it.
    report
        HTML page to write: numbers, curves, boxes and micrographs.
    """
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.evaluate import evaluate as run

    bundle = ModelBundle.load(model)
    known, bad = labelled(entries, database, train_root, suffix, micrographs, apix, ctf, diameter or bundle.diameter_A)
    with judging("evaluate", len(known.micrographs)) as on_judged:
        result = run(bundle, known, orientations=orientations, workers=num_cores, on_judged=on_judged)
    numbers = result.numbers()
    rows = [{"measure": k, "value": v.value, "low": v.low, "high": v.high} for k, v in numbers.items()]
    if json:
        out.emit_json(
            {
                "model": model,
                "threshold": result.threshold,
                "n_picks": result.n_picks,
                "n_right": result.n_right,
                "measures": {k: {"value": v.value, "low": v.low, "high": v.high} for k, v in numbers.items()},
                "micrographs": result.micrographs,
                "defocus": result.defocus,
                "calibration": result.calibration,
                "warnings": result.warnings,
                "failed": result.failed,
            }
        )
    elif table == "summary":
        out.emit_table(rows, title=f"{result.n_picks} picks on {len(result.micrographs)} test micrographs")
    else:
        out.emit_table(getattr(result, table))
    if report:
        from cryoflow.report.evaluation import evaluation_sections
        from cryoflow.report.page import write_report

        write_report(report, "Unpicker evaluation", evaluation_sections(result, bundle), subtitle=str(model))
        out.say(f"report: {report}")
    for warning in result.warnings:
        out.say(f"warning: {warning}")
    return ending([*bad, *result.failed], len(result.micrographs))


def unpick(
    model: Annotated[Path, Parameter(name=["--model", "--train-output"])],
    *entries: str,
    output: Annotated[Path | None, Parameter(name=["--output", "-o", "--output-star-dir"])] = None,
    folder: Annotated[Path | None, Parameter(name=["--folder", "--eval-star-dir"], group=STAR)] = None,
    suffix: Annotated[str, Parameter(name=["--suffix", "--eval-root"], group=STAR)] = "_autopick",
    unpick_suffix: Annotated[
        str, Parameter(name=["--unpick-suffix", "--output-root"], group=STAR)
    ] = "_autopick_unpick",
    scored_suffix: Annotated[str | None, Parameter(group=STAR)] = None,
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: Diameter = None,
    threshold: Annotated[float | None, CHANCE] = None,
    orientations: Literal[1, 2, 4, 8] = 1,
    num_cores: NumCores = None,
    boxsize: OlderOption = None,
    sigma_contrast: OlderOption = None,
    lowpass: OlderOption = None,
    highpass: OlderOption = None,
    gaussian_sigma: OlderOption = None,
    resized_box: OlderOption = None,
    json: out.Json = False,
) -> int:
    """Remove the wrong picks from STAR files of a folder, or from entries of a database.

    With --folder: X_autopick_unpick.star is written to --output, its rows as they were. With --database: an entry
    Unpicked_<job> is added for each entry; --output gets STAR files that RELION displays and a .cs for CryoSPARC.

    Parameters
    ----------
    model
        Folder of the model, or of one of its checkpoints.
    entries
        Entries of the database.
    output
        Folder to write to.
    folder
        Folder of STAR files and their micrographs.
    suffix
        What the files of picks end in.
    unpick_suffix
        What the files to write end in.
    scored_suffix
        Also write all picks with their probability as rlnAutopickFigureOfMerit, to files that end in this.
    micrographs
        Folder of the images, where it is another.
    apix
        Pixel size in angstrom; by default from each image's header.
    ctf
        STAR file with the CTF of all micrographs (phase flipping, and a warning about its range).
    database
        The database's folder.
    diameter
        Particle diameter in angstrom; the model's by default.
    threshold
        Keep picks of at least this probability; the model's by default.
    orientations
        Look at each box in so many orientations.
    num_cores
        Micrographs prepared at a time.
    boxsize, sigma_contrast, lowpass, highpass, gaussian_sigma, resized_box
        The older program asked for them here, too: they must be as they were at training.
    """
    from cryoflow.unpicker.bundle import ModelBundle

    if (folder is None) == (database is None):
        raise out.UsageError("give --folder, or --database and its entries.")
    bundle = ModelBundle.load(model)
    older = {
        "boxsize": boxsize,
        "sigma-contrast": sigma_contrast,
        "lowpass": lowpass,
        "highpass": highpass,
        "gaussian-sigma": gaussian_sigma,
        "resized-box": resized_box,
    }
    check_as_trained(bundle, older)
    if folder is not None:
        from cryoflow.unpicker.unpick import unpick_star_folder

        if output is None:
            raise out.UsageError("say where to write (--output); it may be the same folder.")
        with judging("unpick", None, json=json) as on_judged:
            report = unpick_star_folder(
                bundle,
                folder,
                output,
                suffix=suffix,
                unpick_suffix=unpick_suffix,
                scored_suffix=scored_suffix,
                diameter_A=diameter,
                pixel_size_A=apix,
                micrographs_dir=micrographs,
                ctf_star=ctf,
                threshold=threshold,
                orientations=orientations,
                workers=num_cores,
                on_judged=on_judged,
            )
        _warn_coverage(bundle, [j.micrograph for j in report.judged])
        if json:
            out.emit_json(
                [{"name": j.micrograph.name, "n": len(j.kept), "n_kept": int(j.kept.sum())} for j in report.judged]
            )
        out.say(f"kept {report.n_kept} of {report.n_picks} picks on {len(report.judged)} micrographs")
        return ending(report.failed, len(report.judged))
    return _unpick_entries(bundle, entries, database, output, threshold, orientations, num_cores, json=json)


def suggest(
    model: Path,
    *entries: str,
    number: Annotated[int, Parameter(name=["--number", "-n"]), COUNT] = 5,
    folder: Annotated[Path | None, Parameter(group=STAR)] = None,
    suffix: Annotated[str, Parameter(group=STAR)] = "_autopick",
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: Diameter = None,
    num_cores: NumCores = None,
    json: out.Json = False,
) -> int:
    """Name the micrographs whose cleaning by hand would teach the model most.

    Parameters
    ----------
    model
        Folder of the model, or of one of its checkpoints.
    entries
        Entries of the database.
    number
        How many.
    folder
        Folder of STAR files and their micrographs.
    suffix
        What the files of picks end in.
    micrographs
        Folder of the images, where it is another.
    apix
        Pixel size in angstrom; by default from each image's header.
    ctf
        STAR file with the CTF of all micrographs, to spread the choice over the defocus.
    database
        The database's folder.
    diameter
        Particle diameter in angstrom; the model's by default.
    num_cores
        Micrographs prepared at a time.
    """
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.patches import require_ctf
    from cryoflow.unpicker.suggest import not_cleaned
    from cryoflow.unpicker.suggest import suggest as run
    from cryoflow.unpicker.unpick import Judged, judge

    bundle = ModelBundle.load(model)
    found, bad = any_picks(entries, database, folder, suffix, micrographs, apix, ctf, diameter or bundle.diameter_A)
    require_ctf(bundle.preprocessing, found)
    free = not_cleaned(bundle, found)
    if len(free) < len(found):
        out.say(f"note: {len(found) - len(free)} of {len(found)} micrographs have labels already")
    judged: list[Judged] = []
    with judging("suggest", len(free)) as on_judged:
        for result in judge(bundle, free, workers=num_cores):
            (bad if isinstance(result, BadInput) else judged).append(result)  # type: ignore[arg-type]
            on_judged(result)
    _warn_coverage(bundle, free)
    out.emit_table(
        run(bundle, judged, number=number),
        columns=("name", "data_set", "n_picks", "n_kept", "n_doubtful", "defocus_A", "why"),
        as_json=json,
    )
    return ending(bad, len(found) - len(free) + len(judged))


def info(model: Path, *, json: out.Json = False) -> int:
    """Describe a model: network, preprocessing, what it was trained on, how good it is.

    Parameters
    ----------
    model
        Folder of the model, or of one of its checkpoints.
    """
    from cryoflow.unpicker.bundle import ModelBundle

    b = ModelBundle.load(model)
    low, high = b.defocus_range_A
    parts = {p: [r for r in b.manifest if r.part == p] for p in ("train", "validation", "test")}
    record: dict[str, object] = {
        "model": model,
        "architecture": b.architecture.to_json(),
        "n_weights": int(sum(w.size for w in b.weights.values())),
        "preprocessing": b.preprocessing.to_json(),
        "diameter_A": b.diameter_A,
        "temperature": b.temperature,
        "threshold": b.threshold,
        "data_sets": sorted({r.data_set for r in b.manifest}),
        **{f"{p}_micrographs": len(rows) for p, rows in parts.items()},
        "train_right": sum(r.n_right for r in parts["train"]),
        "train_wrong": sum(r.n_wrong for r in parts["train"]),
        "train_not_known": sum(r.n_not_known for r in parts["train"]),
        "defocus_um": [low / 1e4, high / 1e4],
        "metrics": dict(b.metrics),
        "options": dict(b.options),
        "versions": dict(b.versions),
        "fingerprint": b.fingerprint,
    }
    out.emit_record(record, as_json=json)
    return ExitCode.OK


def _unpick_entries(
    bundle: object,
    entries: Sequence[str],
    database: Path | None,
    output: Path | None,
    threshold: float | None,
    orientations: int,
    num_cores: int | None,
    *,
    json: bool,
) -> int:
    from cryoflow.database import Database
    from cryoflow.pickers.export import export
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.unpick import unpick as run

    assert isinstance(bundle, ModelBundle)
    rows = []
    failed: list[BadInput] = []
    for name, picks in zip(entries, load_entries(entries, database), strict=True):
        assert database is not None
        with judging(name, None, json=json) as on_judged:
            kept, report = run(
                bundle,
                picks,
                threshold=threshold,
                orientations=orientations,
                workers=num_cores,
                on_judged=on_judged,
            )
        _warn_coverage(bundle, [j.micrograph for j in report.judged])
        for note in report.notes:
            out.say(f"note: {note}")
        failed += report.failed
        entry = Database(database).add(kept)
        for program in ("relion", "cryosparc") if output else ():
            assert output is not None
            folder = output / safe_name(name.replace("/", "_")) / program
            written = export(program, [kept], folder, diameter_A=kept.diameter_A, overwrite=True)
            for command in written.next_commands:
                out.say(f"next: {command}")
        rows.append(
            {
                "entry": entry.name,
                "from": name,
                "picks": len(picks),
                "kept": len(kept),
                "micrographs": len(report.judged),
            }
        )
    out.emit_table(rows, as_json=json)
    return ending(failed, len(rows))


def _warn_coverage(bundle: object, micrographs: Sequence[PickedMicrograph]) -> None:
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.evaluate import coverage_warnings

    assert isinstance(bundle, ModelBundle)
    for warning in coverage_warnings(bundle, micrographs):
        out.say(f"warning: {warning}")
