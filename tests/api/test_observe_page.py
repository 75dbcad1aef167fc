"""The examples of docs/observe.md, executed as they are printed."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

from examples.deployment import PROJECT
from kumofire_core import Jobs
from tests.builders import Aws, message, raises

PAGE = (PROJECT / "docs/observe.md").read_text()
IMPORTS = """
import json
import os
from typing import Any
from urllib.request import Request, urlopen

from aws_lambda_powertools.metrics import single_metric

from kumofire_core import CallNext, JobContext, RunEvent
"""


def execute(example: str, jobs: Jobs, **names: Any) -> None:
    """Execute the example that has this text."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if example in block]
    exec(compile(IMPORTS + code, "docs/observe.md", "exec"), {"jobs": jobs, **names})


def consume(jobs: Jobs, aws: Aws, **fields: Any) -> str:
    run_id = aws.a_run(**fields)
    jobs.consume(message(run_id))
    assert jobs.wait_for_hooks()
    return run_id


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """A server on the loopback interface, and what it was sent."""
    bodies: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", bodies
        server.shutdown()
        thread.join()


def test_the_message_to_a_team_is_sent(
    aws: Aws, webhook: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    url, bodies = webhook
    monkeypatch.setenv("SLACK_URL", url)
    jobs = aws.jobs(handlers={"email": raises(ValueError("x"))})
    execute("def to_slack", jobs)

    run_id = consume(jobs, aws, max_attempts=1)

    assert bodies == [{"text": f"email failed with ValueError (run {run_id})"}]


def test_the_error_report_has_the_error_with_its_traceback_and_the_run(aws: Aws):
    reports: list[Any] = []

    sentry = types.SimpleNamespace(  # https://getsentry.github.io/sentry-python/api.html
        capture_exception=lambda error, *, tags: reports.append((error, error.__traceback__ is not None, tags)),
        flush=lambda timeout: reports.append(timeout),
    )
    error = ValueError("x")
    jobs = aws.jobs(handlers={"email": raises(error)})
    execute("def to_sentry", jobs, sentry_sdk=sentry)

    run_id = consume(jobs, aws)

    assert reports == [(error, True, {"job": "email", "run": run_id, "event": "retried"}), 1]


def test_the_metric_is_written(aws: Aws, capsys: pytest.CaptureFixture[str]):
    jobs = aws.jobs(handlers={"order": lambda ctx: {"total": 42}})
    execute("def orders", jobs)

    consume(jobs, aws, job_name="order", payload='{"country": "JP"}')

    written = json.loads(capsys.readouterr().out)
    assert (written["OrderValue"], written["country"]) == ([42.0], "JP")


def test_the_middleware_is_around_the_handler(aws: Aws):
    seen: list[str] = []

    class Database:
        @contextlib.contextmanager
        def tenant(self, name: str) -> Iterator[None]:
            seen.append(f"enter {name}")
            yield
            seen.append(f"leave {name}")

    jobs = aws.jobs(handlers={"email": lambda ctx: seen.append("handler")})
    execute("def for_tenant", jobs, database=Database())

    consume(jobs, aws, payload='{"tenant": "acme"}')

    assert seen == ["enter acme", "handler", "leave acme"]


def test_tracing_is_switched_on(aws: Aws):
    jobs = aws.jobs()

    execute("import instrument", jobs)

    assert jobs._store.traceparent is not None


def test_the_page_names_every_event_and_limit_as_the_code_has_them():
    from kumofire_core.engine import hooks

    events = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert tuple(events) == hooks.EVENTS
    for text in (
        f"take {hooks.HOOK_SECONDS:g} seconds",
        f"{hooks.MOST_WAITING:,} events may wait, with {hooks.MOST_WAITING_BYTES // 1024**2} MB",
        f"the first {hooks.MOST_FRAMES} keep",
    ):
        assert text in PAGE
    assert (hooks.MOST_THREADS, hooks.FINISH_SECONDS) == (4, 1.0)  # "four", "a second"
