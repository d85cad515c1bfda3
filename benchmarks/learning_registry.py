"""Simulate the registry and the gate at a facility's size, with training left out: seconds and bytes of each night.

    python benchmarks/learning_registry.py --projects 1000 --a-night 10

Projects arrive; each night one update draws held-out micrographs, keeps exemplars, compares and promotes. Networks and
micrographs are replaced by small files (the driver, the registry, the gate and all files are the real ones), so that
figures are those of the bookkeeping alone. Exemplars are small, too: multiply by docs/scale.md's sizes for the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "learning"))

from learning_stub import StubLearner, StubProject

from cryoflow.learning.update import update
from cryoflow.learning.update_material import UpdateOptions
from cryoflow.models.registry import ModelRegistry

MICROGRAPHS = tuple(f"{i}.mrc" for i in range(20))


def simulate(folder: Path, n_projects: int, a_night: int) -> list[dict[str, float]]:
    """Let projects arrive night by night; return figures of each night."""
    learner = StubLearner([])
    registry = ModelRegistry(folder / "models")
    nights = []
    for first in range(0, n_projects, a_night):
        for i in range(first, min(first + a_night, n_projects)):
            learner.projects.append(StubProject(f"P{i:04d}", folder / f"P{i:04d}", MICROGRAPHS).write())
        learner.learned.clear()
        began, cpu = time.monotonic(), time.process_time()
        result = update(registry, "detector", learner, UpdateOptions(), say=lambda _: None)
        assert result.outcome == "promoted", result
        nights.append(
            {
                "projects": len(learner.projects),
                "cpu_s": round(time.process_time() - cpu, 2),
                "wall_s": round(time.monotonic() - began, 2),
                "card_kB": round((registry.versions("detector")[-1].folder / "card.json").stat().st_size / 1e3, 1),
            }
        )
        print(json.dumps(nights[-1]), flush=True)
    home = registry.root / "detector"
    files = [p.stat() for p in home.rglob("*") if p.is_file()]
    unique = {(s.st_dev, s.st_ino): s.st_size for s in files}
    print(json.dumps({"names": len(files), "files": len(unique), "MB": round(sum(unique.values()) / 1e6, 1)}))
    return nights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", type=int, default=1000)
    parser.add_argument("--a-night", type=int, default=10)
    options = parser.parse_args()
    os.nice(5)
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), options.projects, options.a_night)


if __name__ == "__main__":
    main()
