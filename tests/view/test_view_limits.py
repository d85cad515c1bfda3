"""Bounds of what the running server takes: requests at a time, and the size of one, over real connections."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import parse_qs, urlsplit

import pytest
from view_fixtures import SCORED, links_of, make_database

from cryoflow.view.access import MOST_BODY_BYTES
from cryoflow.view.serve import MOST_CONNECTIONS


class Server:
    """A running viewer, and requests to it byte by byte."""

    def __init__(self, links: dict[str, str]) -> None:
        link = urlsplit(links["write"])
        self.address = ("127.0.0.1", link.port or 0)
        self.token = parse_qs(link.query)["token"][0]

    def connection(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60)

    def request(self, method: str, path: str, body: bytes = b"", *more: str) -> bytes:
        host = f"127.0.0.1:{self.address[1]}"
        lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {self.token}")
        lines += (f"Origin: http://{host}", "Content-Type: application/json", "Connection: close", *more)
        return "\r\n".join((*lines, "", "")).encode() + body

    def answer(self, request: bytes) -> str:
        """The whole answer to a request, empty where the server closes the connection."""
        with self.connection() as opened:
            answer = b""
            try:
                opened.sendall(request)
                while piece := opened.recv(1 << 16):
                    answer += piece
            except ConnectionError:  # the server need not read what it has refused
                pass
            return answer.decode(errors="replace")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    database = make_database(tmp_path_factory.mktemp("limits"))
    command = [sys.executable, "-m", "cryoflow", "view", SCORED, "--database", str(database.root), "--write", "--json"]
    viewer = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        yield Server(links_of(viewer))
    finally:
        viewer.terminate()
        viewer.wait(30)
        assert viewer.stdout
        viewer.stdout.close()


def test_more_requests_at_a_time_than_the_bound_are_refused_and_the_next_ones_served(server: Server) -> None:
    request = server.request("GET", "/static/icon.svg")
    with ExitStack() as stack:
        waiting = [stack.enter_context(server.connection()) for _ in range(MOST_CONNECTIONS)]
        for opened in waiting:
            opened.sendall(b"GET / HTTP/1.1\r\n")  # not a whole request: the server waits for the rest of each
        assert server.answer(request).startswith("HTTP/1.1 503")
    for _ in range(200):  # the server notices one by one that they are gone
        if (answer := server.answer(request)).startswith("HTTP/1.1 200"):
            break
    assert answer.startswith("HTTP/1.1 200")


def test_a_body_beyond_the_bound_is_refused_before_it_is_read(server: Server) -> None:
    announced = f"Content-Length: {MOST_BODY_BYTES + 1}"
    assert server.answer(server.request("POST", "/api/act", b"", announced)).startswith("HTTP/1.1 413")
    assert server.answer(server.request("POST", "/api/act", b"0\r\n\r\n", "Transfer-Encoding: chunked")).startswith(
        "HTTP/1.1 413"
    )


def test_a_body_is_no_longer_than_it_says(server: Server) -> None:
    """More bytes than announced are no part of the request, and end the connection."""
    answer = server.answer(server.request("POST", "/api/act", b"{}" + b"x" * 5_000_000, "Content-Length: 2"))
    assert answer.startswith("HTTP/1.1 4") or not answer
    assert "x" * 100 not in answer


@pytest.mark.parametrize(
    "more", [f"X: {'a' * 5_000_000}", "\r\n".join(f"X-{i}: a" for i in range(100_000))], ids=["long", "many"]
)
def test_headers_beyond_all_bounds_are_refused(server: Server, more: str) -> None:
    answer = server.answer(server.request("GET", "/", b"", more))
    assert not answer.startswith("HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/../../etc/passwd", "//etc/passwd", "/static/../look.js", "/reports//etc/passwd"])
def test_a_path_that_no_browser_would_send_leads_nowhere(server: Server, path: str) -> None:
    answer = server.answer(server.request("GET", path))
    assert "root:" not in answer
    assert answer.startswith("HTTP/1.1 404")
