"""Training: from labeled micrographs to a model.

The output folder holds the model and, in `checkpoints/`, the model after each epoch, any of which can be used. A killed
training goes on where it stopped when the same command is given again, and comes to the same result: order, views and
dropout depend on the seed and the epoch, and the optimizer's state is kept.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.preparation.augment import ORIENTATIONS
from cryoflow.preparation.devices import load_keras
from cryoflow.preparation.model_folder import DESCRIPTION, versions
from cryoflow.preparation.patches import PatchExtractor, require_ctf
from cryoflow.preparation.picked_micrograph import POSITIVE
from cryoflow.storage import inputs
from cryoflow.storage.fingerprints import fingerprint_of_values
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.labeled import LabeledSet, Split, balanced_draw, fingerprint, split_by_micrograph
from cryoflow.unpicker.model_manifest import ManifestRow
from cryoflow.unpicker.network import Architecture
from cryoflow.unpicker.patch_cache import CachedMicrograph, prepare
from cryoflow.unpicker.prepared_split import OnProgress, PreparedSplit, Progress
from cryoflow.unpicker.train_options import TrainOptions

log = logging.getLogger(__name__)

MOST_PASSES = 2000
"""Passes of micrographs through the detector's network, a tenth of a second each, that orientations may bring a
training to. The particles of more micrographs lie in all orientations anyway."""

BEFORE = "before"
"""Part of a manifest's row: learned from by the model that this one started from."""


