"""Learn from projects that are new or changed since the version in use, and put the result into use if it is better.

    models/detector/v0008/model/exemplars/P190.npz    what version 8 keeps of project P190
    models/detector/v0008/model/held_out.json         counts of version 8 on each held-out micrograph
    models/detector/held_out/P190-<content>.npz       a held-out micrograph, prepared, with its labels of the first day
    models/detector/update/<fingerprint>/             the update that is going on; a killed one continues there
    models/detector/quarantine.json                    projects whose labels do not fit, until their labels change

Nothing of a project is needed after it was learned from: exemplars and held-out micrographs outlive its archiving. The
same current version, projects and options give the same work folder, so that a second call goes on with the first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from cryoflow.database.lock import locked
from cryoflow.errors import BadInput
from cryoflow.learning.items import Item, piece_of, read_learned, read_pieces, write_pieces
from cryoflow.learning.learner import LEAST_SIGMA, Learner, Say, Source
from cryoflow.learning.records import add_quarantined, f1_of, read_counts, read_quarantined, write_counts
from cryoflow.models.card import TrainedOn
from cryoflow.models.gate import GateRule, MicrographCounts, Verdict, compare
from cryoflow.models.held_out import HeldOut, held_out_anywhere
from cryoflow.models.registry import ModelRegistry, ModelVersion
from cryoflow.storage.files import remove_folder
from cryoflow.storage.fingerprints import checksum, fingerprint_of, fingerprint_of_values
from cryoflow.storage.safe_names import safe_name

EXEMPLARS, COUNTS, HELD_OUT, WORK = "exemplars", "held_out.json", "held_out", "update"
QUARANTINE = "quarantine.json"
SCORED_MICROGRAPHS = 8
"""Held-out micrographs of a project that versions are scored on."""
ORIENTED_MICROGRAPHS = 16
"""Micrographs of a project on which its labels are compared with turned ones."""
REPLAYED_PROJECTS = 200
"""Earlier projects that an update replays, others each time; a training on all projects replays all."""
SAME_DIAMETER = 0.2
"""A project whose particle diameter changed by more than this share has another particle."""
LARGEST_FALL = 0.3
"""A known project that the version in use finds worse by more than this, on micrographs that are new, has another
particle, or labels of another kind."""

Outcome = Literal["nothing new", "promoted", "candidate", "refused before"]


@dataclass(frozen=True)
class UpdateOptions:
    """How an update is done.

    Attributes
    ----------
    joint_every
        Train on all projects together, from the base model, in each so many-th update.
    projects
        Learn from these only; none takes all that are new or changed.
    trusted
        Projects whose particle may differ from the one learned before.
    again
        Learn also from what was refused, quarantined or rolled back before.
    """

    joint_every: int = 5
    projects: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    again: bool = False
    rule: GateRule | None = None


@dataclass(frozen=True)
class UpdateResult:
    """What an update did.

    Attributes
    ----------
    version
        The new version, or the one in use where nothing was learned.
    learned
        Projects that it learned from.
    quarantined
        Project -> why its labels were not learned from.
    verdict
        Of the gate; None where nothing was scored.
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
        """Why the version is in use, or is not."""
        return self.version.card.reasons if self.version else ()


@dataclass(frozen=True)
class _Project:
    """A project that is learned from now."""

    source: Source
    new: list[Item]
    held_out: list[Item]


def update(
    registry: ModelRegistry, name: str, learner: Learner, options: UpdateOptions | None = None, *, say: Say = print
) -> UpdateResult:
    """Learn from new and changed projects; promote the result where the gate lets it pass.

    Raises
    ------
    BadInput
        Where no project has labels, or a file of the model was changed.
    DatabaseBusy
        Where another update of this model does not end.
    """
    options = options or UpdateOptions()
    home = registry.root / name
    (home / WORK).mkdir(parents=True, exist_ok=True)
    with locked(home / WORK, timeout_s=registry.lock_timeout_s):
        return OneUpdate(registry, name, learner, options, say).run()


