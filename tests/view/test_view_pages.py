"""What the addresses answer: entries, pictures, counts, changes, pages, reports."""

from __future__ import annotations

import io
import json
import os
import re
import struct
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image
from view_client import TestClient
from view_fixtures import HOSTILE, OTHER, SCORED, SHAPE_YX, UNPICKED, contents, entry_files, put_pixels, write_mask

from cryoflow.database import Database
from cryoflow.micrographs.image import write_mrc
from cryoflow.report.page import Section, write_report
from cryoflow.unpicker.decision import DOUBTFUL
from cryoflow.view import pictures
from cryoflow.view.pages import static_names

ASK = {"entry": SCORED, "window": "w", "revision": 0, "by": "ada", "threshold": 0.5}


def act(client: TestClient, **action: object) -> dict[str, object]:
    answer = client.post("/api/act", json={**ASK, "action": action})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_entry_and_its_micrographs_are_told(reader: TestClient, database: Database) -> None:
    entry = reader.get("/api/entry", params={"entry": SCORED}).json()
    assert (entry["n"], len(entry["names"]), entry["calibrated"]) == (48, 4, True)
    assert sum(entry["histogram"]) == 48
    assert entry["doubtful"] == list(DOUBTFUL)
    m = reader.get("/api/micrograph", params={"entry": SCORED, "micrograph": 1, "other": [OTHER]}).json()
    picks = database.load(SCORED)
    assert (m["ny"], m["nx"]) == SHAPE_YX
    assert np.allclose(np.stack([m["x"], m["y"]], axis=1), picks.centers_xy_px[12:24], atol=0.01)
    assert m["score"] == picks.picks["score"].tolist()[12:24]
    assert np.allclose(m["others"][0]["xy"], database.load(OTHER).centers_xy_px[6:12], atol=0.01)


def test_counts_are_those_of_unpicking_at_every_threshold(reader: TestClient, database: Database) -> None:
    scores = database.load(SCORED).picks["score"].to_numpy()
    for threshold in (0, 0.3, 0.5, float(scores[5]), 1):
        listed = reader.get("/api/list", params={"entry": SCORED, "threshold": threshold}).json()
        assert listed["tally"]["n_kept"] == sum(listed["n_kept"]) == int((scores >= threshold).sum())
    assert reader.get("/api/tally", params={"entry": SCORED, "threshold": 0.5}).json()["n_kept"] == len(
        database.load(UNPICKED)
    )


def test_tiles_show_the_micrograph_and_nothing_beyond_it(reader: TestClient) -> None:
    tile = {"entry": SCORED, "micrograph": 0, "level": 0, "row": 0, "column": 0, "lowpass": 10}
    answer = reader.get("/api/tile", params=tile)
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == SHAPE_YX[::-1]
    for change in ({"row": 1}, {"level": 9}, {"micrograph": 4}):
        assert reader.get("/api/tile", params={**tile, **change}).status_code == 404
    for change in ({"lowpass": 7}, {"level": -1}, {"micrograph": -1}, {"lowpass": "nan"}, {"row": 10**9}):
        assert reader.get("/api/tile", params={**tile, **change}).status_code == 422


@pytest.mark.parametrize(
    ("place", "query"),
    [
        ("micrograph", {}),
        ("tile", {"level": 0, "row": 0, "column": 0}),
        ("mask", {}),
        ("montage", {"threshold": 0.5}),
        ("patches", {"picks": "0.0,4.0"}),
    ],
)
def test_the_number_of_a_micrograph_that_is_not_there_is_told(
    reader: TestClient, place: str, query: dict[str, object]
) -> None:
    answer = reader.get(f"/api/{place}", params={"entry": SCORED, "micrograph": 4, **query})
    assert (answer.status_code, answer.json()["detail"]) == (404, f"{SCORED} has no micrograph 4")


