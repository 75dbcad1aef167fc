"""A visitor of the console: a client with the cookie and the token that a browser would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from starlette.testclient import TestClient

from kumofire_core import Jobs
from kumofire_core.console import Access, console
from kumofire_core.console.guard import COOKIE, HEADER

Visitor: TypeAlias = Callable[..., TestClient]


@pytest.fixture
def visitor(jobs: Jobs) -> Visitor:
    """Return a function that makes a client of the console of ``jobs``: by default of a person who may do everything.

    Its arguments are ``Access``'s, ``scripts=False`` for a browser without scripts, and ``console``'s own.
    """

    def visit(*, act: bool = True, payloads: bool = True, scripts: bool = True, **options: Any) -> TestClient:
        access = Access(act=act, payloads=payloads, user="alice")
        app = console(options.pop("jobs", jobs), **({"authorize": lambda request: access} | options))
        client = TestClient(app, base_url="http://console.example", follow_redirects=False)
        client.get("/missing")
        client.headers[HEADER] = client.cookies[COOKIE]
        if scripts:
            client.headers["HX-Request"] = "true"
        return client

    return visit
