"""The viewer in a real browser: answers that were on their way when something was decided must not undo it."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from chromium import Page
from view_browser import Viewer, journal, open_entry, place_of
from view_fixtures import SCORED, SHAPE_YX

from cryoflow.database import Database

pytestmark = pytest.mark.browser

HOLD = """(name, also) => {
  const fetched = window.fetch;
  window.held = 0;
  window.arrived = 0;
  let release;
  const gate = new Promise(done => (release = done));
  window.release = () => release(true);
  window.fetch = async (address, ...more) => {
    const answer = await fetched(address, ...more);
    if (!window.held && String(address).includes(name) && String(address).includes(also)) {
      window.held++;
      await gate;
      setTimeout(() => window.arrived++, 300);
    }
    return answer;
  };
}"""
"""Holds the first answer of an address back until `release()`; the page asks by `fetch` alone."""
OTHER_WINDOW = """async micrograph => {
  const action = { do: "label", label: -1, picks: { [micrograph]: [0] } };
  const record = { entry: %r, window: "another", by: "Bo", revision: 0, threshold: 0.5, action };
  const headers = { "content-type": "application/json" };
  const answer = await fetch("api/act", { method: "POST", headers, body: JSON.stringify(record) });
  return answer.status;
}"""

OTHER_XY = 8
HEAR_NOTHING = """() => {
  window.fetched = window.fetch;
  window.answers = 0;
  let release;
  const gate = new Promise(done => (release = done));
  window.release = () => release(true);
  window.fetch = async (address, ...more) => {
    if (String(address).includes('api/changes')) return new Promise(() => {});
    const answer = await fetched(address, ...more);
    if (String(address).includes('api/act')) {
      window.answers++;
      await gate;
    }
    return answer;
  };
}"""
"""The page hears of no change of others; answers to its own actions wait for `release()`."""
OTHER_ADDS = f"""async () => {{
  const action = {{ do: "add", micrograph: 0, xy_px: [[{OTHER_XY}, {OTHER_XY}]] }};
  const record = {{ entry: %r, window: "another", by: "Bo", revision: 0, threshold: 0.5, action }};
  const headers = {{ "content-type": "application/json" }};
  return (await fetched("api/act", {{ method: "POST", headers, body: JSON.stringify(record) }})).status;
}}"""


def test_a_list_that_was_asked_for_before_a_mark_does_not_take_the_mark_away(
    start: Callable[..., Viewer], page: Page
) -> None:
    open_entry(page, start().write)
    page.js(f"({HOLD})('api/list', '')")
    page.press("f")
    page.wait_for("window.held === 1")
    page.press("d")
    page.wait_for("document.querySelectorAll('#list .mark.bad').length === 1")
    page.js(
        "window.lost = 0; new MutationObserver(() => {"
        " if (!document.querySelector('#list .mark.bad')) window.lost++ })"
        ".observe(document.getElementById('list'), { childList: true, subtree: true })"
    )
    page.js("window.release()")
    page.wait_for("window.arrived === 1")
    assert page.js("window.lost") == 0
    assert page.js("document.querySelectorAll('#list .mark.bad, #list .mark.finished').length") == 2


def test_a_micrograph_that_was_asked_for_before_somebodys_change_is_asked_for_again(
    start: Callable[..., Viewer], page: Page
) -> None:
    open_entry(page, start().write)
    page.js(f"({HOLD})('api/micrograph', 'micrograph=2')")
    page.press("n")  # the page asks for the next one ahead
    page.wait_for("window.held === 1")
    assert page.js(f"({OTHER_WINDOW % SCORED})('2')") == 200
    page.wait_for("document.getElementById('toast').textContent.includes('Bo changed 1 micrograph')")
    page.js("window.release()")
    page.wait_for("window.arrived === 1")
    page.press("n")
    page.wait_for("document.getElementById('where').textContent === 'mic_1.mrc'")
    page.wait_for("document.getElementById('here').textContent === '11 of 12'", within_s=20)


def test_an_own_pick_is_taken_away_although_somebody_added_one_at_the_same_moment(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start().write)
    page.js(f"({HEAR_NOTHING})()")
    assert page.js(f"({OTHER_ADDS % SCORED})()") == 200
    at = place_of(page, *place_without_pick(database))
    page.press("i")
    page.click_at(*at)
    page.wait_for("window.answers === 1")
    page.click_at(*at)  # takes it away again, before the page knows its number
    page.js("window.release()")
    page.wait_for("window.answers === 2")
    done = [json.loads(line)["do"] for line in journal(database).splitlines()[1:]]
    assert [action["do"] for action in done] == ["add", "add", "label"]
    assert done[-1] == {"do": "label", "label": -1, "picks": {"0": [13]}}


def place_without_pick(database: Database) -> tuple[float, float]:
    """A position of the first micrograph that is far from all of its picks."""
    picks = database.load(SCORED)
    ny, nx = SHAPE_YX
    grid = np.stack(np.meshgrid(np.arange(40.0, nx - 40), np.arange(40.0, ny - 40)), -1).reshape(-1, 2)
    others = np.vstack([picks.centers_xy_px[: picks.offsets[1]], [(OTHER_XY, OTHER_XY)]])
    apart = np.min([np.hypot(*(grid - xy).T) for xy in others], axis=0)
    x, y = grid[np.argmax(apart)]
    return float(x), float(y)
