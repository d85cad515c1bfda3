"""The material of an update: projects that may be learned from, exemplars of earlier ones, held-out micrographs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.learning.exemplars import exemplar_file, exemplar_files
from cryoflow.learning.items import Item, labels_fingerprint, piece_of, read_learned, read_pieces, write_pieces
from cryoflow.learning.learned_elsewhere import learned_elsewhere
from cryoflow.learning.learner import LEAST_SIGMA, Learner, Say, Source
from cryoflow.learning.update_records import VersionCounts, f1_of, read_counts
from cryoflow.models.gate import GateRule, MicrographCounts
from cryoflow.models.held_out import FILES as HELD_OUT
from cryoflow.models.held_out import HeldOut, held_out_anywhere
from cryoflow.models.registry import ModelRegistry
from cryoflow.storage.fingerprints import checksum, fingerprint_of
from cryoflow.storage.safe_names import safe_name

COUNTS = "held_out.json"
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
    before
        What the version in use learned from, by project.
    start
        The model that an update starts from; None without any.
    scored
        Project -> contents of the held-out micrographs that the version in use was scored on.
    """

    work: Path

    def __init__(self, registry: ModelRegistry, name: str, learner: Learner, options: UpdateOptions, say: Say) -> None:
        self.registry, self.name, self.learner, self.options, self.say = registry, name, learner, options, say
        self.home = registry.folder(name)
        self.current = registry.current(name)
        self.before = {t.project: t for t in self.current.card.trained_on} if self.current else {}
        self.start = self.current.model if self.current else learner.base()
        self._checked: dict[str, Path] = {}
        counts_file = self.file_in_use(COUNTS)
        in_use = read_counts(counts_file) if counts_file else VersionCounts(learner.measure, {}, {})
        self.counts = in_use.counts if in_use.measure == learner.measure else {}
        self._counted_by = dict(in_use.labels)
        self.scored: dict[str, set[str]] = {}
        for project, content in in_use.counts:
            self.scored.setdefault(project, set()).add(content)
        self.held_out: dict[str, list[Item]] = {}
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is left out and why, each once."""
        return tuple(self._notes)

    def note(self, *texts: str) -> None:
        """Add notes, each text once."""
        self._notes |= dict.fromkeys(texts)

    def file_in_use(self, name: str) -> Path | None:
        """Return a file of the version in use, compared with its card once; None where the card does not list it."""
        if self.current is None or name not in self.current.card.files:
            return None
        if name not in self._checked:
            self._checked[name] = self.current.checked(name)
        return self._checked[name]

    def exemplars_in_use(self) -> list[Path]:
        """Return the files of exemplars of the version in use; raises BadInput where one was changed."""
        names = exemplar_files(self.current) if self.current else []
        return [file for name in names if (file := self.file_in_use(name))]

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
        learned_here = self._learned_before()
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
        if self.start is None:
            return ""
        fit = self.learner.fit_of(self.start, [*project.held_out, *project.new][:ORIENTED_MICROGRAPHS])
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
        known = {i.content: i for i in self.held_out_of(project.source.project)}
        first = self.counts_in_use([*known.values()])
        fresh = self.counts_in_use([i for i in project.held_out if i.content not in known])
        if f1_of(fresh) < f1_of(first) - LARGEST_FALL:
            return (
                f"the version in use has F1 {f1_of(first):.2f} on its earlier micrographs and "
                f"{f1_of(fresh):.2f} on its new ones"
            )
        same = [i for i in project.held_out if i.content in known]
        first = self.counts_in_use([known[i.content] for i in same])
        # Counted apart from those kept, which are of the labels of the first day.
        today = self.learner.count(self.start, same) if self.start is not None else []
        if f1_of(today) < f1_of(first) - LARGEST_FALL:
            return (
                f"on the same micrographs the version in use has F1 {f1_of(first):.2f} by the labels of their first "
                f"day and {f1_of(today):.2f} by those of today"
            )
        return ""

    def _learned_before(self) -> frozenset[str]:
        if self.current is None:
            return frozenset()
        # A model that was trained by hand and then added to the registry has no exemplars.
        return self.learner.learned_by(self.current.model).union(*(read_learned(f) for f in self.exemplars_in_use()))

    def held_out_today(self) -> frozenset[str]:
        """Return the contents of the micrographs that any model holds out now."""
        return held_out_anywhere(self.registry.root, *self.options.registries)

    def replayed(self, changed: Sequence[Source]) -> set[str]:
        """Return the projects whose exemplars an update replays: changed ones, and others drawn for each version."""
        changed_names = {s.project for s in changed}
        label = self.current.label if self.current else ""
        others = sorted(self.before.keys() - changed_names, key=lambda p: fingerprint_of(f"{label}/{p}"))
        return changed_names | set(others[:REPLAYED_PROJECTS])

    def kept(self, projects: Collection[str] | None) -> dict[str, list[Item]]:
        """Return the exemplars of the version in use, of some projects or of all."""
        found: dict[str, list[Item]] = {}
        excluded = held_out_anywhere(self.registry.root, *self.options.registries)
        wanted = None if projects is None else {Path(exemplar_file(p)).name for p in projects}
        for file in self.exemplars_in_use():
            if wanted is not None and file.name not in wanted:
                continue
            items = self.pieces_of(file, "kept", lambda item: exemplar_file(item.project))
            # Another model of the registry may hold out today what this one learned from before.
            usable = [i for i in items if i.content not in excluded]
            if n := len(items) - len(usable):
                self.note(f"{items[0].project}: {n} of {len(items)} exemplars are held out by now, not learned from")
            if usable:
                found[usable[0].project] = usable
        return found

    def pieces_of(self, file: Path, folder: str, name_of: Callable[[Item], str]) -> list[Item]:
        """Read a file of items of this network; unpack it below the work folder.

        Parameters
        ----------
        name_of
            Returns the name that the file of an item has: a file of another name is not that of its project.
        """
        items = read_pieces(file, self.work / folder / file.stem, self.learner.rule)
        for item in items:
            if Path(name_of(item)).name != file.name:
                raise BadInput(
                    file,
                    f"holds micrograph {item.content} of {item.project}, whose file is {Path(name_of(item)).name}.",
                    "Restore it from a copy of the model.",
                )
        return items

    def held_out_of(self, project: str) -> list[Item]:
        """Return the held-out micrographs of a project that the version in use was scored on, with their first labels.

        Other files are of versions that were rolled back or never in use, and so are their labels. All files of a
        project are returned only where the version in use was scored on none of it, for example one trained by hand.
        """
        if project not in self.held_out:
            files = sorted((self.home / HELD_OUT).glob(f"{safe_name(project)}-*.npz"))
            if contents := self.scored.get(project):
                wanted = {self._held_out_file(project, content) for content in contents}
                files = [f for f in files if f in wanted]
            items = [
                i
                for f in files
                for i in self.pieces_of(f, "scored", lambda item: self._held_out_file(item.project, item.content).name)
            ]
            # Names that only begin alike are found, too.
            self.held_out[project] = [i for i in items if i.project == project]
        return self.held_out[project]

    def check_held_out(self) -> None:
        """Check the held-out micrographs of known projects; note those on which versions were never compared.

        Raises
        ------
        BadInput
            Where files are missing on which the version in use was scored: the gate would not see a fall there.
        """
        for project in sorted(self.before):
            files = [self._held_out_file(project, content) for content in sorted(self.scored.get(project, ()))]
            missing = [f for f in files if not f.is_file()]
            # Of a candidate that a user put into use, new micrographs of projects that were known are not kept.
            if missing and (len(missing) == len(files) or (self.current and self.current.card.status == "accepted")):
                raise BadInput(
                    missing[0],
                    f"is missing ({len(missing)} of {len(files)} held-out micrographs of {project} are): a version "
                    f"that is worse there would not be refused.",
                    f"Restore {self.home / HELD_OUT} from a copy, or put a version into use that did not learn from "
                    f"{project}: `cryoflow model promote`.",
                )
            self.held_out_of(project)  # raises BadInput where one cannot be read
            if not files:
                self.note(f"{project}: no held-out micrographs are kept of it, versions are not compared on it")

    def counts_in_use(self, items: Sequence[Item]) -> list[MicrographCounts]:
        """Return the counts of the version in use, in order of the items; known ones are not counted again.

        Counts made with other labels than an item has are made again: the file of a held-out micrograph was changed by
        hand, or replaced by a version that was rolled back since.
        """
        if self.start is None:
            return []
        marks = {(i.project, i.content): labels_fingerprint(i) for i in items}
        other = [key for key, mark in marks.items() if key in self.counts and self._counted_by.get(key, mark) != mark]
        for key in other:
            del self.counts[key]
        for project in dict.fromkeys(project for project, _ in other):
            n = sum(name == project for name, _ in other)
            self.note(f"{project}: {n} held-out micrographs have other labels now, the version in use is scored again")
        missing = [i for i in items if (i.project, i.content) not in self.counts]
        self.counts |= {(c.project, c.micrograph): c for c in self.learner.count(self.start, missing)}
        self._counted_by |= marks
        return [self.counts[i.project, i.content] for i in items]

    def keep_held_out(self, projects: Sequence[UpdateProject], *, accepted: bool) -> None:
        """Keep held-out micrographs with their labels of today, except those that the version in use was scored on.

        The latter keep the labels of their first day. Labels in other files are of a version that was not put into
        use, or was rolled back: they are replaced. No file is removed, since a user may put that version into use.

        Parameters
        ----------
        accepted
            Whether the gate accepted the labels: of known projects, others are not kept in new files. Of new projects
            they are, since a user may put the version into use all the same.
        """
        for p in projects:
            known = p.source.project in self.before
            first = {i.content for i in self.held_out_of(p.source.project)} if known else set()
            for item in p.held_out:
                file = self._held_out_file(item.project, item.content)
                if item.content not in first and (not known or accepted or file.is_file()):
                    write_pieces(file, item.project, [piece_of(item)])

    def _held_out_file(self, project: str, content: str) -> Path:
        return self.home / HELD_OUT / f"{safe_name(project)}-{content}.npz"

    def labels_that_do_not_fit(self, model: Path, projects: Sequence[UpdateProject]) -> dict[str, str]:
        """Return the projects whose labels a model and the one in use match no better than chance, and why."""
        reasons = {}
        for p in projects:
            fits = [self.learner.fit_of(model, p.held_out)]
            if self.start is not None:
                # Two held-out micrographs with few particles decide nothing.
                fits.append(self.learner.fit_of(self.start, [*p.held_out, *p.new][:ORIENTED_MICROGRAPHS]))
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
