"""The console's pages: overview."""

from __future__ import annotations

from starlette.responses import Response

from kumofire_core.console.visit import Page, Visit

PAGES: list[tuple[str, list[str], Page]] = []


def show(visit: Visit) -> Response:
    return visit.page("overview.html")
