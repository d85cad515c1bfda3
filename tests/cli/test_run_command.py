"""`cryoflow run`: what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoflow.cli.output import UsageError
from cryoflow.cli.run import run


def test_without_resume_the_output_folder_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").touch()
    with pytest.raises(UsageError, match="is not empty"):
        run(tmp_path, output=tmp_path / "run", resume=False)


def test_no_folder_of_projects_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ROOTS is required\. Folders below which"):
        run(output=tmp_path)