class OneUpdate:
    """An update under way, while its lock is held."""

    def __init__(self, registry: ModelRegistry, name: str, learner: Learner, options: UpdateOptions, say: Say) -> None:
        self.registry, self.name, self.learner, self.options, self.say = registry, name, learner, options, say
        self.home = registry.root / name
        self.current = registry.current(name)
        self.before = {t.project: t for t in self.current.card.trained_on} if self.current else {}
        self.start = self.current.model if self.current else learner.base()
        self.counts = read_counts(self.current.model / COUNTS) if self.current else {}
        self.held_out: dict[str, list[Item]] = {}

    def run(self) -> UpdateResult:
        """Learn, compare and promote."""
        sources, notes = self.learner.sources()
        wanted = self.options.projects
        if unknown := sorted(set(wanted) - {s.project for s in sources}):
            raise BadInput(unknown[0], "is no project with labels.", " ".join(notes))
        known = {} if self.options.again else read_quarantined(self.home / QUARANTINE)
        quarantined: dict[str, str] = {}
        changed = []
        for s in sources:
            learned = s.project in self.before and self.before[s.project].fingerprint == s.fingerprint
            if learned or (wanted and s.project not in wanted):
                continue
            fingerprint, reason = known.get(s.project, ("", ""))
            if fingerprint == s.fingerprint:
                quarantined[s.project] = reason
            else:
                changed.append(s)
        if not changed:
            self.clear_work(None)
            return UpdateResult("nothing new", self.current, quarantined=quarantined, notes=tuple(notes))
        refused = None if self.options.again else self._refused_before(changed)
        if refused:
            return UpdateResult("refused before", refused, quarantined=quarantined, notes=tuple(notes))
        options = [self.options.joint_every, sorted(self.options.trusted), vars(self.options.rule or GateRule())]
        labels = [[s.project, s.fingerprint] for s in changed]
        key = [self.current.label if self.current else "", labels, options, self.learner.recipe]
        self.work = self.home / WORK / fingerprint_of_values(key, digits=16)
        self.clear_work(self.work)
        joint = self._joint_is_due()
        kept = self._kept(None if joint else self._replayed(changed))
        projects, aside, failed = self._prepare(changed, kept)
        notes += [str(error) for error in failed]
        if projects:
            model, verdict = self._train_and_judge(projects, kept, joint=joint)
            if wrong := self._labels_that_do_not_fit(model, projects):
                aside |= wrong
                self.say(f"quarantined: {'; '.join(f'{project}: {why}' for project, why in wrong.items())}")
                projects = [p for p in projects if p.source.project not in wrong]
                if projects:  # these need not wait until somebody mends the others
                    model, verdict = self._train_and_judge(projects, kept, joint=joint)
        add_quarantined(
            self.home / QUARANTINE,
            {s.project: (s.fingerprint, aside[s.project]) for s in changed if s.project in aside},
        )
        quarantined |= aside
        if not projects:
            self.clear_work(None)
            return UpdateResult("nothing new", self.current, quarantined=quarantined, notes=tuple(notes))
        if not verdict.accepted and not joint and self.current:
            self.say(f"the gate refused the update ({'; '.join(verdict.reasons)}); training on all projects")
            joint = True
            model, verdict = self._train_and_judge(projects, self._kept(None), joint=True)
        version = self._registered_before(projects) if verdict.accepted else None
        version = version or self._register(model, projects, verdict, joint=joint)
        if verdict.accepted:
            self.keep_held_out(projects)
            self.registry.promote(self.name, version.number, "; ".join(verdict.reasons))
        self.clear_work(None)
        return UpdateResult(
            "promoted" if verdict.accepted else "candidate",
            version,
            tuple(p.source.project for p in projects),
            quarantined,
            verdict,
            joint,
            tuple(notes),
        )

    def clear_work(self, kept: Path | None) -> None:
        """Remove what updates left that cannot go on: the version in use or the labels have changed since."""
        for folder in (self.home / WORK).iterdir():
            if folder.is_dir() and folder != kept:
                remove_folder(folder)

    def _learned_alike(self, projects: Mapping[str, str]) -> list[ModelVersion]:
        """Return the versions that learned from the same labels (project -> fingerprint) as the next one would."""
        if not self.registry.holds(self.name):
            return []
        wanted = {p: t.fingerprint for p, t in self.before.items()} | dict(projects)
        return [
            v
            for v in self.registry.versions(self.name)
            if {t.project: t.fingerprint for t in v.card.trained_on} == wanted
        ]

    def _refused_before(self, changed: Sequence[Source]) -> ModelVersion | None:
        """Return a version of the same labels that the gate refused, or that somebody rolled back."""
        used = {switch.version for switch in self.registry.history(self.name)}
        alike = self._learned_alike({s.project: s.fingerprint for s in changed})
        return next((v for v in reversed(alike) if v.card.status == "candidate" or v.number in used), None)

    def _registered_before(self, projects: Sequence[_Project]) -> ModelVersion | None:
        """Return the version that an update registered before it was killed."""
        used = {switch.version for switch in self.registry.history(self.name)}
        alike = self._learned_alike({p.source.project: p.source.fingerprint for p in projects})
        return next((v for v in alike if v.card.status == "accepted" and v.number not in used), None)

    def _joint_is_due(self) -> bool:
        if self.current is None:
            return True
        updates, version = 1, self.current
        while version.card.parent is not None:
            updates += 1
            try:
                version = self.registry.version(self.name, version.card.parent)
            except BadInput:  # pruned
                break
        return updates >= self.options.joint_every

    def _prepare(
        self, changed: Sequence[Source], kept: Mapping[str, list[Item]]
    ) -> tuple[list[_Project], dict[str, str], list[BadInput]]:
        """Draw held-out micrographs, prepare, and quarantine projects whose labels do not fit their pixels."""
        failed: list[BadInput] = []
        contents: dict[str, dict[str, str]] = {}
        for source in changed:
            contents[source.project] = {}
            for micrograph, path in source.paths.items():
                try:
                    contents[source.project][micrograph] = checksum(path)
                except OSError as error:
                    failed.append(BadInput(path, f"cannot be read: {error.strerror or error}."))
        learned = self._learned_before()
        drawn = HeldOut(self.home).draw({p: c.values() for p, c in contents.items()}, learned)
        excluded = held_out_anywhere(self.registry.root)
        projects, quarantined = [], {}
        for source in changed:
            mine = contents[source.project]
            folder = self.work / safe_name(source.project)
            use = {m: c for m, c in mine.items() if c not in excluded}
            self.say(f"{source.project}: {len(use)} micrographs to learn from")
            new, errors = self.learner.prepare(source, use, folder / "new")
            failed += errors
            apart = sorted(c for c in mine.values() if c in drawn[source.project])[:SCORED_MICROGRAPHS]
            held, errors = self.learner.prepare(
                source, {m: c for m, c in mine.items() if c in apart}, folder / "held_out"
            )
            failed += errors
            project = _Project(source, new, held)
            if reason := self._problem(project, kept.get(source.project, ())):
                quarantined[source.project] = reason
                self.say(f"quarantined: {source.project}: {reason}")
            else:
                projects.append(project)
        return projects, quarantined, failed

    def _problem(self, project: _Project, kept: Sequence[Item]) -> str:
        """Return why a project cannot be learned from, or ""."""
        name = project.source.project
        if kept and name not in self.options.trusted and (reason := self._other_particle(project, kept)):
            return f"{reason}; is it another particle under the same name? (--trust {name} learns from it)"
        if not project.new or not project.held_out:
            return "too few micrographs with labels can be read to learn from some and to judge on others"
        if self.start is None:
            return ""
        fit = self.learner.fit_of(self.start, [*project.held_out, *project.new][:ORIENTED_MICROGRAPHS])
        if fit.sigma < -LEAST_SIGMA:
            return (
                f"its labels fit better with axes swapped or mirrored: {fit.otherwise} picks match then, and "
                f"{fit.given} as they are; was the project imported with another orientation?"
            )
        return ""

    def _other_particle(self, project: _Project, kept: Sequence[Item]) -> str:
        """Return why a known project seems to have another particle now (another size, hardly found), or ""."""
        before_A, now_A = float(np.median([i.diameter_A for i in kept])), project.source.diameter_A
        if abs(now_A / before_A - 1) > SAME_DIAMETER:
            return f"its particle had a diameter of {before_A:.0f} A, and has {now_A:.0f} A now"
        earlier = self._held_out_of(project.source.project)
        known = {i.content for i in earlier}
        fresh = [i for i in project.held_out if i.content not in known]
        before, now = (f1_of(self._counts_in_use(items)) for items in (earlier, fresh))
        if now < before - LARGEST_FALL:
            return f"the version in use has F1 {before:.2f} on its earlier micrographs and {now:.2f} on its new ones"
        return ""

    def _learned_before(self) -> frozenset[str]:
        files = (self.current.model / EXEMPLARS).glob("*.npz") if self.current else ()
        return frozenset().union(*(read_learned(f) for f in files))

    def _replayed(self, changed: Sequence[Source]) -> set[str]:
        """Return the projects whose exemplars an update replays: changed ones, and others drawn for each version."""
        changed_names = {s.project for s in changed}
        label = self.current.label if self.current else ""
        others = sorted(self.before.keys() - changed_names, key=lambda p: fingerprint_of(f"{label}/{p}"))
        return changed_names | set(others[:REPLAYED_PROJECTS])

    def _kept(self, projects: Collection[str] | None) -> dict[str, list[Item]]:
        """Return the exemplars of the version in use, of some projects or of all."""
        found: dict[str, list[Item]] = {}
        excluded = held_out_anywhere(self.registry.root)
        files = sorted((self.current.model / EXEMPLARS).glob("*.npz")) if self.current else []
        stems = None if projects is None else {safe_name(p) for p in projects}
        for file in files:
            if stems is not None and file.stem not in stems:
                continue
            items = read_pieces(file, self.work / "kept" / file.stem)
            # Another model of the registry may hold out today what this one learned from before.
            if usable := [i for i in items if i.content not in excluded]:
                found[usable[0].project] = usable
        return found

    def _train_and_judge(
        self, projects: Sequence[_Project], kept: Mapping[str, list[Item]], *, joint: bool
    ) -> tuple[Path, Verdict]:
        new = [item for p in projects for item in p.new]
        old = [item for items in kept.values() for item in items]
        start = self.learner.base() if joint else self.start
        self.say(f"learning from {len(projects)} projects, with exemplars of {len(kept)} earlier ones")
        key = fingerprint_of_values([[p.source.project, p.source.fingerprint] for p in projects], digits=8)
        work = self.work / f"{'joint' if joint else 'training'}-{key}"
        model = self.learner.train(start, new, old, work, joint=joint, say=self.say)
        return model, self._judge(model, projects)

    def _judge(self, model: Path, projects: Sequence[_Project]) -> Verdict:
        held_out = [i for name in sorted(self.before) for i in self._held_out_of(name)]
        known = {(i.project, i.content) for i in held_out}
        held_out += [i for p in projects for i in p.held_out if (i.project, i.content) not in known]
        after = self.learner.count(model, held_out)
        write_counts(model / COUNTS, after)
        before = self._counts_in_use(held_out)
        if self.start is None:  # nothing is found without a model
            before = [replace(c, n_matched=0) for c in after]
        return compare(before, after, known_projects=self.before.keys(), rule=self.options.rule)

    def _held_out_of(self, project: str) -> list[Item]:
        """Return the held-out micrographs of a project that versions were scored on, with labels of the first day."""
        if project not in self.held_out:
            files = sorted((self.home / HELD_OUT).glob(f"{safe_name(project)}-*.npz"))
            items = [i for f in files for i in read_pieces(f, self.work / "judged" / f.stem)]
            # Names that only begin alike are found, too.
            self.held_out[project] = [i for i in items if i.project == project]
        return self.held_out[project]

    def _counts_in_use(self, items: Sequence[Item]) -> list[MicrographCounts]:
        """Return the counts of the version in use, in order of the items; known ones are not counted again."""
        if self.start is None:
            return []
        missing = [i for i in items if (i.project, i.content) not in self.counts]
        self.counts |= {(c.project, c.micrograph): c for c in self.learner.count(self.start, missing)}
        return [self.counts[i.project, i.content] for i in items]

    def keep_held_out(self, projects: Sequence[_Project]) -> None:
        """Keep held-out micrographs with their labels of today, unless an earlier day's are there."""
        for p in projects:
            for item in p.held_out:
                file = self._held_out_file(item)
                if not file.is_file():  # the labels of the first day stay
                    write_pieces(file, item.project, [piece_of(item)])

    def _held_out_file(self, item: Item) -> Path:
        return self.home / HELD_OUT / f"{safe_name(item.project)}-{item.content}.npz"

    def _labels_that_do_not_fit(self, model: Path, projects: Sequence[_Project]) -> dict[str, str]:
        reasons = {}
        for p in projects:
            fits = [self.learner.fit_of(m, p.held_out) for m in (model, self.start) if m is not None]
            if all(f.sigma <= LEAST_SIGMA for f in fits):
                reasons[p.source.project] = (
                    f"{fits[0].given} picks match its labels, and {fits[0].otherwise} match labels "
                    f"that mean nothing; are they of these micrographs?"
                )
        return reasons

    def _register(self, model: Path, projects: Sequence[_Project], verdict: Verdict, *, joint: bool) -> ModelVersion:
        trained = dict(self.before)
        written = []
        for p in projects:
            stem = safe_name(p.source.project)
            earlier = self.current.model / EXEMPLARS / f"{stem}.npz" if self.current else Path()
            pieces = self.learner.exemplars(p.new)
            learned = {i.content for i in p.new}
            if earlier.is_file():  # a changed project keeps half of what it taught before
                old = [piece_of(i) for i in read_pieces(earlier, self.work / "kept" / stem)]
                pieces = [*old[: len(old) // 2], *pieces[: max(1, len(pieces) // 2)]]
                learned |= read_learned(earlier)
            write_pieces(model / EXEMPLARS / f"{stem}.npz", p.source.project, pieces, learned)
            written.append(f"{EXEMPLARS}/{stem}.npz")
            s = p.source
            trained[s.project] = TrainedOn(s.project, s.entries, s.fingerprint, len(p.new), s.n_picks)
        carried = None
        if self.current:
            names = [n for n in self.current.card.files if n.startswith(f"{EXEMPLARS}/") and n not in written]
            carried = (self.current, tuple(names))
        metrics = {
            c.project: {"f1": c.f1_after, "micrographs": float(c.n_micrographs), "f1_before": c.f1_before}
            for c in verdict.changes
        }
        return self.registry.add(
            self.name,
            self.learner.kind,
            model,
            parent=None if joint or self.current is None else self.current.number,
            trained_on=tuple(trained[p] for p in sorted(trained)),
            metrics=metrics,
            status="accepted" if verdict.accepted else "candidate",
            reasons=verdict.reasons,
            carried=carried,
        )
