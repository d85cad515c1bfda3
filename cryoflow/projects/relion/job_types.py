"""What RELION calls its jobs, in numbers (up to 3.1) and in labels (from 4), and what they are to us."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryoflow.formats.star_words import whole_number
from cryoflow.picks import Kind


@dataclass(frozen=True)
class JobType:
    """One type of job: its folder in the project, its kind, and why its output is no set of picks, where it is none.

    `files` are the names of the table of particles that it leaves, where it is always called the same.
    """

    folder: str
    kind: Kind
    useless: str = ""
    files: tuple[str, ...] = ()


JOB_TYPES: dict[str, JobType] = {
    "relion.import": JobType("Import", Kind.IMPORT),
    "relion.motioncorr": JobType("MotionCorr", Kind.OTHER, "corrects movies, has no picks"),
    "relion.ctffind": JobType("CtfFind", Kind.OTHER, "estimates CTFs, has no picks"),
    "relion.manualpick": JobType("ManualPick", Kind.MANUAL_PICK),
    "relion.autopick": JobType("AutoPick", Kind.AUTO_PICK),
    "relion.extract": JobType("Extract", Kind.EXTRACT, files=("particles.star",)),
    "relion.sort": JobType("Sort", Kind.CURATE, files=("particles_sort.star",)),
    "relion.select": JobType("Select", Kind.SELECT),
    "relion.class2d": JobType("Class2D", Kind.CLASS_2D),
    "relion.class3d": JobType("Class3D", Kind.CLASS_3D),
    "relion.refine3d": JobType("Refine3D", Kind.REFINE_3D),
    "relion.initialmodel": JobType("InitialModel", Kind.AB_INITIO, "makes a first model from picks of other jobs"),
    "relion.polish": JobType("Polish", Kind.CURATE, files=("shiny.star",)),
    "relion.movierefine": JobType("MovieRefine", Kind.OTHER, "refines particles of movies, adds none"),
    "relion.ctfrefine": JobType("CtfRefine", Kind.CURATE, files=("particles_ctf_refine.star",)),
    "relion.multibody": JobType("MultiBody", Kind.OTHER, "centers on bodies, not on particles"),
    "relion.subtract": JobType("Subtract", Kind.CURATE, files=("particles_subtracted.star", "subtracted.star")),
    "relion.joinstar": JobType("JoinStar", Kind.CURATE, files=("join_particles.star",)),
    "relion.maskcreate": JobType("MaskCreate", Kind.OTHER, "makes a mask"),
    "relion.postprocess": JobType("PostProcess", Kind.OTHER, "sharpens a map"),
    "relion.localres": JobType("LocalRes", Kind.OTHER, "estimates local resolution"),
    "relion.dynamight": JobType("DynaMight", Kind.OTHER, "models motion of particles of other jobs"),
    "relion.modelangelo": JobType("ModelAngelo", Kind.OTHER, "builds an atomic model"),
    "relion.external": JobType("External", Kind.EXTERNAL),
}
"""Type label without what follows its second word -> what it is."""

_OF_NUMBER = {
    0: "relion.import", 1: "relion.motioncorr", 2: "relion.ctffind", 3: "relion.manualpick", 4: "relion.autopick",
    5: "relion.extract", 6: "relion.sort", 7: "relion.select", 8: "relion.class2d", 9: "relion.class3d",
    10: "relion.refine3d", 11: "relion.polish", 12: "relion.maskcreate", 13: "relion.joinstar", 14: "relion.subtract",
    15: "relion.postprocess", 16: "relion.localres", 17: "relion.movierefine", 18: "relion.initialmodel",
    19: "relion.multibody", 20: "relion.polish", 21: "relion.ctfrefine", 22: "relion.dynamight",
    23: "relion.modelangelo", 99: "relion.external",
} | {number: "relion.tomo" for number in range(50, 60)}  # fmt: skip

_STATUS_OF_NUMBER = {0: "Running", 1: "Scheduled", 2: "Succeeded", 3: "Failed", 4: "Aborted"}
_NODE_OF_NUMBER = {0: "movies", 1: "micrographs", 2: "coordinates", 3: "particles"}
_NODE_OF_LABEL = {
    "MicrographMoviesGroupMetadata": "movies",
    "MicrographGroupMetadata": "micrographs",
    "MicrographsGroupMetadata": "micrographs",
    "MicrographCoordsGroup": "coordinates",
    "MicrographsCoords": "coordinates",
    "ParticleGroupMetadata": "particles",
    "ParticlesData": "particles",
}
_OF_FOLDER = {job_type.folder: label for label, job_type in JOB_TYPES.items()}

TYPE_FOLDERS = frozenset(_OF_FOLDER)
"""Names of the folders that job folders lie in."""
JOB_FOLDER = re.compile(r"job\d{3,}")


def type_label(label_or_number: str, folder: str) -> str:
    """Return the label of a job's type, from the pipeline or else from the name of its folder."""
    word = label_or_number.strip()
    if (number := whole_number(word)) is not None:
        return _OF_NUMBER.get(number, _OF_FOLDER.get(folder, f"relion.{folder.lower()}"))
    return word.lower() or _OF_FOLDER.get(folder, f"relion.{folder.lower()}")


def job_type(label: str) -> JobType:
    """Return what a type is. Tomography and unknown types say that they are of no use."""
    if "tomo" in label:
        return JobType("", Kind.OTHER, "tomography: picks in three dimensions are not read")
    known = JOB_TYPES.get(".".join(label.split(".")[:2]))
    return known or JobType("", Kind.OTHER, f"a job of type {label or 'unknown'}, not known to hold picks")


def status_word(label_or_number: str) -> str:
    """Return `Running`, `Scheduled`, `Succeeded`, `Failed`, `Aborted`, or empty where it is not said."""
    word = label_or_number.strip()
    number = whole_number(word)
    return word if number is None else _STATUS_OF_NUMBER.get(number, "")


def node_kind(label_or_number: str) -> str:
    """Return `movies`, `micrographs`, `coordinates`, `particles`, or the label."""
    word = label_or_number.strip()
    if (number := whole_number(word)) is not None:
        return _NODE_OF_NUMBER.get(number, word)
    return _NODE_OF_LABEL.get(word.split(".")[0], word)
