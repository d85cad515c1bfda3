"""Input, progress and exit codes of the unpicker's commands."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cryoflow.cli import output as out
from cryoflow.cli.entries import load
from cryoflow.errors import BadInput, CryoflowError, ExitCode
from cryoflow.unpicker.parameters import LabeledSource, SuggestParameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryoflow.preparation.picked_micrograph import PickedMicrograph
    from cryoflow.shards import OnProgress
    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.scoring import OnScored

BOX_DIAMETERS = 1.5
"""Edge of the older emUnpicker's boxes in diameters, as they are mostly chosen."""


def labeled(
    parameters: LabeledSource, diameter_A: float | None, *, boxsize_px: float | None = None
) -> tuple[LabeledSet, list[BadInput]]:
    """Return the labeled micrographs of a folder or of entries, and the files that could not be read.

    Parameters
    ----------
    parameters
        Its `train_root` is a folder or, as the older emUnpicker has it, the suffix of the files, alone or behind one.
    boxsize_px
        The diameter is 2/3 of it where it was not given.
    """
    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.star_folder import read_star_folder

    p, root, suffix = parameters, parameters.train_root, parameters.suffix
    if (root is None) == (not p.entries):
        raise out.UsageError("give --train-root, or labeled entries and their --database.")
    if root is None:
        known = LabeledSet.from_picks(load(p.entries, p.database, diameter_A=p.diameter_A), diameter_A=diameter_A)
        for note in known.notes:
            out.say(f"note: {note}")
        return known, []
    if diameter_A is None and boxsize_px is None:
        raise out.UsageError("give the particle diameter in angstrom (--diameter).")
    if root.name.startswith("_") and not root.is_dir():
        root, suffix = root.parent, root.name
    found, bad = read_star_folder(
        root,
        suffix,
        diameter_A=diameter_A or 1.0,
        pixel_size_A=p.pixel_size_A,
        micrographs_dir=p.micrographs,
        ctf_star=p.ctf_star,
    )
    if not found:
        raise bad[0]
    picked = [one.micrograph for one in found]
    if diameter_A is None and boxsize_px is not None:
        picked = [replace(m, diameter_A=boxsize_px * m.pixel_size_A / BOX_DIAMETERS) for m in picked]
        out.say(f"note: the diameter was taken as {picked[0].diameter_A:.0f} A, 2/3 of the box; --diameter sets it")
    return LabeledSet(tuple(picked)), bad


def any_picks(parameters: SuggestParameters, diameter_A: float) -> tuple[list[PickedMicrograph], list[BadInput]]:
    """Return the micrographs of a folder or of entries, labeled or not, and the files that could not be read."""
    from cryoflow.preparation.picked_micrograph import picked_micrographs
    from cryoflow.unpicker.star_folder import read_star_folder

    p = parameters
    if (p.folder is None) == (not p.entries):
        raise out.UsageError("give --folder, or entries and their --database.")
    if p.folder is not None:
        found, bad = read_star_folder(
            p.folder,
            p.suffix,
            diameter_A=diameter_A,
            pixel_size_A=p.pixel_size_A,
            micrographs_dir=p.micrographs,
            ctf_star=p.ctf_star,
        )
        return [one.micrograph for one in found], bad
    picked: list[PickedMicrograph] = []
    for picks in load(p.entries, p.database, diameter_A=p.diameter_A):
        more, notes = picked_micrographs(picks, diameter_A=diameter_A)
        picked += more
        for note in notes:
            out.say(f"note: {note}")
    return picked, []


def ending(failed: Sequence[CryoflowError], n_good: int) -> int:
    """Print what failed, and return the exit code."""
    for error in failed:
        out.say(f"left out: {error}")
    if not failed:
        return ExitCode.OK
    return ExitCode.PARTLY_FAILED if n_good else ExitCode.FAILED


@contextmanager
def scoring(what: str, *, json: bool = True) -> Iterator[tuple[OnProgress, OnScored]]:
    """Show progress with rate and time left; with `json` false, also print one line a micrograph at the end.

    On a terminal a bar, elsewhere a line each minute.
    """
    from cryoflow.shards import Rate
    from cryoflow.unpicker.scoring import ScoredMicrograph

    def line(result: object) -> None:
        if isinstance(result, ScoredMicrograph) and not json:
            print(result, flush=True)

    rate, reported = Rate(), [time.monotonic()]
    if sys.stderr.isatty():
        with out.progress(what, None) as advance:
            done_before = [0]

            def move(done: int, total: int) -> None:
                advance(done - done_before[0], note=rate.text(done, total))
                done_before[0] = done

            yield move, line
        return

    def report(done: int, total: int) -> None:
        text = rate.text(done, total)
        if time.monotonic() - reported[0] >= 60:
            out.say(f"{what}: {text}")
            reported[0] = time.monotonic()

    yield report, line


def warn_coverage(bundle: object, micrographs: Sequence[PickedMicrograph]) -> None:
    """Warn of micrographs whose defocus the model was not trained on."""
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.evaluate import coverage_warnings

    assert isinstance(bundle, ModelBundle)
    for warning in coverage_warnings(bundle, micrographs):
        out.say(f"warning: {warning}")
