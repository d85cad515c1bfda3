"""What the pages ask for: entries, micrographs, tiles, counts, montages; and what they change."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, Literal, cast
from uuid import UUID

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import HTTPException
from fastapi.responses import Response

from cryoflow.errors import BadInput
from cryoflow.system.cpus import available_cpus
from cryoflow.view import pictures
from cryoflow.view.access import Visitor, clean_name
from cryoflow.view.candidates import Float
from cryoflow.view.library import SAME_PICK_DIAMETERS, Library, Opened
from cryoflow.view.next_steps import next_steps
from cryoflow.view.review import Added, Tally, doubt, per_micrograph, tally
from cryoflow.view.save import save, star_archive
from cryoflow.view.training import FLOWS, Trained, Trainings

MOST_PATCHES = 60
"""Most patches of one picture."""
MOST_OVERLAYS = 4
SEEN_FOR_S = 15.0
"""Seconds after which a window that sends nothing counts as closed."""
MOST_WINDOWS = 200
BUSY_AFTER_S = 20.0
DOUBTFUL = (0.25, 0.75)
"""Probabilities between these are doubtful: more than one in four of the decisions on such picks is wrong."""

EntryName = Annotated[str, Query(max_length=600)]
Number = Annotated[int, Query(ge=0, le=10_000_000)]
Threshold = Annotated[float, Query(allow_inf_nan=False)]
Order = Literal["threshold", "low", "high", "random", "doubt"]


class Api:
    """State behind the addresses: the library, who is looking at what, and how much is computed at a time.

    Parameters
    ----------
    default_name
        Name of who acts where neither a proxy nor the page gives one.
    trainings
        Trainings on an entry's labels; None where the site has no folder of models.
    """

    def __init__(self, library: Library, *, default_name: str, trainings: Trainings | None = None) -> None:
        self.library, self.default_name, self.trainings = library, default_name, trainings
        self._slots = threading.BoundedSemaphore(max(2, available_cpus()))
        self._windows: dict[str, tuple[float, str, str, int]] = {}
        self._windows_lock = threading.Lock()
        self.pool = ThreadPoolExecutor(4, thread_name_prefix="patches")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Compute one thing: at most as many at a time as there are cores, the others wait, and then are refused."""
        if not self._slots.acquire(timeout=BUSY_AFTER_S):
            raise HTTPException(503, "The viewer is busy.", {"retry-after": "2"})
        try:
            yield
        finally:
            self._slots.release()

    def opened(self, entry: str) -> Opened:
        """Return an entry with all that was decided on it by now."""
        opened = self.library.opened(entry)
        opened.review.refresh()
        return opened

    def seen(self, window: str, name: str, entry: str, micrograph: int) -> list[dict[str, object]]:
        """Note what a window shows, and return the other windows that show the same entry."""
        now = time.monotonic()
        with self._windows_lock:
            self._windows = {w: v for w, v in self._windows.items() if now - v[0] < SEEN_FOR_S}
            if len(self._windows) < MOST_WINDOWS or window in self._windows:
                self._windows[window] = (now, name, entry, micrograph)
            others = [v for w, v in self._windows.items() if w != window and v[2] == entry]
        return [{"name": name, "micrograph": number} for _, name, _, number in others]


def visitor_of(request: Request) -> Visitor:
    """Return who sent a request."""
    return cast(Visitor, request.scope["state"]["visitor"])


