"""`cryoflow unpicker label` and `train`."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter, validators

from cryoflow.cli import output as out
from cryoflow.cli.unpicker_input import (
    BOX_DIAMETERS,
    CHANCE,
    COUNT,
    DB,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    STAR,
    Apix,
    CtfStar,
    DatabaseOption,
    Diameter,
    Micrographs,
    NumCores,
    ending,
    labeled,
)
from cryoflow.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.prepared_split import OnProgress, Progress
    from cryoflow.unpicker.train_options import TrainOptions

CLASSIC = Group("Preprocessing of --architecture emunpicker", sort_key=3)


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
    dropped: Annotated[Literal["unlabeled", "negative", "unlabelled", "wrong"], Parameter(group=DB)] = "unlabeled",
    radius: Annotated[float, Parameter(group=DB), POSITIVE] = 0.25,
    diameter: Annotated[Diameter, Parameter(group=DB)] = None,
    seed: int = 0,
    json: out.Json = False,
) -> int:
    """Label picks as right and wrong: from STAR files cleaned by hand, or from what survived in a project.

    With FOLDER: for each X_autopick_correct.star there, X_autopick_train.star is written to --output, with the columns
    of X_autopick.star and one more: P for each pick that was kept, N for as many of those that were not.

    With --database: the picks of --candidates are labeled by whether --positives has them, and the entry
    <candidates>_labelled is added.

    Parameters
    ----------
    folder
        Folder of STAR files.
    output
        Folder for the labeled STAR files; may be FOLDER itself.
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
        Label of candidates that are in neither entry: unlabeled, or negative.
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
            raise out.UsageError("say where to write the labeled files (--output); it may be the same folder.")
        done, bad = label_star_folder(
            folder,
            output,
            all_suffix=all_suffix,
            kept_suffix=kept_suffix,
            train_suffix=train_suffix,
            negatives=negatives,
            seed=seed,
        )
        out.emit_table(done, columns=("name", "n_positive", "n_negative", "n_all", "n_added", "output"), as_json=json)
        return ending(bad, len(done))
    from cryoflow.database import Database
    from cryoflow.unpicker.label import label_from_database

    if positives is None or candidates is None:
        raise out.UsageError("name --positives and --candidates; `cryoflow database list` shows the entries.")
    assert database is not None
    source = Database(database)
    result = label_from_database(
        source.load(positives),
        source.load(candidates),
        source.load(excluded) if excluded else None,
        radius=radius,
        diameter_A=diameter,
        dropped=dropped,
    )
    entry = source.add(result)
    counts = result.picks["label"].value_counts()
    out.emit_record(
        {
            "entry": entry.name,
            "right": int(counts.get(1, 0)),
            "wrong": int(counts.get(-1, 0)),
            "not_known": int(counts.get(0, 0)),
            "micrographs": int(result.picks["micrograph"].nunique()),
            "notes": list(result.notes),
        },
        as_json=json,
    )
    return ExitCode.OK


