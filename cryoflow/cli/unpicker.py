"""`cryoflow unpicker ...`: label, train, evaluate, unpick, info, suggest.

Options that the older emUnpicker had keep their names here (`--train-root`, `--boxsize`, `--sigma-contrast`, `--apix`,
...); those of preprocessing are given at training alone, for the model keeps them.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from cryoflow.cli import output as out
from cryoflow.errors import BadInput, ExitCode
from cryoflow.files import safe_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryoflow.picks import PickSet
    from cryoflow.unpicker.labelled import PickedMicrograph, TrainingSet
    from cryoflow.unpicker.options import TrainOptions
    from cryoflow.unpicker.train import OnProgress, Progress
    from cryoflow.unpicker.unpick import OnJudged

app = App(name="unpicker", help="Train the network that removes wrong picks, and use it.", help_format="plaintext")

STAR = Group("STAR files of a folder", sort_key=1)
DB = Group("Entries of a database", sort_key=2)
CLASSIC = Group("Preprocessing of --architecture classic", sort_key=3)

DatabaseOption = Annotated[Path | None, Parameter(name=["--database", "--db"], group=DB)]
Micrographs = Annotated[Path | None, Parameter(name="--micrographs", group=STAR)]
Apix = Annotated[float | None, Parameter(name="--apix", group=STAR)]
CtfStar = Annotated[Path | None, Parameter(name="--ctf", group=STAR)]
NumCores = Annotated[int | None, Parameter(name=["--num-cores", "--workers"])]


@app.command
def label(
    folder: Annotated[Path | None, Parameter(group=STAR)] = None,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    all_suffix: Annotated[str, Parameter(group=STAR)] = "_autopick",
    kept_suffix: Annotated[str, Parameter(group=STAR)] = "_autopick_correct",
    train_suffix: Annotated[str, Parameter(group=STAR)] = "_autopick_train",
    negatives: Annotated[Literal["balanced", "all"], Parameter(group=STAR)] = "balanced",
    database: DatabaseOption = None,
    positives: Annotated[str | None, Parameter(group=DB)] = None,
    candidates: Annotated[str | None, Parameter(group=DB)] = None,
    excluded: Annotated[str | None, Parameter(group=DB)] = None,
    dropped: Annotated[Literal["unlabelled", "wrong"], Parameter(group=DB)] = "unlabelled",
    radius: Annotated[float, Parameter(group=DB)] = 0.25,
    diameter: Annotated[float | None, Parameter(group=DB)] = None,
    seed: int = 0,
    json: out.Json = False,
) -> int:
    """Label picks as right and wrong: from STAR files cleaned by hand, or from what survived in a project.

    With FOLDER: for each X_autopick_correct.star there, X_autopick_train.star is written to --output, with the columns
    of X_autopick.star and one more: P for each pick that was kept, N for as many of those that were not.

    With --database: the picks of --candidates are labelled by whether --positives has them, and the entry
    <candidates>_labelled is added.

    Parameters
    ----------
    folder
        Folder of STAR files.
    output
        Folder for the labelled STAR files; may be FOLDER itself.
    all_suffix
        What the files of all picks end in.
    kept_suffix
        What the files of picks that were kept end in.
    train_suffix
        What the files to write end in.
    negatives
        balanced: one N for each P; all: every removed pick.
    database
        The database's folder.
    positives
        Entry whose picks are right: a refinement, a selection.
    candidates
        Entry of all picks: an autopick job.
    excluded
        Entry of particles that a selection put aside: wrong.
    dropped
        What candidates are that are in neither: not known, or wrong.
    radius
        A candidate matches within this share of the diameter.
    diameter
        Particle diameter in angstrom, where the entries do not know it.
    seed
        Of the draw.
    """
    if (folder is None) == (database is None):
        raise out.UsageError("give a folder of STAR files, or --database with --positives and --candidates.")
    if folder is not None:
        from cryoflow.unpicker.label import label_star_folder

        if output is None:
            raise out.UsageError("say where to write the labelled files (--output); it may be the same folder.")
        done, bad = label_star_folder(
            folder,
            output,
            all_suffix=all_suffix,
            kept_suffix=kept_suffix,
            train_suffix=train_suffix,
            negatives=negatives,
            seed=seed,
        )
        out.emit_table(done, columns=("name", "n_right", "n_wrong", "n_all", "n_added", "output"), as_json=json)
        return _ending(bad, len(done))
    from cryoflow.database import Database
    from cryoflow.unpicker.label import label_from_database

    if positives is None or candidates is None:
        raise out.UsageError("name --positives and --candidates; `cryoflow database list` shows the entries.")
    assert database is not None
    source = Database(database)
    labelled = label_from_database(
        source.load(positives),
        source.load(candidates),
        source.load(excluded) if excluded else None,
        radius=radius,
        diameter_A=diameter,
        dropped=dropped,
    )
    entry = source.add(labelled)
    counts = labelled.picks["label"].value_counts()
    out.emit_record(
        {
            "entry": entry.name,
            "right": int(counts.get(1, 0)),
            "wrong": int(counts.get(-1, 0)),
            "not_known": int(counts.get(0, 0)),
            "micrographs": int(labelled.picks["micrograph"].nunique()),
            "notes": list(labelled.notes),
        },
        as_json=json,
    )
    return ExitCode.OK


@app.command
def train(
    *entries: str,
    output: Annotated[Path, Parameter(name=["--output", "-o", "--train-output"])],
    train_root: Annotated[Path | None, Parameter(group=STAR)] = None,
    suffix: Annotated[str, Parameter(group=STAR)] = "_autopick_train",
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: float | None = None,
    architecture: Literal["residual", "classic"] = "residual",
    epochs: Annotated[int | None, Parameter(name=["--epochs", "--num-epochs"])] = None,
    patience: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    unlabelled_right: float = 0.2,
    max_positives: int | None = None,
    validation: float = 0.2,
    test: float = 0.2,
    precision: float | None = None,
    recall: float | None = None,
    start_from: Path | None = None,
    phase_flip: Annotated[bool, Parameter(negative="")] = False,
    boxsize: Annotated[float | None, Parameter(group=CLASSIC)] = None,
    sigma_contrast: Annotated[float, Parameter(group=CLASSIC)] = 5.0,
    lowpass: Annotated[float, Parameter(group=CLASSIC)] = 0.0,
    highpass: Annotated[float, Parameter(group=CLASSIC)] = 0.0,
    gaussian_sigma: Annotated[float, Parameter(group=CLASSIC)] = 0.0,
    resized_box: Annotated[int, Parameter(group=CLASSIC)] = 32,
    num_cores: NumCores = None,
    cache: Path | None = None,
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json: out.Json = False,
) -> int:
    """Train a model. Given again after it was stopped, it goes on where it was.

    Parameters
    ----------
    entries
        Labelled entries of a database; several projects make one model, each in its own pixel size.
    output
        Folder of the model; checkpoints/ in it holds the model after each epoch.
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
        Particle diameter in angstrom; entries may know it.
    architecture
        residual, or classic: the older emUnpicker's network and preprocessing.
    epochs
        20 by default, 25 for classic.
    patience
        End when validation has not become better for so many epochs.
    batch
        Boxes a step; 64 by default, 16 for classic.
    learning_rate
        0.002 by default, 0.01 for classic.
    unlabelled_right
        Share of right picks among those not known, where there are such.
    max_positives
        Learn from at most so many right picks, drawn evenly over the defocus.
    validation
        Share of the micrographs that is watched while learning.
    test
        Share of the micrographs that is kept for `evaluate`.
    precision
        Choose the threshold for this precision (default: best F1).
    recall
        Choose the threshold for this recall.
    start_from
        An earlier model to start from.
    phase_flip
        Turn the phases that the CTF turned; needs the CTF.
    boxsize
        Edge of a box in angstrom; 1.5 diameters by default.
    sigma_contrast
        Clip grey values at so many standard deviations.
    lowpass
        Resolution limit in angstrom, 0 for none.
    highpass
        Resolution limit in angstrom, 0 for none.
    gaussian_sigma
        Blur in pixels, 0 for none.
    resized_box
        Edge that boxes are resized to, in pixels.
    num_cores
        Micrographs prepared at a time.
    cache
        Folder of prepared boxes; by default unpicker_cache beside the output.
    seed
        Another number is another split and other first weights.
    overwrite
        Replace another training in that folder.
    """
    from cryoflow.unpicker.classic import ClassicPreprocessing
    from cryoflow.unpicker.patches import BoxMaker, Preprocessing
    from cryoflow.unpicker.train import train as run

    if precision is not None and recall is not None:
        raise out.UsageError("give --precision or --recall, not both.")
    training_set, bad = _labelled(entries, database, train_root, suffix, micrographs, apix, ctf, diameter)
    preprocessing: BoxMaker = Preprocessing(phase_flip=phase_flip)
    if architecture == "classic":
        edge_A = boxsize or 1.5 * training_set.micrographs[0].diameter_A
        preprocessing = ClassicPreprocessing(
            edge_A, resized_box, sigma_contrast, lowpass, highpass, gaussian_sigma, phase_flip
        )
    options = _options(
        architecture,
        preprocessing=preprocessing,
        epochs=epochs,
        patience=patience,
        learning_rate=learning_rate,
        batch=batch,
        unlabelled_right=unlabelled_right,
        max_right=max_positives,
        validation=validation,
        test=test,
        wanted=(precision, recall),
        seed=seed,
        start_from=start_from,
        cache_dir=cache,
        workers=num_cores,
    )
    with _training_bars() as on_progress:
        bundle = run(training_set, output, options, overwrite=overwrite, on_progress=on_progress)
    record = {
        "model": output,
        "threshold": bundle.threshold,
        "temperature": bundle.temperature,
        **{k: v for k, v in sorted(bundle.metrics.items())},
    }
    out.emit_record(record, as_json=json)
    out.say(f"next: cryoflow unpicker evaluate {output}, then cryoflow unpicker unpick {output}")
    return _ending(bad, 1)


@app.command
def evaluate(
    model: Path,
    *entries: str,
    train_root: Annotated[Path | None, Parameter(group=STAR)] = None,
    suffix: Annotated[str, Parameter(group=STAR)] = "_autopick_train",
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: float | None = None,
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
    labelled, bad = _labelled(
        entries, database, train_root, suffix, micrographs, apix, ctf, diameter or bundle.diameter_A
    )
    with _judging("evaluate", len(labelled.micrographs)) as on_judged:
        result = run(bundle, labelled, orientations=orientations, workers=num_cores, on_judged=on_judged)
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
    return _ending([*bad, *result.failed], len(result.micrographs))


@app.command
def unpick(
    model: Path,
    *entries: str,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    folder: Annotated[Path | None, Parameter(group=STAR)] = None,
    suffix: Annotated[str, Parameter(group=STAR)] = "_autopick",
    unpick_suffix: Annotated[str, Parameter(group=STAR)] = "_autopick_unpick",
    scored_suffix: Annotated[str | None, Parameter(group=STAR)] = None,
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: float | None = None,
    threshold: float | None = None,
    orientations: Literal[1, 2, 4, 8] = 1,
    num_cores: NumCores = None,
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
    """
    from cryoflow.unpicker.bundle import ModelBundle

    if (folder is None) == (database is None):
        raise out.UsageError("give --folder, or --database and its entries.")
    bundle = ModelBundle.load(model)
    if folder is not None:
        from cryoflow.unpicker.unpick import unpick_star_folder

        if output is None:
            raise out.UsageError("say where to write (--output); it may be the same folder.")
        with _judging("unpick", None, json=json) as on_judged:
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
        return _ending(report.failed, len(report.judged))
    return _unpick_entries(bundle, entries, database, output, threshold, orientations, num_cores, json=json)