def routes(api: Api) -> APIRouter:
    """Return the addresses below `/api`."""
    router = APIRouter(prefix="/api")

    @router.get("/entry")
    def entry(entry: EntryName) -> Response:
        with api.slot():
            return _json(_about(api.opened(entry)))

    @router.get("/list")
    def list_(entry: EntryName, threshold: Threshold) -> Response:
        with api.slot():
            return _json(_list(api.opened(entry), threshold))

    @router.get("/disagreement")
    def disagreement(entry: EntryName, other: EntryName, threshold: Threshold) -> Response:
        with api.slot():
            found = api.library.disagreement(api.opened(entry), api.opened(other), threshold)
            return _json([None if n < 0 else n for n in found.tolist()])

    @router.get("/micrograph")
    def micrograph(
        entry: EntryName,
        micrograph: Number,
        other: Annotated[list[str], Query(max_length=MOST_OVERLAYS)] = [],  # noqa: B006
    ) -> Response:
        with api.slot():
            opened = api.opened(entry)
            _check_micrograph(opened, micrograph)
            others = [api.opened(name) for name in other]
            return _json(_micrograph(api.library, opened, micrograph, others))

    @router.get("/tile")
    def tile_(
        entry: EntryName,
        micrograph: Number,
        level: Annotated[int, Query(ge=0, le=30)],
        row: Number,
        column: Number,
        lowpass: float = 0.0,
    ) -> Response:
        if lowpass not in pictures.LOWPASS_A:
            raise HTTPException(422, f"lowpass is one of {pictures.LOWPASS_A}")
        with api.slot():
            opened = api.library.opened(entry)
            _check_micrograph(opened, micrograph)
            try:
                content = api.library.tile(opened, micrograph, level, row, column, lowpass)
            except IndexError as error:
                raise HTTPException(404, str(error)) from None
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @router.get("/tally")
    def tally_(entry: EntryName, threshold: Threshold) -> Response:
        return _json(_tally(tally(api.opened(entry).review, threshold)))

    @router.get("/montage")
    def montage(
        entry: EntryName,
        threshold: Threshold,
        order: Order = "threshold",
        micrograph: Annotated[int, Query(ge=-1, le=10_000_000)] = -1,
        page: Number = 0,
        size: Annotated[int, Query(ge=1, le=MOST_PATCHES)] = 48,
    ) -> Response:
        with api.slot():
            opened = api.opened(entry)
            if micrograph >= 0:
                _check_micrograph(opened, micrograph)
            return _json(_montage(opened, threshold, order, micrograph, page, size))

    @router.get("/patches")
    def patches(
        entry: EntryName,
        picks: Annotated[str, Query(max_length=2000, pattern=r"^\d+\.\d+(,\d+\.\d+)*$")],
        lowpass: float = 20.0,
    ) -> Response:
        if lowpass not in pictures.LOWPASS_A:
            raise HTTPException(422, f"lowpass is one of {pictures.LOWPASS_A}")
        wanted = [tuple(map(int, pair.split("."))) for pair in picks.split(",")]
        if len(wanted) > MOST_PATCHES:
            raise HTTPException(422, f"at most {MOST_PATCHES} patches")
        with api.slot():
            content = _patches(api, api.library.opened(entry), cast("list[tuple[int, int]]", wanted), lowpass)
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @router.get("/changes")
    def changes(
        request: Request,
        entry: EntryName,
        since: Number,
        window: Annotated[str, Query(max_length=40)],
        micrograph: Number = 0,
        by: Annotated[str, Query(max_length=300)] = "",
    ) -> Response:
        opened = api.opened(entry)
        visitor = visitor_of(request)
        name = _name(api, visitor, by) if visitor.may_write else visitor.name or "someone who looks"
        others = api.seen(window, name, opened.name, micrograph)
        return _json({**_changed(opened, since, window), "others": others})

    @router.get("/progress")
    def progress(run: UUID) -> Response:
        found = _trainings(api).progress(run)
        return _json({"state": found.state, "ended": found.ended, "percent": found.percent})

    @router.get("/stars")
    def stars(entry: EntryName) -> Response:
        with api.slot():
            opened = api.opened(entry)
            if "label" not in opened.candidates.picks.picks:
                raise BadInput(opened.name, "has no labels.", "Save a review first, and open the entry that it makes.")
            content = star_archive(opened.candidates.picks)
        name = opened.name.partition("/")[2]
        headers = {"content-disposition": f'attachment; filename="{name}-star-files.zip"'}
        return Response(content, media_type="application/zip", headers=headers)

    @router.post("/act")
    async def act(request: Request) -> Response:
        record = await _body(request)
        return await run_in_threadpool(_act, api, visitor_of(request), record)

    @router.post("/save")
    async def save_(request: Request) -> Response:
        record = await _body(request)
        return await run_in_threadpool(_save, api, visitor_of(request), record)

    @router.post("/train")
    async def train(request: Request) -> Response:
        record = await _body(request)
        return await run_in_threadpool(_train, api, record)

    return router