def test_a_missing_image_is_told_and_its_picks_are_shown(reader: TestClient, database: Database) -> None:
    path = Path(str(database.load(SCORED).micrographs["path"].iloc[2]))
    path.unlink()
    m = reader.get("/api/micrograph", params={"entry": SCORED, "micrograph": 2}).json()
    assert m["problem"]
    assert len(m["x"]) == 12
    tile = {"entry": SCORED, "micrograph": 2, "level": 0, "row": 0, "column": 0}
    assert reader.get("/api/tile", params=tile).status_code == 404
    assert reader.get("/api/patches", params={"entry": SCORED, "picks": "2.0,1.0"}).status_code == 200


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda good: b"", "0 bytes long"),
        (lambda good: good[:5000], "cut short"),
        (lambda good: b"\xff" * 8 + good[8:], "not an MRC file"),
        (lambda good: good[:8] + struct.pack("<2i", 1, 99) + good[16:], "MRC mode 99"),
        (lambda good: good[:4] + struct.pack("<2i", 30, 10) + good[12:], "a stack"),
    ],
)
def test_a_broken_image_is_told_and_its_picks_are_shown(
    reader: TestClient, database: Database, damage: Callable[[bytes], bytes], told: str
) -> None:
    path = Path(str(database.load(SCORED).micrographs["path"].iloc[1]))
    path.write_bytes(damage(path.read_bytes()))
    m = reader.get("/api/micrograph", params={"entry": SCORED, "micrograph": 1}).json()
    assert told in m["problem"]
    assert (len(m["x"]), m["ny"], m["nx"]) == (12, *SHAPE_YX)
    answer = reader.get("/api/tile", params={"entry": SCORED, "micrograph": 1, "level": 0, "row": 0, "column": 0})
    assert answer.status_code == 404
    assert told in answer.json()["detail"]
    patches = reader.get("/api/patches", params={"entry": SCORED, "picks": "1.0,0.1"}).content
    assert Image.open(io.BytesIO(patches)).size == (192, 96)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 0.0])
def test_an_image_of_odd_values_is_a_picture(reader: TestClient, database: Database, value: float) -> None:
    path = Path(str(database.load(SCORED).micrographs["path"].iloc[1]))
    pixels = np.full(SHAPE_YX, value, "<f4")
    pixels[::2] *= -1
    put_pixels(path, pixels)
    for level in (0, 1):
        params = {"entry": SCORED, "micrograph": 1, "level": level, "row": 0, "column": 0, "lowpass": 20}
        answer = reader.get("/api/tile", params=params)
        assert Image.open(io.BytesIO(answer.content)).size == (SHAPE_YX[1] >> level, SHAPE_YX[0] >> level)


def test_a_montage_is_ordered_by_distance_from_the_threshold(reader: TestClient, database: Database) -> None:
    scores = database.load(SCORED).picks["score"].to_numpy()
    found = reader.get("/api/montage", params={"entry": SCORED, "threshold": 0.4, "size": 10}).json()
    assert found["n"] == 48
    shown = [p["score"] for p in found["picks"]]
    assert shown == sorted(scores, key=lambda s: abs(s - 0.4))[:10]
    assert [p["kept"] for p in found["picks"]] == [s >= 0.4 for s in shown]
    one = reader.get("/api/montage", params={"entry": SCORED, "threshold": 0.4, "micrograph": 2, "order": "low"}).json()
    assert [p["score"] for p in one["picks"]] == sorted(scores[24:36])
    picks = ",".join(f"{p['micrograph']}.{p['pick']}" for p in found["picks"])
    answer = reader.get("/api/patches", params={"entry": SCORED, "picks": picks})
    assert Image.open(io.BytesIO(answer.content)).size == (960, 96)
    assert reader.get("/api/patches", params={"entry": SCORED, "picks": "0.99"}).status_code == 404


