"""The material of an update: projects that may be learned from, exemplars of earlier ones, held-out micrographs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoflow.learning.exemplars import exemplar_file
from cryoflow.learning.held_out_scores import HeldOutScores
from cryoflow.learning.items import Item, read_named_pieces
from cryoflow.learning.learned_elsewhere import learned_elsewhere
from cryoflow.learning.learner import LEAST_SIGMA, Learner, Say, Source
from cryoflow.learning.update_records import f1_of
from cryoflow.learning.version_in_use import VersionInUse
from cryoflow.models.gate import GateRule
from cryoflow.models.held_out import HeldOut, held_out_anywhere
from cryoflow.models.registry import ModelRegistry
from cryoflow.storage.fingerprints import checksum, fingerprint_of
from cryoflow.storage.safe_names import safe_name

SCORED_MICROGRAPHS = 8
"""Held-out micrographs of a project that versions are scored on."""
ORIENTED_MICROGRAPHS = 16
"""Micrographs of a project on which its labels are compared with ones that are turned or mean nothing."""
REPLAYED_PROJECTS = 200
"""Earlier projects that an update replays, others each time; a training on all projects replays all."""
SAME_DIAMETER = 0.2
"""A project whose particle diameter changed by more than this share has another particle."""
LARGEST_FALL = 0.3
"""A known project that the version in use finds worse by more than this, on micrographs that are new or by labels that
are, has another particle, or labels of another kind."""


@dataclass(frozen=True)
class UpdateOptions:
    """Options of an update.

    Attributes
    ----------
    joint_every
        Train on all projects together, from the base model, in each so many-th update.
    projects
        Learn from these only; none takes all that are new or changed.
    trusted
        Projects whose particle may differ from the one learned before.
    again
        Learn also from projects that were refused, quarantined or rolled back before.
    registries
        Other folders of models; what these hold out is not learned from.
    """

    joint_every: int = 5
    projects: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    again: bool = False
    rule: GateRule | None = None
    registries: tuple[Path, ...] = ()


@dataclass(frozen=True)
class UpdateProject:
    """A project that is learned from now."""

    source: Source
    new: list[Item]
    held_out: list[Item]


class UpdateMaterial:
    """Material of one update, while its lock is held.

    Attributes
    ----------
    work
        Folder of prepared micrographs, which a killed update finds again.
    held_out
        Held-out micrographs on which versions are compared.
    """

    work: Path

    def __init__(self, registry: ModelRegistry, name: str, learner: Learner, options: UpdateOptions, say: Say) -> None:
        self.registry, self.name, self.learner, self.options, self.say = registry, name, learner, options, say
        self.home = registry.folder(name)
        self.in_use = VersionInUse(registry, name, learner)
        self._notes: dict[str, None] = {}
        self.held_out = HeldOutScores(self.home, self.in_use, learner, self.note)

    def work_in(self, folder: Path) -> None:
        """Prepare micrographs in a folder from now on."""
        self.work = self.held_out.work = folder

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is left out and why, each once."""
        return tuple(self._notes)

    def note(self, *texts: str) -> None:
        """Add notes, each text once."""
        self._notes |= dict.fromkeys(texts)

    def prepare(
        self, changed: Sequence[Source], kept: Mapping[str, list[Item]]
    ) -> tuple[list[UpdateProject], dict[str, str]]:
        """Draw held-out micrographs, prepare, and quarantine projects whose labels do not fit their pixels.

        Returns
        -------
        projects
            That can be learned from.
        quarantined
            Project -> why it is not learned from.
        """
        contents: dict[str, dict[str, str]] = {}
        for source in changed:
            contents[source.project] = {}
            for micrograph, path in source.paths.items():
                try:
                    contents[source.project][micrograph] = checksum(path)
                except OSError as error:
                    self.note(f"{path}: cannot be read: {error.strerror or error}.")
        for name, mine in contents.items():
            contents[name], n_copies = one_name_each(mine)
            if n_copies:
                self.note(f"{name}: {n_copies} micrographs are copies of others under another name, left out")
        elsewhere, unreadable = learned_elsewhere((self.registry.root, *self.options.registries), self.home)
        self.note(*unreadable)
        learned_here = self.in_use.learned()
        learned = learned_here | elsewhere
        paths = {
            contents[s.project][m]: path for s in changed for m, path in s.paths.items() if m in contents[s.project]
        }
        drawn = HeldOut(self.home).draw({p: c.values() for p, c in contents.items()}, learned, paths)
        excluded = held_out_anywhere(self.registry.root, *self.options.registries)
        projects, quarantined = [], {}
        for source in changed:
            mine = contents[source.project]
            folder = self.work / safe_name(source.project)
            use = {m: c for m, c in mine.items() if c not in excluded}
            self.say(f"{source.project}: {len(use)} micrographs to learn from")
            if n := len(mine) - len(use):
                others = len((set(mine.values()) & excluded) - drawn[source.project])
                why = f" ({others} of these by another model or project)" if others else ""
                self.note(f"{source.project}: {n} of {len(mine)} micrographs are held out{why}, not learned from")
            new, errors = self.learner.prepare(source, use, folder / "new")
            self.note(*map(str, errors))
            apart = sorted(c for c in mine.values() if c in drawn[source.project])[:SCORED_MICROGRAPHS]
            held, errors = self.learner.prepare(
                source, {m: c for m, c in mine.items() if c in apart}, folder / "held_out", held_out=True
            )
            self.note(*map(str, errors))
            project = UpdateProject(source, new, held)
            few = ""
            if not new or not held:
                few = _why_too_few(frozenset(mine.values()), excluded, drawn[source.project], learned_here, elsewhere)
            if reason := self._problem(project, kept.get(source.project, ()), few):
                quarantined[source.project] = reason
                self.say(f"quarantined: {source.project}: {reason}")
            else:
                projects.append(project)
        return projects, quarantined

    def _problem(self, project: UpdateProject, kept: Sequence[Item], few: str) -> str:
        """Return why a project cannot be learned from, or ""; `few` is why it has too few micrographs, if so."""
        name = project.source.project
        if kept and name not in self.options.trusted and (reason := self._other_particle(project, kept)):
            return f"{reason}; is it another particle under the same name? (--trust {name} learns from it)"
        if few:
            return few
        if self.in_use.model is None:
            return ""
        fit = self.learner.fit_of(self.in_use.model, [*project.held_out, *project.new][:ORIENTED_MICROGRAPHS])
        if fit.sigma < -LEAST_SIGMA:
            return (
                f"its labels fit better with axes swapped or mirrored: {fit.otherwise} picks match then, and "
                f"{fit.given} as they are; was the project imported with another orientation?"
            )
        return ""

    def _other_particle(self, project: UpdateProject, kept: Sequence[Item]) -> str:
        """Return why a known project seems to have another particle now (another size, hardly found), or ""."""
        before_A, now_A = float(np.median([i.diameter_A for i in kept])), project.source.diameter_A
        if abs(now_A / before_A - 1) > SAME_DIAMETER:
            return f"its particle had a diameter of {before_A:.0f} A, and has {now_A:.0f} A now"
        known = {i.content: i for i in self.held_out.items_of(project.source.project)}
        first = self.held_out.counts([*known.values()])
        fresh = self.held_out.counts([i for i in project.held_out if i.content not in known])
        if f1_of(fresh) < f1_of(first) - LARGEST_FALL:
            return (
                f"the version in use has F1 {f1_of(first):.2f} on its earlier micrographs and "
                f"{f1_of(fresh):.2f} on its new ones"
            )
        same = [i for i in project.held_out if i.content in known]
        first = self.held_out.counts([known[i.content] for i in same])
        # Counted apart from those kept, which are of the labels of the first day.
        today = self.learner.count(self.in_use.model, same) if self.in_use.model is not None else []
        if f1_of(today) < f1_of(first) - LARGEST_FALL:
            return (
                f"on the same micrographs the version in use has F1 {f1_of(first):.2f} by the labels of their first "
                f"day and {f1_of(today):.2f} by those of today"
            )
        return ""

    def held_out_today(self) -> frozenset[str]:
        """Return the contents of the micrographs that any model holds out now."""
        return held_out_anywhere(self.registry.root, *self.options.registries)

    def replayed(self, changed: Sequence[Source]) -> set[str]:
        """Return the projects whose exemplars an update replays: changed ones, and others drawn for each version."""
        changed_names = {s.project for s in changed}
        label = self.in_use.label
        others = sorted(self.in_use.trained_on.keys() - changed_names, key=lambda p: fingerprint_of(f"{label}/{p}"))
        return changed_names | set(others[:REPLAYED_PROJECTS])

    def kept(self, projects: Collection[str] | None) -> dict[str, list[Item]]:
        """Return the exemplars of the version in use, of some projects or of all."""
        found: dict[str, list[Item]] = {}
        excluded = held_out_anywhere(self.registry.root, *self.options.registries)
        wanted = None if projects is None else {Path(exemplar_file(p)).name for p in projects}
        for file in self.in_use.exemplars():
            if wanted is not None and file.name not in wanted:
                continue
            items = self.exemplars_in(file)
            # Another model of the registry may hold out today what this one learned from before.
            usable = [i for i in items if i.content not in excluded]
            if n := len(items) - len(usable):
                self.note(f"{items[0].project}: {n} of {len(items)} exemplars are held out by now, not learned from")
            if usable:
                found[usable[0].project] = usable
        return found

    def exemplars_in(self, file: Path) -> list[Item]:
        """Read a file of exemplars; unpack it below the work folder."""
        folder = self.work / "kept" / file.stem
        return read_named_pieces(file, folder, self.learner.rule, lambda item: exemplar_file(item.project))

    def labels_that_do_not_fit(self, model: Path, projects: Sequence[UpdateProject]) -> dict[str, str]:
        """Return the projects whose labels a model and the one in use match no better than chance, and why."""
        reasons = {}
        for p in projects:
            fits = [self.learner.fit_of(model, p.held_out)]
            if self.in_use.model is not None:
                # Two held-out micrographs with few particles decide nothing.
                fits.append(self.learner.fit_of(self.in_use.model, [*p.held_out, *p.new][:ORIENTED_MICROGRAPHS]))
            if all(f.sigma <= LEAST_SIGMA for f in fits):
                reasons[p.source.project] = (
                    f"{fits[0].given} picks match its labels, and {fits[0].otherwise} match labels "
                    f"that mean nothing; are they of these micrographs?"
                )
        return reasons


