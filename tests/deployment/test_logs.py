"""What the functions logged about a run, or while an attempt was executed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from examples.local_aws import LocalAws
from kumofire_core import InvalidArgumentError
from kumofire_core.deployment.discovery import Deployment, DiscoveryError
from kumofire_core.deployment.logs import lines_about, lines_of_attempt
from kumofire_core.model.run import AttemptEnding
from kumofire_core.model.run_view import Attempt
from kumofire_core.model.times import to_ms
from tests.deployment.arranged import clients_of

_names = itertools.count(1)

START = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)
QUEUE = "http://127.0.0.1/000000000000/queue"


@pytest.fixture
def deployment(ministack: LocalAws) -> Deployment:
    """A deployment whose functions have log groups, with nothing in them."""
    groups = [f"/logs/{next(_names)}" for _ in range(2)]
    for group in groups:
        ministack.client("logs").create_log_group(logGroupName=group)
    return Deployment(
        table="t",
        queue_url=QUEUE,
        consumer_log_group=groups[0],
        dispatcher_log_group=groups[1],
        clients=clients_of(ministack),
    )


def write(deployment: Deployment, group: str | None, stream: str, *lines: tuple[float, str]) -> None:
    """Write lines that are dated so many seconds after ``START``."""
    logs = deployment.client("logs")
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    events = [{"timestamp": to_ms(START + timedelta(seconds=at)), "message": text} for at, text in lines]
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def test_the_lines_that_name_a_run_come_from_both_functions_in_order(deployment: Deployment) -> None:
    write(deployment, deployment.consumer_log_group, "a", (1, "run-1 starts"), (2, "run-2 starts"), (9, "run-1 ends"))
    write(deployment, deployment.consumer_log_group, "b", (5, '{"job_run_id": "run-1"}'))
    write(deployment, deployment.dispatcher_log_group, "c", (3, "run-1 is sent again"))

    lines = lines_about(deployment, "run-1", since=START)

    assert [line.text for line in lines] == [
        "run-1 starts",
        "run-1 is sent again",
        '{"job_run_id": "run-1"}',
        "run-1 ends",
    ]
    assert lines[1].log_group == deployment.dispatcher_log_group
    assert (lines[2].log_stream, lines[2].at) == ("b", START + timedelta(seconds=5))


def test_only_the_lines_of_the_time_that_is_asked_for_are_searched(deployment: Deployment) -> None:
    write(deployment, deployment.consumer_log_group, "a", *((at, f"run-1 at {at}") for at in range(10)))

    lines = lines_about(
        deployment, "run-1", since=START + timedelta(seconds=2), until=START + timedelta(seconds=8), limit=3
    )

    assert [line.text for line in lines] == ["run-1 at 2", "run-1 at 3", "run-1 at 4"]


def test_an_attempt_has_the_lines_of_its_consumer_from_its_start_to_its_end(deployment: Deployment) -> None:
    mine = (1, "before"), (2, "a handler's own line"), (4, "and its last"), (9, "after")
    write(deployment, deployment.consumer_log_group, "mine", *mine)
    write(deployment, deployment.consumer_log_group, "others", (3, "another consumer"))
    attempt = an_attempt(log_stream="mine")

    assert [line.text for line in lines_of_attempt(deployment, attempt)] == ["a handler's own line", "and its last"]
    assert [line.text for line in lines_of_attempt(deployment, attempt, limit=1)] == ["a handler's own line"]
    running = attempt._replace(ended_at=None)
    assert [line.text for line in lines_of_attempt(deployment, running)][-1] == "after"


def an_attempt(**fields: Any) -> Attempt:
    times = {"started_at": START + timedelta(seconds=2), "ended_at": START + timedelta(seconds=4)}
    return Attempt(**{"number": 1, "ended": AttemptEnding.SUCCEEDED, **times, **fields})


def test_more_lines_than_fit_on_a_page_are_read_to_their_end(deployment: Deployment) -> None:
    lines = [(2 + number / 1000, f"line {number}") for number in range(300)]
    write(deployment, deployment.consumer_log_group, "mine", *lines)
    client = deployment.client("logs")

    def small(params: dict[str, Any], **_: Any) -> None:
        params["limit"] = 100

    client.meta.events.register("provide-client-params.cloudwatch-logs.GetLogEvents", small)

    found = lines_of_attempt(deployment, an_attempt(log_stream="mine"))

    assert [line.text for line in found] == [text for _, text in lines]


def test_an_attempt_outside_of_lambda_has_no_lines(deployment: Deployment) -> None:
    assert lines_of_attempt(deployment, an_attempt()) == []


def test_without_a_stack_nobody_knows_where_the_functions_log(deployment: Deployment) -> None:
    unknown = replace(deployment, consumer_log_group=None)

    with pytest.raises(DiscoveryError, match="--stack-name"):
        lines_about(unknown, "run-1", since=START)
    with pytest.raises(DiscoveryError, match="--stack-name"):
        lines_of_attempt(unknown, an_attempt(log_stream="mine"))


@pytest.mark.parametrize("run_id", ["", 'x" -"y', "x" * 129, None])
def test_what_is_no_runs_id_is_not_searched_for(deployment: Deployment, run_id: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="run_id must be a run's id"):
        lines_about(deployment, run_id, since=START)


def test_a_time_without_a_zone_and_a_wrong_limit_are_refused(deployment: Deployment) -> None:
    with pytest.raises(InvalidArgumentError, match="no time zone"):
        lines_about(deployment, "run-1", since=START.replace(tzinfo=None))
    with pytest.raises(InvalidArgumentError, match="from 1 to 10000"):
        lines_about(deployment, "run-1", since=START, limit=0)
