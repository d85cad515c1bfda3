"""A SLURM that is a folder, for tests of everything that only talks to SLURM's commands."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

VIOLATES = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
)
"""What SLURM prints for every limit of its accounting, behind the name of the limit."""


@dataclass
class FakeSlurm:
    """The folder behind the stand-ins of SLURM's commands."""

    folder: Path

    def job(self, number: int) -> dict[str, object]:
        return dict(json.loads((self.folder / f"{number}.json").read_text()))

    def numbers(self) -> list[int]:
        return sorted(int(file.stem) for file in self.folder.glob("[0-9]*.json"))

    def set(self, number: int, **values: object) -> None:
        with (self.folder / "jobs.lock").open("w") as lock:  # scancel could write an older state over this one
            fcntl.flock(lock, fcntl.LOCK_EX)
            old = self.job(number) if number in self.numbers() else {"reason": "None", "comment": ""}
            hidden = self.folder / f".{number}"
            hidden.write_text(json.dumps(old | values))
            hidden.rename(self.folder / f"{number}.json")

    def flag(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def unflag(self, name: str) -> None:
        (self.folder / name).unlink()

    def calls(self, command: str) -> list[str]:
        return self._noted("calls", command)

    def starts_s(self, command: str) -> list[float]:
        """Return when each call of a command was started, in seconds since boot."""
        return [float(line.split()[1]) for line in self._noted("starts", command)]

    def _noted(self, name: str, command: str) -> list[str]:
        file = self.folder / name
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.split()[0] == command]
