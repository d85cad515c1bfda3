"""`cryoflow unpicker evaluate`, `suggest` and `info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cryoflow.cli import output as out
from cryoflow.cli.unpicker_input import (
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
    labeled,
    scoring,
    warn_coverage,
)
from cryoflow.errors import BadInput, ExitCode


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
    """Measure a model on labeled micrographs that were used for nothing else.

    Parameters
    ----------
    model
        Folder of the model, or of one of its checkpoints.
    entries
        Labelled entries of a database; those it was trained from will do: their test micrographs are taken.
    train_root
        Folder of labeled STAR files and their micrographs.
    suffix
        What the labeled files end in.
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
    known, bad = labeled(entries, database, train_root, suffix, micrographs, apix, ctf, diameter or bundle.diameter_A)
    with scoring("evaluate", len(known.micrographs)) as on_scored:
        result = run(bundle, known, orientations=orientations, workers=num_cores, on_scored=on_scored)
    numbers = result.numbers()
    rows = [{"measure": k, "value": v.value, "low": v.low, "high": v.high} for k, v in numbers.items()]
    if json:
        out.emit_json(
            {
                "model": model,
                "threshold": result.threshold,
                "n_picks": result.n_picks,
                "n_positive": result.n_positive,
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
    from cryoflow.preparation.patches import require_ctf
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.suggest import not_cleaned
    from cryoflow.unpicker.suggest import suggest as run
    from cryoflow.unpicker.unpick import ScoredMicrograph, score

    bundle = ModelBundle.load(model)
    found, bad = any_picks(entries, database, folder, suffix, micrographs, apix, ctf, diameter or bundle.diameter_A)
    require_ctf(bundle.preprocessing, found)
    free = not_cleaned(bundle, found)
    if len(free) < len(found):
        out.say(f"note: {len(found) - len(free)} of {len(found)} micrographs have labels already")
    scored: list[ScoredMicrograph] = []
    with scoring("suggest", len(free)) as on_scored:
        for result in score(bundle, free, workers=num_cores):
            (bad if isinstance(result, BadInput) else scored).append(result)  # type: ignore[arg-type]
            on_scored(result)
    warn_coverage(bundle, free)
    out.emit_table(
        run(bundle, scored, number=number),
        columns=("name", "data_set", "n_picks", "n_kept", "n_doubtful", "defocus_A", "why"),
        as_json=json,
    )
    return ending(bad, len(found) - len(free) + len(scored))


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
        "train_positive": sum(r.n_positive for r in parts["train"]),
        "train_negative": sum(r.n_negative for r in parts["train"]),
        "train_unlabeled": sum(r.n_unlabeled for r in parts["train"]),
        "defocus_um": [low / 1e4, high / 1e4],
        "metrics": dict(b.metrics),
        "options": dict(b.options),
        "versions": dict(b.versions),
        "fingerprint": b.fingerprint,
    }
    out.emit_record(record, as_json=json)
    return ExitCode.OK
