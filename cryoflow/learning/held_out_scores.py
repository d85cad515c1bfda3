"""Held-out micrographs on which versions are compared, with their labels, and what the version in use scores on them.

models/detector/held_out/P190-<content>.npz    a held-out micrograph, prepared, with its labels of the first day
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.learning.items import Item, labels_fingerprint, piece_of, read_named_pieces, write_pieces
from cryoflow.learning.learner import Learner
from cryoflow.learning.update_records import VersionCounts, read_counts
from cryoflow.learning.version_in_use import VersionInUse
from cryoflow.models.gate import MicrographCounts
from cryoflow.models.held_out import FILES
from cryoflow.storage.safe_names import safe_name

COUNTS = "held_out.json"
"""File of a version with what it scored on each held-out micrograph."""


class HeldOutScores:
    """Held-out micrographs of a model, and what its version in use scores on them.

    Parameters
    ----------
    home
        The model's folder in the registry.
    note
        Called with each note for the user.

    Attributes
    ----------
    work
        Folder of the update, in which files of micrographs are unpacked.
    """

    work: Path

    def __init__(self, home: Path, in_use: VersionInUse, learner: Learner, note: Callable[[str], None]) -> None:
        self.folder, self.in_use, self.learner, self.note = home / FILES, in_use, learner, note
        file = in_use.file(COUNTS)
        stored = read_counts(file) if file else VersionCounts(learner.measure, {}, {})
        self._counts = stored.counts if stored.measure == learner.measure else {}
        self._labels = dict(stored.labels)
        self._scored: dict[str, set[str]] = {}
        for project, content in stored.counts:
            self._scored.setdefault(project, set()).add(content)
        self._items: dict[str, list[Item]] = {}

    def items_of(self, project: str) -> list[Item]:
        """Return the held-out micrographs of a project that the version in use was scored on, with their first labels.

        Other files are of versions that were rolled back or never in use, and so are their labels. All files of a
        project are returned only where the version in use was scored on none of it, for example one trained by hand.
        """
        if project not in self._items:
            files = sorted(self.folder.glob(f"{safe_name(project)}-*.npz"))
            if contents := self._scored.get(project):
                wanted = {self._file(project, content) for content in contents}
                files = [f for f in files if f in wanted]
            # Names that only begin alike are found, too.
            self._items[project] = [i for f in files for i in self._read(f) if i.project == project]
        return self._items[project]

    def check(self) -> None:
        """Check the held-out micrographs of known projects; note those on which versions were never compared.

        Raises
        ------
        BadInput
            Where files are missing on which the version in use was scored: the gate would not see a fall there.
        """
        version = self.in_use.version
        for project in sorted(self.in_use.trained_on):
            files = [self._file(project, content) for content in sorted(self._scored.get(project, ()))]
            missing = [f for f in files if not f.is_file()]
            # Of a candidate that a user put into use, new micrographs of projects that were known are not kept.
            if missing and (len(missing) == len(files) or (version and version.card.status == "accepted")):
                raise BadInput(
                    missing[0],
                    f"is missing ({len(missing)} of {len(files)} held-out micrographs of {project} are): a version "
                    f"that is worse there would not be refused.",
                    f"Restore {self.folder} from a copy, or put a version into use that did not learn from "
                    f"{project}: `cryoflow model promote`.",
                )
            self.items_of(project)  # raises BadInput where one cannot be read
            if not files:
                self.note(f"{project}: no held-out micrographs are kept of it, versions are not compared on it")

    def counts(self, items: Sequence[Item]) -> list[MicrographCounts]:
        """Return the counts of the version in use, in order of the items; known ones are not counted again.

        Counts made with other labels than an item has are made again: the file of a held-out micrograph was changed by
        hand, or replaced by a version that was rolled back since.
        """
        if self.in_use.model is None:
            return []
        labels = {(i.project, i.content): labels_fingerprint(i) for i in items}
        other = [key for key, now in labels.items() if key in self._counts and self._labels.get(key, now) != now]
        for key in other:
            del self._counts[key]
        for project in dict.fromkeys(project for project, _ in other):
            n = sum(name == project for name, _ in other)
            self.note(f"{project}: {n} held-out micrographs have other labels now, the version in use is scored again")
        missing = [i for i in items if (i.project, i.content) not in self._counts]
        self._counts |= {(c.project, c.micrograph): c for c in self.learner.count(self.in_use.model, missing)}
        self._labels |= labels
        return [self._counts[i.project, i.content] for i in items]

    def keep(self, project: str, items: Sequence[Item], *, accepted: bool) -> None:
        """Keep held-out micrographs with their labels of today, except those that the version in use was scored on.

        The latter keep the labels of their first day. Labels in other files are of a version that was not put into
        use, or was rolled back: they are replaced. No file is removed, since a user may put that version into use.

        Parameters
        ----------
        accepted
            Whether the gate accepted the labels: of known projects, others are not kept in new files. Of new projects
            they are, since a user may put the version into use all the same.
        """
        known = project in self.in_use.trained_on
        first = {i.content for i in self.items_of(project)} if known else set()
        for item in items:
            file = self._file(item.project, item.content)
            if item.content not in first and (not known or accepted or file.is_file()):
                write_pieces(file, item.project, [piece_of(item)])

    def _read(self, file: Path) -> list[Item]:
        folder = self.work / "scored" / file.stem
        return read_named_pieces(file, folder, self.learner.rule, lambda i: self._file(i.project, i.content).name)

    def _file(self, project: str, content: str) -> Path:
        return self.folder / f"{safe_name(project)}-{content}.npz"
