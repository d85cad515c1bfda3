"""Start a stage in its job: wait for a Prefect server that is away, then become Prefect's engine.

The engine gives up at the first refused connection, and a server takes longer than that to restart. It may also go away
while the engine is imported, or later: such a job ends with a status of its own, and is tried again.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
import urllib.error
import urllib.request

START_STAGE = "cryoflow.cluster.start_stage"
PATIENCE = "CRYOFLOW_SERVER_PATIENCE_MINUTES"
PAUSE_S = 5.0
SERVER_AWAY = 75
"""Exit status that the worker reads as: try again (EX_TEMPFAIL)."""


def wait_for_server(api_url: str, patience_s: float) -> bool:
    """Return whether the server at a Prefect API address answers, waiting for it as long as allowed."""
    end = time.monotonic() + patience_s
    is_first = True
    while True:
        try:
            with urllib.request.urlopen(f"{api_url.rstrip('/')}/health", timeout=10):  # noqa: S310  # the site's own
                return True
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return True  # it answers; what it refuses, the engine reports better
            problem = str(error)
        except OSError as error:
            problem = str(error)
        if time.monotonic() >= end:
            return False
        if is_first:
            print(f"cryoflow: waiting for the Prefect server {api_url}: {problem}", flush=True)
            is_first = False
        time.sleep(PAUSE_S)


def main() -> None:
    """Wait for the server of `PREFECT_API_URL`, and run the engine."""
    api_url = os.environ.get("PREFECT_API_URL", "")
    patience_s = float(os.environ.get(PATIENCE, "30")) * 60
    if api_url.startswith(("http://", "https://")) and not wait_for_server(api_url, patience_s):
        print(f"cryoflow: the Prefect server {api_url} did not answer for {patience_s / 60:g} minutes", flush=True)
        sys.exit(SERVER_AWAY)
    try:
        # In this process, so that signals and the exit status of the job are the engine's.
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code == 1 and _could_not_connect(ended):
            print(f"cryoflow: the Prefect server {api_url} went away", flush=True)
            sys.exit(SERVER_AWAY)
        raise


def _could_not_connect(error: BaseException | None) -> bool:
    """Return whether an error came from a connection that the server refused."""
    import httpx  # the engine has imported it

    while error is not None:
        if isinstance(error, httpx.ConnectError):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
