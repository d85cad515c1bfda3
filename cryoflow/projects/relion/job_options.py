"""The options of a job: `job.star` (from 3.1) or `run.job` (up to 3.1)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_blocks
from cryoflow.storage import inputs

_LARGEST_BYTES = 1 << 20
_VARIABLE_OF_LABEL = {
    "micrographstarfile": "star_mics",
    "inputcoordinates": "coords_suffix",
    "particleboxsizepix": "extract_size",
    "rescaleparticles": "do_rescale",
    "rescaledsizepixels": "rescale",
    "inputimagesstarfile": "fn_img",
    "numberofclasses": "nr_classes",
    "binningfactor": "bin_factor",
    "inputmicrographsforautopick": "fn_input_autopick",
    "inputmicrographs": "fn_in",
    "selectclassesfromoptimiserstar": "fn_model",
    "selectclassesfrommodelstar": "fn_model",
    "orselectfromparticlesstar": "fn_data",
    "orselectfrommicrographsstar": "fn_mic",
    "orselectfrompickedcoords": "fn_coords",
    "maskdiametera": "particle_diameter",
    "particlediametera": "diameter",
    "orlaplacianofgaussian": "do_log",
    "mindiameterforlogfiltera": "log_diam_min",
    "maxdiameterforlogfiltera": "log_diam_max",
}
"""`run.job` has the texts of the window; letters and digits of those that we need -> the variable in `job.star`."""


def job_options(folder: Path) -> dict[str, str]:
    """Return a job's options by their names in `job.star`, empty where there are none or they cannot be read.

    `rlnJobTypeLabel` and `rlnJobIsTomo` are among them.
    """
    for name in ("job.star", "run.job"):
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        if 0 < status.st_size <= _LARGEST_BYTES:
            return dict(_options(folder / name, (status.st_mtime_ns, status.st_size)))
    return {}


def is_yes(value: str) -> bool:
    """Return whether an option is switched on."""
    return value.strip().lower() in ("yes", "true", "1")


@lru_cache(maxsize=512)
def _options(path: Path, stamp: tuple[int, int]) -> tuple[tuple[str, str], ...]:  # noqa: ARG001 (part of the cache's key)
    return tuple(sorted((_from_star(path) if path.suffix == ".star" else _from_run_job(path)).items()))


def _from_star(path: Path) -> dict[str, str]:
    try:
        blocks = read_blocks(path)
    except BadInput:
        return {}
    options: dict[str, str] = {}
    job = blocks.get("job")
    if isinstance(job, dict):
        options.update(job)
    values = blocks.get("joboptions_values")
    if isinstance(values, pd.DataFrame) and {"rlnJobOptionVariable", "rlnJobOptionValue"} <= set(values.columns):
        options.update(zip(values["rlnJobOptionVariable"], values["rlnJobOptionValue"], strict=True))
    return options


def _from_run_job(path: Path) -> dict[str, str]:
    try:
        lines = inputs.read_text(path, errors="replace").splitlines()
    except OSError:
        return {}
    options: dict[str, str] = {}
    for line in lines:
        label, separator, value = line.partition("==")
        if separator:
            key = re.sub(r"[^a-z0-9]", "", label.lower())
            options.setdefault(_VARIABLE_OF_LABEL.get(key, key), value.strip())
    return options
