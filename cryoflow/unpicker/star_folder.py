"""Folders of micrographs with one STAR file of picks each: `X.mrc`, `X_autopick.star`, `X_autopick_train.star`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_blocks
from cryoflow.micrographs.ctf import Ctf
from cryoflow.micrographs.header import read_header
from cryoflow.preparation.picked_micrograph import NEGATIVE, POSITIVE, UNLABELED, PickedMicrograph
from cryoflow.unpicker.star_lines import StarRows

log = logging.getLogger(__name__)

IMAGE_ENDINGS = (".mrc", ".map", ".MRC")


@dataclass(frozen=True)
class StarPicks:
    """A micrograph and the file that its picks are from."""

    micrograph: PickedMicrograph
    rows: StarRows


def files_by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the STAR files of a folder that end in a suffix, by what stands before it, sorted.

    Parameters
    ----------
    suffix
        With or without `.star`.

    Raises
    ------
    BadInput
        Where there are none.
    """
    ending = suffix_of(suffix)
    if not folder.is_dir():
        raise BadInput(folder, "is not a folder.")
    found = {p.name.removesuffix(ending): p for p in sorted(folder.iterdir()) if p.name.endswith(ending)}
    if not found:
        raise BadInput(folder, f"has no file that ends in {ending}.", "Is the suffix right?")
    return found


def suffix_of(suffix: str) -> str:
    """Return the suffix with `.star`."""
    return suffix if suffix.endswith(".star") else f"{suffix}.star"


def refuse_overwriting(folder: Path, output: Path, *, read: Sequence[str], written: Sequence[str]) -> None:
    """Refuse suffixes by which files would be written over those that they come from, or over each other.

    Raises
    ------
    BadInput
        Where a suffix that is written is one that is read, in the same folder, or is given twice.
    """
    new = [suffix_of(s) for s in written]
    old = [suffix_of(s) for s in read] if output.resolve() == folder.resolve() else []
    if twice := next((s for i, s in enumerate(new) if s in (*old, *new[:i])), None):
        what = "the files that it comes from" if twice in old else "itself"
        raise BadInput(output, f"what is to end in {twice} would be written over {what}.", "Name another suffix.")


def read_star_folder(
    folder: Path,
    suffix: str,
    *,
    diameter_A: float,
    pixel_size_A: float | None = None,
    micrographs_dir: Path | None = None,
    ctf_star: Path | None = None,
) -> tuple[list[StarPicks], list[BadInput]]:
    """Return all micrographs of a folder that have a file of picks, and what was wrong with the others.

    Parameters
    ----------
    pixel_size_A
        None takes it from each image's header.
    micrographs_dir
        Where the images are; None looks beside the STAR files.
    ctf_star
        RELION's table of micrographs with their CTF, for phase flipping and tables by defocus.
    """
    ctfs = read_ctfs(ctf_star) if ctf_star else {}
    good: list[StarPicks] = []
    bad: list[BadInput] = []
    for stem, file in files_by_stem(folder, suffix).items():
        try:
            rows = StarRows.read(file)
            image = _image(micrographs_dir or folder, stem, file)
            size = pixel_size_A or read_header(image).pixel_size_A
            if not size:
                raise BadInput(image, "its header contains no pixel size.", "Give it (--pixel-size).")
            good.append(
                StarPicks(
                    PickedMicrograph(
                        name=stem,
                        path=image,
                        pixel_size_A=size,
                        diameter_A=diameter_A,
                        centers_xy_px=rows.centers_xy_px,
                        labels=_labels(rows),
                        data_set=(micrographs_dir or folder).resolve().name,
                        ctf=ctfs.get(stem),
                    ),
                    rows,
                )
            )
        except BadInput as error:
            bad.append(error)
    if not pixel_size_A and (ones := sum(p.micrograph.pixel_size_A == 1 for p in good)):
        log.warning(
            "%s: %d headers say exactly 1 A a pixel, which often means unknown: give --pixel-size", folder, ones
        )
    if not pixel_size_A and (odd := _odd_pixel_sizes([p.micrograph for p in good])):
        log.warning("%s: %s: right, or give --pixel-size", folder, odd)
    if ctf_star and (without := [p.micrograph.name for p in good if p.micrograph.ctf is None]):
        log.warning(
            "%s: has no defocus of %d of %d micrographs (%s, ...)", ctf_star, len(without), len(good), without[0]
        )
    return good, bad


def _odd_pixel_sizes(micrographs: Sequence[PickedMicrograph]) -> str:
    """Return a warning of headers whose pixel size differs from that of most files of the folder, or ""."""
    if not micrographs:
        return ""
    usual = float(np.median([m.pixel_size_A for m in micrographs]))
    odd = [m for m in micrographs if abs(m.pixel_size_A / usual - 1) > 0.01]
    if not odd:
        return ""
    first = f"{odd[0].path.name} {odd[0].pixel_size_A:.4g}"
    return f"most headers say {usual:.4g} A a pixel, {len(odd)} of {len(micrographs)} say otherwise ({first}, ...)"


def read_ctfs(path: Path) -> dict[str, Ctf]:
    """Return the CTF of each micrograph of a RELION table, by the stem of its name; rows without defocus are left
    out."""
    blocks = read_blocks(path)
    table = next((t for t in blocks.values() if isinstance(t, pd.DataFrame) and "rlnDefocusU" in t), None)
    if table is None or "rlnMicrographName" not in table:
        raise BadInput(path, "has no table with _rlnMicrographName and _rlnDefocusU.", "Name a CtfFind job's output.")
    optics = blocks.get("optics")
    if isinstance(optics, pd.DataFrame) and "rlnOpticsGroup" in table and "rlnOpticsGroup" in optics:
        table = table.merge(optics, on="rlnOpticsGroup", how="left", suffixes=("", "_optics"))
    names = {
        "defocus_u_A": "rlnDefocusU",
        "defocus_v_A": "rlnDefocusV",
        "defocus_angle_deg": "rlnDefocusAngle",
        "voltage_kV": "rlnVoltage",
        "cs_mm": "rlnSphericalAberration",
        "amplitude_contrast": "rlnAmplitudeContrast",
        "phase_shift_deg": "rlnPhaseShift",
    }
    numbers = {k: pd.to_numeric(table[v], errors="coerce") for k, v in names.items() if v in table}
    numbers.setdefault("defocus_v_A", numbers["defocus_u_A"])
    ctfs: dict[str, Ctf] = {}
    for i, name in enumerate(table["rlnMicrographName"]):
        values = {k: float(v.iloc[i]) for k, v in numbers.items() if np.isfinite(v.iloc[i])}
        if {"defocus_u_A", "defocus_v_A"} <= set(values):
            ctfs[Path(name).stem] = Ctf(**values)
    return ctfs


def _image(folder: Path, stem: str, file: Path) -> Path:
    for ending in IMAGE_ENDINGS:
        if (image := folder / f"{stem}{ending}").is_file():
            return image
    raise BadInput(file, f"its micrograph {stem}.mrc is not in {folder}.", "Say where the images are (--micrographs).")


def _labels(rows: StarRows) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    column = rows.label_column()
    if column is None:
        return np.full(len(rows), UNLABELED, np.int8)
    return np.array([POSITIVE if word == "P" else NEGATIVE for word in rows.words(column)], np.int8)