def train(
    *entries: str,
    output: Annotated[Path, Parameter(name=["--output", "-o", "--train-output"])],
    train_root: Annotated[Path | None, Parameter(group=STAR)] = None,
    suffix: Annotated[str, Parameter(group=STAR)] = "_autopick_train",
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: Diameter = None,
    architecture: Literal["residual", "emunpicker", "classic"] = "residual",
    epochs: Annotated[int | None, Parameter(name=["--epochs", "--num-epochs"]), COUNT] = None,
    patience: Annotated[int | None, COUNT] = None,
    batch: Annotated[int | None, COUNT] = None,
    learning_rate: Annotated[float | None, POSITIVE] = None,
    class_prior: Annotated[float, Parameter(name=["--class-prior", "--unlabelled-right"]), SHARE] = 0.2,
    max_positives: Annotated[int | None, Parameter(name=["--max-positives", "--max-particles"]), COUNT] = None,
    validation: Annotated[float, SHARE] = 0.2,
    test: Annotated[float, SHARE] = 0.2,
    precision: Annotated[float | None, CHANCE] = None,
    recall: Annotated[float | None, CHANCE] = None,
    start_from: Path | None = None,
    phase_flip: Annotated[bool, Parameter(negative="")] = False,
    boxsize: Annotated[float | None, Parameter(group=CLASSIC), POSITIVE] = None,
    sigma_contrast: Annotated[float, Parameter(group=CLASSIC), NOT_NEGATIVE] = 5.0,
    lowpass: Annotated[float, Parameter(group=CLASSIC), NOT_NEGATIVE] = 0.0,
    highpass: Annotated[float, Parameter(group=CLASSIC), NOT_NEGATIVE] = 0.0,
    gaussian_sigma: Annotated[float, Parameter(group=CLASSIC), NOT_NEGATIVE] = 0.0,
    resized_box: Annotated[int, Parameter(group=CLASSIC, validator=validators.Number(gte=8))] = 32,
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
        Folder of labeled STAR files and their micrographs; or, as of old, their suffix.
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
        Particle diameter in angstrom; entries may know it, and --boxsize tells it roughly.
    architecture
        residual, or emunpicker (also: classic): the older program's network and preprocessing.
    epochs
        30 by default, 25 for emunpicker.
    patience
        End when validation has not become better for so many epochs; 8 by default, 25 for emunpicker.
    batch
        Boxes a step; 64 by default, 16 for emunpicker.
    learning_rate
        0.002 by default, 0.01 for emunpicker.
    class_prior
        Upper limit of the share of positives among unlabeled picks; the share itself is estimated.
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
        Edge of a box in pixels of the micrographs, as of old; 1.5 diameters by default.
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
    from cryoflow.preparation.patches import PatchExtractor
    from cryoflow.preparation.two_channel import TwoChannelPreprocessing
    from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing
    from cryoflow.unpicker.train import train as run

    if precision is not None and recall is not None:
        raise out.UsageError("give --precision or --recall, not both.")
    training_set, bad = labeled(
        entries, database, train_root, suffix, micrographs, apix, ctf, diameter, boxsize_px=boxsize
    )
    preprocessing: PatchExtractor = TwoChannelPreprocessing(phase_flip=phase_flip)
    if architecture != "residual":
        edge_A = _box_edge_A(training_set, boxsize)
        preprocessing = EmUnpickerPreprocessing(
            edge_A, resized_box, sigma_contrast, lowpass, highpass, gaussian_sigma, phase_flip
        )
    options = _options(
        architecture,
        preprocessing=preprocessing,
        epochs=epochs,
        patience=patience,
        learning_rate=learning_rate,
        batch=batch,
        class_prior=class_prior,
        max_positives=max_positives,
        validation=validation,
        test=test,
        goal=(precision, recall),
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
    if not bundle.metrics["goal_reached"]:
        nearest = {n: bundle.metrics[f"validation_{n}_estimated"] for n in ("precision", "recall")}
        had = f"precision {nearest['precision']:.3f} and recall {nearest['recall']:.3f}"
        out.say(f"warning: on the validation micrographs no threshold gives a {options.goal}; this one gives {had}")
    model = shlex.quote(str(output))
    out.say(f"next: cryoflow unpicker evaluate {model}, then cryoflow unpicker unpick {model}")
    return ending(bad, 1)


def _box_edge_A(training_set: LabeledSet, boxsize_px: float | None) -> float:
    """The model keeps angstrom, for it may be used on another sampling."""
    pixel_sizes_A = {m.pixel_size_A for m in training_set.micrographs}
    if boxsize_px is None:
        return BOX_DIAMETERS * training_set.micrographs[0].diameter_A
    if max(pixel_sizes_A) > 1.01 * min(pixel_sizes_A):
        raise out.UsageError("the micrographs differ in pixel size: give --diameter in place of --boxsize.")
    return boxsize_px * training_set.micrographs[0].pixel_size_A


def _options(architecture: str, *, goal: tuple[float | None, float | None], **given: object) -> TrainOptions:
    """Options with the architecture's own values where none was given."""
    from cryoflow.preparation.calibration import Goal
    from cryoflow.unpicker.train_options import TrainOptions

    values = {k: v for k, v in given.items() if v is not None} | {"goal": Goal(*goal)}
    return TrainOptions.emunpicker(**values) if architecture != "residual" else TrainOptions(**values)  # type: ignore[arg-type]


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
