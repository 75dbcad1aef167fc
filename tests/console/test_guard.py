"""What a request must bring before a page sees it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient

from kumofire_core import ConfigurationError, Jobs
from kumofire_core.console import Access, console
from kumofire_core.console.guard import COOKIE, FIELD, HEADER, MOST_BODY_BYTES
from tests.builders import NOW_MS, Aws
from tests.console.conftest import Visitor
from tests.faults import Refused

HOST = "console.example"
PAUSE = "/jobs/pause"
A_FILE = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n\r\n'


def form(client: TestClient, **fields: str) -> dict[str, str]:
    return {FIELD: client.cookies[COOKIE], "job": "email", **fields}


def plain(visitor: Visitor, **options: Any) -> TestClient:
    """Return a browser without scripts, which sends its token as a field."""
    client = visitor(scripts=False, **options)
    del client.headers[HEADER]
    return client


def test_a_form_with_its_token_changes_something(visitor: Visitor, jobs: Jobs) -> None:
    client = plain(visitor)

    assert client.post(PAUSE, data=form(client)).status_code == 200
    assert [each.job_name for each in jobs.pauses()] == ["email"]


@pytest.mark.parametrize("token", ["", "x" * 43, None, "é" * 43], ids=["empty", "another's", "missing", "not ascii"])
def test_a_form_without_its_token_changes_nothing(visitor: Visitor, jobs: Jobs, token: str | None) -> None:
    client = plain(visitor)
    data = {"job": "email"} if token is None else form(client, **{FIELD: token})

    answer = client.post(PAUSE, data=data)

    assert (answer.status_code, jobs.pauses()) == (403, ())
    assert "load the page again" in answer.text


def test_a_token_alone_is_nothing_without_the_cookie(visitor: Visitor, jobs: Jobs) -> None:
    client = plain(visitor)
    data = form(client)
    client.cookies.clear()

    assert client.post(PAUSE, data=data).status_code == 403
    assert jobs.pauses() == ()


def test_neither_a_cookie_nor_a_token_is_not_a_pair_that_fits(visitor: Visitor, jobs: Jobs) -> None:
    client = plain(visitor)
    client.cookies.clear()

    assert client.post(PAUSE, data={FIELD: "", "job": "email"}).status_code == 403
    assert jobs.pauses() == ()


def test_a_cookie_that_another_site_planted_is_replaced_and_worth_nothing(visitor: Visitor, jobs: Jobs) -> None:
    client = plain(visitor)
    client.cookies.clear()
    client.cookies.set(COOKIE, "short")

    answer = client.post(PAUSE, data={FIELD: "short", "job": "email"})

    assert (answer.status_code, jobs.pauses()) == (403, ())
    assert re.search(rf"{COOKIE}=[\w-]{{43}}; Path=/; HttpOnly; SameSite=Strict", answer.headers["set-cookie"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://console.example.evil.example"},
        {"Origin": "http://console.example:81"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=lambda each: next(iter(each.values())),
)
def test_another_site_changes_nothing_even_with_the_token(
    visitor: Visitor, jobs: Jobs, headers: dict[str, str]
) -> None:
    client = plain(visitor)

    assert client.post(PAUSE, data=form(client), headers=headers).status_code == 403
    assert jobs.pauses() == ()


@pytest.mark.parametrize("headers", [{"Origin": f"http://{HOST}"}, {"Sec-Fetch-Site": "same-origin"}])
def test_the_console_s_own_pages_may_change_things(visitor: Visitor, jobs: Jobs, headers: dict[str, str]) -> None:
    client = plain(visitor)

    assert client.post(PAUSE, data=form(client), headers=headers).status_code == 200
    assert len(jobs.pauses()) == 1


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_no_other_method_gets_past_the_token(visitor: Visitor, method: str) -> None:
    assert getattr(plain(visitor), method)(PAUSE).status_code == 403


def test_a_name_that_is_not_the_console_s_is_not_answered(visitor: Visitor, aws: Aws) -> None:
    client = visitor(hosts=[HOST])

    assert client.get("/runs").status_code == 200
    answer = client.get("/runs", headers={"Host": "rebound.example"})

    assert answer.status_code == 421
    assert "rebound.example" in answer.text


def test_who_is_not_allowed_sees_nothing_but_the_style(visitor: Visitor, aws: Aws, jobs: Jobs) -> None:
    aws.a_run("secret-run")
    asked = len(aws.dynamodb.requests)
    client = TestClient(console(jobs, authorize=lambda request: None), base_url=f"http://{HOST}")

    for path in ("/", "/runs", "/runs/secret-run", "/jobs", "/schedules", "/dead-letters", "/nothing"):
        answer = client.get(path)
        assert (answer.status_code, "secret-run" in answer.text) == (403, False), path
    assert len(aws.dynamodb.requests) == asked
    style = visitor().get("/runs").text
    [address] = re.findall(r'href="([^"]+console.css)"', visitor(scripts=False).get("/runs").text or style)
    assert client.get(address).headers["content-type"].startswith("text/css")
    assert client.get(address.replace("console.css", "../../../__init__.py")).status_code == 403


def test_who_may_only_look_changes_nothing(visitor: Visitor, jobs: Jobs) -> None:
    for client in (visitor(act=False), visitor(read_only=True)):
        answer = client.post(PAUSE, data={"job": "email"})
        assert (answer.status_code, jobs.pauses()) == (403, ())
        assert "you may look" in answer.text


@pytest.mark.parametrize("answer", ["yes", 1, {}], ids=repr)
def test_an_answer_of_authorize_that_means_nothing_lets_nobody_in(jobs: Jobs, answer: Any) -> None:
    client = TestClient(console(jobs, authorize=lambda request: answer), base_url=f"http://{HOST}")

    with pytest.raises(ConfigurationError, match="authorize returned"):
        client.get("/")


def test_authorize_may_be_async_and_sees_the_request(jobs: Jobs) -> None:
    async def authorize(request: Request) -> Access | None:
        return Access() if request.headers.get("x-user") == "alice" else None

    client = TestClient(console(jobs, authorize=authorize), base_url=f"http://{HOST}")

    assert client.get("/runs", headers={"X-User": "alice"}).status_code == 200
    assert client.get("/runs", headers={"X-User": "bob"}).status_code == 403


def test_every_answer_has_the_strict_headers(visitor: Visitor) -> None:
    client = visitor(scripts=False)
    for path in ("/", "/nothing", "/runs"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
        assert headers["cache-control"] == "no-store"


def test_the_cookie_is_secure_where_the_page_is(jobs: Jobs) -> None:
    client = TestClient(console(jobs, authorize=lambda request: True), base_url=f"https://{HOST}")

    assert client.get("/runs").headers["set-cookie"].endswith("; Secure")


def test_a_request_that_is_too_large_is_refused_with_and_without_its_length(visitor: Visitor, jobs: Jobs) -> None:
    client = plain(visitor)
    body = f"{FIELD}={client.cookies[COOKIE]}&job=email&reason={'x' * MOST_BODY_BYTES}".encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    def parts() -> Iterator[bytes]:
        yield from (body[start : start + 65536] for start in range(0, len(body), 65536))

    assert client.post(PAUSE, content=body, headers=headers).status_code == 413
    assert client.post(PAUSE, content=parts(), headers=headers).status_code == 413
    assert jobs.pauses() == ()


def test_a_request_that_is_too_large_is_refused_where_a_header_has_the_token(visitor: Visitor, jobs: Jobs) -> None:
    def parts() -> Iterator[bytes]:
        yield b"job=email&reason="
        yield from (b"x" * 65536 for _ in range(20))

    answer = visitor().post(PAUSE, content=parts(), headers={"Content-Type": "application/x-www-form-urlencoded"})

    assert (answer.status_code, jobs.pauses()) == (413, ())


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in an application"])
@pytest.mark.parametrize("by_header", [False, True], ids=["token in the form", "token in a header"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", b"broken"),
        ("multipart/form-data; boundary=x", A_FILE),
        ("multipart/form-data", b"job=email"),
        ("application/x-www-form-urlencoded", b"&".join(b"run=%d" % number for number in range(5_001))),
    ],
    ids=["broken", "a file", "no boundary", "too many fields"],
)
def test_a_form_that_cannot_be_read_is_refused_and_is_no_error_of_the_console(
    visitor: Visitor, jobs: Jobs, kind: str, body: bytes, by_header: bool, inside: bool
) -> None:
    client = visitor() if by_header else plain(visitor)
    if inside:
        around = TestClient(Starlette(routes=[Mount("", client.app)]), base_url=f"http://{HOST}")
        around.cookies, around.headers = client.cookies, client.headers
        client = around

    answer = client.post(PAUSE, content=body, headers={"Content-Type": kind})

    assert (answer.status_code, jobs.pauses()) == (400, ())
    assert "more than 5,000 fields" in answer.text


def test_a_body_that_is_no_form_is_answered(visitor: Visitor, jobs: Jobs) -> None:
    answer = visitor().post("/runs/chosen", json={"action": "retry"})

    assert answer.status_code == 422


def test_a_name_with_line_ends_adds_no_line_to_the_log(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kumofire_core.console")
    access = Access(act=True, user="eve\nalice paused all jobs\x1b[2J")
    client = TestClient(console(jobs, authorize=lambda request: access), base_url=f"http://{HOST}")
    client.get("/nothing")

    client.post(PAUSE, data=form(client))

    [line] = [record.getMessage() for record in caplog.records if record.name == "kumofire_core.console"]
    assert line.isprintable()
    assert "paused job 'email'" in line


def test_a_form_that_aws_did_not_answer_leads_back_to_its_page_and_not_to_its_own_address(
    visitor: Visitor, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = plain(visitor)
    data = form(client, seen="failed.0.3")
    monkeypatch.setattr(aws.dynamodb, "client", Refused("ProvisionedThroughputExceededException"))
    on_its_page = {"Referer": f"http://{HOST}/runs/run-1"}

    answer = client.post("/runs/run-1/retry", data=data, headers=on_its_page)
    looked = client.get("/runs/run%20%3F1", params={"a": "b"})

    assert (answer.status_code, looked.status_code) == (503, 503)
    assert f'<a href="http://{HOST}/runs/run-1">Back</a>' in answer.text
    assert "Try again" not in answer.text
    assert '<a href="/runs/run%20%3F1?a=b">Try again</a>' in looked.text


def test_without_scripts_too_what_deletes_asks_first(visitor: Visitor, jobs: Jobs, aws: Aws) -> None:
    client = plain(visitor)
    schedule_id = jobs.create_schedule("email", schedule_type="cron", schedule_expr="0 7 * * *")
    run_id = aws.a_run("run-1", status="failed", attempt=3, finished_at=NOW_MS)
    aims = {f"/runs/{run_id}": {"seen": "failed.0.3"}, f"/schedules/{schedule_id}": {}}

    for address, seen in aims.items():
        question = client.post(f"{address}/delete", data=form(client, **seen))
        assert (question.status_code, "Delete" in question.text) == (200, True)
        assert client.get(address).status_code == 200
        given = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', question.text))
        assert f'action="{address}/delete"' in question.text
        assert client.post(f"{address}/delete", data=given).status_code == 200
        assert client.get(address).status_code == 404


def test_the_arguments_of_console_are_checked(jobs: Jobs) -> None:
    for wrong in ({"jobs": "jobs"}, {"authorize": True}, {"hosts": "localhost"}):
        given: dict[str, Any] = {"jobs": jobs, "authorize": lambda request: True} | wrong
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            console(given.pop("jobs"), **given)


def test_without_authorize_there_is_no_console(jobs: Jobs) -> None:
    with pytest.raises(TypeError, match="authorize"):
        console(jobs)  # type: ignore[call-arg]