@app.command
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


@app.command
def suggest(
    model: Path,
    *entries: str,
    number: Annotated[int, Parameter(name=["--number", "-n"])] = 5,
    folder: Annotated[Path | None, Parameter(group=STAR)] = None,
    suffix: Annotated[str, Parameter(group=STAR)] = "_autopick",
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: float | None = None,
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
    from cryoflow.unpicker.suggest import suggest as run
    from cryoflow.unpicker.unpick import Judged, judge

    bundle = ModelBundle.load(model)
    found, bad = _any_picks(entries, database, folder, suffix, micrographs, apix, ctf, diameter or bundle.diameter_A)
    judged: list[Judged] = []
    with _judging("suggest", len(found)) as on_judged:
        for result in judge(bundle, found, workers=num_cores):
            (bad if isinstance(result, BadInput) else judged).append(result)  # type: ignore[arg-type]
            on_judged(result)
    out.emit_table(
        run(bundle, judged, number=number),
        columns=("name", "data_set", "n_picks", "n_kept", "n_doubtful", "defocus_A", "why"),
        as_json=json,
    )
    return _ending(bad, len(judged))


def _labelled(
    entries: Sequence[str],
    database: Path | None,
    root: Path | None,
    suffix: str,
    micrographs: Path | None,
    apix: float | None,
    ctf: Path | None,
    diameter: float | None,
) -> tuple[TrainingSet, list[BadInput]]:
    from cryoflow.unpicker.labelled import TrainingSet
    from cryoflow.unpicker.star_folder import read_star_folder

    if (root is None) == (not entries):
        raise out.UsageError("give --train-root, or labelled entries and their --database.")
    if root is None:
        labelled = TrainingSet.from_picks(_load(entries, database), diameter_A=diameter)
        for note in labelled.notes:
            out.say(f"note: {note}")
        return labelled, []
    if diameter is None:
        raise out.UsageError("give the particle diameter in angstrom (--diameter).")
    found, bad = read_star_folder(
        root, suffix, diameter_A=diameter, pixel_size_A=apix, micrographs_dir=micrographs, ctf_star=ctf
    )
    if not found:
        raise bad[0]
    return TrainingSet(tuple(p.micrograph for p in found)), bad


def _any_picks(
    entries: Sequence[str],
    database: Path | None,
    folder: Path | None,
    suffix: str,
    micrographs: Path | None,
    apix: float | None,
    ctf: Path | None,
    diameter: float,
) -> tuple[list[PickedMicrograph], list[BadInput]]:
    from cryoflow.unpicker.labelled import picked_micrographs
    from cryoflow.unpicker.star_folder import read_star_folder

    if (folder is None) == (not entries):
        raise out.UsageError("give --folder, or entries and their --database.")
    if folder is not None:
        found, bad = read_star_folder(
            folder, suffix, diameter_A=diameter, pixel_size_A=apix, micrographs_dir=micrographs, ctf_star=ctf
        )
        return [p.micrograph for p in found], bad
    picked: list[PickedMicrograph] = []
    for picks in _load(entries, database):
        more, notes = picked_micrographs(picks, diameter_A=diameter)
        picked += more
        for note in notes:
            out.say(f"note: {note}")
    return picked, []


def _load(entries: Sequence[str], database: Path | None) -> list[PickSet]:
    from cryoflow.database import Database

    if database is None:
        raise out.UsageError("say which --database the entries are of.")
    if not entries:
        raise out.UsageError("name one entry or more; `cryoflow database list` shows them.")
    source = Database(database)
    return [source.load(entry) for entry in entries]


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
    for name, picks in zip(entries, _load(entries, database), strict=True):
        assert database is not None
        with _judging(name, None, json=json) as on_judged:
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
    return _ending(failed, len(rows))


def _options(architecture: str, *, wanted: tuple[float | None, float | None], **given: object) -> TrainOptions:
    """Options with the architecture's own values where none was given."""
    from cryoflow.unpicker.calibrate import Wanted
    from cryoflow.unpicker.options import TrainOptions

    values = {k: v for k, v in given.items() if v is not None} | {"wanted": Wanted(*wanted)}
    return TrainOptions.classic(**values) if architecture == "classic" else TrainOptions(**values)  # type: ignore[arg-type]


def _warn_coverage(bundle: object, micrographs: Sequence[PickedMicrograph]) -> None:
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.evaluate import coverage_warnings

    assert isinstance(bundle, ModelBundle)
    for warning in coverage_warnings(bundle, micrographs):
        out.say(f"warning: {warning}")


def _ending(failed: Sequence[BadInput], n_good: int) -> int:
    """Say what failed; the exit code."""
    for error in failed:
        out.say(f"left out: {error}")
    if not failed:
        return ExitCode.OK
    return ExitCode.PARTLY_FAILED if n_good else ExitCode.FAILED


@contextmanager
def _training_bars() -> Iterator[OnProgress]:
    """One bar for preparing, one for training, each with the time left."""
    from contextlib import ExitStack

    stages = {"preparing": "preparing micrographs", "training": "training"}
    with ExitStack() as stack:
        bars: dict[str, tuple[out.Advance, list[int]]] = {}

        def on_progress(progress: Progress) -> None:
            if progress.stage not in bars:
                stack.close()
                bars[progress.stage] = (stack.enter_context(out.progress(stages[progress.stage], progress.total)), [0])
            advance, done = bars[progress.stage]
            advance(progress.done - done[0], note=progress.note)
            done[0] = progress.done

        yield on_progress


@contextmanager
def _judging(what: str, total: int | None, *, json: bool = True) -> Iterator[OnJudged]:
    """A bar on a terminal; with `json` false, one line a micrograph on stdout as well."""
    from cryoflow.unpicker.unpick import Judged

    if not json:

        def line(result: object) -> None:
            if isinstance(result, Judged):
                print(result, flush=True)

        yield line
        return
    with out.progress(what, total) as advance:

        def step(result: object) -> None:  # noqa: ARG001
            advance()

        yield step
