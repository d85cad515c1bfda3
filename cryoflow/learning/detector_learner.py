"""The detector as a learner: crops of prepared micrographs are its exemplars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.database.store import Database
from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import POSITIVE, UNKNOWN, Example
from cryoflow.detector.labels import LabeledProject, best_entries, labeled, project_labels
from cryoflow.detector.peaks import find_peaks
from cryoflow.detector.pick_metrics import HIT, ScoredDetections, match_outcomes
from cryoflow.detector.stream import CropStream, MixedStream, StreamOptions
from cryoflow.detector.training_data import class_prior_of, prepared_example, with_rule
from cryoflow.errors import BadInput
from cryoflow.learning.agreement import PreparedUnpicker
from cryoflow.learning.detector_items import RULE, SET_APART, crops, divided_examples, labels_of
from cryoflow.learning.diverse_examples import features, most_varied, ring_power
from cryoflow.learning.items import Item, Piece, set_apart
from cryoflow.learning.learner import LabelFit, Say, Source, names_in_drawn_order
from cryoflow.learning.parameters import UpdateDetectorParameters
from cryoflow.models.card import ModelKind
from cryoflow.models.gate import MicrographCounts
from cryoflow.picks import PickSet
from cryoflow.preparation.augment import ORIENTATIONS, oriented_xy
from cryoflow.preparation.model_folder import DESCRIPTION, interpolated
from cryoflow.preparation.picked_micrograph import picked_micrographs
from cryoflow.storage.fingerprints import fingerprint_of, fingerprint_of_values

EXEMPLARS = 64
CROP_PX = 256
"""Exemplars of a project, and their edge: 64 crops of two channels are 17 MB."""
WITHIN = 0.5
"""Part of the diameter within which a pick matches."""

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectorTraining:
    """Options for the training of a detector in an update.

    Attributes
    ----------
    rounds, steps
        Rounds of so many batches.
    joint_rounds
        Rounds of a training on all projects.
    replay, distill, frozen_norm
        What keeps earlier projects: exemplars in every batch, the weight of the earlier model's answers, statistics of
        the normalization as they were.
    interpolation
        Weight of what an update learned in its mean with the earlier version's weights; 1 takes the learned weights.
    at_most
        Most micrographs of a project.
    """

    rounds: int = UpdateDetectorParameters.rounds
    steps: int = UpdateDetectorParameters.steps
    joint_rounds: int = UpdateDetectorParameters.joint_rounds
    batch: int = 8
    crop_px: int = CROP_PX
    learning_rate: float = 3e-4
    replay: bool = True
    distill: float = 0.1
    frozen_norm: bool = True
    interpolation: float = 0.5
    at_most: int = UpdateDetectorParameters.micrographs
    seed: int = UpdateDetectorParameters.seed
    mixed_precision: str | None = None


class DetectorLearner:
    """Learn from the best entry of each project of a database, and the candidates that did not survive in it."""

    kind: ModelKind = "detector"
    rule = RULE

    def __init__(
        self,
        database: Database,
        training: DetectorTraining | None = None,
        *,
        base: Detector | None = None,
        diameter_A: float | None = None,
        unpicker: PreparedUnpicker | None = None,
    ) -> None:
        self.database = database
        self.training = training or DetectorTraining()
        self.start = base or Detector.general()
        self.diameter_A = diameter_A
        self.unpicker = unpicker
        self._labels: dict[str, tuple[LabeledProject, PickSet]] = {}

    @property
    def recipe(self) -> str:
        """Return a fingerprint of what decides the result, besides labels and micrographs."""
        return fingerprint_of_values([asdict(self.training), self.start.fingerprint, self.diameter_A])

    @property
    def measure(self) -> str:
        """Return what counts depend on besides model and labels: the un-picker that scores picks."""
        return f"recall and agreement with {self.unpicker.mark if self.unpicker else 'none'}"

    def base(self) -> Path | None:
        """Return the model that joint training starts from."""
        return self.start.folder

    def learned_by(self, model: Path) -> frozenset[str]:
        """Return nothing: the folder of a detector lists no micrographs."""
        del model
        return frozenset()

    def sources(self) -> tuple[list[Source], list[str]]:
        """Return all projects with labels, and why others have none."""
        entries, notes = best_entries(self.database, ())
        found = []
        for entry in entries:
            try:
                labels = project_labels(self.database, entry, diameter_A=self.diameter_A)
            except BadInput as error:
                notes.append(str(error))
                continue
            project = labeled(labels)
            self._labels[labels.project] = (project, labels.positives)
            picked = [m for m in project.micrographs if len(m.xy_px)]
            rows = [m for m in picked if m.path is not None]
            if missing := [m.name for m in picked if m.path is None]:
                notes.append(f"{entry.name}: {len(missing)} micrographs are missing ({missing[0]}, ...)")
            names = set(names_in_drawn_order([m.name for m in rows], labels.project, self.training.at_most))
            content = (piece for m in rows for piece in (m.name, m.xy_px.tobytes(), m.kind.tobytes()))
            found.append(
                Source(
                    labels.project,
                    (entry.name,),
                    fingerprint_of(f"{labels.diameter_A:.6g}", *content),
                    labels.diameter_A,
                    sum(int((m.kind == POSITIVE).sum()) for m in rows),
                    {m.name: Path(str(m.path)) for m in rows if m.name in names},
                )
            )
        return found, notes

    def prepare(
        self, source: Source, wanted: Mapping[str, str], folder: Path, *, held_out: bool = False
    ) -> tuple[list[Item], list[BadInput]]:
        """Prepare some micrographs (name -> content) with their labels; those done before are not done again."""
        del held_out  # crops are turned when they are drawn
        folder.mkdir(parents=True, exist_ok=True)
        project, positives = self._labels[source.project]
        defocus = {m.name: m.defocus_A for m in picked_micrographs(positives, diameter_A=project.diameter_A)[0]}
        made: list[tuple[str, Example]] = []
        failed = []
        for labels in project.micrographs:
            if labels.name not in wanted:
                continue
            try:
                example = prepared_example(labels, project, folder, self.start.pixels_per_diameter)
                example = with_rule(example, "positive-unlabeled", self.start)
            except BadInput as error:
                failed.append(error)
                continue
            made.append((labels.name, example))
        # Of the base detector, whatever the version: it decides how many picks are compared, which must not move.
        prior = class_prior_of(self.start, [example for _, example in made])
        items = [
            Item(
                source.project,
                wanted[name],
                example.pixels,
                labels_of(replace(example, class_prior=prior)),
                defocus.get(name, math.nan),
                project.diameter_A,
            )
            for name, example in made
        ]
        return items, failed

    def exemplars(self, items: Sequence[Item]) -> list[Piece]:
        """Choose crops that differ in defocus, number of particles and power spectrum."""
        pieces = [p for i, item in enumerate(items) for p in crops(item, self.training.crop_px, i)]
        if not pieces:
            return []
        points = features(
            np.array([p.defocus_A for p in pieces]),
            np.array([float((p.labels["kind"] == POSITIVE).sum()) for p in pieces]),
            np.stack([ring_power(p.pixels) for p in pieces]),
        )
        return [pieces[i] for i in most_varied(points, EXEMPLARS)]

    def train(
        self, start: Path | None, new: Sequence[Item], kept: Sequence[Item], work: Path, *, joint: bool, say: Say
    ) -> Path:
        """Train, or go on with a training that was stopped, and return the folder of the model."""
        from cryoflow.preparation.devices import load_keras

        load_keras()
        from cryoflow.detector.fit import FitOptions, fit
        from cryoflow.detector.general import calibrated

        t, model = self.training, work / "model"
        if (model / DESCRIPTION).is_file():
            return model
        begin = Detector.load(start) if start else self.start
        teacher = begin if t.distill and t.replay and kept and not joint else None
        apart = set_apart([*new, *kept], SET_APART)
        learn_new, calibrate = divided_examples(new, apart, begin)
        learn_old, more = divided_examples(kept, apart, begin) if t.replay or joint else ([], [])
        calibrate += more
        if not any((e.kind == POSITIVE).any() for e in calibrate):
            calibrate += [*learn_new, *learn_old]  # a few micrographs must do for both
        if joint:
            stream: CropStream | MixedStream = self._stream([*learn_new, *learn_old], begin, t.batch)
        elif learn_old:
            first, second = (self._stream(part, begin, t.batch // 2) for part in (learn_new, learn_old))
            stream = MixedStream(first, second, teacher.network if teacher else None)
        else:
            stream = self._stream(learn_new, begin, t.batch)
        weights, history = fit(
            begin.architecture,
            stream,
            [],
            work,
            FitOptions(
                rounds=t.joint_rounds if joint else t.rounds,
                steps=t.steps,
                learning_rate=t.learning_rate,
                average=0.98,
                seed=t.seed,
                mixed_precision=t.mixed_precision,
                frozen_norm=t.frozen_norm,
                distill=t.distill if teacher else 0.0,
            ),
            fingerprint=begin.fingerprint,
            start=dict(begin.weights),
            on_round=lambda r: say(
                f"step {r.step} of {r.n_steps}, loss {r.loss:.4f}, {r.seconds_left / 60:.0f} min left"
            ),
        )
        recipe = {"start": begin.fingerprint, "joint": joint, "last_loss": history[-1]["loss"], "seed": t.seed}
        if not joint:
            weights = interpolated(begin.weights, weights, t.interpolation)
            recipe["interpolation"] = t.interpolation
        trained = replace(
            Detector(begin.architecture, weights), calibration=begin.calibration, threshold=begin.threshold
        )
        trained = replace(trained, pixels_per_diameter=begin.pixels_per_diameter, recipe=recipe)
        names = sorted({i.project for i in (*new, *kept)})
        text = "\n".join(f"- {name}" for name in names)
        trained = replace(calibrated(trained, calibrate), card=f"# A detector that learned from\n\n{text}\n")
        trained.save(model)
        return model

    def count(self, model: Path, items: Sequence[Item]) -> list[MicrographCounts]:
        """Score a model on held-out items by the recall of their particles at a fixed number of picks.

        The number is that of the particles, and of the particles expected among candidates of unknown fate. With it
        fixed no threshold matters, and a pick that no label decides costs nothing but its place among the best. Where
        there are such candidates, the un-picker also scores the same picks.
        """
        counts = []
        for item, scored in _picked(model, items):
            n_true, n_unknown = len(scored.true_xy_px), len(scored.ignored_xy_px)
            n_fixed = n_true + round(float(item.labels["class_prior"]) * n_unknown)
            best = np.argsort(-scored.score, kind="stable")[:n_fixed]
            scored = replace(scored, xy_px=scored.xy_px[best], score=scored.score[best])
            hits = int((match_outcomes(scored, WITHIN) == HIT).sum())
            n_scored = n_agreed = 0
            if self.unpicker and n_unknown:
                kept = self.unpicker.keeps(np.asarray(item.map_pixels()), scored.xy_px, item.project)
                n_scored, n_agreed = n_fixed, int(kept.sum())
            counts.append(MicrographCounts(item.project, item.content, n_true, n_true, hits, n_scored, n_agreed))
        return counts

    def fit_of(self, model: Path, items: Sequence[Item]) -> LabelFit:
        """Compare matches of the labels as they are with those of the same labels, axes swapped or mirrored."""
        matches = np.zeros(len(ORIENTATIONS), int)
        for item, scored in _picked(model, items):
            shape_yx = item.map_pixels().shape[:2]
            for orientation in ORIENTATIONS:
                xy = oriented_xy(scored.true_xy_px, orientation, shape_yx)
                xy = xy[((xy >= 0) & (xy < shape_yx[::-1])).all(axis=1)]
                turned = replace(scored, true_xy_px=xy, ignored_xy_px=np.zeros((0, 2)))
                matches[orientation] += int((match_outcomes(turned, WITHIN) == HIT).sum())
        return LabelFit(int(matches[0]), int(matches[1:].max()))

    def _stream(self, examples: Sequence[Example], begin: Detector, batch: int) -> CropStream:
        options = StreamOptions(crop_px=self.training.crop_px, batch=max(1, batch))
        return CropStream(examples, begin.pixels_per_diameter, seed=self.training.seed, options=options)


@lru_cache(maxsize=2)
def _loaded(model: Path, _changed_ns: int) -> Detector:
    return Detector.load(model)


def _picked(model: Path, items: Sequence[Item]) -> Iterator[tuple[Item, ScoredDetections]]:
    """Yield each item with the best picks of it, as many as it has particles and candidates of unknown fate."""
    detector = _loaded(model, (model / DESCRIPTION).stat().st_mtime_ns)
    for item in items:
        pixels = np.asarray(item.map_pixels())
        peaks = find_peaks(detector.answers(pixels), detector.pixels_per_diameter, shape_yx=pixels.shape[:2])
        peaks = peaks.where(peaks.junk <= 0)
        xy, kind = np.asarray(item.labels["xy"], np.float64), item.labels["kind"]
        true_xy, unknown_xy = xy[kind == POSITIVE], xy[kind == UNKNOWN]
        best = np.argsort(-peaks.logit, kind="stable")[: len(true_xy) + len(unknown_xy)]
        across = detector.pixels_per_diameter
        yield item, ScoredDetections(peaks.xy_px[best], peaks.logit[best], true_xy, unknown_xy, across, item.project)
