"""The unpicker as a learner: features (or patches) of picks, with what became of each, are its exemplars.

A version keeps the architecture and the detector of the first one: exemplars are what that network takes, and cannot be
made again once micrographs are archived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.database.store import Database
from cryoflow.errors import BadInput
from cryoflow.learning.diverse_examples import features, most_varied, ring_power
from cryoflow.learning.item_rules import ItemRule, LabelRule
from cryoflow.learning.items import Item, Piece, set_apart
from cryoflow.learning.learner import LabelFit, Say, Source, names_in_drawn_order
from cryoflow.learning.parameters import UpdateUnpickerParameters
from cryoflow.micrographs.ctf import Ctf
from cryoflow.models.card import ModelKind
from cryoflow.models.gate import MicrographCounts
from cryoflow.preparation.model_folder import DESCRIPTION
from cryoflow.preparation.picked_micrograph import NEGATIVE, POSITIVE, UNLABELED, PickedMicrograph, picked_micrographs
from cryoflow.storage.fingerprints import fingerprint_of, fingerprint_of_values
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.label import label_from_database
from cryoflow.unpicker.label_sources import label_sources
from cryoflow.unpicker.patch_cache import CachedMicrograph, prepare
from cryoflow.unpicker.prepared_split import PreparedSplit, Progress
from cryoflow.unpicker.train_options import TrainOptions

EXEMPLARS = 1024
"""Exemplars of a project: with features in four orientations, or patches of two channels, some 12 MB."""
LEARNED_ORIENTATIONS = 4
"""Orientations in which features of picks are taken; all eight would double time and size."""
LOOKED_AT = 4096
"""Patches of a project among which the exemplars are chosen."""
SET_APART = 5
"""About each so many-th micrograph is not learned from: it ends the training and calibrates the scores."""
RULE = ItemRule(
    pixels_ndim=4, labels={"label": LabelRule("i", values=(POSITIVE, NEGATIVE, UNLABELED))}, row_of_each=True
)
"""Arrays of an item: patches (n, y, x, channels) or features (n, orientations, 1, channels), and a label of each."""
REPLAYED_OF_EACH = 512
"""Picks that an update replays of each earlier project at least; it replays as many as are new in all."""


@dataclass(frozen=True)
class UnpickerTraining:
    """Options for the training of an unpicker in an update.

    Attributes
    ----------
    options
        Of a training on all projects.
    update_epochs, update_learning_rate
        Of an update, which starts from the version in use.
    replay, distill, frozen_norm
        What keeps earlier projects: exemplars, the weight of the earlier model's answers on them, statistics of the
        normalization as they were.
    interpolation
        Weight of what an update learned in its mean with the earlier version's weights; 1 takes the learned weights.
    at_most
        Most micrographs of a project.
    """

    options: TrainOptions = field(default_factory=lambda: TrainOptions.of("detector"))
    update_epochs: int = UpdateUnpickerParameters.epochs
    update_learning_rate: float = 6e-4
    replay: bool = True
    distill: float = 3.0
    frozen_norm: bool = True
    interpolation: float = 0.7
    at_most: int = UpdateUnpickerParameters.micrographs


class UnpickerLearner:
    """Learn from all picks of each project's autopick job, labeled by what became of them."""

    kind: ModelKind = "unpicker"
    rule = RULE

    def __init__(
        self, database: Database, training: UnpickerTraining | None = None, *, diameter_A: float | None = None
    ) -> None:
        self.database, self.training, self.diameter_A = database, training or UnpickerTraining(), diameter_A
        self._micrographs: dict[str, dict[str, PickedMicrograph]] = {}

    @property
    def recipe(self) -> str:
        """Return a fingerprint of what decides the result, besides labels and micrographs."""
        t = self.training
        own = {f.name: getattr(t, f.name) for f in fields(t) if f.name != "options"}
        given = t.options.preprocessing
        fixed = (EXEMPLARS, SET_APART, REPLAYED_OF_EACH)
        return fingerprint_of_values([own, fixed, t.options.deciding(), given and given.to_json(), self.diameter_A])

    @property
    def measure(self) -> str:
        """Return "": counts depend on model and labels alone."""
        return ""

    def base(self) -> Path | None:
        """Return None: no unpicker comes with cryoflow, a training on all projects starts from random weights."""
        return None

    def learned_by(self, model: Path) -> frozenset[str]:
        """Return the contents of the micrographs that an unpicker was trained or validated on."""
        return frozenset(row.content for row in ModelBundle.load(model).manifest if row.part != "test")

    def sources(self) -> tuple[list[Source], list[str]]:
        """Return all projects with labels, and why others have none."""
        sources, notes = label_sources(self.database.entries())
        found = []
        for s in sources:
            try:
                picks = label_from_database(
                    self.database.load(s.positives),
                    load_with_diameter(self.database, s.candidates.name),
                    self.database.load(s.excluded) if s.excluded else None,
                    diameter_A=self.diameter_A,
                )
                micrographs, left_out = picked_micrographs(picks, diameter_A=self.diameter_A)
            except BadInput as error:
                notes.append(f"{s.project}: {error}")
                continue
            notes += left_out
            if not micrographs:
                notes.append(f"{s.project}: no micrograph with picks is there")
                continue
            chosen = names_in_drawn_order([m.name for m in micrographs], s.project, self.training.at_most)
            self._micrographs[s.project] = {m.name: m for m in micrographs if m.name in set(chosen)}
            pieces = (
                p for m in micrographs for p in (m.name, m.centers_xy_px.tobytes(), np.asarray(m.labels).tobytes())
            )
            found.append(
                Source(
                    s.project,
                    tuple(e.name for e in (s.positives, s.candidates, s.excluded) if e is not None),
                    fingerprint_of(f"{micrographs[0].diameter_A:.6g}", *pieces),
                    micrographs[0].diameter_A,
                    sum(len(m.labels) for m in micrographs),
                    {name: m.path for name, m in self._micrographs[s.project].items()},
                )
            )
        return found, notes

    def prepare(
        self, source: Source, wanted: Mapping[str, str], folder: Path, *, held_out: bool = False
    ) -> tuple[list[Item], list[BadInput]]:
        """Make what the network takes of some micrographs (name -> content); those done before are not done again."""
        mine = [m for name, m in sorted(self._micrographs[source.project].items()) if name in wanted]
        preprocessing = self.training.options.preprocessing_for(source.diameter_A)
        extractor = preprocessing.with_orientations(1 if held_out else LEARNED_ORIENTATIONS)
        prepared = prepare(extractor, mine, folder, workers=self.training.options.workers)
        items = [
            Item(
                source.project,
                m.content,
                m.patches_file,
                {"label": np.asarray(m.labels, np.int8)},
                m.micrograph.defocus_A,
                source.diameter_A,
            )
            for m in prepared.micrographs
        ]
        return items, list(prepared.failed)

    def exemplars(self, items: Sequence[Item]) -> list[Piece]:
        """Choose patches that differ in defocus, picks of their micrograph and power spectrum, evenly of each label.

        They are returned in the order of their micrographs' contents: an update keeps the first half of a changed
        project's, and micrographs that follow each other by name are alike.
        """
        items = sorted(items, key=lambda item: item.content)
        places = [(i, j) for i, item in enumerate(items) for j in range(len(item.labels["label"]))]
        labels = np.concatenate([np.asarray(item.labels["label"]) for item in items] or [np.zeros(0, np.int8)])
        rng = np.random.default_rng(0)
        kinds = [k for k in np.unique(labels).tolist()]
        chosen: list[tuple[int, int]] = []
        for kind in kinds:
            mine = np.flatnonzero(labels == kind)
            mine = np.sort(rng.permutation(mine)[: LOOKED_AT // len(kinds)])
            these = [places[k] for k in mine.tolist()]
            points = features(
                np.array([items[i].defocus_A for i, _ in these]),
                np.array([float(len(items[i].labels["label"])) for i, _ in these]),
                np.stack([_looks(items[i].map_pixels()[j]) for i, j in these]),
            )
            chosen += [these[k] for k in most_varied(points, EXEMPLARS // len(kinds)).tolist()]
        pieces = []
        for i in sorted({i for i, _ in chosen}):
            rows = sorted(j for k, j in chosen if k == i)
            item = items[i]
            pixels = np.asarray(item.map_pixels()[rows])
            labels_here = {"label": np.asarray(item.labels["label"])[rows]}
            pieces.append(Piece(item.content, pixels, labels_here, item.defocus_A, item.diameter_A))
        return pieces

    def train(
        self, start: Path | None, new: Sequence[Item], kept: Sequence[Item], work: Path, *, joint: bool, say: Say
    ) -> Path:
        """Train, or go on with a training that was stopped, and return the folder of the model."""
        from cryoflow.unpicker.train import train_prepared

        t, model = self.training, work / "model"
        if (model / DESCRIPTION).is_file():
            return model
        begin = ModelBundle.load(start) if start else None
        apart = set_apart([*new, *kept], SET_APART)
        if joint:
            replayed = list(kept)
        else:
            replayed = replayed_exemplars(kept, sum(len(i.labels["label"]) for i in new)) if t.replay else []
        learn = [i for i in (*new, *replayed) if i.content not in apart]
        ends = [i for i in (*new, *replayed) if i.content in apart] or learn  # one micrograph must do for both
        learn_old = [i for i in replayed if i.content not in apart]
        diameter_A = float(np.median([i.diameter_A for i in (*new, *kept)]))
        options = replace(t.options, cache_dir=work, start_from=start, tensorboard=False)
        if begin is not None:
            options = replace(
                options,
                epochs=t.update_epochs,
                learning_rate=t.update_learning_rate,
                frozen_norm=t.frozen_norm,
                interpolation=t.interpolation,
                distill=t.distill if learn_old else 0.0,
                replayed=frozenset(i.pixels for i in learn_old),
            )
        preprocessing = begin.preprocessing if begin else options.preprocessing_for(diameter_A)

        def on_progress(progress: Progress) -> None:
            if progress.done % 100 == 0:
                say(f"batch {progress.done} of {progress.total}, {progress.note}")

        training = work / "training"
        train_prepared(
            preprocessing,
            begin.architecture if begin else options.network(preprocessing),
            PreparedSplit(tuple(map(_cached, learn)), tuple(map(_cached, ends)), (), ()),
            diameter_A,
            training,
            options,
            start=begin,
            on_progress=on_progress,
        )
        ModelBundle.load(training).save(model)  # without the checkpoints
        return model

    def count(self, model: Path, items: Sequence[Item]) -> list[MicrographCounts]:
        """Score a model on held-out items: as many picks of each are kept as survived, unlabeled ones left out.

        With the number fixed no threshold matters: precision, recall and F1 are the share of survivors among the best.
        """
        counts = []
        for item, labels, logits in _scored(model, items):
            best = np.argsort(-logits, kind="stable")[: int((labels == POSITIVE).sum())]
            matched = int((labels[best] == POSITIVE).sum())
            counts.append(MicrographCounts(item.project, item.content, len(best), len(best), matched))
        return counts

    def fit_of(self, model: Path, items: Sequence[Item]) -> LabelFit:
        """Compare the survivors among the best picks with what a random choice would have."""
        found, by_chance, variance = 0, 0.0, 0.0
        for _, labels, logits in _scored(model, items):
            n = int((labels == POSITIVE).sum())
            best = np.argsort(-logits, kind="stable")[:n]
            found += int((labels[best] == POSITIVE).sum())
            share = n / max(len(labels), 1)
            by_chance += n * share
            variance += n * share * (1 - share) ** 2  # of a draw without replacement
        return LabelFit(found, round(by_chance), variance)


def _scored(model: Path, items: Sequence[Item]) -> Iterator[tuple[Item, npt.NDArray[np.int8], npt.NDArray[np.float64]]]:
    """Yield labels and logits of each item's picks; unlabeled ones are left out unless no pick is negative."""
    bundle = _loaded(model, (model / DESCRIPTION).stat().st_mtime_ns)
    for item in items:
        labels = np.asarray(item.labels["label"], np.int8)
        logits = bundle.logits(np.asarray(item.map_pixels()))
        known = labels != UNLABELED
        if (labels[known] == POSITIVE).all():
            known[:] = True
        yield item, labels[known], logits[known]


def _looks(patch: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """Return what tells patches apart: the detector's features as they are, pixels by their power spectrum."""
    return patch[0, 0].astype(np.float64) if patch.shape[1] == 1 else ring_power(patch)


@lru_cache(maxsize=2)
def _loaded(model: Path, _changed_ns: int) -> ModelBundle:
    return ModelBundle.load(model)


def replayed_exemplars(kept: Sequence[Item], n_new: int) -> list[Item]:
    """Return exemplars of all earlier projects, about as many picks as are new, some of each project at least.

    Micrographs come in the order of their fingerprints, that is at random: the first ones by name are often alike.
    """
    projects = list(dict.fromkeys(i.project for i in kept))
    of_each = max(REPLAYED_OF_EACH, n_new // max(len(projects), 1))
    chosen = []
    for project in projects:
        n = 0
        for item in sorted((i for i in kept if i.project == project), key=lambda i: i.content):
            if n < of_each:
                chosen.append(item)
                n += len(item.labels["label"])
    return chosen


def _cached(item: Item) -> CachedMicrograph:
    """Return an item as the unpicker's training takes it."""
    labels = np.asarray(item.labels["label"], np.int8)
    ctf = Ctf(item.defocus_A, item.defocus_A) if np.isfinite(item.defocus_A) else None
    micrograph = PickedMicrograph(
        name=f"{item.content}-{item.pixels.stem}",
        path=item.pixels,
        pixel_size_A=1.0,
        diameter_A=item.diameter_A,
        centers_xy_px=np.zeros((len(labels), 2)),
        labels=labels,
        data_set=item.project,
        ctf=ctf,
    )
    return CachedMicrograph(micrograph, item.pixels, item.content)
