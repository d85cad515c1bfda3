"""Who may see and change what: tokens, the names of hosts, users' names from a proxy, and the size of requests.

Every address needs a token. The link that `cryoflow view` prints carries one as `?token=...`; it is exchanged for a
cookie, and taken out of the address bar. A proxy sends it with each request instead (`Authorization: Bearer ...`), and
may name the user in a header; that header counts only together with the token, which only the proxy has.

Requests for a host name that is not the viewer's are refused: a page of somebody else could otherwise have its own name
resolve to this machine and read from the viewer with the user's browser (DNS rebinding). Changes are taken as JSON from
the viewer's own pages only.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MOST_BODY_BYTES = 1 << 20
MOST_ADDRESS_BYTES = 1 << 14
LONGEST_NAME = 80

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Access:
    """Tokens, hosts and users that may see or change the pages.

    Attributes
    ----------
    read_token, write_token
        Secrets of the two links; None: nobody may write.
    user_header
        Header in which a proxy names the user, empty where there is no proxy.
    hosts
        Names under which the viewer is reached, without a port.
    cookie
        Name of the cookie. Cookies are shared by all ports of a host, so it holds the port.
    """

    read_token: str = field(repr=False)
    write_token: str | None = field(default=None, repr=False)
    user_header: str = ""
    hosts: frozenset[str] = LOOPBACK
    cookie: str = "cryoflow_view"

    def may_write(self, token: str) -> bool | None:
        """Return whether a token allows to write; None where it is neither of the two."""
        known = token.encode(errors="replace")
        writes = self.write_token is not None and hmac.compare_digest(known, self.write_token.encode())
        reads = hmac.compare_digest(known, self.read_token.encode())
        return True if writes else False if reads else None


@dataclass(frozen=True)
class Visitor:
    """Sender of a request. `name` is empty where no proxy names users: the page then asks for it."""

    may_write: bool
    name: str = ""


def new_token() -> str:
    """Return a secret of 192 bits."""
    return secrets.token_urlsafe(24)


class Guard:
    """ASGI middleware that lets through what `Access` allows; the visitor is `scope["state"]["visitor"]`."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._refused(scope, headers)
        if answer is None:
            visitor = self._visitor(scope, headers)
            if isinstance(visitor, Visitor):
                answer = self._bad_change(scope, headers, visitor)
                if answer is None:
                    scope.setdefault("state", {})["visitor"] = visitor
                    await self.app(scope, receive, _with_headers(send))
                    return
            else:
                answer = visitor
        await _answer(_with_headers(send), *answer)

    def _refused(
        self, scope: Scope, headers: dict[str, str]
    ) -> tuple[int, str, tuple[tuple[bytes, bytes], ...]] | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname if _is_host(headers.get("host", "")) else None
        if host not in self.access.hosts:
            return 421, "The viewer is not known under this name. Start it with --host-name NAME to allow the name.", ()
        if len(scope.get("raw_path", b"")) + len(scope["query_string"]) > MOST_ADDRESS_BYTES:
            return 414, "The address is too long.", ()
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "Not allowed.", ()
        return None

    def _visitor(
        self, scope: Scope, headers: dict[str, str]
    ) -> Visitor | tuple[int, str, tuple[tuple[bytes, bytes], ...]]:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        in_link = next((value for name, value in query if name == "token"), None)
        if in_link is not None and scope["method"] == "GET":
            if self.access.may_write(in_link) is None:
                return 403, "This link is of an earlier start of the viewer, or incomplete. Ask for the new one.", ()
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            place = "./" + quote(scope["path"].rpartition("/")[2]) + (f"?{rest}" if rest else "")
            cookie = f"{self.access.cookie}={in_link}; HttpOnly; SameSite=Strict; Path=/"
            return 303, "", ((b"location", place.encode()), (b"set-cookie", cookie.encode()))
        bearer = headers.get("authorization", "")
        token = bearer[7:] if bearer.lower().startswith("bearer ") else self._cookie(headers.get("cookie", ""))
        may_write = self.access.may_write(token) if token else None
        if may_write is None:
            return 401, "Open the link that 'cryoflow view' printed when it started: it carries the token.", ()
        if not self.access.user_header:
            return Visitor(may_write)
        name = clean_name(headers.get(self.access.user_header.lower(), ""))
        if not name:
            return 401, f"The proxy did not name a user in the header {self.access.user_header}.", ()
        return Visitor(may_write, name)

    def _bad_change(
        self, scope: Scope, headers: dict[str, str], visitor: Visitor
    ) -> tuple[int, str, tuple[tuple[bytes, bytes], ...]] | None:
        if scope["method"] != "POST":
            return None
        origin = headers.get("origin", "")
        if urlsplit(origin).netloc != headers.get("host") and headers.get("sec-fetch-site") != "same-origin":
            return 403, "Changes are taken from the viewer's own pages only.", ()
        if headers.get("content-type", "").partition(";")[0] != "application/json":
            return 415, "Changes are JSON.", ()
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > MOST_BODY_BYTES:
            return 413, "The request is too large, or does not tell its length.", ()
        if not visitor.may_write:
            return 403, "This link allows to look only. The link for writing is printed by 'cryoflow view --write'.", ()
        return None

    def _cookie(self, text: str) -> str:
        try:
            found = SimpleCookie(text).get(self.access.cookie)
        except CookieError:
            return ""
        return found.value if found else ""


def clean_name(text: str) -> str:
    """Return a person's name as it may stand in files: printable, at most `LONGEST_NAME` characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:LONGEST_NAME]


def _is_host(text: str) -> bool:
    try:
        urlsplit(f"//{text}").port  # noqa: B018 raises where it is no number
    except ValueError:
        return False
    return "@" not in text and "/" not in text


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message.get("headers", ())}
            message["headers"] = [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in there)]
            if b"cache-control" not in there:
                message["headers"].append((b"cache-control", b"no-store"))
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    body = text.encode()
    about = ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*about, *headers]})
    await send({"type": "http.response.body", "body": body})
