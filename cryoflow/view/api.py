"""What the pages ask for: entries, micrographs, tiles, counts, montages; and what they change."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import HTTPException
from fastapi.responses import Response

from cryoflow.errors import BadInput, CryoflowError
from cryoflow.system.cpus import available_cpus
from cryoflow.view import pictures
from cryoflow.view.access import Visitor, clean_name
from cryoflow.view.answers import about, as_json, changed, counted, listed, one_micrograph, shape_of
from cryoflow.view.counts import tally
from cryoflow.view.montage import MOST_PATCHES, Order, montage_page, patches_picture
from cryoflow.view.opened_entries import Library, Opened
from cryoflow.view.request_checks import check_micrograph, count_of, number_of, read_record, text_of
from cryoflow.view.save import next_steps, save, star_archive
from cryoflow.view.training import FLOWS, Trained, Trainings

MOST_OVERLAYS = 4
SEEN_FOR_S = 15.0
"""Seconds after which a window that sends nothing counts as closed."""
MOST_WINDOWS = 200
BUSY_AFTER_S = 20.0

EntryName = Annotated[str, Query(max_length=600)]
Number = Annotated[int, Query(ge=0, le=10_000_000)]
Threshold = Annotated[float, Query(allow_inf_nan=False)]


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

    def prepare(self, entry: str, micrograph: int) -> None:
        """Load an entry and one of its micrographs in the background, while the browser still reads the page."""
        self.pool.submit(self._load, entry, micrograph)

    def _load(self, entry: str, micrograph: int) -> None:
        with contextlib.suppress(CryoflowError, OSError, IndexError):  # the page's own requests report them
            self.library.prepare(entry, micrograph)

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
            return as_json(about(api.opened(entry)))

    @router.get("/list")
    def list_(entry: EntryName, threshold: Threshold) -> Response:
        with api.slot():
            return as_json(listed(api.opened(entry), threshold))

    @router.get("/disagreement")
    def disagreement(entry: EntryName, other: EntryName, threshold: Threshold) -> Response:
        with api.slot():
            found = api.library.disagreement(api.opened(entry), api.opened(other), threshold)
            return as_json([None if n < 0 else n for n in found.tolist()])

    @router.get("/micrograph")
    def micrograph(
        entry: EntryName,
        micrograph: Number,
        other: Annotated[list[str], Query(max_length=MOST_OVERLAYS)] = [],  # noqa: B006
    ) -> Response:
        with api.slot():
            opened = api.opened(entry)
            check_micrograph(opened, micrograph)
            others = [api.opened(name) for name in other]
            return as_json(one_micrograph(api.library, opened, micrograph, others))

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
            check_micrograph(opened, micrograph)
            try:
                content = api.library.tile(opened, micrograph, level, row, column, lowpass)
            except IndexError as error:
                raise HTTPException(404, str(error)) from None
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @router.get("/mask")
    def mask(entry: EntryName, micrograph: Number) -> Response:
        with api.slot():
            opened = api.library.opened(entry)
            check_micrograph(opened, micrograph)
            content = api.library.mask(opened, micrograph, shape_of(opened, micrograph)[0])
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=60"})

    @router.get("/tally")
    def tally_(entry: EntryName, threshold: Threshold) -> Response:
        return as_json(counted(tally(api.opened(entry).review, threshold)))

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
                check_micrograph(opened, micrograph)
            return as_json(montage_page(opened, threshold, order, micrograph, page, size))

    @router.get("/patches")
    def patches(
        entry: EntryName,
        picks: Annotated[str, Query(max_length=2000, pattern=r"^\d+\.\d+(,\d+\.\d+)*$")],
        lowpass: float = pictures.FIRST_LOWPASS_A,
    ) -> Response:
        if lowpass not in pictures.LOWPASS_A:
            raise HTTPException(422, f"lowpass is one of {pictures.LOWPASS_A}")
        wanted = [(int(m), int(p)) for m, _, p in (pair.partition(".") for pair in picks.split(","))]
        if len(wanted) > MOST_PATCHES:
            raise HTTPException(422, f"at most {MOST_PATCHES} patches")
        with api.slot():
            content = patches_picture(api.pool, api.library.opened(entry), wanted, lowpass)
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
        return as_json({**changed(opened, since, window), "others": others})

    @router.get("/progress")
    def progress(run: UUID) -> Response:
        found = _trainings(api).progress(run)
        return as_json({"state": found.state, "ended": found.ended, "percent": found.percent})

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
        record = await read_record(request)
        return await run_in_threadpool(_act, api, visitor_of(request), record)

    @router.post("/save")
    async def save_(request: Request) -> Response:
        record = await read_record(request)
        return await run_in_threadpool(_save, api, visitor_of(request), record)

    @router.post("/train")
    async def train(request: Request) -> Response:
        record = await read_record(request)
        return await run_in_threadpool(_train, api, record)

    return router


def _train(api: Api, record: Mapping[str, object]) -> Response:
    entry = api.library.database.entry(text_of(record, "entry")).name
    if (trained := text_of(record, "trained") or "unpicker") not in FLOWS:
        raise HTTPException(422, f"trained is one of {', '.join(FLOWS)}")
    started = _trainings(api).start(entry, cast(Trained, trained))
    return as_json({"run": started.run, "page": started.page, "model": str(started.model)})


def _trainings(api: Api) -> Trainings:
    if api.trainings is None:
        raise HTTPException(404, "No folder of models is set: 'models' in [site] of cryoflow.toml.")
    return api.trainings


def _act(api: Api, visitor: Visitor, record: Mapping[str, object]) -> Response:
    opened = api.opened(text_of(record, "entry"))
    window, since = text_of(record, "window", 40), count_of(record, "revision")
    action = record.get("action")
    if not isinstance(action, dict):
        raise HTTPException(422, "an action is an object")
    line = opened.review.act(_name(api, visitor, text_of(record, "by", 300)), window, action)
    threshold = number_of(record, "threshold")
    answer = {**changed(opened, since, window), "done": line is not None}
    return as_json({**answer, "tally": counted(tally(opened.review, threshold))})


def _save(api: Api, visitor: Visitor, record: Mapping[str, object]) -> Response:
    opened = api.opened(text_of(record, "entry"))
    others = record.get("others")
    if others not in ("leave out", "threshold"):
        raise HTTPException(422, "others is 'leave out' or 'threshold'")
    seen = opened.review.decisions
    if (since := count_of(record, "revision")) != seen.revision:
        return as_json({"conflict": changed(opened, since, text_of(record, "window", 40))}, status=409)
    by = _name(api, visitor, text_of(record, "by", 300))
    threshold = number_of(record, "threshold")
    with api.slot():
        entry = save(opened.review, api.library.database, by, threshold=threshold, others=others, decisions=seen)
    saved = api.library.database.load(entry)
    labels = saved.picks["label"].to_numpy()
    return as_json(
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


def _name(api: Api, visitor: Visitor, given: str) -> str:
    """Return who acts: the proxy's user, else the name that the page gives, else the user who started the viewer."""
    return visitor.name or clean_name(given) or api.default_name
