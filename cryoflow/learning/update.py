"""Learn from projects that are new or changed since the version in use, and put the result into use if it is better.

    models/detector/v0008/model/exemplars/P190.npz    what version 8 keeps of project P190
    models/detector/v0008/model/held_out.json         counts of version 8 on each held-out micrograph
    models/detector/held_out/P190-<content>.npz       a held-out micrograph, prepared, with its labels of the first day
    models/detector/update/<fingerprint>/             the update that is going on; a killed one continues there
    models/detector/quarantine.json                    projects whose labels do not fit, until their labels change

Nothing of a project is needed after it was learned from: exemplars and held-out micrographs outlive its archiving. The
same current version, projects and options give the same work folder, so that a second call goes on with the first.
Files of the version in use are read only as its card lists them. A version that a user puts into use meanwhile stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cryoflow.database.entry_lookup import matching
from cryoflow.database.lock import locked
from cryoflow.errors import BadInput
from cryoflow.learning.exemplars import exemplar_file, exemplar_files
from cryoflow.learning.held_out_scores import COUNTS
from cryoflow.learning.items import Item, labels_fingerprint, piece_of, pieces_to_keep, read_learned, write_pieces
from cryoflow.learning.learner import Learner, Say, Source
from cryoflow.learning.update_material import UpdateMaterial, UpdateOptions, UpdateProject
from cryoflow.learning.update_records import add_quarantined, read_quarantined, write_counts
from cryoflow.models.card import TrainedOn
from cryoflow.models.gate import GateRule, Verdict, compare
from cryoflow.models.registry import ModelRegistry, OtherInUse
from cryoflow.models.version import ModelVersion, version_name
from cryoflow.storage.fingerprints import fingerprint_of_values
from cryoflow.storage.folders import make_folder, remove_folder
from cryoflow.wording import counted

WORK = "update"
QUARANTINE = "quarantine.json"
MOST_RESTARTS = 3
"""An update that other models' draws interrupt more often ends with an error."""

Outcome = Literal["nothing new", "promoted", "candidate", "refused before"]


@dataclass(frozen=True)
class UpdateResult:
    """Result of an update.

    Attributes
    ----------
    outcome
        `candidate` also where the gate accepted a version, but another one was put into use meanwhile: see `notes`.
    version
        The new version, or the one in use where nothing was learned.
    learned
        Projects that it learned from.
    quarantined
        Project -> why its labels were not learned from.
    verdict
        Of the gate; None where nothing was scored.
    notes
        What was left out, with numbers and reasons.
    """

    outcome: Outcome
    version: ModelVersion | None
    learned: tuple[str, ...] = ()
    quarantined: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict | None = None
    joint: bool = False
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why the version is in use, or is not."""
        return self.version.card.reasons if self.version else ()


def update(
    registry: ModelRegistry, name: str, learner: Learner, options: UpdateOptions | None = None, *, say: Say = print
) -> UpdateResult:
    """Learn from new and changed projects; promote the result where the gate lets it pass.

    Raises
    ------
    BadInput
        Where no project has labels, a file of the model was changed, or the name cannot be one.
    NotWritten
        Where the folder of models cannot be written.
    DatabaseBusy
        Where another update of this model does not end.
    """
    options = options or UpdateOptions()
    work = registry.folder(name) / WORK
    make_folder(work)
    with locked(work, timeout_s=registry.lock_timeout_s):
        return OneUpdate(registry, name, learner, options, say).run()


@dataclass(frozen=True)
class _Trained:
    """A trained model, the gate's verdict on it, and the projects that it learned from; `joint`: together with all."""

    model: Path
    verdict: Verdict
    projects: Sequence[UpdateProject]
    joint: bool


