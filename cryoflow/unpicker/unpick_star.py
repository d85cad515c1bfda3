"""Un-picking of STAR files in a folder: the rows that are kept are written as they were."""

from __future__ import annotations

from pathlib import Path

from cryoflow.formats.star_labels import FOM
from cryoflow.preparation.calibration import Goal
from cryoflow.preparation.patches import require_ctf
from cryoflow.shards import OnProgress
from cryoflow.storage.files import write_if_changed
from cryoflow.storage.folders import remove_folder
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.scoring import OnScored, Result, ScoredMicrograph
from cryoflow.unpicker.star_folder import StarPicks, read_star_folder, refuse_overwriting, suffix_of
from cryoflow.unpicker.unpick import UnpickReport, report_of

N_A_SHARD = 20
WORK = ".cryoflow-unpick"
"""Folder of finished shards in the output of un-picking STAR files, while it is not finished."""


def unpick_star_folder(
    bundle: ModelBundle,
    folder: Path,
    output: Path,
    *,
    suffix: str = "_autopick",
    unpick_suffix: str = "_autopick_unpick",
    scored_suffix: str | None = None,
    doubtful_suffix: str | None = None,
    diameter_A: float | None = None,
    pixel_size_A: float | None = None,
    micrographs_dir: Path | None = None,
    ctf_star: Path | None = None,
    goal: Goal | None = None,
    orientations: int = 1,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
    on_scored: OnScored | None = None,
) -> UnpickReport:
    """Score the picks of all STAR files of a folder, and write a file of the rows that are kept, as they were.

    Parameters
    ----------
    output
        Folder that `X<unpick_suffix>.star` is written to.
    scored_suffix
        Where given, `X<scored_suffix>.star` is written too: all rows, with the probability as
        `rlnAutopickFigureOfMerit`, for RELION to display and to cut at any threshold.
    doubtful_suffix
        Where given, `X<doubtful_suffix>.star` is written too: the rows of doubtful picks.
    on_progress, on_scored
        See `unpick`.

    Raises
    ------
    BadInput
        Where there is no file of picks, or it would be written over.
    """
    from cryoflow.unpicker.unpick_shards import score_all

    written = tuple(s for s in (unpick_suffix, scored_suffix, doubtful_suffix) if s is not None)
    refuse_overwriting(folder, output, read=(suffix,), written=written)
    found, bad = read_star_folder(
        folder,
        suffix,
        diameter_A=diameter_A or bundle.diameter_A,
        pixel_size_A=pixel_size_A,
        micrographs_dir=micrographs_dir,
        ctf_star=ctf_star,
    )
    micrographs = [p.micrograph for p in found]
    require_ctf(bundle.preprocessing, micrographs)
    work = output / WORK
    results = score_all(
        bundle,
        micrographs,
        work,
        "picks",
        n_a_shard=N_A_SHARD,
        orientations=orientations,
        workers=workers,
        on_progress=on_progress,
    )
    sources = {id(p.micrograph): p for p in found}

    def write(result: Result) -> None:
        if isinstance(result, ScoredMicrograph):
            picks = sources[id(result.micrograph)]
            _write_star(picks, result, output, unpick_suffix, scored_suffix, doubtful_suffix)
        if on_scored:
            on_scored(result)

    report = report_of(bundle.projects, [*bad, *results], goal or Goal(), (), write)
    remove_folder(work)
    return report


def _write_star(
    picks: StarPicks,
    scored: ScoredMicrograph,
    output: Path,
    unpick_suffix: str,
    scored_suffix: str | None,
    doubtful_suffix: str | None,
) -> None:
    name = scored.micrograph.name
    write_if_changed(output / f"{name}{suffix_of(unpick_suffix)}", _encoded(picks.rows.where(scored.kept)))
    if scored_suffix is not None:
        values = [f"{p:.6f}" for p in scored.probabilities]
        write_if_changed(output / f"{name}{suffix_of(scored_suffix)}", _encoded(picks.rows.with_column(FOM, values)))
    if doubtful_suffix is not None:
        write_if_changed(output / f"{name}{suffix_of(doubtful_suffix)}", _encoded(picks.rows.where(scored.doubtful)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