def train(
    training_set: LabeledSet,
    output: Path,
    options: TrainOptions | None = None,
    *,
    split: Split | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ModelBundle:
    """Train a model, or go on with a training that was stopped.

    Parameters
    ----------
    output
        Folder of the model. Where it holds the finished model of the same training, that is returned at once.
    split
        Which micrographs to learn from; None divides them by `options.validation` and `options.test`.
    overwrite
        Whether to replace what another training left in `output`.

    Raises
    ------
    BadInput
        Where labels of one kind are missing, too few micrographs can be used, or `output` is of another training.
    """
    options = options or TrainOptions.of("detector")
    training_set.check()
    start = ModelBundle.load(options.start_from) if options.start_from else None
    if start is not None:
        options = replace(options, architecture=start.architecture.name)
    diameter = float(np.median([m.diameter_A for m in training_set.micrographs]))
    preprocessing = start.preprocessing if start else options.preprocessing_for(diameter)
    architecture = start.architecture if start else options.network(preprocessing)
    require_ctf(preprocessing, training_set.micrographs)
    split = split or split_by_micrograph(
        training_set, validation=options.validation, test=options.test, seed=options.seed
    )
    if options.max_positives is not None:
        split = replace(split, train=balanced_draw(split.train, options.max_positives, seed=options.seed))
    parts = _prepare_parts(preprocessing, split, output, options, on_progress)
    if start is not None:
        parts = parts.without_leaks(start)
        # Micrographs that came from the test part were prepared in one orientation.
        members = [m.micrograph for m in parts.train]
        extractor = preprocessing.with_orientations(training_orientations(len(members)))
        again = prepare(extractor, members, _cache_dir(output, options), workers=options.workers)
        parts = replace(parts, train=again.micrographs)
    return train_prepared(
        preprocessing,
        architecture,
        parts,
        diameter,
        output,
        options,
        start=start,
        overwrite=overwrite,
        on_progress=on_progress,
    )


def train_prepared(
    preprocessing: PatchExtractor,
    architecture: Architecture,
    parts: PreparedSplit,
    diameter_A: float,
    output: Path,
    options: TrainOptions,
    *,
    start: ModelBundle | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ModelBundle:
    """Train on patches that are prepared already; see `train`."""
    mark = _fingerprint(preprocessing, architecture, parts, options, start)
    if finished := finished_model(output, mark, overwrite=overwrite):
        return finished
    load_keras()  # takes seconds, which a finished training need not wait for
    from cryoflow.unpicker.training_loop import fit

    bundle = ModelBundle(
        architecture=architecture,
        preprocessing=preprocessing,
        weights={},
        diameter_A=diameter_A,
        options=options.deciding(),
        manifest=(*parts.manifest(), *rows_learned_before(parts, start)),
        fingerprint=mark,
        versions=versions(),
    )
    best = fit(bundle, parts, output, options, start=start, on_progress=on_progress)
    best.save(output)
    return ModelBundle.load(output)


def training_orientations(n_micrographs: int) -> int:
    """Return in how many orientations features of micrographs to learn from are made: fewer, the more there are."""
    return max(n for n in (1, 2, 4, len(ORIENTATIONS)) if n == 1 or n * n_micrographs <= MOST_PASSES)


def _cache_dir(output: Path, options: TrainOptions) -> Path:
    return options.cache_dir or output.parent / "unpicker_cache"


def _prepare_parts(
    preprocessing: PatchExtractor, split: Split, output: Path, options: TrainOptions, on_progress: OnProgress | None
) -> PreparedSplit:
    total = sum(len(members) for _, members in split.parts())
    before = 0
    prepared: dict[str, tuple[CachedMicrograph, ...]] = {}
    failed: list[BadInput] = []
    for part, members in split.parts():

        def report(done: int, _: int, start: int = before) -> None:
            if on_progress:
                on_progress(Progress("preparing", start + done, total))

        n_orientations = training_orientations(len(members)) if part == "train" else 1
        extractor = preprocessing.with_orientations(n_orientations)
        result = prepare(extractor, members, _cache_dir(output, options), workers=options.workers, on_done=report)
        prepared[part] = result.micrographs
        failed += result.failed
        before += len(members)
    for error in failed:
        log.warning("left out: %s", error)
    for part, least in (("train", 1), ("validation", 1)):
        if sum(len(m.labels) for m in prepared[part]) < least:
            raise (
                failed[0] if failed else BadInput(output, f"there is no micrograph for {part}.", "Label more of them.")
            )
    labels = np.concatenate([m.labels for m in prepared["train"]])
    if not (labels == POSITIVE).any() or not (labels != POSITIVE).any():
        raise BadInput(
            output, "the micrographs that could be read and are to be learned from have labels of one kind only."
        )
    return PreparedSplit(prepared["train"], prepared["validation"], prepared["test"], tuple(failed))


def rows_learned_before(parts: PreparedSplit, start: ModelBundle | None) -> list[ManifestRow]:
    """Return rows of an earlier model's micrographs, so that no evaluation takes them for unseen ones."""
    here = {m.content for m in (*parts.train, *parts.validation, *parts.test)}
    rows = [r for r in (start.manifest if start else ()) if r.part != "test" and r.content not in here]
    return [replace(r, part=BEFORE) for r in rows]


def _fingerprint(
    preprocessing: PatchExtractor,
    architecture: Architecture,
    parts: PreparedSplit,
    options: TrainOptions,
    start: ModelBundle | None,
) -> str:
    def members(part: Sequence[CachedMicrograph]) -> list[str]:
        return [fingerprint([m.micrograph for m in part]), *(m.content for m in part)]

    values = {
        "preprocessing": preprocessing.to_json(),
        "architecture": architecture.to_json(),
        "options": options.deciding(),
        "parts": [members(part) for part in (parts.train, parts.validation, parts.test)],
        "start": start.fingerprint if start else "",
    }
    return fingerprint_of_values(values)


def finished_model(output: Path, mark: str, *, overwrite: bool) -> ModelBundle | None:
    """Return the finished model of this very training, if it is there; another one is refused or cleared away."""
    marked = output / "training.txt"
    other = False
    if (output / DESCRIPTION).is_file():
        bundle = ModelBundle.load(output)
        if bundle.fingerprint == mark and not overwrite:
            return bundle
        other = bundle.fingerprint != mark
    elif marked.is_file():
        try:
            other = inputs.read_text(marked, errors="replace").strip() != mark
        except OSError as error:
            raise BadInput(marked, f"cannot be read: {error.strerror or error}.", "Name another folder.") from error
    elif output.is_dir() and any(output.iterdir()):
        raise BadInput(output, "is not empty and holds no model.", "Name another folder.")
    if other and not overwrite:
        raise BadInput(
            output,
            "holds another training: other picks, micrographs or options.",
            "Name another folder, or replace it (--overwrite).",
        )
    if overwrite and output.is_dir():
        shutil.rmtree(output)
    return None
