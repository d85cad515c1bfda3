"""RELION: picks for its Extract job, in both formats, and as a particle STAR.

RELION 4 and later take a list of coordinate files (`autopick.star`), whose micrograph names must be exactly those of
the `micrographs.star` used in Extract: a wrong prefix gives no error and no particles. RELION up to 3.1 takes a file
`coords_suffix_autopick.star`, of which only name and place count: beside it lie files named after the micrograph's
path without the job's part. One folder holds both. A particle STAR serves re-extraction and other programs.

Sources: relion (src/preprocessing.cpp, src/pipeline_jobs.cpp, src/autopicker.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cryoflow.pickers.base import Picker

if TYPE_CHECKING:
    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet

SUFFIX = "_autopick.star"
LABELS = "labels"
"""Folder of an export that holds labels: not picks of a job."""


class Relion(Picker):
    """RELION's own autopicker as a source of picks, and its Extract job as their consumer."""

    name = "relion"
    title = "RELION"
    help = "RELION: coordinate list, coords_suffix form and a particle STAR."
    formats = ("RELION STAR",)
    suffixes = (SUFFIX, "_manualpick.star", "_topaz.star")
    score_kind = "rlnAutopickFigureOfMerit"
    links_micrographs: ClassVar[bool] = False

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive names and directions; the column `target` is the name in the project that the picks go to."""
        from cryoflow.pickers.programs.relion.coordinate_files import names_in_star
        from cryoflow.pickers.training_sets.names import match_and_note

        given = settings.derive_path(
            "micrographs_star", "the entry's own names; or the file of the project that the picks go to"
        )
        names = training.micrographs["name"].astype(str).tolist()
        training.micrographs["target"] = names
        if given:
            theirs = names_in_star(Path(given))
            index = match_and_note(names, theirs, given, settings).index.tolist()
            training.micrographs["target"] = [theirs[k] if k >= 0 else None for k in index]
        settings.derive("flip_y", False, "the same MRC files; yes only for micrographs of another motion correction")
        settings.derive_path("relative_to", "paths of coordinate files are absolute; or relative to this folder")

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write one job folder per entry, `AutoPick/cryoflow_<entry>`, and `particles.star`."""
        from cryoflow.pickers.programs.relion.coordinate_files import write_jobs

        write_jobs(training, folder, home, settings)

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return where to put the files in RELION's window."""
        lists = (
            " ".join(str(p) for p in sorted(home.glob("AutoPick/*/autopick.star")))
            or f"{home}/AutoPick/cryoflow_.../autopick.star"
        )
        return (
            f"(RELION 4 and later: Particle extraction, Input coordinates: {lists})",
            "(RELION up to 3.1: copy AutoPick/* into the project, Input coordinates: .../coords_suffix_autopick.star)",
        )

    def readme_lines(self, folder: Path, settings: Mapping[str, str]) -> tuple[str, ...]:
        """Return how to import the picks: the job, its fields, and what the micrograph names must be."""
        jobs = sorted(path.parent.name for path in folder.glob("AutoPick/*/autopick.star"))
        given = settings["micrographs_star"]
        names = (
            "the names in the file micrographs_star of settings.tsv"
            if given
            else "the names under which cryoflow read the micrographs"
        )
        paths = "relative to the project" if settings["relative_to"] else "absolute: leave this folder where it is"
        return (
            "How to import the picks into RELION",
            "===================================",
            "No Import job is needed. Start a job of type Particle extraction, with these fields on its tab I/O:",
            "",
            "micrograph STAR file   micrographs_ctf.star of the CtfFind job of your project",
            "Input coordinates      RELION 4 and later: in this folder,",
            *(f"                         AutoPick/{job}/autopick.star" for job in jobs),
            "                       RELION up to 3.1: after copying AutoPick/* into AutoPick/ of your project,",
            *(f"                         AutoPick/{job}/coords_suffix_autopick.star" for job in jobs),
            "",
            "Micrograph names in the first column of autopick.star must be those of the micrograph STAR file, letter",
            "by letter: RELION 4 and later extract nothing from other micrographs, without an error.",
            f"Here they are {names}. For the names of your project, add the picks to a",
            "database (--database DB) and export them again, with the path of the micrograph STAR file for CTF_STAR:",
            "",
            "cryoflow export relion ENTRY --database DB --output FOLDER --set micrographs_star=CTF_STAR",
            "",
            f"Paths in the second column are {paths}.",
            "Positions are in pixels of the micrographs. rlnAutopickFigureOfMerit is the score of a pick.",
            "particles.star has the same picks in one table, for re-extraction and for other programs.",
        )

    def pick_files(self, folder: Path) -> list[Path]:
        """Return the coordinate files of an AutoPick or ManualPick job, not their list."""
        files = sorted(p for p in folder.rglob("*.star") if p.name.endswith(self.suffixes))
        files = [p for p in files if p.relative_to(folder).parts[0] != LABELS]
        return [p for p in files if not p.name.startswith("coords_suffix")]


PICKER = Relion()
