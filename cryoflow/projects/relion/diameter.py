"""A particle's diameter, from the options of the jobs around a set of picks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from cryoflow.projects.relion.job_graph import Pipeline
from cryoflow.projects.relion.job_options import is_yes, job_options

_MANUAL_DEFAULT_A = 100.0
"""Diameter that ManualPick draws by default."""

Options = Mapping[str, str]


def diameter_A(pipeline: Pipeline, process: str) -> tuple[float | None, list[str]]:
    """Return the best diameter in the options of a job, those before it and those after it, and notes on it.

    In this order: Topaz's and the Laplacian picker's diameter, the circle of manual picks where it was set, and the
    mask of a classification or a refinement, which is an upper bound.
    """
    jobs = [(job.split("/")[0], job_options(pipeline.folder(job))) for job in _related(pipeline, process)]
    for folders, diameter_in in _SOURCES:
        for folder, options in jobs:
            if folder in folders and (value := diameter_in(options)):
                is_mask = diameter_in is _mask
                notes = ["diameter is that of a mask, so the particle may be smaller"] if is_mask else []
                return value, notes
    return None, []


def _related(pipeline: Pipeline, process: str) -> Iterator[str]:
    """Yield a job, those before it, and those after it, the nearest first, each once."""
    seen = {process: None}
    for _, node in pipeline.ancestors(process):
        if maker := pipeline.process_of(node):
            seen.setdefault(maker)
    after = [process]
    for job in after:  # grows while it is walked: breadth first
        for user in pipeline.users_of(job):
            if user not in after:
                after.append(user)
                seen.setdefault(user)
    yield from seen


def _topaz(options: Options) -> float | None:
    return positive(options.get("topaz_particle_diameter", ""))


def _laplacian(options: Options) -> float | None:
    """Return the middle of the range that was searched."""
    if not is_yes(options.get("do_log", "")):
        return None
    lowest, highest = (positive(options.get(f"log_diam_{end}", "")) for end in ("min", "max"))
    return (lowest + highest) / 2 if lowest and highest else None


def _manual(options: Options) -> float | None:
    value = positive(options.get("diameter", ""))
    return value if value != _MANUAL_DEFAULT_A else None


def _mask(options: Options) -> float | None:
    return positive(options.get("particle_diameter", ""))


_SOURCES: tuple[tuple[tuple[str, ...], Callable[[Options], float | None]], ...] = (
    (("AutoPick",), _topaz),
    (("AutoPick",), _laplacian),
    (("ManualPick",), _manual),
    (("Class2D", "Class3D", "Refine3D", "InitialModel"), _mask),
)


def positive(text: str) -> float | None:
    """Return the number that an option holds, None for no number or none set (RELION writes -1)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None
