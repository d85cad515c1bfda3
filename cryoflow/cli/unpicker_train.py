"""`cryoflow unpicker label` and `train`."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.cli.entries import add, load_one
from cryoflow.cli.unpicker_input import BOX_DIAMETERS, ending, labeled
from cryoflow.errors import ExitCode
from cryoflow.unpicker.parameters import LabelParameters, TrainUnpickerParameters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryoflow.preparation.patches import PatchExtractor
    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.prepared_split import OnProgress, Progress


@declared
def label(parameters: LabelParameters, *, json: out.Json = False) -> int:
    """Label picks as particles or not: from STAR files cleaned by hand, or from what survived in a project.

    With FOLDER: for each X_autopick_correct.star there, X_autopick_train.star is written to --output, with the columns
    of X_autopick.star and one more: P for each pick that was kept, N for as many of those that were not.

    With --database: the picks of --candidates are labeled by whether --positives has them, and the entry
    <candidates>_labelled is added.
    """
    p = parameters
    if p.folder is not None and p.output is not None:
        from cryoflow.unpicker.label import label_star_folder

        done, bad = label_star_folder(
            p.folder,
            p.output,
            all_suffix=p.all_suffix,
            kept_suffix=p.kept_suffix,
            train_suffix=p.train_suffix,
            negatives=p.negatives,
            seed=p.seed,
        )
        out.emit_table(done, columns=("name", "n_positive", "n_negative", "n_all", "n_added", "output"), as_json=json)
        return ending(bad, len(done))
    from cryoflow.unpicker.label import label_from_database

    assert p.database is not None and p.positives is not None and p.candidates is not None  # noqa: PT018
    names = (p.positives, p.candidates, *([p.excluded] if p.excluded else []))
    positives, candidates, *excluded = (load_one(name, p.database, diameter_A=p.diameter_A) for name in names)
    result = label_from_database(
        positives,
        candidates,
        excluded[0] if excluded else None,
        radius=p.radius,
        diameter_A=p.diameter_A,
        dropped=p.dropped,
    )
    entry = add(result, p.database)
    counts = result.picks["label"].value_counts()
    positive, negative, unlabeled = (int(counts.get(label, 0)) for label in (1, -1, 0))
    # Scripts read the older names.
    older_names = {"right": positive, "wrong": negative, "not_known": unlabeled} if json else {}
    out.emit_record(
        {
            **entry,
            "positive": positive,
            "negative": negative,
            "unlabeled": unlabeled,
            **older_names,
            "micrographs": int(result.picks["micrograph"].nunique()),
            "notes": list(result.notes),
        },
        as_json=json,
    )
    return ExitCode.OK


@declared
def train(parameters: TrainUnpickerParameters, *, json: out.Json = False) -> int:
    """Train a model. Run again after it was stopped, it goes on where it was.

    Several projects make one model, each in its own pixel size.
    """
    from cryoflow.models.find_model import with_model
    from cryoflow.models.held_out import known_registries
    from cryoflow.unpicker.train import train as run
    from cryoflow.unpicker.train_options import TrainOptions

    p = with_model(parameters, "start_from")
    training_set, bad = labeled(p, p.diameter_A, boxsize_px=p.boxsize)
    training_set = training_set.without_held_out(known_registries(p.models, database=p.database))
    options = TrainOptions.from_parameters(p, _preprocessing(p, training_set))
    with _training_bars() as on_progress:
        bundle = run(training_set, p.model, options, overwrite=p.overwrite, on_progress=on_progress)
    record = {
        "model": p.model,
        "threshold": bundle.threshold,
        "temperature": bundle.temperature,
        **{k: v for k, v in sorted(bundle.metrics.items())},
    }
    out.emit_record(record, as_json=json)
    if not bundle.metrics["goal_reached"]:
        nearest = {n: bundle.metrics[f"validation_{n}_estimated"] for n in ("precision", "recall")}
        had = f"precision {nearest['precision']:.3f} and recall {nearest['recall']:.3f}"
        out.say(f"warning: on the validation micrographs no threshold gives a {options.goal}; this one gives {had}")
    model = shlex.quote(str(p.model))
    out.say(f"next: cryoflow unpicker evaluate {model}, then cryoflow unpicker unpick {model}")
    return ending(bad, 1)


def _preprocessing(parameters: TrainUnpickerParameters, training_set: LabeledSet) -> PatchExtractor:
    from cryoflow.preparation.two_channel import TwoChannelPreprocessing
    from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing

    p = parameters
    if p.architecture == "detector":
        from cryoflow.unpicker.detector_features import DetectorFeatures

        return DetectorFeatures(phase_flip=p.phase_flip)
    if p.architecture == "residual":
        return TwoChannelPreprocessing(phase_flip=p.phase_flip)
    edge_A = _box_edge_A(training_set, p.boxsize)
    return EmUnpickerPreprocessing(
        edge_A, p.resized_box, p.sigma_contrast, p.lowpass, p.highpass, p.gaussian_sigma, p.phase_flip
    )


def _box_edge_A(training_set: LabeledSet, boxsize_px: float | None) -> float:
    """Return the edge in angstrom, which the model keeps because it may be used on another sampling."""
    pixel_sizes_A = {m.pixel_size_A for m in training_set.micrographs}
    if boxsize_px is None:
        return BOX_DIAMETERS * training_set.micrographs[0].diameter_A
    if max(pixel_sizes_A) > 1.01 * min(pixel_sizes_A):
        raise out.UsageError("the micrographs differ in pixel size: give --diameter in place of --boxsize.")
    return boxsize_px * training_set.micrographs[0].pixel_size_A


@contextmanager
def _training_bars() -> Iterator[OnProgress]:
    """Show one bar for preparing and one for training, each with the time left."""
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
