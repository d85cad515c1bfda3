"""What a person sees of a run in Prefect's pages: its name, its progress, its tables and its report."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run

from cryoflow.storage.json_values import plain

log = logging.getLogger("flows")
"""What goes on, in a line or two a stage: in the run's log, and on the terminal of who started it."""
log.setLevel(logging.INFO)  # Prefect gives it its handler but no level, and the root's is WARNING


def run_name(stage: str, subject: Callable[[Any], str]) -> Callable[[], str]:
    """Names runs like `ingest · P190 · 2026-11-21`.

    Parameters
    ----------
    subject
        From the flow's parameters to what it works on.
    """

    def name() -> str:
        parameters = flow_run.parameters["parameters"]
        return f"{stage} · {subject(parameters)} · {datetime.now():%Y-%m-%d}"  # the reader's day

    return name


def show_table(stage: str, rows: Iterable[object], description: str) -> None:
    """A table of dataclasses or mappings on the run's page; the key holds its history over runs."""
    log.info("%s", description)
    create_table_artifact(table=[plain(row) for row in rows], key=_key(stage), description=description)  # type: ignore[arg-type]


def show_text(stage: str, markdown: str) -> None:
    """Text on the run's page."""
    create_markdown_artifact(markdown, key=_key(stage))


def show_link(stage: str, path: Path, text: str) -> None:
    """A link to a file on the machine where the run took place."""
    log.info("%s: %s", text, path.absolute())
    create_link_artifact(path.absolute().as_uri(), link_text=text, key=_key(stage), description=str(path.absolute()))


@contextmanager
def shown_progress(stage: str, description: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on the run's page: call what it gives with how much is done and of how much; once a second is enough."""
    artifact = create_progress_artifact(0.0, key=_key(f"{stage}-progress"), description=description)
    shown = told = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown, told
        now = time.monotonic()
        if total and now - shown > 1:
            shown = now
            update_progress_artifact(artifact, 100.0 * done / total)  # type: ignore[arg-type]
        if total and now - told > 10:
            told = now
            log.info("%s: %d of %d", description, done, total)

    yield report
    update_progress_artifact(artifact, 100.0)  # type: ignore[arg-type]


def _key(stage: str) -> str:
    """Prefect's keys are small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")