class OneUpdate(UpdateMaterial):
    """An update under way, while its lock is held.

    Attributes
    ----------
    learned
        Contents of the micrographs that the latest training learned from.
    """

    learned: frozenset[str] = frozenset()

    def run(self, restarts: int = 0) -> UpdateResult:
        """Learn, compare and promote; `restarts` is how often other models held out its micrographs meanwhile."""
        sources, notes = self.learner.sources()
        self.note(*notes)
        changed, quarantined = self._changed(sources, notes)
        if not changed:
            return self._nothing_new(quarantined)
        refused = None if self.options.again else self._refused_before(changed)
        if refused:
            return UpdateResult("refused before", refused, quarantined=quarantined, notes=self.notes)
        self.work_in(self.home / WORK / self._fingerprint(changed))
        self.held_out.check()  # before the training: without these files its result cannot be compared
        self.clear_work(self.work)
        trained, aside = self._trained(changed)
        if self.learned & self.held_out_today():
            if restarts == MOST_RESTARTS:
                raise BadInput(
                    self.home,
                    f"other models held out micrographs of this update during {restarts + 1} trainings in a row.",
                    "Give the command again while no other model is being updated.",
                )
            self.say("another model holds out some of these micrographs by now: starting again without them")
            return OneUpdate(self.registry, self.name, self.learner, self.options, self.say).run(restarts + 1)
        add_quarantined(
            self.home / QUARANTINE,
            {s.project: (s.fingerprint, aside[s.project]) for s in changed if s.project in aside},
        )
        quarantined |= aside
        return self._finish(trained, quarantined) if trained else self._nothing_new(quarantined)

    def _changed(self, sources: Sequence[Source], notes: Sequence[str]) -> tuple[list[Source], dict[str, str]]:
        """Return the projects to learn from, and those of the same labels that were quarantined before, with why."""
        wanted = matching("the projects with labels", self.options.projects, lambda: [s.project for s in sources])
        if unknown := sorted(set(wanted) - {s.project for s in sources}):
            raise BadInput(unknown[0], "is no project with labels.", " ".join(notes))
        known = {} if self.options.again else read_quarantined(self.home / QUARANTINE)
        quarantined: dict[str, str] = {}
        changed = []
        for s in sources:
            before = self.in_use.trained_on.get(s.project)
            learned = before is not None and before.fingerprint == s.fingerprint
            if learned or (wanted and s.project not in wanted):
                continue
            fingerprint, reason = known.get(s.project, ("", ""))
            if fingerprint == s.fingerprint:
                quarantined[s.project] = reason
            else:
                changed.append(s)
        return changed, quarantined

    def _fingerprint(self, changed: Sequence[Source]) -> str:
        options = [self.options.joint_every, sorted(self.options.trusted), vars(self.options.rule or GateRule())]
        labels = [[s.project, s.fingerprint] for s in changed]
        return fingerprint_of_values([self.in_use.label, labels, options, self.learner.recipe], digits=16)

    def _nothing_new(self, quarantined: Mapping[str, str]) -> UpdateResult:
        self.clear_work(None)
        return UpdateResult("nothing new", self.in_use.version, quarantined=quarantined, notes=self.notes)

    def _trained(self, changed: Sequence[Source]) -> tuple[_Trained | None, dict[str, str]]:
        """Train on changed projects, and on all where the gate refuses that.

        Returns
        -------
        trained
            None where no project is left to learn from.
        aside
            Project -> why its labels were not learned from.
        """
        joint = self._joint_is_due()
        kept = self.kept(None if joint else self.replayed(changed))
        projects, aside = self.prepare(changed, kept)
        if not projects:
            return None, aside
        model, verdict = self._train_and_compare(projects, kept, joint=joint)
        if wrong := self.labels_that_do_not_fit(model, projects):
            aside |= wrong
            self.say(f"quarantined: {'; '.join(f'{project}: {why}' for project, why in wrong.items())}")
            projects = [p for p in projects if p.source.project not in wrong]
            if not projects:
                return None, aside
            # The remaining projects need not wait until somebody mends the others.
            model, verdict = self._train_and_compare(projects, kept, joint=joint)
        if not verdict.accepted and not joint and self.in_use.version:
            self.say(f"the gate refused the update ({'; '.join(verdict.reasons)}); training on all projects")
            joint = True
            model, verdict = self._train_and_compare(projects, self.kept(None), joint=True)
        return _Trained(model, verdict, projects, joint), aside

    def _finish(self, trained: _Trained, quarantined: Mapping[str, str]) -> UpdateResult:
        """Register the version, and put it into use where the gate accepts it."""
        projects, verdict = trained.projects, trained.verdict
        # Before the version is registered: each that a user may put into use has its held-out micrographs.
        for p in projects:
            self.held_out.keep(p.source.project, p.held_out, accepted=verdict.accepted)
        version = self._registered_before(projects) if verdict.accepted else None
        version = version or self._register(trained.model, projects, verdict, joint=trained.joint)
        outcome: Outcome = "candidate"
        if verdict.accepted:
            try:
                self.registry.promote(
                    self.name, version.number, "; ".join(verdict.reasons), expected=self.in_use.number
                )
                outcome = "promoted"
            except OtherInUse as error:  # a user's rollback during the training stays
                self.note(str(error))
        self.clear_work(None)
        return UpdateResult(
            outcome,
            version,
            tuple(p.source.project for p in projects),
            quarantined,
            verdict,
            trained.joint,
            self.notes,
        )

    def clear_work(self, kept: Path | None) -> None:
        """Remove the folders of all updates except `kept`.

        The others are finished, or cannot continue: the version in use, the labels or the options have changed.
        """
        for folder in (self.home / WORK).iterdir():
            if folder.is_dir() and folder != kept:
                remove_folder(folder)

    def _learned_alike(self, projects: Mapping[str, str]) -> list[ModelVersion]:
        """Return the versions that learned from the same labels (project -> fingerprint) as the next one would.

        Versions that cannot be read are noted: an old one need not stop an update.
        """
        wanted = {p: t.fingerprint for p, t in self.in_use.trained_on.items()} | dict(projects)
        versions, errors = self.registry.readable_versions(self.name)
        for number, error in errors.items():
            self.note(f"{self.name}@{version_name(number)} is not compared with this update: {error}")
        return [v for v in versions if {t.project: t.fingerprint for t in v.card.trained_on} == wanted]

    def _refused_before(self, changed: Sequence[Source]) -> ModelVersion | None:
        """Return a version of the same labels that the gate refused, or that a user rolled back."""
        used = {switch.version for switch in self.registry.history(self.name)}
        alike = self._learned_alike({s.project: s.fingerprint for s in changed})
        return next((v for v in reversed(alike) if v.card.status == "candidate" or v.number in used), None)

    def _registered_before(self, projects: Sequence[UpdateProject]) -> ModelVersion | None:
        """Return the version that an update registered before it was killed.

        One that was compared with another version than the one in use now may be worse than that, and stays unused.
        """
        used = {switch.version for switch in self.registry.history(self.name)}
        alike = self._learned_alike({p.source.project: p.source.fingerprint for p in projects})
        excluded = self.held_out_today()
        return next(
            (
                v
                for v in alike
                if v.card.status == "accepted"
                and v.number not in used
                and v.card.compared_with == self.in_use.number
                and not v.problems()
                and not _learned_by(v, projects) & excluded
            ),
            None,
        )

    def _joint_is_due(self) -> bool:
        if self.in_use.version is None:
            return True
        updates, version = 1, self.in_use.version
        while version.card.parent is not None:
            updates += 1
            try:
                version = self.registry.version(self.name, version.card.parent)
            except BadInput:  # pruned
                break
        return updates >= self.options.joint_every

    def _train_and_compare(
        self, projects: Sequence[UpdateProject], kept: Mapping[str, list[Item]], *, joint: bool
    ) -> tuple[Path, Verdict]:
        new = [item for p in projects for item in p.new]
        labeled_now = {(item.project, item.content) for item in new}
        # An exemplar of a changed project has the labels of before: its micrograph is learned with those of now.
        old = [i for items in kept.values() for i in items if (i.project, i.content) not in labeled_now]
        start = self.learner.base() if joint else self.in_use.model
        n_earlier = len({item.project for item in old})
        self.say(f"learning from {counted(len(projects), 'project')}, with exemplars of {n_earlier} earlier ones")
        # A killed update goes on only with the micrographs that it began with: others may be usable by now.
        contents = [sorted((i.project, i.content) for i in items) for items in (new, old)]
        labels = [[p.source.project, p.source.fingerprint] for p in projects]
        key = fingerprint_of_values([labels, *contents], digits=8)
        self.learned = frozenset(i.content for i in (*new, *old))
        work = self.work / f"{'joint' if joint else 'training'}-{key}"
        model = self.learner.train(start, new, old, work, joint=joint, say=self.say)
        return model, self._compared(model, projects)

    def _compared(self, model: Path, projects: Sequence[UpdateProject]) -> Verdict:
        held_out = [i for name in sorted(self.in_use.trained_on) for i in self.held_out.items_of(name)]
        known = {(i.project, i.content) for i in held_out}
        held_out += [i for p in projects for i in p.held_out if (i.project, i.content) not in known]
        after = self.learner.count(model, held_out)
        write_counts(model / COUNTS, self.learner.measure, after, [labels_fingerprint(i) for i in held_out])
        before = self.held_out.counts(held_out)
        if self.in_use.model is None:  # nothing is found without a model
            before = [replace(c, n_matched=0, n_agreed=0) for c in after]
        return compare(before, after, known_projects=self.in_use.trained_on.keys(), rule=self.options.rule)

    def _register(
        self, model: Path, projects: Sequence[UpdateProject], verdict: Verdict, *, joint: bool
    ) -> ModelVersion:
        trained = dict(self.in_use.trained_on)
        written = []
        excluded = self.held_out_today()
        for p in projects:
            file = exemplar_file(p.source.project)
            earlier = self.in_use.file(file)
            pieces = self.learner.exemplars(p.new)
            learned = {i.content for i in p.new}
            if earlier:
                old = [piece_of(i) for i in self.exemplars_in(earlier)]
                pieces = pieces_to_keep(pieces, old, learned | excluded)
                learned |= read_learned(earlier)
            write_pieces(model / file, p.source.project, pieces, learned)
            written.append(file)
            s = p.source
            trained[s.project] = TrainedOn(s.project, s.entries, s.fingerprint, len(p.new), s.n_picks)
        carried = None
        if self.in_use.version:
            carried = (self.in_use.version, tuple(n for n in exemplar_files(self.in_use.version) if n not in written))
        metrics = {
            c.project: {
                "f1": c.f1_after,
                "micrographs": float(c.n_micrographs),
                "f1_before": c.f1_before,
                **({} if math.isnan(c.agreed_after) else {"agreement": c.agreed_after}),
            }
            for c in verdict.changes
        }
        return self.registry.add(
            self.name,
            self.learner.kind,
            model,
            parent=None if joint or self.in_use.version is None else self.in_use.version.number,
            trained_on=tuple(trained[p] for p in sorted(trained)),
            metrics=metrics,
            status="accepted" if verdict.accepted else "candidate",
            reasons=verdict.reasons,
            carried=carried,
            compared_with=self.in_use.number,
        )


def _learned_by(version: ModelVersion, projects: Sequence[UpdateProject]) -> frozenset[str]:
    """Return the contents of the micrographs of some projects that a version learned from."""
    files = [version.model / exemplar_file(p.source.project) for p in projects]
    return frozenset[str]().union(*(read_learned(f) for f in files))