@pytest.mark.parametrize("scale", [20, 1])
def test_a_mask_is_opaque_where_it_marks_junk(reader: TestClient, tmp_path: Path, scale: int) -> None:
    write_mask(tmp_path / "masks", scale=scale)
    params = {"entry": SCORED, "micrograph": 1}
    assert reader.get("/api/micrograph", params=params).json()["mask"] is True
    assert reader.get("/api/micrograph", params={**params, "micrograph": 2}).json()["mask"] is False
    answer = reader.get("/api/mask", params=params)
    assert answer.headers["content-type"] == "image/png"
    alpha = np.asarray(Image.open(io.BytesIO(answer.content)).getchannel("A"))
    assert alpha.shape == (SHAPE_YX[0] // scale, SHAPE_YX[1] // scale)
    expected = np.zeros(alpha.shape, int)
    expected[alpha.shape[0] // 2 :, : alpha.shape[1] // 3] = 255
    assert np.array_equal(alpha, expected)


def test_a_large_mask_is_shown_in_fewer_pixels(tmp_path: Path) -> None:
    values = np.zeros((3001, 2200), np.float32)
    values[2000:, 700:] = 1
    write_mrc(tmp_path / "mask.mrc", values, 1.0)
    picture = Image.open(io.BytesIO(pictures.mask(tmp_path / "mask.mrc", (6002, 4400))))
    assert max(picture.size) <= pictures.MASK_PX
    alpha = np.asarray(picture.getchannel("A")) > 0
    ny, nx = alpha.shape
    assert abs(alpha.any(axis=1).argmax() / ny - 2000 / 3001) < 2 / ny
    assert abs(alpha.any(axis=0).argmax() / nx - 700 / 2200) < 2 / nx
    assert alpha[-1, -1]


def test_a_mask_that_cannot_be_used_is_told(reader: TestClient, tmp_path: Path) -> None:
    params = {"entry": SCORED, "micrograph": 1}
    answer = reader.get("/api/mask", params=params)
    assert (answer.status_code, "has no mask" in answer.text) == (404, True)
    path = write_mask(tmp_path / "masks", nan=True)
    assert "no numbers" in reader.get("/api/mask", params=params).text
    write_mrc(path, np.zeros((20, 20), np.float32), 1.0)
    assert "another shape" in reader.get("/api/mask", params=params).text
    path.write_bytes(b"no mask")
    assert reader.get("/api/mask", params=params).status_code == 404
    assert reader.get("/api/mask", params={**params, "micrograph": 4}).status_code == 404


def test_disagreement_counts_picks_that_only_one_of_two_entries_has(reader: TestClient) -> None:
    params = {"entry": SCORED, "other": OTHER, "threshold": 0.0}
    found = reader.get("/api/disagreement", params=params).json()
    assert len(found) == 4
    assert all(0 < n <= 7 for n in found)  # of twelve picks, six lie 3 px from the other picker's


def test_actions_are_kept_and_told_to_other_windows(writer: TestClient) -> None:
    changed = act(writer, do="label", label=-1, picks={"1": [3]})
    assert changed["revision"] == 1
    assert changed["micrographs"]["1"]["decided"] == [[3, -1]]
    assert changed["by_others"] == []
    params = {"entry": SCORED, "since": 0, "window": "another", "micrograph": 1, "by": "bo"}
    told = writer.get("/api/changes", params=params).json()
    assert told["by_others"] == ["ada"]
    assert told["micrographs"]["1"]["decided"] == [[3, -1]]
    mine = writer.get("/api/changes", params={**params, "window": "w"}).json()
    assert mine["others"] == [{"name": "bo", "micrograph": 1}]
    undone = act(writer, do="undo")
    assert undone["micrographs"]["1"]["decided"] == []
    assert act(writer, do="undo")["done"] is False


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"entry":1}',
        b"[" * 100_000,
        b'{"entry":"P1/AutoPick_job005","window":"w","revision":-1}',
        b'{"entry":"P1/AutoPick_job005","revision":0,"threshold":1' + b"0" * 400 + b',"action":{"do":"undo"}}',
        b'{"entry":"P1/AutoPick_job005","revision":' + b"9" * 10_000 + b"}",
        b'{"entry":"P1/AutoPick_job005","trained":[],"others":[],"revision":0}',
        b'{"entry":"P1/AutoPick_job005","trained":{},"others":"threshold","revision":0,"threshold":NaN}',
        b'{"entry":"P1/\\u0000"}',
        b'{"entry":"P1/\\ud800"}',
    ],
)
def test_a_change_that_makes_no_sense_is_refused(writer: TestClient, body: bytes) -> None:
    for place in ("act", "save", "train"):
        answer = writer.post(f"/api/{place}", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (404, 422), place


NUMBERS = ("NaN", "-1", "1e99", "9" * 30, "0x1", "", "1.5", "null", "%00", "\u0663")


def test_a_tile_whose_number_is_none_is_refused(reader: TestClient) -> None:
    there = {"entry": SCORED, "micrograph": "0", "level": "0", "row": "0", "column": "0", "lowpass": "0"}
    assert reader.get("/api/tile", params=there).status_code == 200
    for name in ("micrograph", "level", "row", "column", "lowpass"):
        for value in NUMBERS:
            status = reader.get("/api/tile", params={**there, name: value}).status_code
            assert status in (404, 422), (name, value)


@pytest.mark.parametrize("place", ["list", "tally", "montage", "disagreement"])
def test_a_threshold_that_is_no_number_is_refused(reader: TestClient, place: str) -> None:
    params = {"entry": SCORED, "other": UNPICKED}
    for threshold in ("NaN", "inf", "-inf", "1e999", "x", ""):
        assert reader.get(f"/api/{place}", params={**params, "threshold": threshold}).status_code == 422
    assert reader.get(f"/api/{place}", params={**params, "threshold": "-1e308"}).status_code == 200


def test_saving_with_changes_of_others_unseen_is_refused_and_shows_them(writer: TestClient, database: Database) -> None:
    act(writer, do="mark", micrograph=0, mark="finished", threshold=0.5)
    record = {**ASK, "window": "late", "others": "leave out"}
    refused = writer.post("/api/save", json=record)
    assert refused.status_code == 409
    assert refused.json()["conflict"]["by_others"] == ["ada"]
    before = entry_files(database.root)
    saved = writer.post("/api/save", json={**record, "revision": 1}).json()
    assert saved["entry"] == "P1/AutoPick_job005_reviewed"
    assert (saved["n_picks"], saved["undecided"]) == (12, 0)
    assert "unpicker train P1/AutoPick_job005_reviewed" in saved["next"]["train"]
    after = entry_files(database.root)
    assert {name: after[name] for name in before} == before
    stars = writer.get("/api/stars", params={"entry": saved["entry"]})
    assert stars.headers["content-type"] == "application/zip"
    assert writer.get("/api/stars", params={"entry": SCORED}).status_code == 404


def test_looking_and_cleaning_never_touch_the_project(writer: TestClient, database: Database, tmp_path: Path) -> None:
    project = tmp_path / "projects"
    before = {name: (content, (project / name).stat().st_mtime_ns) for name, content in contents(project).items()}
    for folder, _, _ in os.walk(project):
        Path(folder).chmod(0o555)
    try:
        writer.get("/api/tile", params={"entry": SCORED, "micrograph": 0, "level": 0, "row": 0, "column": 0})
        act(writer, do="mark", micrograph=0, mark="finished", threshold=0.5)
        assert writer.post("/api/save", json={**ASK, "revision": 1, "others": "threshold"}).status_code == 200
    finally:
        for folder, _, _ in os.walk(project):
            Path(folder).chmod(0o755)
    assert before == {
        name: (content, (project / name).stat().st_mtime_ns) for name, content in contents(project).items()
    }


@pytest.mark.parametrize(
    "entry",
    ["P1/nothing", "../P1", "P1/../../etc", "P1/.quarantine", "/etc/passwd", "P1", "", "P1/AutoPick_job005/../x", "\0"],
)
def test_only_entries_of_the_database_can_be_named(reader: TestClient, entry: str) -> None:
    for place in ("/api/entry", "/look", "/api/stars"):
        assert reader.get(place, params={"entry": entry}).status_code == 404


def test_pictures_of_the_orientation_check_are_shown(reader: TestClient, database: Database) -> None:
    picks = database.load(OTHER)
    database.add(picks, pictures={"picks_1.jpg": b"\xff\xd8 picture"})
    address = f"/picture?{urlencode({'entry': OTHER, 'name': 'picks_1.jpg'})}"
    assert f".{escape(address)}" in reader.get("/").text
    answer = reader.get(address)
    assert (answer.content, answer.headers["content-type"]) == (b"\xff\xd8 picture", "image/jpeg")


@pytest.mark.parametrize(
    "name", ["../../DB/cryoflow-database.json", "info.txt", "manifest.json", "%2e%2e/info.txt", "data.txt", ""]
)
def test_pictures_are_those_that_an_entry_names(reader: TestClient, name: str) -> None:
    assert reader.get("/picture", params={"entry": SCORED, "name": name}).status_code == 404


@pytest.mark.parametrize(
    "name", ["../app.py", "..%2fapp.py", "%2e%2e%2fapp.py", "tsconfig.json", "%2e", "__init__.py", "%00", "look.js%00"]
)
def test_static_files_are_those_of_the_package(reader: TestClient, name: str) -> None:
    assert reader.get(f"/static/{name}").status_code == 404


def test_other_kinds_of_files_beside_the_static_ones_are_not_served(
    reader: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("page.js", "page.js.orig", "notes.txt"):
        (tmp_path / name).write_text("text")
    monkeypatch.setattr("cryoflow.view.pages.STATIC", tmp_path)
    status = {name: reader.get(f"/static/{name}").status_code for name in ("page.js", "page.js.orig", "notes.txt")}
    assert status == {"page.js": 200, "page.js.orig": 404, "notes.txt": 404}


def test_every_static_file_is_served_with_its_type(reader: TestClient) -> None:
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    names = list(static_names())
    assert "look.js" in names
    for name in names:
        answer = reader.get(f"/static/{name}")
        assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])


