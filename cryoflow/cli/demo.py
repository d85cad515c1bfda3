"""`cryoflow demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def demo(*, output: Annotated[Path, Parameter()] = Path("demo")) -> None:
    """Run the whole path."""
