"""Pick sets to put into databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

MakePickSet = Callable[..., PickSet]


@pytest.fixture
def make_pickset(tmp_path: Path) -> MakePickSet:
    """A function that makes a pick set on non-square micrographs: one is missing, one has no picks."""

    def make(
        project: str = "P1",
        *,
        job: str = "J51",
        kind: Kind = Kind.HOMO,
        suffix: str = "",
        n_micrographs: int = 4,
        names: list[str] | None = None,
        picks_each: int = 7,
        seed: int = 0,
        folder: Path | None = None,
        program: str = "cryosparc",
        **changes: object,
    ) -> PickSet:
        rng = np.random.default_rng(seed)
        root = folder or tmp_path / "projects" / project
        names = names or [f"J1/imported/mic_{i}.mrc" for i in range(n_micrographs)]
        n = len(names)
        paths: list[str | None] = []
        for i, name in enumerate(names):
            path = root / name
            if i == 1:
                paths.append(None)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"MRC")
            paths.append(str(path))
        source = root / "particles.cs"
        root.mkdir(parents=True, exist_ok=True)
        source.write_bytes(b"dataset")
        from cryoflow.storage.fingerprints import source_file

        micrographs = micrograph_table(
            {
                "name": pd.Series(names, dtype="object"),
                "path": pd.Series(paths, dtype="object"),
                "status": pd.Series(["found" if p else "missing" for p in paths], dtype="object"),
                "uid": pd.Series([None if i == 0 else str(10**19 + i) for i in range(n)], dtype="object"),
                "ny": pd.array([300] * (n - 1) + [pd.NA], dtype="Int32"),
                "nx": pd.array([400] * (n - 1) + [pd.NA], dtype="Int32"),
                "pixel_size_A": [1.06] * (n - 1) + [np.nan],
                "voltage_kV": [300.0] * n,
                "defocus_u_A": rng.uniform(1e4, 2e4, n),
            }
        )
        mics = np.repeat([i for i in range(n) if i != 2 or n < 3], picks_each)
        m = len(mics)
        picks = pd.DataFrame(
            {
                "micrograph": mics,
                "x_px": rng.uniform(-0.5, 399.4, m),
                "y_px": rng.uniform(-0.5, 299.4, m),
                "score": np.where(rng.random(m) < 0.1, np.nan, rng.normal(0, 3, m)),
                "class": rng.integers(-1, 12, m).astype(np.int32),
                "uid": rng.integers(0, 2**64 - 1, m, dtype=np.uint64),
                "label": rng.integers(-1, 2, m).astype(np.int8),
            }
        )
        who = Provenance(
            program,  # type: ignore[arg-type]
            root,
            project,
            job,
            kind,
            suffix=suffix,
            job_type="homo_refine_new",
            output_group="particles",
            program_version="4.5.3",
            title="a title: with colon",
            sources=(source_file(source),),
        )
        settings: dict[str, object] = {
            "box_px": 256.0,
            "diameter_A": 150.5,
            "score_kind": "pick_stats/ncc_score",
            "counts": {"nan": 2, "outside": 3},
            "notes": ("a note", "another: with colon"),
        }
        return PickSet.build(who, micrographs, picks, **(settings | changes))  # type: ignore[arg-type]

    return make


def rounded(pickset: PickSet) -> pd.DataFrame:
    """The picks at the decimals that text keeps."""
    from cryoflow.picks import PICK_COLUMNS

    picks = pickset.picks.copy()
    for name in picks.columns:
        if picks[name].dtype.kind == "f":
            places = 3 if name in ("x_px", "y_px") else PICK_COLUMNS[str(name)].decimals
            picks[name] = np.rint(picks[name] * 10.0**places) / 10.0**places
    return picks


@pytest.fixture
def assert_same() -> Callable[[PickSet, PickSet], None]:
    """A function that compares two pick sets in everything, positions at the decimals that text keeps."""

    def check(loaded: PickSet, original: PickSet) -> None:
        pd.testing.assert_frame_equal(loaded.picks, rounded(original))
        pd.testing.assert_frame_equal(loaded.micrographs, original.micrographs)
        for name in ("provenance", "box_px", "diameter_A", "score_kind", "counts", "notes"):
            assert getattr(loaded, name) == getattr(original, name), name

    return check
