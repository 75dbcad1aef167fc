"""Puts the console together: its pages under their addresses, its templates, and the guard before them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from kumofire_core import __version__
from kumofire_core.console import batch_pages, bulk_pages, dead_letters, job_pages, overview, run_pages, runs, schedules
from kumofire_core.console.access import Authorize
from kumofire_core.console.guard import Guard
from kumofire_core.console.visit import Desk, Page, Visit, endpoint, utc_now
from kumofire_core.console.words import FILTERS

if TYPE_CHECKING:
    from kumofire_core.deployment.dead_letters import DeadLetters
    from kumofire_core.jobs import Jobs

HERE = Path(__file__).parent

GET, POST = ["GET"], ["POST"]

STATIC = f"/static/{__version__}"
"""The version is in the address, so a browser keeps the files for a year, and loads those of the next release."""


def build(
    jobs: Jobs,
    *,
    authorize: Authorize,
    read_only: bool,
    hosts: Collection[str] | None,
    title: str,
    dead_letters_of: Callable[[], DeadLetters],
    clock: Callable[[], datetime] = utc_now,
) -> ASGIApp:
    """Return the console's ASGI application; see ``kumofire_core.console.console``."""
    desk = Desk(jobs=jobs, title=title, dead_letters=dead_letters_of, templates=_templates(), clock=clock)
    pages: list[tuple[str, list[str], Page]] = [
        ("/", GET, overview.show),
        *overview.PAGES,
        *runs.PAGES,
        *batch_pages.PAGES,
        *bulk_pages.PAGES,
        *run_pages.PAGES,
        *schedules.PAGES,
        *dead_letters.PAGES,
        *job_pages.PAGES,
    ]
    routes = [Route(path, endpoint(desk, page), methods=methods) for path, methods, page in pages]
    app = Starlette(
        routes=[
            Mount(STATIC, _Static(directory=HERE / "static")),
            *routes,
            Route("/{rest:path}", endpoint(desk, _none)),
        ]
    )
    return Guard(app, authorize=authorize, read_only=read_only, hosts=hosts, open_paths=f"{STATIC}/")


def _none(visit: Visit) -> Response:
    return visit.missing("page at this address")


class _Static(StaticFiles):
    """The style sheet and the scripts."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        response = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update(FILTERS)
    templates.globals["static"] = STATIC
    templates.globals["version"] = __version__
    return templates
