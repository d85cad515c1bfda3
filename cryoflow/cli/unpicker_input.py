"""What the unpicker's commands share: where picks come from, and how they end."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter, validators

from cryoflow.cli import output as out
from cryoflow.errors import BadInput, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryoflow.picks import PickSet
    from cryoflow.preparation.picked import PickedMicrograph
    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.unpick import OnScored

STAR = Group("STAR files of a folder", sort_key=1)
DB = Group("Entries of a database", sort_key=2)

POSITIVE = Parameter(validator=validators.Number(gt=0))
NOT_NEGATIVE = Parameter(validator=validators.Number(gte=0))
COUNT = Parameter(validator=validators.Number(gte=1))
SHARE = Parameter(validator=validators.Number(gte=0, lt=1))
CHANCE = Parameter(validator=validators.Number(gt=0, lte=1))

DatabaseOption = Annotated[Path | None, Parameter(name=["--database", "--db"], group=DB)]
Micrographs = Annotated[Path | None, Parameter(name=["--micrographs", "--image-dir"], group=STAR)]
Apix = Annotated[float | None, Parameter(name="--apix", group=STAR), POSITIVE]
Diameter = Annotated[float | None, POSITIVE]
CtfStar = Annotated[Path | None, Parameter(name=["--ctf", "--star-file"], group=STAR)]
BOX_DIAMETERS = 1.5
"""Edge of the older emUnpicker's boxes in diameters, as they are mostly chosen."""
NumCores = Annotated[int | None, Parameter(name=["--num-cores", "--workers"]), COUNT]


def labeled(
    entries: Sequence[str],
    database: Path | None,
    root: Path | None,
    suffix: str,
    micrographs: Path | None,
    apix: float | None,
    ctf: Path | None,
    diameter: float | None,
    *,
    boxsize_px: float | None = None,
) -> tuple[LabeledSet, list[BadInput]]:
    """The labeled micrographs of a folder or of entries, and the files that could not be read.

    Parameters
    ----------
    root
        A folder; or, as the older emUnpicker has it, the suffix of its files, alone or behind a folder.
    boxsize_px
        The diameter is 2/3 of it where it was not given.
    """
    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.star_folder import read_star_folder

    if (root is None) == (not entries):
        raise out.UsageError("give --train-root, or labeled entries and their --database.")
    if root is None:
        known = LabeledSet.from_picks(load_entries(entries, database), diameter_A=diameter)
        for note in known.notes:
            out.say(f"note: {note}")
        return known, []
    if diameter is None and boxsize_px is None:
        raise out.UsageError("give the particle diameter in angstrom (--diameter).")
    if root.name.startswith("_") and not root.is_dir():
        root, suffix = root.parent, root.name
    found, bad = read_star_folder(
        root, suffix, diameter_A=diameter or 1.0, pixel_size_A=apix, micrographs_dir=micrographs, ctf_star=ctf
    )
    if not found:
        raise bad[0]
    picked = [p.micrograph for p in found]
    if diameter is None and boxsize_px is not None:
        picked = [replace(m, diameter_A=boxsize_px * m.pixel_size_A / BOX_DIAMETERS) for m in picked]
        out.say(f"note: the diameter was taken as {picked[0].diameter_A:.0f} A, 2/3 of the box; --diameter tells it")
    return LabeledSet(tuple(picked)), bad


def any_picks(
    entries: Sequence[str],
    database: Path | None,
    folder: Path | None,
    suffix: str,
    micrographs: Path | None,
    apix: float | None,
    ctf: Path | None,
    diameter: float,
) -> tuple[list[PickedMicrograph], list[BadInput]]:
    """The micrographs of a folder or of entries, labeled or not, and the files that could not be read."""
    from cryoflow.preparation.picked import picked_micrographs
    from cryoflow.unpicker.star_folder import read_star_folder

    if (folder is None) == (not entries):
        raise out.UsageError("give --folder, or entries and their --database.")
    if folder is not None:
        found, bad = read_star_folder(
            folder, suffix, diameter_A=diameter, pixel_size_A=apix, micrographs_dir=micrographs, ctf_star=ctf
        )
        return [p.micrograph for p in found], bad
    picked: list[PickedMicrograph] = []
    for picks in load_entries(entries, database):
        more, notes = picked_micrographs(picks, diameter_A=diameter)
        picked += more
        for note in notes:
            out.say(f"note: {note}")
    return picked, []


def load_entries(entries: Sequence[str], database: Path | None) -> list[PickSet]:
    """The entries named on the command line."""
    from cryoflow.database import Database

    if database is None:
        raise out.UsageError("say which --database the entries are of.")
    if not entries:
        raise out.UsageError("name one entry or more; `cryoflow database list` shows them.")
    source = Database(database)
    return [source.load(entry) for entry in entries]


def ending(failed: Sequence[BadInput], n_good: int) -> int:
    """Say what failed; the exit code."""
    for error in failed:
        out.say(f"left out: {error}")
    if not failed:
        return ExitCode.OK
    return ExitCode.PARTLY_FAILED if n_good else ExitCode.FAILED


@contextmanager
def scoring(what: str, total: int | None, *, json: bool = True) -> Iterator[OnScored]:
    """A bar on a terminal; with `json` false, one line a micrograph on stdout as well."""
    from cryoflow.unpicker.unpick import ScoredMicrograph

    if not json:

        def line(result: object) -> None:
            if isinstance(result, ScoredMicrograph):
                print(result, flush=True)

        yield line
        return
    with out.progress(what, total) as advance:

        def step(result: object) -> None:  # noqa: ARG001
            advance()

        yield step


def warn_coverage(bundle: object, micrographs: Sequence[PickedMicrograph]) -> None:
    """Say where the model has learnt from no micrograph of such a defocus."""
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.evaluate import coverage_warnings

    assert isinstance(bundle, ModelBundle)
    for warning in coverage_warnings(bundle, micrographs):
        out.say(f"warning: {warning}")