def _why_too_few(
    mine: frozenset[str],
    held_out: frozenset[str],
    drawn: frozenset[str],
    learned_here: frozenset[str],
    elsewhere: frozenset[str],
) -> str:
    """Return why none of a project's micrographs is left to learn from, or to compare versions on.

    Parameters
    ----------
    held_out
        Micrographs that any model holds out.
    drawn
        Held-out micrographs of this model and project: versions are compared on no others.
    """
    if not mine:
        return "none of its micrographs can be read"
    if mine <= held_out:
        return f"all of its {len(mine)} micrographs are held out, none is left to learn from"
    if not mine & drawn and (learned := mine & (learned_here | elsewhere)):
        models = "the version in use" if learned <= learned_here else "this or another model"
        return (
            f"{len(learned)} of its {len(mine)} micrographs were learned from before by {models}, and none is left to "
            f"compare versions on; more micrographs are needed"
        )
    return "too few micrographs with labels can be read to learn from some and to compare on others"


def one_name_each(contents: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Return name -> content with the first name of each content, and the number of names left out.

    Counts and files of held-out micrographs are stored by content: a second name would replace the first one's labels.
    """
    first = {content: name for name, content in sorted(contents.items(), reverse=True)}
    kept = {name: content for name, content in contents.items() if first[content] == name}
    return kept, len(contents) - len(kept)