def _train(api: Api, record: Mapping[str, object]) -> Response:
    entry = api.library.database.entry(_text(record, "entry")).name
    if (trained := record.get("trained", "unpicker")) not in FLOWS:
        raise HTTPException(422, f"trained is one of {', '.join(FLOWS)}")
    started = _trainings(api).start(entry, cast(Trained, trained))
    return _json({"run": started.run, "page": started.page, "model": str(started.model)})


def _trainings(api: Api) -> Trainings:
    if api.trainings is None:
        raise HTTPException(404, "No folder of models is set: 'models' in [site] of cryoflow.toml.")
    return api.trainings


def _act(api: Api, visitor: Visitor, record: Mapping[str, object]) -> Response:
    opened = api.opened(_text(record, "entry"))
    window, since = _text(record, "window", 40), _count(record, "revision")
    action = record.get("action")
    if not isinstance(action, dict):
        raise HTTPException(422, "an action is an object")
    line = opened.review.act(_name(api, visitor, _text(record, "by", 300)), window, action)
    threshold = _number(record, "threshold")
    answer = {**_changed(opened, since, window), "done": line is not None}
    return _json({**answer, "tally": _tally(tally(opened.review, threshold))})


def _save(api: Api, visitor: Visitor, record: Mapping[str, object]) -> Response:
    opened = api.opened(_text(record, "entry"))
    others = record.get("others")
    if others not in ("leave out", "threshold"):
        raise HTTPException(422, "others is 'leave out' or 'threshold'")
    if (since := _count(record, "revision")) != opened.review.revision:
        changed = _changed(opened, since, _text(record, "window", 40))
        return _json({"conflict": changed}, status=409)
    by = _name(api, visitor, _text(record, "by", 300))
    with api.slot():
        entry = save(opened.review, api.library.database, by, threshold=_number(record, "threshold"), others=others)
    saved = api.library.database.load(entry)
    labels = saved.picks["label"].to_numpy()
    return _json(
        {
            "entry": entry.name,
            "n_picks": len(saved),
            "n_micrographs": len(saved.micrographs),
            "accepted": int((labels > 0).sum()),
            "removed": int((labels < 0).sum()),
            "undecided": int((labels == 0).sum()),
            "next": next_steps(entry.name, api.library.database.root),
        }
    )


def _about(opened: Opened) -> dict[str, object]:
    """What does not change while an entry is looked at."""
    c = opened.candidates
    table = c.picks.micrographs
    defocus = (table["defocus_u_A"].to_numpy(np.float64) + table["defocus_v_A"].to_numpy(np.float64)) / 2
    low, high = c.score_range
    scoring = opened.scoring
    problem = (scoring.problem,) if scoring and scoring.problem else ()
    return {
        "name": opened.name,
        "n": len(c),
        "names": [_shown(name) for name in table["name"]],
        "status": table["status"].tolist(),
        "defocus_um": _numbers(defocus / 1e4, 2),
        "n_picks": np.diff(c.offsets).tolist(),
        "doubt": _numbers(doubt(c), 1),
        "diameter_A": opened.diameter_A,
        "diameter_known": c.picks.diameter_A is not None,
        "same_pick_diameters": SAME_PICK_DIAMETERS,
        "has_scores": c.has_scores,
        "histogram": _histogram(c.scores, low, high),
        "doubtful": list(DOUBTFUL),
        "suggested": scoring.suggested if scoring else [None] * len(table),
        "scoring": {"done": scoring.done, "of": scoring.of} if scoring and not scoring.finished else None,
        "calibrated": c.calibrated,
        "score_kind": c.picks.score_kind,
        "threshold": c.threshold,
        "score_low": low,
        "score_high": high,
        "has_labels": bool(c.labels.any()),
        "notes": [_shown(note) for note in (*problem, *c.notes, *c.picks.notes)],
        "lowpass_A": list(pictures.LOWPASS_A),
        "tile_px": pictures.TILE_PX,
        "patch_px": pictures.PATCH_PX,
        "revision": opened.review.revision,
        "kind": opened.candidates.entry.kind.value,
        "orientation": c.entry.orientation.verdict,
        "status_of_entry": c.entry.status,
        "reason": _shown(c.entry.reason),
    }


