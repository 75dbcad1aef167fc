"""The demo as a whole: the deployed stack executes its runs, and a difference of any kind does not pass."""

from __future__ import annotations

import dataclasses
import io
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from examples import demo
from examples.deployment import PROJECT
from kumofire_core.model.run import RunStatus
from kumofire_core.model.run_view import Run

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
GREETING = demo.SCENARIOS[0]


def finished(**changes: Any) -> Run:
    """Return the run that ``GREETING`` expects, with ``changes``."""
    fields: dict[str, Any] = {
        "id": "run-1",
        "job_name": "greet",
        "payload": {"name": "Ada"},
        "status": RunStatus.SUCCEEDED,
        "attempt": 0,
        "max_attempts": 3,
        "scheduled_for": NOON,
        "created_at": NOON,
        "updated_at": NOON,
        "started_at": NOON,
        "finished_at": NOON,
        "output": GREETING.output,
    }
    return Run(**{**fields, **changes})


def run_demo(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def answers(endpoint_url: str) -> bool:
    host, _, port = endpoint_url.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.long
def test_the_demo_ends_with_every_run_as_expected_whatever_aws_is_configured_around_it() -> None:
    nowhere = "http://127.0.0.1:9"
    ended = run_demo(AWS_PROFILE="missing", AWS_ENDPOINT_URL=nowhere, AWS_REGION="eu-north-1", HTTP_PROXY=nowhere)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"All as expected: {len(demo.SCENARIOS)} runs" in ended.stdout
    assert "fails twice, then succeeds: scheduled, failed attempts 1" in ended.stdout
    assert "worker killed, taken over: running, failed attempts 0" in ended.stdout
    assert (
        "worker killed, taken over: succeeded, failed attempts 1 (LeaseExpiredError: attempt 1 was lost" in ended.stdout
    )
    assert f"invoked the dispatcher: schedules {demo.OCCURRENCES}" in ended.stdout
    assert ended.stdout.count("│ yes ") == len(demo.SCENARIOS)
    assert "\x1b" not in ended.stdout, "there are control sequences where there is no terminal"


@pytest.mark.long
def test_a_run_that_ends_otherwise_than_expected_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = dataclasses.replace(GREETING, status="failed")

    assert demo.main([], [wrong]) == 1
    assert "status is 'succeeded', not 'failed'" in capsys.readouterr().out


@pytest.mark.long
def test_a_run_that_does_not_end_in_time_fails_the_demo_with_the_consumers_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    late = demo.Scenario(title="late", start=demo.created("greet", {"name": "late"}, delay=timedelta(hours=2)))

    assert demo.main(["--timeout", "2"], [late]) == 1
    out = capsys.readouterr().out
    assert "late: it did not end: it is scheduled" in out
    assert "START RequestId" in out


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ({"FunctionError": "Unhandled", "Payload": io.BytesIO(b'{"errorType": "ImportError"}')}, "ImportError"),
        ({"Payload": io.BytesIO(b'{"errors": 1, "unsent": 0}')}, "'errors': 1"),
        ({"Payload": io.BytesIO(b'{"errors": 0, "unsent": 2}')}, "'unsent': 2"),
    ],
)
def test_a_dispatcher_that_fails_fails_the_demo(reply: dict[str, Any], named: str) -> None:
    client = SimpleNamespace(invoke=lambda **_: reply, get_item=print, send_message=print)
    aws = SimpleNamespace(client=lambda service: client)
    stack = SimpleNamespace(table="t", queue_url="q", dispatcher_function="d")
    shown: Any = demo.Demo(aws, stack, None, Console(file=io.StringIO()), [])  # type: ignore[arg-type]

    shown._tick(time.monotonic())

    [problem] = shown.problems
    assert named in problem


def test_the_local_aws_ends_with_the_process_that_started_it_even_when_that_is_killed() -> None:
    script = "\n".join(
        [
            "import time",
            "from examples.local_aws import local_aws",
            "with local_aws() as aws:",
            "    print(aws.endpoint_url, aws.directory, flush=True)",
            "    time.sleep(600)",
        ]
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        endpoint_url, directory = owner.stdout.readline().split()
        owner.kill()

    deadline = time.monotonic() + 30
    while answers(endpoint_url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers(endpoint_url)
    assert not Path(directory).exists()


def test_a_run_as_expected_has_no_difference() -> None:
    assert demo.differences(GREETING, ["run-1"], finished(), [1]) == []


@pytest.mark.parametrize(
    ("run", "ids", "attempts", "named"),
    [
        (None, ["run-1"], [1], "does not exist"),
        (finished(status=RunStatus.RUNNING), ["run-1"], [1], "did not end"),
        (finished(status=RunStatus.CANCELED), ["run-1"], [1], "status"),
        (finished(attempt=1), ["run-1"], [1], "attempt"),
        (finished(output={"greeting": "Hello, you!"}), ["run-1"], [1], "output"),
        (finished(started_at=NOON - timedelta(seconds=2)), ["run-1"], [1], "before its time"),
        (finished(), ["run-1", "run-2"], [1], "2 runs"),
        (finished(), ["run-1"], [], "ledger"),
        (finished(), ["run-1"], [1, 1], "ledger"),
    ],
)
def test_a_difference_is_named(run: Run | None, ids: list[str], attempts: list[int], named: str) -> None:
    [difference] = demo.differences(GREETING, ids, run, attempts)

    assert named in difference


def test_a_failed_run_must_say_why() -> None:
    broken = dataclasses.replace(GREETING, status="failed", attempt=1, output=None, error="no answer")
    run = finished(status=RunStatus.FAILED, attempt=1, output=None, last_error="ValueError: something else")

    [difference] = demo.differences(broken, ["run-1"], run, [1])

    assert "without 'no answer'" in difference
