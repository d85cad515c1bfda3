"""The viewer's pages: the database, an entry, models, comparisons and reports. All text of others is escaped."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse, Response

from cryoflow.database import Database, Entry, layout
from cryoflow.database.entry_manifest import NAME as MANIFEST
from cryoflow.database.entry_manifest import read_manifest
from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.database.select import best_of
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.pickers.comparing.compare import compare
from cryoflow.picks import PickSet
from cryoflow.storage import inputs
from cryoflow.storage.safe_names import inside, safe_name
from cryoflow.view.api import Api, visitor_of
from cryoflow.view.models import registered_models, trainings
from cryoflow.view.served_reports import find_reports, read_report

if TYPE_CHECKING:
    import jinja2

STATIC = Path(__file__).parent / "static"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MOST_COMPARED = 8
SANDBOX = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Policy of served reports: whatever a page holds, it runs nothing, fetches nothing, and is nobody of this site."""


def routes(api: Api, *, reports: Sequence[Path], models: Sequence[Path]) -> APIRouter:
    """Return the addresses of the pages."""
    router = APIRouter(default_response_class=HTMLResponse)
    database = api.library.database

    @router.get("/")
    def overview(request: Request) -> HTMLResponse:
        projects, n = _projects(database)
        return page(request, "overview.html", here="Database", database=database.root, projects=projects, n_entries=n)

    @router.get("/look")
    def look(
        request: Request,
        entry: Annotated[str, Query(max_length=600)],
        with_: Annotated[list[str], Query(alias="with", max_length=4)] = [],  # noqa: B006
        micrograph: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    ) -> HTMLResponse:
        name = database.entry(entry).name
        api.prepare(name, micrograph)
        names = [e.name for e in database.entries()]
        visitor = visitor_of(request)
        config = {
            "entry": name,
            "with": [w for w in with_ if w in names and w != name][:3],
            "may_write": visitor.may_write,
            "name": visitor.name or api.default_name,
            "micrograph": micrograph,
            "can_train": api.trainings is not None,
        }
        shown = {"entry": name, "micrograph": micrograph, "other": config["with"]}
        needed = [f"api/entry?{urlencode({'entry': name})}", f"api/micrograph?{urlencode(shown, doseq=True)}"]
        named = bool(visitor.name)
        return page(request, "look.html", entry=name, entries=names, config=config, named=named, needed=needed)

    @router.get("/picture")
    def picture(entry: Annotated[str, Query(max_length=600)], name: Annotated[str, Query(max_length=200)]) -> Response:
        folder = database.entry(entry).folder
        if name not in _pictures(folder):
            raise HTTPException(404, "there is no such picture")
        kind = "image/png" if name.endswith(".png") else "image/jpeg"
        return Response(inputs.read_bytes(inside(folder, name)), media_type=kind)

    @router.get("/models")
    def models_(request: Request) -> HTMLResponse:
        registered, shown = registered_models(models), trainings(models)
        return page(request, "models.html", here="Models", folders=models, registered=registered, trainings=shown)

    @router.get("/compare")
    def compare_(
        request: Request,
        reference: Annotated[str, Query(max_length=600)] = "",
        entry: Annotated[list[str], Query(max_length=MOST_COMPARED)] = [],  # noqa: B006
        radius: Annotated[float, Query(gt=0, le=2)] = 0.25,
    ) -> HTMLResponse:
        names = [e.name for e in database.entries()]
        with api.slot():
            rows = [_compared(api, name, reference, radius) for name in entry] if reference else []
        curves = [{**r["curve"], "number": i} for i, r in enumerate(rows) if r.get("curve")]
        return page(
            request,
            "compare.html",
            here="Comparison",
            entries=names,
            reference=reference,
            chosen=entry,
            radius=f"{radius:g}",
            rows=rows,
            curves=curves,
        )

    @router.get("/reports")
    def reports_(request: Request) -> HTMLResponse:
        found, cut = find_reports(reports)
        return page(request, "reports.html", here="Reports", folders=reports, reports=found, cut=cut)

    @router.get("/reports/{path:path}")
    def report(path: str) -> Response:
        content = read_report(Path("/", path), reports)
        return HTMLResponse(content, headers={"content-security-policy": SANDBOX})

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in static_names():
            raise HTTPException(404, "there is no such file")
        file = STATIC / name
        return Response(inputs.read_bytes(file), media_type=KINDS[file.suffix], headers={"cache-control": "no-cache"})

    return router