def _list(opened: Opened, threshold: float) -> dict[str, object]:
    """What the list of micrographs shows of decisions."""
    review = opened.review
    kept = per_micrograph(opened.candidates, review.kept(threshold))
    d = review.decisions
    for micrograph, added in d.added.items():
        if d.marks.get(micrograph) != "bad":
            kept[micrograph] += sum(added.labels)
    return {
        "n_kept": kept.tolist(),
        "marks": {str(m): mark for m, mark in sorted(d.marks.items())},
        "touched": sorted(review.touched()),
        "tally": _tally(tally(review, threshold)),
        "revision": review.revision,
    }


def _micrograph(library: Library, opened: Opened, i: int, others: Sequence[Opened]) -> dict[str, object]:
    """One micrograph: its size, its picks, what was decided, and the picks of other entries."""
    c = opened.candidates
    row, rows = c.picks.micrographs.iloc[i], c.rows(i)
    xy = c.centers_xy_px[rows]
    problem = ""
    shape: tuple[int, int] | None = None
    try:
        shape = pictures.open_micrograph(opened.path(i)).shape_yx
    except BadInput as error:
        problem = f"{error.reason} {error.hint}".strip()
        if row["ny"] == row["ny"] and row["ny"] is not None and row["nx"] is not None:
            shape = (int(row["ny"]), int(row["nx"]))
    if shape is None:
        extent = xy.max(axis=0) if len(xy) else np.array([1000.0, 1000.0])
        shape = (int(extent[1]) + 1, int(extent[0]) + 1)
    return {
        "micrograph": i,
        "name": _shown(row["name"]),
        "problem": _shown(problem),
        "ny": shape[0],
        "nx": shape[1],
        "levels": pictures.n_levels(shape),
        "pixel_size_A": opened.pixel_size_A(i),
        "diameter_px": opened.diameter_px(i),
        "x": _numbers(xy[:, 0], 2),
        "y": _numbers(xy[:, 1], 2),
        "score": _numbers(c.scores[rows], 9),
        "label": c.labels[rows].tolist(),
        "removed": np.flatnonzero(c.removed_without_score[rows]).tolist(),
        "state": _state(opened, i),
        "others": [
            {"name": other.name, "xy": np.round(library.picks_of_partner(opened, other, i), 2).tolist()}
            for other in others
        ],
    }


def _state(opened: Opened, i: int) -> dict[str, object]:
    """What people decided on one micrograph."""
    d, rows = opened.review.decisions, opened.candidates.rows(i)
    labels = d.labels[rows]
    decided = np.flatnonzero(labels)
    added = d.added.get(i, Added())
    return {
        "decided": [[int(k), int(labels[k])] for k in decided],
        "added": [[x, y, label] for (x, y), label in zip(added.xy_px, added.labels, strict=True)],
        "mark": d.marks.get(i, ""),
        "finished_at": d.finished_at.get(i),
    }


def _changed(opened: Opened, since: int, window: str) -> dict[str, object]:
    """What has changed after a revision, micrograph by micrograph, and by whom."""
    review = opened.review
    lines = review.changes_since(since)
    micrographs = sorted({m for line in lines for m in review.micrographs_of(line)})
    return {
        "revision": review.revision,
        "micrographs": {str(m): _state(opened, m) for m in micrographs},
        "by_others": sorted({_shown(line.by) for line in lines if line.window != window}),
    }


def _montage(
    opened: Opened, threshold: float, order: Order, micrograph: int, page: int, size: int
) -> dict[str, object]:
    """Picks in the order in which a person looks at them, one page."""
    c = opened.candidates
    rows = np.arange(len(c)) if micrograph < 0 else np.arange(c.rows(micrograph).start, c.rows(micrograph).stop)
    scores = c.scores[rows]
    bad = [m for m, mark in opened.review.decisions.marks.items() if mark == "bad"]
    usable = ~np.isin(c.micrograph[rows], bad)
    if order == "random" or not c.has_scores:
        key = np.random.default_rng(0).random(len(rows))
    elif order in ("threshold", "doubt"):
        key = np.abs(scores - (threshold if order == "threshold" else 0.5))
    else:
        key = scores if order == "low" else -scores
    rows = rows[usable]
    ordered = rows[np.argsort(np.nan_to_num(key[usable], nan=np.inf), kind="stable")]
    these = ordered[page * size : (page + 1) * size]
    kept, decided = opened.review.kept(threshold), opened.review.labels
    return {
        "n": len(ordered),
        "page": page,
        "picks": [
            {
                "micrograph": int(c.micrograph[r]),
                "pick": int(r - c.offsets[c.micrograph[r]]),
                "score": _number_or_none(c.scores[r]),
                "kept": bool(kept[r]),
                "decided": bool(decided[r]),
            }
            for r in these.tolist()
        ],
    }


