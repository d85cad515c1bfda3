"""The viewer in a real browser: what is drawn on a micrograph, pixel by pixel, and the order of the list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from chromium import Page
from view_browser import Viewer, lonely_pick, open_entry, place_of, shown
from view_fixtures import DIAMETER_A, OTHER, PIXEL_SIZE_A, SCORED

from cryoflow.database import Database
from cryoflow.unpicker.decision import is_doubtful
from cryoflow.view.candidates import open_candidates
from cryoflow.view.counts import doubt
from cryoflow.view.opened_entries import Library, Opened

pytestmark = pytest.mark.browser
COLORS = {"kept": "#4cc3ff", "removed": "#ff8a5c", "doubtful": "#ffe45c", "missed": "#f09ad0", "other": "#7ddc8a"}
SUGGESTED = [3, None, 1, 2]
WITH_SUGGESTIONS = """(() => {
  const fetched = window.fetch;
  window.fetch = async (address, ...more) => {
    const answer = await fetched(address, ...more);
    if (!String(address).includes('api/entry')) return answer;
    return new Response(JSON.stringify({ ...(await answer.json()), suggested: %s }));
  };
})()"""
"""As where a model has suggested micrographs: a real one would take half a minute."""


def share_of(page: Page, at: tuple[float, float], radius: float, color: str) -> float:
    """Share of the directions in which a circle around a position of the window has a color."""
    code = f"""(() => {{
      const c = document.getElementById('circles'), r = c.getBoundingClientRect(), g = c.getContext('2d');
      const want = [1, 3, 5].map(i => parseInt('{color}'.slice(i, i + 2), 16));
      let n = 0;
      for (let k = 0; k < 72; k++) {{
        const near = [-1.5, -0.5, 0.5, 1.5].some(d => {{
          const a = k * Math.PI / 36;
          const x = {at[0]} - r.x + ({radius} + d) * Math.cos(a), y = {at[1]} - r.y + ({radius} + d) * Math.sin(a);
          const p = g.getImageData(Math.round(x), Math.round(y), 1, 1).data;
          return p[3] > 150 && want.every((v, i) => Math.abs(p[i] - v) < 40);
        }});
        n += near ? 1 : 0;
      }}
      return n / 72;
    }})()"""
    return float(page.js(code))


def scale_of(page: Page) -> float:
    """Pixels of the window for one of the fitted micrograph."""
    return place_of(page, 1, 0)[0] - place_of(page, 0, 0)[0]


def both(database: Database) -> tuple[Opened, Opened]:
    library = Library(database)
    return library.opened(SCORED), library.opened(OTHER)


def choose(page: Page, name: str, value: str) -> None:
    page.js(
        f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('change')) }})(document.getElementById('{name}'))"
    )


def test_circles_have_the_colors_of_their_kinds_and_the_diameter_of_the_particle(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    picks = database.load(SCORED)
    all_scores = picks.picks["score"].to_numpy().reshape(4, 12)
    m = int(np.argmin(all_scores.min(axis=1)))
    xy, scores = picks.centers_xy_px[12 * m : 12 * m + 12], all_scores[m]
    threshold = float(np.sort(scores[::2])[2])  # the reference has every second pick: two of them are removed
    open_entry(page, f"{start().read}&micrograph={m}")
    choose(page, "threshold", str(threshold))
    choose(page, "reference", OTHER)
    page.wait_for("[...document.querySelectorAll('.layer')].some(e => /Missed\\s*[1-9]/.test(e.innerText))")
    page.wait_for("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    radius = DIAMETER_A / PIXEL_SIZE_A / 2 * scale_of(page)
    kinds: set[str] = set()
    for (x, y), score, doubtful in zip(xy, scores, is_doubtful(scores), strict=True):
        kind = "doubtful" if doubtful else "kept" if score >= threshold else "removed"
        shares = {k: share_of(page, place_of(page, x, y), radius, COLORS[k]) for k in ("kept", "removed", "doubtful")}
        assert max(shares, key=lambda k: shares[k]) == kind, (score, shares)
        assert shares[kind] > (0.7 if score >= threshold else 0.3)  # what is removed is dashed
        kinds.add(kind)
    assert kinds == {"kept", "removed", "doubtful"}
    reference = database.load(OTHER).centers_xy_px[6 * m : 6 * m + 6]
    kept = xy[scores >= threshold]
    lost = [p for p in reference if np.hypot(*(kept - p).T).min() > 0.25 * DIAMETER_A / PIXEL_SIZE_A]
    found = [p for p in reference if np.hypot(*(kept - p).T).min() <= 0.25 * DIAMETER_A / PIXEL_SIZE_A]
    assert lost
    assert found
    pink = [share_of(page, place_of(page, *p), 1.06 * radius, COLORS["missed"]) for p in (*lost, *found)]
    assert min(pink[: len(lost)]) > 2 * max(pink[len(lost) :]) + 0.1


def test_several_entries_a_score_on_hover_and_a_scale_bar_that_is_true(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start(OTHER).read)
    page.wait_for("document.querySelectorAll('.layer').length === 4")
    scale = scale_of(page)
    other = database.load(OTHER).centers_xy_px[:6]
    page.wait_for("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    inner = 0.86 * DIAMETER_A / PIXEL_SIZE_A / 2 * scale
    assert min(share_of(page, place_of(page, *p), inner, COLORS["other"]) for p in other) > 0.5
    _, x, y, score = lonely_pick(database)
    page.hover(*place_of(page, x, y))
    page.wait_for("!document.getElementById('tip').hidden")
    assert shown(page, "tip").endswith(f"score {score:.3f}")
    assert shown(page, "tip").startswith("kept")
    bar = """(() => {
      const c = document.getElementById('circles');
      const d = c.getContext('2d').getImageData(0, c.height - 18, c.width, 1).data;
      let n = 0;
      for (let i = 0; i < d.length; i += 4) if (d[i] > 250 && d[i + 1] > 250 && d[i + 2] > 250 && d[i + 3] > 250) n++;
      return n;
    })()"""
    for zoom in ("0", "+", "+", "+"):
        page.press(zoom)
        page.wait_for("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        scale *= 1.4 if zoom == "+" else 1
        length_nm = page.js(bar) / scale * PIXEL_SIZE_A / 10
        assert min(abs(length_nm / nm - 1) for nm in (1, 2, 5, 10, 20, 50, 100)) < 0.03, (zoom, length_nm)


def test_the_list_is_sorted_by_each_of_its_orders(start: Callable[..., Viewer], page: Page, database: Database) -> None:
    page.call("Page.addScriptToEvaluateOnNewDocument", source=WITH_SUGGESTIONS % str(SUGGESTED).replace("None", "null"))
    open_entry(page, start(OTHER).write)
    page.wait_for("document.getElementById('sort').options.length === 8")
    c = open_candidates(database, SCORED)
    table = c.picks.micrographs
    page.press("n")
    page.press("f")  # the second micrograph is finished
    page.wait_for("document.querySelectorAll('#list .mark.finished').length === 1")
    choose(page, "threshold", "0.5")
    kept = [int((c.scores[c.rows(m)] >= (0.5 if m != 1 else c.threshold)).sum()) for m in range(4)]
    numbers_of = "[...document.querySelectorAll('#list .numbers-line')].map(e => e.textContent.split(' ')[0]).join()"
    page.wait_for(f"{numbers_of} === '{','.join(map(str, kept))}'")
    apart = [f"{n} differ" for n in Library(database).disagreement(*both(database), 0.5)]
    page.wait_for(f"[...document.querySelectorAll('#list .numbers-line')][3].textContent.endsWith(' {apart[3]}')")
    wanted: dict[str, npt.NDArray[np.float64]] = {
        "name": np.arange(4.0),
        "picks": np.diff(c.offsets).astype(float),
        "defocus": table["defocus_u_A"].to_numpy(float),
        "doubt": doubt(c),
        "suggest": np.array([np.inf if s is None else s for s in SUGGESTED], float),
    }
    assert len(set(np.round(wanted["doubt"], 1))) > 1
    for name, values in wanted.items():
        choose(page, "sort", name)
        rows = page.js("[...document.querySelectorAll('#list .row')].map(e => Number(e.dataset.micrograph))")
        falling = page.js("document.getElementById('descending').getAttribute('aria-pressed') === 'true'")
        shown_values = np.round(values[rows], 1)
        assert (np.diff(shown_values) <= 0).all() if falling else (np.diff(shown_values) >= 0).all(), name
        assert sorted(rows) == [0, 1, 2, 3]
    for name, number in (("kept", 0), ("disagreement", -1)):
        choose(page, "sort", name)
        page.wait_for("document.querySelectorAll('#list .row').length === 4")
        texts = page.js("[...document.querySelectorAll('#list .numbers-line')].map(e => e.textContent)")
        numbers = [int(text.split(" · ")[number].split()[0]) for text in texts]
        assert numbers == sorted(numbers, reverse=True), name
        assert len(set(numbers)) > 1 or name == "disagreement"
