"""The viewer in a real browser: answers that were on their way when something was decided must not undo it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from chromium import Page
from view_browser import Viewer, open_entry
from view_fixtures import SCORED

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
