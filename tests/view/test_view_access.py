"""Who gets in: tokens, hosts, headers of a proxy, changes from other sites, and requests beyond all bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from view_client import TestClient
from view_fixtures import READ, SCORED, WRITE

from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.view.access import LOOPBACK, Access, clean_name
from cryoflow.view.app import make_app
from cryoflow.view.opened_entries import Library
from cryoflow.view.serve import tokens

LABEL = {
    "entry": SCORED,
    "window": "w",
    "revision": 0,
    "by": "ada",
    "threshold": 0.5,
    "action": {"do": "label", "label": -1, "picks": {"0": [0]}},
}
PLACES = (
    "/",
    f"/look?entry={SCORED}",
    f"/api/entry?entry={SCORED}",
    "/static/look.js",
    "/reports",
    "/models",
    "/nowhere",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "token", ["", "Bearer ", "Bearer wrong", f"Bearer {READ[:-1]}", f"Bearer {READ}x", f"Basic {READ}"]
)
def test_nothing_is_shown_without_a_token(client: TestClient, place: str, token: str) -> None:
    answer = client.get(place, headers={"authorization": token})
    assert answer.status_code == 401
    assert "P1" not in answer.text


def test_the_printed_link_is_exchanged_for_a_cookie_and_leaves_the_address_bar(client: TestClient) -> None:
    answer = client.get(f"/look?token={READ}&entry={SCORED}")
    assert answer.status_code == 303
    assert answer.headers["location"] == "./look?entry=P1%2FAutoPick_job005"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get(answer.headers["location"].removeprefix(".")).status_code == 200


@pytest.mark.parametrize(
    ("path", "location"),
    [("/a%0d%0aX:%20y", "./a%0D%0AX%3A%20y"), ("/%C3%A9", "./%C3%A9"), ("//evil.example", "./evil.example")],
)
def test_the_exchange_leads_to_a_page_of_the_viewer_whatever_the_link_names(
    client: TestClient, path: str, location: str
) -> None:
    answer = client.get(f"http://127.0.0.1:8765{path}?token={READ}")
    assert (answer.status_code, answer.headers["location"]) == (303, location)
    assert "x" not in answer.headers


def test_a_link_of_an_earlier_start_is_told_from_no_link(client: TestClient) -> None:
    assert client.get("/?token=" + "o" * 32).status_code == 403
    assert client.get("/?token=%F0%9F%98%80").status_code == 403


def test_the_link_for_looking_cannot_write(client: TestClient) -> None:
    headers = {"authorization": f"Bearer {READ}", "origin": "http://127.0.0.1:8765"}
    assert client.post("/api/act", json=LABEL, headers=headers).status_code == 403
    assert (
        client.post("/api/act", json=LABEL, headers={**headers, "authorization": f"Bearer {WRITE}"}).status_code == 200
    )


def test_without_a_token_for_writing_nobody_writes(database: Database) -> None:
    client = TestClient(make_app(Library(database), Access(READ)), base_url="http://127.0.0.1:8765")
    for token in (READ, WRITE, "None", ""):
        headers = {"authorization": f"Bearer {token}", "origin": "http://127.0.0.1:8765"}
        assert client.post("/api/act", json=LABEL, headers=headers).status_code in (401, 403)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "evil.example:8765",
        "127.0.0.1:x",
        "",
        "[::1",
    ],
)
def test_a_foreign_host_name_is_refused_though_the_token_is_right(reader: TestClient, host: str) -> None:
    assert reader.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:1234", "[::1]:8765", "LOCALHOST"])
def test_a_tunnel_may_have_another_port(reader: TestClient, host: str) -> None:
    assert reader.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", ""])
def test_changes_from_other_sites_are_refused(writer: TestClient, origin: str) -> None:
    assert writer.post("/api/act", json=LABEL, headers={"origin": origin}).status_code == 403


def test_a_form_of_another_site_cannot_pass_as_json(writer: TestClient) -> None:
    assert writer.post("/api/act", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_reach_no_address(writer: TestClient, method: str) -> None:
    for place in ("/api/act", "/nowhere"):
        assert writer.request(method, place).status_code == 405


def test_requests_are_bounded(writer: TestClient) -> None:
    big = b'{"x":"' + b"a" * (1 << 20) + b'"}'
    assert writer.post("/api/act", content=big, headers={"content-type": "application/json"}).status_code == 413
    assert writer.get("/api/entry", params={"entry": "a" * 20_000}).status_code == 414
    assert writer.get("/api/entry", params={"entry": "a" * 2000}).status_code == 422
    assert writer.get("/api/patches", params={"entry": SCORED, "picks": ",".join(["0.0"] * 61)}).status_code == 422
    assert writer.request("DELETE", "/").status_code == 405
    chunked = writer.post("/api/act", content=iter([b"{}"]), headers={"content-type": "application/json"})
    assert chunked.status_code == 413


@pytest.mark.parametrize(
    "place", ["/", f"/look?entry={SCORED}", f"/api/entry?entry={SCORED}", "/api/nowhere", "/nowhere"]
)
def test_every_answer_forbids_scripts_of_others_and_caching(reader: TestClient, place: str) -> None:
    headers = reader.get(place).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_a_user_named_by_the_proxy_counts_only_with_the_token(database: Database) -> None:
    access = replace(Access(READ, WRITE), user_header="X-Remote-User", hosts=LOOPBACK | {"picks.example.org"})
    app = make_app(Library(database), access)
    client = TestClient(app, base_url="http://picks.example.org")
    named = {"x-remote-user": "ada", "origin": "http://picks.example.org"}
    assert client.get("/", headers=named).status_code == 401
    assert client.get("/", headers={"authorization": f"Bearer {READ}"}).status_code == 401
    headers = {**named, "authorization": f"Bearer {WRITE}"}
    assert client.post("/api/act", json={**LABEL, "by": "somebody else"}, headers=headers).status_code == 200
    (journal,) = (database.root / ".reviews").iterdir()
    assert '"by":"ada"' in journal.read_text()


def test_names_of_people_are_one_printable_line() -> None:
    assert clean_name(" Ada\n\x1b[31m  L. ") == "Ada [31m L."
    assert len(clean_name("a" * 500)) == 80


def test_tokens_of_a_file_stay_and_others_may_not_read_them(tmp_path: Path) -> None:
    file = tmp_path / "etc" / "tokens"
    first = tokens(file)
    assert tokens(file) == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(set(first)) == 2
    file.chmod(0o644)
    with pytest.raises(BadInput, match="others may read"):
        tokens(file)
    file.chmod(0o600)
    for content in ("short\nones\n", f"{READ}\n{READ}\n", f"{READ}\n"):  # with equal ones, who may look may write
        file.write_text(content)
        with pytest.raises(BadInput, match="two tokens"):
            tokens(file)
