"""A small database for the viewer: scored picks, what un-picking kept of them, and another picker's."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.database import Database
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

READ, WRITE = "read-" + "r" * 30, "write-" + "w" * 30
"""Tokens of the two links."""
SHAPE_YX = (300, 420)
DIAMETER_A = 80.0
PIXEL_SIZE_A = 2.0
SCORED, UNPICKED, OTHER = "P1/AutoPick_job005", "P1/Unpicked_job005", "P1/External_topaz"
HOSTILE = "<script>document.title='ran'</script>.mrc"


def links_of(viewer: subprocess.Popen[str]) -> dict[str, str]:
    """Wait for a viewer that was started with --json, and return its links."""
    assert viewer.stdout
    text = ""
    while "}" not in text:
        line = viewer.stdout.readline()
        assert line, "the viewer ended"
        text += line
    links: dict[str, str] = json.loads(text)
    return links


def make_database(
    folder: Path, *, n_micrographs: int = 4, per_micrograph: int = 12, calibrated: bool = True
) -> Database:
    """Micrographs (not square) with a dark disk under each good pick; scores above 0.5 are those of the good ones."""
    rng = np.random.default_rng(7)
    ny, nx = SHAPE_YX
    project = folder / "projects" / "P1"
    project.mkdir(parents=True)
    names = [f"mic_{i}.mrc" for i in range(n_micrographs - 1)] + [HOSTILE]
    rows = []
    for i, name in enumerate(names):
        xy = np.stack([rng.uniform(30, nx - 30, per_micrograph), rng.uniform(30, ny - 30, per_micrograph)], axis=1)
        score = np.round(rng.uniform(0.02, 0.98, per_micrograph), 6)
        image = rng.normal(0, 0.3, SHAPE_YX).astype(np.float32)
        y, x = np.indices(SHAPE_YX)
        for (cx, cy), s in zip(xy, score, strict=True):
            if s > 0.5:
                image[np.hypot(x - cx, y - cy) < DIAMETER_A / PIXEL_SIZE_A / 2] -= 1
        write_mrc(project / name.replace("/", "_"), image, PIXEL_SIZE_A)
        rows += [(i, *p, s) for p, s in zip(xy, score, strict=True)]
    table = micrograph_table(
        {
            "name": names,
            "path": [str(project / name.replace("/", "_")) for name in names],
            "status": ["found"] * n_micrographs,
            "ny": [ny] * n_micrographs,
            "nx": [nx] * n_micrographs,
            "pixel_size_A": [PIXEL_SIZE_A] * n_micrographs,
            "defocus_u_A": [8000.0 + 3000 * i for i in range(n_micrographs)],
            "defocus_v_A": [8000.0 + 3000 * i for i in range(n_micrographs)],
        }
    )
    picks = pd.DataFrame(rows, columns=["micrograph", "x_px", "y_px", "score"])
    who = Provenance("relion", project, "P1", "job005", Kind.AUTO_PICK)
    everything = PickSet.build(
        who,
        table,
        picks,
        diameter_A=DIAMETER_A,
        score_kind="cryoflow/probability" if calibrated else "rlnAutopickFigureOfMerit",
    )
    database = Database(folder / "DB")
    database.add(everything)
    cleaned = replace(
        who, program="cryoflow", kind=Kind.UNPICKED, job_type="cryoflow.unpicker", output_group=who.entry_name
    )
    keep = everything.picks["score"].to_numpy() >= 0.5
    database.add(everything.where(keep, provenance=cleaned, score_kind="cryoflow/probability"))
    moved = everything.picks.drop(columns="score").assign(x_px=everything.picks["x_px"] + 3)
    other = replace(who, program="picker", kind=Kind.EXTERNAL, job="topaz")
    database.add(PickSet.build(other, everything.micrographs, moved.iloc[::2], diameter_A=DIAMETER_A))
    return database


def write_mask(folder: Path, micrograph: str = "mic_0", *, scale: int = 20, nan: bool = False) -> Path:
    """A mask that marks the first third of the columns in the last half of the rows as junk, on a coarse grid."""
    ny, nx = (n // scale for n in SHAPE_YX)
    mask = np.full((ny, nx), 0.1, np.float32)
    mask[ny // 2 :, : nx // 3] = 0.9
    folder.mkdir(exist_ok=True)
    path = folder / f"{micrograph}_junk.mrc"
    write_mrc(path, mask, PIXEL_SIZE_A * scale)
    if nan:
        mask[0, 0] = np.nan
        put_pixels(path, mask)
    return path


def put_pixels(path: Path, pixels: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    """Replace the pixels of an image by others that may be no numbers; mrcfile would warn about these."""
    path.write_bytes(path.read_bytes()[:1024] + pixels.astype("<f4").tobytes())


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def entry_files(database: Path) -> dict[str, bytes]:
    """The files of all entries of a database, and of the micrographs that its links name."""
    return {name: content for name, content in contents(database).items() if "/Particles/" in name or "/Micro" in name}
