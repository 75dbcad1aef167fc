"""The console inside other applications: Starlette, FastAPI and Django, under a path of theirs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from anyio import from_thread, to_thread
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from kumofire_core import Jobs
from kumofire_core.console import Access, console
from kumofire_core.console.guard import COOKIE, FIELD
from tests.builders import Aws

MOUNTED = "/ops/jobs"


class Addresses(HTMLParser):
    """Collects every address on a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("href", "src", "action", "hx-get", "hx-post", "hx-push-url")
        self.found += [value for name, value in attrs if name in names and value and value not in ("true", "false")]


def addresses(page: str) -> list[str]:
    parser = Addresses()
    parser.feed(page)
    return parser.found


def everything(request: Any) -> Access:
    return Access(act=True, payloads=True, user="alice")


def in_starlette(app: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount(MOUNTED, app)])


def in_fastapi(app: ASGIApp) -> ASGIApp:
    from fastapi import FastAPI

    outer = FastAPI()
    outer.mount(MOUNTED, app)
    return outer


def in_django(app: ASGIApp) -> ASGIApp:
    """Return Django's own application with the console beside it, as docs/console.md shows."""
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    if not settings.configured:
        settings.configure(SECRET_KEY="test", ROOT_URLCONF=(), ALLOWED_HOSTS=["*"], INSTALLED_APPS=[])
        django.setup()
    django_app: Any = get_asgi_application()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{MOUNTED}/"):
            await app({**scope, "root_path": scope.get("root_path", "") + MOUNTED}, receive, send)
        else:
            await django_app(scope, receive, send)

    return application


@pytest.fixture(params=[in_starlette, in_fastapi, in_django], ids=["starlette", "fastapi", "django"])
def client(request: pytest.FixtureRequest, jobs: Jobs) -> TestClient:
    app = request.param(console(jobs, authorize=everything))
    return TestClient(app, base_url="http://app.example")


@pytest.mark.parametrize("path", ["/", "/runs", "/runs/run-1", "/jobs", "/schedules", "/dead-letters"])
def test_every_address_of_a_page_is_under_the_path_that_it_is_mounted_at(
    client: TestClient, aws: Aws, path: str
) -> None:
    aws.a_run("run-1")

    page = client.get(MOUNTED + path)

    assert page.status_code == 200
    found = [each for each in addresses(page.text) if not each.startswith(("#", "?"))]
    assert found
    assert [each for each in found if not each.startswith(f"{MOUNTED}/")] == []


def test_style_and_scripts_are_found_there(client: TestClient) -> None:
    page = client.get(f"{MOUNTED}/").text

    files = [each for each in addresses(page) if "/static/" in each]
    assert len(files) >= 5
    for each in files:
        answer = client.get(each)
        assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True), each


def test_the_address_without_a_slash_leads_to_the_console(client: TestClient) -> None:
    assert client.get(MOUNTED).status_code == 200


def test_a_change_works_there_and_its_cookie_stays_there(client: TestClient, jobs: Jobs) -> None:
    page = client.get(f"{MOUNTED}/jobs")
    [token] = set(re.findall(rf'name="{FIELD}" value="([\w-]+)"', page.text)) or {client.cookies[COOKIE]}

    assert client.post(f"{MOUNTED}/jobs/pause", data={FIELD: token, "job": "email"}).status_code == 200
    assert [each.job_name for each in jobs.pauses()] == ["email"]
    assert f"Path={MOUNTED}" in page.headers["set-cookie"]


def test_a_path_of_odd_characters_is_written_as_the_browser_asks_for_it(jobs: Jobs) -> None:
    app = Starlette(routes=[Mount("/{tenant}/jobs", console(jobs, authorize=everything))])
    client = TestClient(app, base_url="http://app.example")

    page = client.get("/caf%C3%A9%3B%20x/jobs/jobs")

    assert page.status_code == 200
    assert [each for each in addresses(page.text) if not each.startswith(("#", "/caf%C3%A9%3B%20x/jobs/"))] == []
    assert "Path=/caf%C3%A9%3B%20x/jobs;" in page.headers["set-cookie"]
    token = client.cookies[COOKIE]
    headers = {"HX-Request": "true"}
    given = {FIELD: token, "action": "reschedule", "run": "run-1 scheduled 0", "at": "2h"}
    assert client.post("/caf%C3%A9%3B%20x/jobs/runs/chosen", data=given, headers=headers).status_code == 409


def test_a_page_that_waits_for_aws_takes_no_thread_of_the_application_around_it(
    client: TestClient, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []
    pauses = jobs.pauses

    def asked() -> Any:
        taken.append(from_thread.run_sync(lambda: to_thread.current_default_thread_limiter().borrowed_tokens))
        return pauses()

    monkeypatch.setattr(jobs, "pauses", asked)

    assert client.get(f"{MOUNTED}/jobs").status_code == 200
    assert taken == [0]
