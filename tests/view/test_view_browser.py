"""The viewer in a real browser: what a person does with it, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromium import Page, another_tab
from view_browser import Viewer, journal, lonely_pick, open_entry, place_of, shown
from view_fixtures import SCORED, SHAPE_YX, UNPICKED, entry_files, write_mask

from cryoflow.database import Database

pytestmark = pytest.mark.browser
TAB = 9


def test_the_slider_counts_what_unpicking_keeps(start: Callable[..., Viewer], page: Page, database: Database) -> None:
    open_entry(page, start().read)
    scores = database.load(SCORED).picks["score"].to_numpy()
    page.type_into("document.getElementById('threshold')", "")
    page.js("document.getElementById('threshold').select()")
    page.call("Input.insertText", text="0.5")
    page.press("Enter", code=13)
    page.wait_for(f"document.getElementById('all').textContent === '{len(database.load(UNPICKED))} of 48'")
    page.js("document.getElementById('slider').focus()")
    for _ in range(3):
        page.press("PageUp", code=33)
    value = float(page.wait_for("Number(document.getElementById('slider').value)"))
    assert value > 0.55
    kept = int((scores >= value).sum())
    page.wait_for(f"document.getElementById('all').textContent === '{kept} of 48'")
    precision = 100 * scores[scores >= value].mean()
    page.wait_for(f"document.getElementById('precision').textContent === '{precision:.1f} %'")
    first = scores[:12]
    assert shown(page, "here") == f"{int((first >= value).sum())} of 12"


def test_a_toggled_pick_is_saved_as_a_new_entry_that_differs_in_that_label(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start().write)
    before = entry_files(database.root)
    i, x, y, score = lonely_pick(database)
    page.click_at(*place_of(page, x, y))  # every pick of the entry is kept at first: a click removes this one
    page.wait_for("document.getElementById('here').textContent === '11 of 12'")
    page.press("f")
    page.wait_for("document.querySelectorAll('#list .mark.finished').length === 1")
    assert score > 0
    page.click("document.getElementById('save')")
    page.js("document.getElementById('name').select()")
    page.call("Input.insertText", text="Ada")
    page.click("document.getElementById('save-now')")
    page.wait_for("document.getElementById('saved-entry').textContent === 'P1/AutoPick_job005_reviewed'")
    source, saved = database.load(SCORED), database.load("P1/AutoPick_job005_reviewed")
    labels = np.ones(12, int)
    labels[i] = -1
    assert saved.picks["label"].tolist() == labels.tolist()
    assert np.array_equal(saved.centers_xy_px, source.centers_xy_px[:12])
    assert any("saved by Ada" in note for note in saved.notes)
    after = entry_files(database.root)
    assert {name: after[name] for name in before} == before


def test_two_tabs_tell_each_other(start: Callable[..., Viewer], page: Page, database: Database, tmp_path: Path) -> None:
    viewer = start()
    open_entry(page, viewer.write)
    with another_tab(tmp_path / "chromium") as other:
        other.resize(1300, 800)
        open_entry(other, viewer.write)
        other.js("sessionStorage.windowId = 'another'; localStorage.reviewer = 'Bo'")
        open_entry(other, viewer.write)
        other.press("d")
        other.wait_for("document.querySelectorAll('#list .mark.bad').length === 1")
        page.call("Page.bringToFront")
        page.wait_for("document.getElementById('toast').textContent.includes('Bo changed 1 micrograph')")
        page.wait_for("document.querySelectorAll('#list .mark.bad').length === 1")
        page.wait_for("document.getElementById('people').textContent.includes('Bo')")
    assert '"mark":"bad"' in journal(database)


def test_what_was_decided_is_there_after_the_server_was_killed(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    viewer = start()
    open_entry(page, viewer.write)
    i, x, y, _ = lonely_pick(database)
    page.click_at(*place_of(page, x, y))
    page.wait_for("document.getElementById('here').textContent === '11 of 12'")
    page.wait_for("document.getElementById('all').textContent === '47 of 48'")  # the server has confirmed it
    viewer.kill()
    page.press("d")
    page.wait_for("document.getElementById('toast').textContent.startsWith('Not kept')")
    viewer = start()
    open_entry(page, viewer.write)
    page.wait_for("document.getElementById('here').textContent === '11 of 12'")
    lines = [json.loads(line) for line in journal(database).splitlines()[1:]]
    assert [line["do"] for line in lines] == [{"do": "label", "label": -1, "picks": {"0": [i]}}]


def test_everything_can_be_done_with_keys_alone(start: Callable[..., Viewer], page: Page, database: Database) -> None:
    open_entry(page, start().write)
    page.press("n")
    page.wait_for("document.getElementById('where').textContent === 'mic_0.mrc'")
    page.press(".")
    page.wait_for("!document.getElementById('tip').hidden")
    page.press("r")
    page.wait_for("document.getElementById('here').textContent === '11 of 12'")
    page.press("x")
    page.wait_for("document.getElementById('here').textContent === '12 of 13'")
    page.press("u")
    page.wait_for("document.getElementById('here').textContent === '11 of 12'")
    page.press("U")
    page.wait_for("document.getElementById('here').textContent === '12 of 13'")
    page.press("f")
    page.wait_for("document.getElementById('where').textContent === 'mic_1.mrc'")
    page.press("m")
    page.wait_for("document.activeElement.classList.contains('patch')")
    page.press("ArrowRight", code=39)
    page.wait_for("document.activeElement.dataset.index === '1'")
    page.press("r")  # the patch before it is the pick that was removed above
    page.wait_for("document.querySelectorAll('.patch.removed').length === 2")
    page.press("m")
    page.press("?")
    page.wait_for("document.getElementById('keys').open")
    page.press("Escape", code=27)
    page.wait_for("!document.getElementById('keys').open")
    page.press("s")
    page.wait_for("document.activeElement.id === 'name'")
    page.press("Enter", code=13)
    page.wait_for("document.getElementById('saved-entry').textContent !== ''")
    saved = database.load(shown(page, "saved-entry"))
    finished = saved.picks[saved.picks["micrograph"] == list(saved.micrographs["name"]).index("mic_0.mrc")]
    assert sorted(finished["label"].tolist()) == [-1, -1] + [1] * 11


def test_a_click_on_a_patch_goes_to_its_micrograph_with_the_pick_in_the_middle(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start().read)
    page.press("m")
    page.js("(e => { e.value = 'high'; e.dispatchEvent(new Event('change')) })(document.getElementById('order'))")
    picks = database.load(SCORED)
    scores, xy = picks.picks["score"].to_numpy(), picks.centers_xy_px
    inner = (np.abs(xy - np.array(SHAPE_YX[::-1]) / 2) < (110, 50)).all(axis=1)  # the edges are far from the middle
    number = next(i for i, row in enumerate(np.argsort(-scores)) if inner[row] and row >= 12)
    row = int(np.argsort(-scores)[number])
    page.wait_for(f"document.querySelector('.patch .score')?.textContent.endsWith('{scores.max():.3f}')")
    page.click(f"document.querySelector('.patch[data-index=\"{number}\"]')")
    page.wait_for("!document.getElementById('stage').hidden && !document.getElementById('tip').hidden")
    name = str(picks.micrographs["name"].iloc[picks.picks["micrograph"].iloc[row]])
    assert shown(page, "where") == name.rpartition("/")[2]
    assert f"score {scores[row]:.3f}" in shown(page, "tip")
    page.wait_for(f"document.getElementById('stage').dataset.pictured === '{picks.picks['micrograph'].iloc[row]}'")
    gray = """(() => {
      const c = document.getElementById('picture'), width = c.getBoundingClientRect().width;
      const [x, y, r] = [c.width / 2, c.height / 2, 10 * c.width / width];
      const mean = d => { let s = 0; for (let i = 0; i < d.length; i += 4) s += d[i]; return 4 * s / d.length };
      const at = (x, y, w, h) => mean(c.getContext('2d').getImageData(x, y, w, h).data);
      return [at(x - r, y - r, 2 * r, 2 * r), at(0, 0, c.width, c.height)];
    })()"""
    middle, whole = page.js(gray)
    assert middle < 0.6 * whole  # a particle is dark


@pytest.mark.parametrize("database", [30], indirect=True)
def test_patches_are_decided_by_keys_faster_than_pages_load_and_none_is_skipped(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    """One key for each patch, held down: 120 patches on three pages."""
    open_entry(page, start().write)
    page.press("m")
    page.wait_for("document.activeElement.classList.contains('patch')")
    held = """(async n => {
      const frame = () => new Promise(requestAnimationFrame);
      const undecided = () => document.querySelectorAll('.patch:not(.decided)').length;
      const where = () => document.getElementById('page').textContent;
      const end = performance.now() + 500000;
      while (performance.now() < end && !(where() === 'page 3 of 3' && !undecided())) {
        for (let i = 0; i < 5; i++) {  // 48 patches are no multiple of 5: keys come after the last one of a page
          const key = new KeyboardEvent('keydown', {key: 'r', bubbles: true, cancelable: true});
          document.activeElement.dispatchEvent(key);
        }
        await frame();
      }
      return undecided();
    })()"""
    assert page.js(held, within_s=540) == 0
    page.wait_for("document.getElementById('all').textContent === '0 of 120'")
    lines = [json.loads(line)["do"] for line in journal(database).splitlines()[1:]]
    decided = [(m, i) for line in lines for m, numbers in line["picks"].items() for i in numbers]
    assert set(decided) == {(str(m), i) for m in range(4) for i in range(30)}
    assert {line["label"] for line in lines} == {-1}


def test_the_montage_shows_what_is_undone_and_its_keys_leave_the_hidden_micrograph_alone(
    start: Callable[..., Viewer], page: Page
) -> None:
    open_entry(page, start().write)
    page.press(".")  # a pick of the micrograph is chosen
    page.wait_for("!document.getElementById('tip').hidden")
    page.press("m")
    page.wait_for("document.activeElement.classList.contains('patch')")
    page.press("r")
    page.wait_for("document.querySelectorAll('.patch.removed').length === 1")
    page.wait_for("document.getElementById('all').textContent === '47 of 48'")
    page.press("u")
    page.wait_for("document.querySelectorAll('.patch.removed').length === 0")
    assert page.js("document.activeElement.dataset.index") == "1"
    page.js("document.activeElement.blur()")
    for key in ("r", "d", "x", "f"):
        page.press(key)
    page.press("r")
    page.press("m")
    page.wait_for("document.getElementById('here').textContent === '12 of 12'")
    page.wait_for("document.getElementById('all').textContent === '48 of 48'")
    assert page.js("document.querySelectorAll('#list .mark.finished, #list .mark.bad').length") == 0


def test_a_mask_lies_over_the_micrograph_where_it_marks_junk(
    start: Callable[..., Viewer], page: Page, tmp_path: Path
) -> None:
    write_mask(tmp_path / "masks")
    open_entry(page, start("--masks", str(tmp_path / "masks")).read)
    page.press("n")
    page.wait_for("[...document.querySelectorAll('.layer')].some(e => e.innerText.includes('Masked'))")

    def alpha(x: float, y: float) -> int:
        left, top = place_of(page, x, y)
        pixel = f"""(() => {{
          const c = document.getElementById('mask'), r = c.getBoundingClientRect();
          const at = [({left} - r.x) * c.width / r.width, ({top} - r.y) * c.height / r.height];
          return [...c.getContext('2d').getImageData(...at, 1, 1).data];
        }})()"""
        page.wait_for("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        return int(page.js(pixel)[3])

    ny, nx = SHAPE_YX
    assert alpha(0.1 * nx, 0.9 * ny) == pytest.approx(0.4 * 255, abs=2)
    assert alpha(0.3 * nx, 0.6 * ny) == pytest.approx(0.4 * 255, abs=2)
    assert [alpha(0.1 * nx, 0.1 * ny), alpha(0.9 * nx, 0.9 * ny), alpha(0.4 * nx, 0.9 * ny)] == [0, 0, 0]
    page.js("(e => { e.value = 0.8; e.dispatchEvent(new Event('input')) })(document.getElementById('mask-opacity'))")
    assert alpha(0.1 * nx, 0.9 * ny) == pytest.approx(0.8 * 255, abs=2)
    page.press("k")
    page.wait_for("document.getElementById('mask').hidden")
    page.press("k")
    page.wait_for("!document.getElementById('mask').hidden")
    page.press("+")
    page.press("0")
    assert alpha(0.1 * nx, 0.9 * ny) == pytest.approx(0.8 * 255, abs=2)
    page.press("n")  # this one has no mask
    page.wait_for("document.getElementById('where').textContent === 'mic_1.mrc'")
    page.wait_for("document.getElementById('mask').hidden")


def test_the_focus_is_seen_wherever_it_is(start: Callable[..., Viewer], page: Page) -> None:
    open_entry(page, start().write)
    seen = []
    for _ in range(12):
        page.press("Tab", code=TAB)
        seen.append(page.js("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"))
    assert {"entry", "to-montage", "save", "help", "sort"} <= {i for i, _ in seen}
    assert all(style != "none" for _, style in seen)


@pytest.mark.parametrize("width", [400, 760])
def test_a_narrow_window_shows_everything_and_nothing_overlaps(
    start: Callable[..., Viewer], page: Page, width: int
) -> None:
    page.resize(width, 800)
    open_entry(page, start().write)
    assert page.js("document.documentElement.scrollWidth") <= width
    overlaps = """(() => {
      const all = [...document.querySelectorAll('button, select, input, a, h2')];
      const boxes = all.filter(e => e.getClientRects().length && !e.closest('dialog') && !e.closest('#list'));
      const found = [];
      for (const a of boxes) for (const b of boxes) {
        if (a === b || a.contains(b) || b.contains(a)) continue;
        if (a.closest('header') !== b.closest('header')) continue;  // the header floats above what scrolls below it
        const [p, q] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
        const w = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const h = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (w > 1.5 && h > 1.5) found.push(a.id + '/' + b.id + ' ' + w + 'x' + h);
      }
      return found;
    })()"""
    assert page.js(overlaps) == []
    boxes = "[...document.querySelectorAll('header *, .controls *')].map(e => e.getBoundingClientRect())"
    clipped = f"{boxes}.filter(r => r.right > innerWidth + 1).length"
    assert page.js(clipped) == 0


def test_a_script_in_a_name_is_a_name(start: Callable[..., Viewer], page: Page) -> None:
    open_entry(page, start().write)
    assert page.js("document.title").startswith("script>.mrc")  # the base name of the first micrograph, as text
    page.press("m")
    page.wait_for("document.querySelectorAll('.patch').length === 48")
    assert page.js("document.querySelectorAll('#list script, #where *').length") == 0
    assert page.js("document.title") != "ran"
    # the control: with the page's policy gone, such a name as markup would run
    assert page.js("[...document.querySelectorAll('script')].every(s => s.src.endsWith('/static/look.js'))")


def test_a_link_for_looking_offers_nothing_to_change(
    start: Callable[..., Viewer], page: Page, database: Database
) -> None:
    open_entry(page, start().read)
    assert page.js("!document.getElementById('save') && !document.querySelector('[data-tool]')")
    _, x, y, _ = lonely_pick(database)
    page.click_at(*place_of(page, x, y))
    page.wait_for("!document.getElementById('tip').hidden")
    assert "kept" in shown(page, "tip")
    page.press("d")
    page.press("u")
    assert not (database.root / ".reviews").exists()
