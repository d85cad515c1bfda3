"""A slurmrestd that is a small server, for tests of what talks to slurmrestd."""

from __future__ import annotations

import contextlib
import getpass
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeRest:
    """What the server was asked, and what it answers: by method and path, status and body."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, Any]] = []
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        rest = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                rest.asked.append((self.command, self.path, json.loads(text or "null"), self.headers))
                gone = {"errors": [{"error": "Invalid job id specified", "error_number": 2017}]}
                status, body = rest.answers.get((self.command, self.path), (500, gone))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def jobs(self, *jobs: dict[str, Any]) -> None:
        whole = [{"user_name": getpass.getuser(), "state_reason": "None", "comment": ""} | job for job in jobs]
        self.answers["GET", "/slurm/v0.0.38/jobs"] = (200, {"errors": [], "jobs": whole})


@contextlib.contextmanager
def fake_rest() -> Iterator[FakeRest]:
    """Serve a `FakeRest` as long as the block lasts."""
    rest = FakeRest()
    thread = threading.Thread(target=rest.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield rest
    finally:
        rest.server.shutdown()
        thread.join()
        rest.server.server_close()