def page(request: Request, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """Return a page; addresses in it are relative, so that a proxy may serve the viewer below any path."""
    depth = request.scope["path"].count("/") - 1
    root = "../" * depth or "./"
    may_write = visitor_of(request).may_write
    text = _templates().get_template(template).render(root=root, may_write=may_write, **values)
    return HTMLResponse(text, status)


def prepare() -> None:
    """Read the template of the page that most people open first: it takes longer than all that follows."""
    _templates().get_template("look.html")


@cache
def _templates() -> jinja2.Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cryoflow.view"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["here"] = ""
    return environment


def _projects(database: Database) -> tuple[list[dict[str, object]], int]:
    by_project: dict[str, list[Entry]] = {}
    entries = database.entries()
    for entry in entries:
        by_project.setdefault(entry.project, []).append(entry)
    reviewed = _open_reviews(database)
    rows: list[dict[str, object]] = []
    for project, members in sorted(by_project.items()):
        best = best_of(project, members)
        rows.append(
            {
                "name": project,
                "best": best.entry.name if best.entry else "",
                "reason": best.reason,
                "passed_over": best.passed_over,
                "entries": [_entry_row(e, reviewed) for e in members],
            }
        )
    return rows, len(entries)


def _entry_row(entry: Entry, reviewed: Sequence[str]) -> dict[str, object]:
    notes = [entry.reason] if entry.status != "current" and entry.reason else []
    notes += [entry.orientation.detail] if entry.orientation.detail else []
    start = safe_name(entry.name.replace("/", "_")) + "-"
    return {
        "name": entry.name,
        "short": entry.name.partition("/")[2],
        "n_picks": entry.n_picks,
        "n_micrographs": entry.n_micrographs,
        "n_missing": entry.n_missing_micrographs,
        "diameter_A": entry.diameter_A,
        "verdict": entry.orientation.verdict,
        "pictures": _pictures(entry.folder),
        "status": entry.status,
        "notes": [*notes, *entry.notes],
        "open_review": any(name.startswith(start) and len(name) == len(start) + 6 + 1 + 16 + 6 for name in reviewed),
    }


def _open_reviews(database: Database) -> list[str]:
    try:
        return sorted(os.listdir(database.root / layout.REVIEWS))
    except OSError:
        return []


def _pictures(folder: Path) -> list[str]:
    """Return the pictures of an entry that its manifest names."""
    try:
        return sorted(n for n in read_manifest(folder / MANIFEST).sums if n.endswith((".jpg", ".jpeg", ".png")))
    except (BadInput, OSError):
        return []


def _compared(api: Api, name: str, reference: str, radius: float) -> dict[str, Any]:
    """Return one row of the comparison; an entry that cannot be compared says why."""
    try:
        database = api.library.database
        found = compare(
            _particles(database.load(name)), _particles(load_with_diameter(database, reference)), radius=radius
        )
    except CryoflowError as error:
        return {"entry": name, "problem": str(error)}
    points = [(40 + 290 * float(x), 230 - 220 * float(y)) for x, y in found.curve.T]
    step = max(1, len(points) // 300)
    here = found.recall, found.precision
    drawn = all(map(math.isfinite, here))
    return {
        "entry": name,
        "problem": "",
        "n_picks": found.n_picks,
        "n_reference": found.n_reference,
        "n_matched": found.n_matched,
        "precision": _share(found.precision),
        "recall": _share(found.recall),
        "f1": _share(found.f1),
        "average_precision": _share(found.average_precision),
        "error_A": f"{found.localisation_error_A:.1f}" if math.isfinite(found.localisation_error_A) else "–",
        "n_micrographs": len(found.micrographs),
        "curve": {
            "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points[::step]),
            "x": f"{40 + 290 * here[0]:.1f}",
            "y": f"{230 - 220 * here[1]:.1f}",
        }
        if drawn
        else None,
    }


def _particles(picks: PickSet) -> PickSet:
    """Return the picks of an entry that count as particles: where it has labels, those labeled as right."""
    return picks.where(picks.picks["label"].to_numpy() > 0) if "label" in picks.picks else picks


def _share(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def static_names() -> Iterator[str]:
    """Yield the names of the static files."""
    yield from sorted(p.name for p in STATIC.iterdir() if p.suffix in KINDS)
