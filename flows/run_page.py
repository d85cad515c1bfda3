"""The page of a run in Prefect: its name, its progress, its tables and its report."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from cryoflow.cluster.dispatch import SHARD_TAG
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.parameters import Parameters, fields_of
from cryoflow.settings.load import load_settings
from cryoflow.storage.json_values import plain

log = logging.getLogger("flows")
"""One or two lines for each stage: in the run's log, and on the terminal that started it."""
log.setLevel(logging.INFO)  # Prefect gives it its handler but no level, and the root's is WARNING


class OnceWithoutTraceback(logging.Filter):
    """Log an error that cryoflow raises on purpose as one line, once; `--debug` or CRYOFLOW_DEBUG=1 keep tracebacks.

    Prefect logs each exception with its traceback, for the task, the flow and the flow above it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; shorten one of an expected error."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, CryoflowError) or os.environ.get("CRYOFLOW_DEBUG", "0") not in ("", "0"):
            return True
        if getattr(error, "is_logged", False):
            return False
        error.is_logged = True  # type: ignore[attr-defined]
        if isinstance(error, BadInput):
            error.args = (_worded(str(error)),)  # Prefect makes the message of the run's state of it, after this
        record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        return True


class InWordsOfForm(logging.Filter):
    """Let warnings of a deployed run name fields of its form; lower levels carry what other programs print."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Reword a record, and log it."""
        if record.levelno >= logging.WARNING:
            record.msg, record.args = _worded(record.getMessage()), ()
        return True


def _worded(message: str) -> str:
    """Return a message as whoever filled in the form of this run reads it; others know the options."""
    context = FlowRunContext.get()
    if context is None or "PREFECT__FLOW_RUN_ID" not in os.environ:  # no worker started this
        return message
    parameters = (context.parameters or {}).get("parameters")
    return _in_words_of_form(message, type(parameters)) if isinstance(parameters, Parameters) else message


_COMMAND_OR_OPTION = re.compile(r"`[^`]*`|\bcryoflow [a-z].*?(?=[.;)](?:\s|$)|$)|(?<![\w-])--[a-z][a-z-]*")
_ON_COMMAND_LINE = re.compile(r" On the command line, .*?\.(?=\s|$)")


def _in_words_of_form(message: str, declaration: type[Parameters]) -> str:
    """Return a message with the names of a form's fields in place of options; whole commands stay as they are.

    >>> from cryoflow.pickers.parameters import ExportParameters
    >>> _in_words_of_form("Give --box, or --no-negatives. `cryoflow export --copy`", ExportParameters)
    'Give box_px, or negatives = no. `cryoflow export --copy`'
    """
    names = {option: field.name for field in fields_of(declaration) for option in field.names}
    names |= {f"--no-{option[2:]}": f"{name} = no" for option, name in names.items()}

    def word(found: re.Match[str]) -> str:
        text = found[0]
        return names.get(text, text[2:].replace("-", "_")) if text.startswith("--") else text

    return _COMMAND_OR_OPTION.sub(word, _ON_COMMAND_LINE.sub("", message))


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(OnceWithoutTraceback())
for _name in ("cryoflow", "flows"):
    for _handler in logging.getLogger(_name).handlers:
        _handler.addFilter(InWordsOfForm())


def run_name(stage: str, subject: Callable[[Any], str]) -> Callable[[], str]:
    """Return a function that names runs, such as `ingest · P190 · 2026-11-21`.

    Parameters
    ----------
    subject
        Returns the subject of a run, from the flow's parameters.
    """

    def name() -> str:
        parameters = flow_run.parameters["parameters"]
        return f"{stage} · {subject(parameters)} · {datetime.now():%Y-%m-%d}"  # the reader's day

    return name


def show_table(stage: str, rows: Iterable[object], description: str) -> None:
    """Show a table of dataclasses or mappings on the run's page; the key holds its history over runs."""
    log.info("%s", description)
    show_artifact("table", stage, json.dumps([_literal_values(plain(row)) for row in rows]), description)


def show_text(stage: str, text: str) -> None:
    """Show text on the run's page."""
    show_artifact("markdown", stage, literal(text))


def show_link(stage: str, path: Path, text: str) -> None:
    """Show a link to a page on the site's viewer; a browser opens no file of a server by its path."""
    from cryoflow.view.addresses import report_address

    address = report_address(path, load_settings().settings.site)
    log.info("%s: %s", text, address or path.absolute())
    if address:
        show_artifact("markdown", stage, f"[{literal(text)}]({address})", str(path.absolute()))
    else:
        why = "No viewer of this site serves it: see `viewer` in docs/cluster.md."
        show_artifact(
            "markdown", stage, f"{literal(text[:1].upper() + text[1:])} is the file {code(path.absolute())}. {why}"
        )


def show_artifact(kind: str, stage: str, data: str, description: str | None = None) -> None:
    """Create an artifact on the run's page, and on that of the run that started all, except for shards of a stage.

    `data` is Markdown or JSON, `description` is text.
    """
    own, root = flow_run.id, flow_run.root_flow_run_id
    runs = [own] if not root or root == own or SHARD_TAG in (flow_run.tags or []) else [own, root]
    words = None if description is None else literal(description)
    with get_client(sync_client=True) as client:
        for run in runs:
            # Prefect's class Artifact would encode the data as JSON once more, and the page then shows no table.
            client.create_artifact(
                ArtifactCreate(type=kind, key=_key(stage), data=data, description=words, flow_run_id=UUID(run))
            )


@contextmanager
def shown_progress(stage: str, description: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress on the run's page; call the function that it yields with steps done and steps in all."""
    artifact = create_progress_artifact(0.0, key=_key(f"{stage}-progress"), description=literal(description))
    shown = logged = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown, logged
        now = time.monotonic()
        if total and now - shown > 1:
            shown = now
            update_progress_artifact(artifact, 100.0 * done / total)  # type: ignore[arg-type]
        if total and now - logged > 10:
            logged = now
            log.info("%s: %d of %d", description, done, total)

    yield report
    update_progress_artifact(artifact, 100.0)  # type: ignore[arg-type]


def _key(stage: str) -> str:
    """Return a key as Prefect takes it: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")


_MARKDOWN = re.compile(
    r"[\\`*\[\]<>&!|~#@]|(?<!\w)_|_(?!\w)|(?<=[A-Za-z]):(?=//)|(?<=\bwww)\.|^[-+=]|(?<=^\d)[.)]", re.IGNORECASE
)
"""What Markdown gives a meaning, with addresses that it makes links of."""


def literal(text: str) -> str:
    """Return Markdown that shows a text as it is.

    Prefect's pages render descriptions and tables of artifacts as Markdown with HTML in it. The name of a project could
    bring along an image, which a browser fetches from any server, or a link that runs a script.
    """
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def _literal_values(value: object) -> object:
    """Return JSON values whose texts Prefect's tables show as they are: cells are Markdown, too."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, dict):
        return {literal(str(name)): _literal_values(below) for name, below in value.items()}
    return [_literal_values(below) for below in value] if isinstance(value, list) else value


def code(text: object) -> str:
    """Return Markdown that shows a text as code."""
    words = " ".join(str(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    return f"{fence}{words}{fence}" if fence == "`" else f"{fence} {words} {fence}"