def test_pages_escape_names_and_hold_no_code(reader: TestClient, database: Database) -> None:
    database.mark(OTHER, "stale", "<img src=x onerror=alert(1)>")
    for place in ("/", f"/look?entry={SCORED}&with={OTHER}", "/models", "/compare", "/reports", "/nowhere"):
        text = reader.get(place, headers={"accept": "text/html"}).text
        assert "<script>" not in text
        assert "onerror=alert" not in text or "&lt;img" in text
        assert "style=" not in text
        assert " onclick" not in text
    assert HOSTILE in reader.get("/api/entry", params={"entry": SCORED}).json()["names"]


def test_the_page_of_an_entry_carries_its_configuration_as_text(writer: TestClient) -> None:
    text = writer.get(f"/look?entry={SCORED}&with={OTHER}&micrograph=1").text
    written = re.search(r'data-config="([^"]*)"', text)
    assert written
    config = json.loads(unescape(written[1]))
    assert (config["entry"], config["with"], config["micrograph"]) == (SCORED, [OTHER], 1)
    for needed in re.findall(r'rel="preload" as="fetch" crossorigin href="([^"]*)"', text):
        assert writer.get(unescape(needed).removeprefix(".")).status_code == 200, needed


def test_a_page_of_an_entry_that_is_not_there_says_so(reader: TestClient) -> None:
    answer = reader.get("/look?entry=P1/nothing", headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert "there is no entry" in answer.text
    assert 'href="./"' in answer.text


def test_reports_are_served_from_their_folders_alone(reader: TestClient, tmp_path: Path) -> None:
    page = write_report(tmp_path / "runs" / "a b" / "report.html", "A run", [Section("One")])
    secret = write_report(tmp_path / "secret.html", "secret", [])
    (tmp_path / "runs" / "link.html").symlink_to(secret)
    (tmp_path / "runs" / "notes.txt").write_text("secret")
    (tmp_path / "runs" / "folder.html").mkdir()
    os.mkfifo(tmp_path / "runs" / "pipe.html")
    listed = reader.get("/reports").text
    assert "a b/report.html" in listed
    answer = reader.get(f"/reports{page}")
    assert answer.status_code == 200
    assert "A run" in answer.text
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    bad = (
        secret,
        "/etc/passwd",
        *(tmp_path / "runs" / n for n in ("link.html", "notes.txt", "pipe.html", "folder.html", "x.html")),
    )
    for path in (
        *bad,
        f"{tmp_path}/runs/%00.html",
        "/%00.html",
        f"{tmp_path}/runs/%2e%2e/secret.html",
        f"{tmp_path}/runs/../secret.html",
    ):
        assert reader.get(f"/reports{path}").status_code == 404, path


def test_a_comparison_shows_precision_and_recall(reader: TestClient) -> None:
    text = reader.get("/compare", params={"reference": SCORED, "entry": [OTHER, UNPICKED]}).text
    assert text.count('<td class="number">1.000</td>') >= 2  # all of both are picks of the reference
    assert reader.get("/compare", params={"reference": "P1/none", "entry": [OTHER]}).status_code == 200
