"""The viewer in a real browser: dragging the picture, the wheel, and the brush."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from chromium import Page
from view_browser import Viewer, journal, lonely_pick, open_entry, place_of
from view_fixtures import SCORED, SHAPE_YX

from cryoflow.database import Database

pytestmark = pytest.mark.browser


def labels(database: Database) -> list[dict[str, Any]]:
    return [json.loads(line)["do"] for line in journal(database).splitlines()[1:]]


def gray_at(page: Page, x: float, y: float) -> float:
    """Mean gray value of the drawn picture within 8 pixels of a position of the window, over that of the whole."""
    code = f"""(() => {{
      const c = document.getElementById('picture'), r = c.getBoundingClientRect(), k = c.width / r.width;
      const mean = d => {{
        let [sum, n] = [0, 0];
        for (let i = 0; i < d.length; i += 4) if (d[i + 3]) {{ sum += d[i]; n++ }}
        return sum / n;
      }};
      const at = (x, y, w, h) => mean(c.getContext('2d').getImageData(x, y, w, h).data);
      return at(({x} - r.x - 8) * k, ({y} - r.y - 8) * k, 16 * k, 16 * k) / at(0, 0, c.width, c.height);
    }})()"""
    page.wait_for("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    return float(page.js(code))


def particle_in_the_middle(database: Database) -> tuple[int, float, float]:
    """A good pick of the first micrograph (a dark disk) that stays in sight when the picture is moved."""
    picks = database.load(SCORED)
    xy, scores = picks.centers_xy_px[:12], picks.picks["score"].to_numpy()[:12]
    distance = np.where(scores > 0.5, np.hypot(*(xy - np.array(SHAPE_YX[::-1]) / 2).T), np.inf)
    i = int(np.argmin(distance))
    return i, float(xy[i, 0]), float(xy[i, 1])


def test_dragging_moves_the_picture_with_its_circles_and_decides_nothing(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start().write)
    page.wait_for("document.getElementById('stage').dataset.pictured === '0'")
    i, x, y = particle_in_the_middle(database)
    here = np.array(place_of(page, x, y))
    assert gray_at(page, *here) < 0.6  # a particle is dark
    page.drag(tuple(here), (here[0] + 60, here[1] + 25), (here[0] + 150, here[1] + 60))
    there = here + np.array([150, 60])
    assert gray_at(page, *there) < 0.6
    assert page.js("document.getElementById('here').textContent") == "12 of 12"
    page.click_at(*there)
    page.wait_for("document.getElementById('all').textContent === '47 of 48'")
    assert labels(database) == [{"do": "label", "label": -1, "picks": {"0": [i]}}]


def test_the_wheel_zooms_and_what_is_under_the_mouse_stays_there(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start().write)
    page.wait_for("document.getElementById('stage').dataset.pictured === '0'")
    i, x, y, _ = lonely_pick(database)
    _, other_x, other_y = particle_in_the_middle(database)
    at, other = np.array(place_of(page, x, y)), np.array(place_of(page, other_x, other_y))
    page.wheel(*at, -400)
    factor = np.exp(0.0016 * 400)
    there = at + factor * (other - at)
    box = page.js("(r => [r.left, r.top, r.right, r.bottom])(document.getElementById('stage').getBoundingClientRect())")
    page.wait_for("document.getElementById('stage').dataset.pictured === '0'")
    if (there > (box[0] + 10, box[1] + 10)).all() and (there < (box[2] - 10, box[3] - 10)).all():
        assert gray_at(page, *there) < 0.75
    page.click_at(*at)
    page.wait_for("document.getElementById('all').textContent === '47 of 48'")
    assert labels(database) == [{"do": "label", "label": -1, "picks": {"0": [i]}}]
    page.wheel(*at, 400)
    page.wheel(*at, 4000)  # far out: the picture does not vanish
    page.press("0")
    page.click_at(*at)
    page.wait_for("document.getElementById('all').textContent === '48 of 48'")


def test_the_brush_decides_on_all_that_it_passes_in_one_action_also_when_it_is_fast(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start().write)
    xy = database.load(SCORED).centers_xy_px[:12]
    screen = np.array([place_of(page, *p) for p in xy])
    page.press("b")
    page.js("(e => { e.value = 100; e.dispatchEvent(new Event('input')) })(document.getElementById('brush'))")
    first, last = screen[np.argmin(screen[:, 0])], screen[np.argmax(screen[:, 0])]
    page.drag(tuple(first), tuple(last), steps=1)  # one move from end to end, as of a fast hand
    along = last - first
    share = np.clip((screen - first) @ along / (along @ along), 0, 1)
    distance = np.hypot(*(screen - first - share[:, None] * along).T)
    passed = np.flatnonzero(distance <= 50).tolist()
    assert (np.abs(distance - 50) > 1).all()
    assert 3 <= len(passed) < 12
    page.wait_for(f"document.getElementById('all').textContent === '{48 - len(passed)} of 48'")
    (action,) = labels(database)
    assert (action["label"], sorted(action["picks"]["0"])) == (-1, passed)
    page.press("B")
    page.drag(tuple(first), (first[0] + 5, first[1]))
    back = np.flatnonzero(np.hypot(*(screen - first).T) <= 48).tolist()
    page.wait_for(f"document.getElementById('all').textContent !== '{48 - len(passed)} of 48'")
    action = labels(database)[-1]
    assert action["label"] == 1
    assert set(back) & set(passed) <= set(action["picks"]["0"]) <= set(passed)
    page.press("u")
    page.press("u")
    page.wait_for("document.getElementById('all').textContent === '48 of 48'")


def test_the_brush_leaves_a_bad_micrograph_alone(start: Callable[..., Viewer], page: Page, database: Database) -> None:
    open_entry(page, start().write)
    page.press("d")
    page.wait_for("document.getElementById('where').textContent === 'mic_0.mrc'")
    page.press("p")
    page.wait_for("document.getElementById('stage').classList.contains('is-bad')")
    page.press("B")
    ny, nx = SHAPE_YX
    page.drag(place_of(page, 5, 5), place_of(page, nx - 5, ny - 5), steps=9)
    page.press("d")
    page.wait_for("document.querySelectorAll('#list .mark.bad').length === 0")
    assert [action["do"] for action in labels(database)] == ["mark", "mark"]
