"""A visitor of the console: a client with the cookie and the token that a browser would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from starlette.testclient import TestClient

from kumofire_core import Jobs
from kumofire_core.console import Access, console
from kumofire_core.console.app import build
from kumofire_core.console.guard import COOKIE, HEADER
from tests.builders import Clock

Visitor: TypeAlias = Callable[..., TestClient]
Browser: TypeAlias = Callable[..., TestClient]


def none() -> Any:
    """Stand for a dead-letter queue that no page of the test may ask for."""
    raise AssertionError("a page asked for dead letters")


def client_of(jobs: Jobs, clock: Clock, access: Access) -> TestClient:
    """Return a client of a console of its own, on a clock, with the cookie and the token that a browser would have."""
    app = build(
        jobs,
        authorize=lambda request: access,
        read_only=False,
        hosts=None,
        title="test",
        dead_letters_of=none,
        clock=clock,
    )
    made = TestClient(app, follow_redirects=False)
    made.get("/missing")
    made.headers[HEADER] = made.cookies[COOKIE]
    return made


@pytest.fixture
def browser(jobs: Jobs, clock: Clock) -> Browser:
    """Return a function that makes a client of a console of its own, on the clock of ``jobs``.

    Its arguments are ``Access``'s, and ``of`` for the console of another ``Jobs``.
    """

    def client(*, act: bool = True, payloads: bool = True, of: Jobs = jobs) -> TestClient:
        return client_of(of, clock, Access(act=act, payloads=payloads))

    return client


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
