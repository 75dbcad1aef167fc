"""The console's pages: run_pages."""

from __future__ import annotations

from kumofire_core.console.visit import Page

PAGES: list[tuple[str, list[str], Page]] = []