def _patches(api: Api, opened: Opened, wanted: Sequence[tuple[int, int]], lowpass_A: float) -> bytes:
    """Return patches side by side in one row of pictures; one that cannot be read is grey."""
    c = opened.candidates
    for micrograph, pick in wanted:
        _check_micrograph(opened, micrograph)
        if pick >= opened.review.n_picks(micrograph):
            raise HTTPException(404, "there is no such pick")
    files: dict[int, pictures.Pyramid | None] = {}

    def open_(micrograph: int) -> pictures.Pyramid | None:
        try:
            return pictures.open_micrograph(opened.path(micrograph))
        except BadInput:
            return None

    numbers = sorted({m for m, _ in wanted})
    files = dict(zip(numbers, api.pool.map(open_, numbers), strict=True))

    def cut(which: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        micrograph, pick = which
        file = files[micrograph]
        rows = c.rows(micrograph)
        n = rows.stop - rows.start
        x, y = (
            c.centers_xy_px[rows.start + pick]
            if pick < n
            else opened.review.decisions.added[micrograph].xy_px[pick - n]
        )
        try:
            if file is not None:
                size = opened.pixel_size_A(micrograph)
                return pictures.patch(file, (float(x), float(y)), opened.diameter_px(micrograph), lowpass_A, size)
        except BadInput:
            pass
        return np.full((pictures.PATCH_PX, pictures.PATCH_PX), 64, np.uint8)

    return pictures.jpeg(np.concatenate(list(api.pool.map(cut, wanted)), axis=1), quality=80)


def _check_micrograph(opened: Opened, micrograph: int) -> None:
    if micrograph >= len(opened.candidates.picks.micrographs):
        raise HTTPException(404, f"{opened.name} has no micrograph {micrograph}")


async def _body(request: Request) -> Mapping[str, object]:
    """Return the JSON object of a request. `access` has checked its declared length; the server holds it to that."""
    try:
        record = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(422, "not JSON") from None
    if not isinstance(record, dict):
        raise HTTPException(422, "not an object")
    return record


def _name(api: Api, visitor: Visitor, given: str) -> str:
    """Return who acts: the proxy's user, else the name that the page gives, else the user who started the viewer."""
    return visitor.name or clean_name(given) or api.default_name


def _text(record: Mapping[str, object], name: str, longest: int = 600) -> str:
    value = record.get(name, "")
    if not isinstance(value, str) or len(value) > longest:
        raise HTTPException(422, f"{name} is a text of at most {longest} characters")
    return value


def _count(record: Mapping[str, object], name: str) -> int:
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise HTTPException(422, f"{name} is a number from 0")
    return value


def _number(record: Mapping[str, object], name: str) -> float:
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise HTTPException(422, f"{name} is a number")
    return float(value)


def _tally(found: Tally) -> dict[str, object]:
    return {
        "n": found.n,
        "n_kept": found.n_kept,
        "precision": _number_or_none(found.precision),
        "recall": _number_or_none(found.recall),
    }


def _number_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: Iterable[float], decimals: int) -> list[float | None]:
    return [round(v, decimals) if math.isfinite(v) else None for v in map(float, values)]


def _shown(text: object) -> str:
    """A name of a file as JSON can carry it: bytes that are no UTF-8 become marks."""
    return str(text).encode(errors="replace").decode()


def _histogram(scores: Float, low: float, high: float) -> list[int]:
    known = scores[np.isfinite(scores)]
    counts: list[int] = np.histogram(known, bins=64, range=(low, high if high > low else low + 1))[0].tolist()
    return counts


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False, separators=(",", ":")), status, media_type="application/json")
