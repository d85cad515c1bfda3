"""Set Prefect up for commands that run flows, and print their results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryoflow.cli.cluster import HOW_TO_SIGN_IN
from cryoflow.cli.output import emit_json, emit_record, emit_table, say
from cryoflow.errors import CryoflowError, ExitCode
from cryoflow.settings.profiles import ProfileName

if TYPE_CHECKING:
    from flows.pipeline import PipelineResult


def prepare_prefect(profile: ProfileName | None = None) -> None:
    """Set Prefect up for a person at a terminal, before it is imported; `--verbose` and set variables win.

    The profile is passed on in the environment, where flows read it.
    """
    import logging

    if profile:
        os.environ["CRYOFLOW_PROFILE"] = str(profile)

    if not logging.getLogger("cryoflow").isEnabledFor(logging.INFO):
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    _print_stages()
    from cryoflow.doctor import access_problem
    from cryoflow.settings.load import load_settings

    settings = load_settings().settings
    otherwise = "unset PREFECT_API_URL to use the embedded one"
    if settings.place != ProfileName.LOCAL:  # the site's server knows the deployments, an embedded one does not
        os.environ.setdefault("PREFECT_API_URL", f"{settings.site.server.rstrip('/')}/api")
        otherwise = "set CRYOFLOW_PROFILE=local to run all stages on this machine"
    if url := os.environ.get("PREFECT_API_URL"):
        if problem := access_problem(url):
            cure = HOW_TO_SIGN_IN if "secret" in problem else "Start it (`cryoflow up`)"
            raise CryoflowError(f"{problem}. {cure}, or {otherwise}.")
    else:
        say("starting Prefect's embedded server, a quarter of a minute (set PREFECT_API_URL to use one that runs)")


def _print_stages() -> None:
    """Print the log of the flows on stderr, with the time since the start; nothing with `--quiet`."""
    import logging
    import time

    started = time.monotonic()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seconds = time.monotonic() - started
            say(f"{int(seconds) // 60:2d}:{int(seconds) % 60:02d} {record.getMessage()}")

    logger = logging.getLogger("flows")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [Handler()]
    logger.propagate = False


def show_result(result: PipelineResult, *, as_json: bool) -> ExitCode:
    """Print where the results are and what they are, and return the exit code."""
    if as_json:
        scores = {
            when: [{"entry": c.entry, "precision": c.precision, "recall": c.recall} for c in comparisons]
            for when, comparisons in (("before", result.before), ("after", result.after))
        }
        emit_json(
            {
                "ingest": result.ingested.summary,
                "database": result.database,
                "training_sets": result.exports,
                "model": result.model,
                "unpicked": result.unpicked,
                "report": result.report,
                **scores,
            }
        )
        return result.ingested.exit_code
    emit_record(
        {
            "ingest": result.ingested.summary if result.ingested.lines else "see the table of its run",
            "database": result.database,
            "training sets": result.exports,
            "model": result.model,
            "clean picks": result.unpicked,
            "report": result.report,
        }
    )
    rows = [
        {
            "project": before.entry.split("/")[0],
            "micrographs": len(before.micrographs),
            "true particles": before.n_reference,
            "picks before": before.n_picks,
            "precision before": before.precision,
            "recall before": before.recall,
            "picks after": after.n_picks,
            "precision after": after.precision,
            "recall after": after.recall,
        }
        for before, after in zip(result.before, result.after, strict=True)
    ]
    if rows:
        print()
        emit_table(rows, title="Picks on test micrographs, compared with the ground truth")
    return result.ingested.exit_code
