"""The viewer as one ASGI application."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import JSONResponse, Response

from cryoflow.errors import BadInput, CryoflowError, DatabaseBusy, NotWritten
from cryoflow.view import api as apis
from cryoflow.view import pages
from cryoflow.view.access import Access, Guard, clean_name
from cryoflow.view.opened_entries import Library
from cryoflow.view.training import CannotStart, Trainings


def make_app(
    library: Library,
    access: Access,
    *,
    reports: Sequence[Path] = (),
    models: Sequence[Path] = (),
    trainings: Trainings | None = None,
) -> Guard:
    """Return the application.

    Parameters
    ----------
    library
        The database that is shown.
    access
        Who may see and change what.
    reports
        Folders whose HTML reports are served.
    models
        Folders of models and trainings.
    trainings
        See `cryoflow.view.api.Api`.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    api = apis.Api(library, default_name=_own_name(), trainings=trainings)
    app.include_router(apis.routes(api))
    app.include_router(pages.routes(api, reports=reports, models=models))

    @app.exception_handler(CryoflowError)
    async def refused(request: Request, error: CryoflowError) -> Response:
        busy = isinstance(error, DatabaseBusy | CannotStart)
        status = 503 if busy else 507 if isinstance(error, NotWritten) else 404 if isinstance(error, BadInput) else 422
        return _told(request, status, _shown(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _told(request, error.status_code, str(error.detail))

    @app.exception_handler(404)
    async def missing(request: Request, error: Exception) -> Response:
        return _told(request, 404, str(getattr(error, "detail", "there is no such page")))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _told(request, 422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    return Guard(app, access)


def _told(request: Request, status: int, text: str) -> Response:
    """Return an error as JSON to the page's own code, and as a page to a person."""
    wants_page = "text/html" in request.headers.get("accept", "") and not request.scope["path"].startswith("/api/")
    if wants_page:
        return pages.page(request, "message.html", status=status, title="This cannot be shown", text=text)
    return JSONResponse({"detail": text}, status)


def _shown(error: CryoflowError) -> str:
    return str(error).encode(errors="replace").decode()[:2000]


def _own_name() -> str:
    """Return the name of the user who runs the viewer."""
    try:
        return clean_name(getpass.getuser()) or "unknown"
    except (OSError, KeyError, ImportError):
        return "unknown"
