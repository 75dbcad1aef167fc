"""The dispatcher's Lambda function: one pass within its time, told as metrics, a line and an answer."""

from __future__ import annotations

import io
import json
import logging
import sys
import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kumofire_core import AttemptLogFilter, DispatchResult, Jobs, PartlyDispatchedError
from kumofire_core.edge import dispatcher as edge_dispatcher
from kumofire_core.edge import telemetry
from kumofire_core.engine import dispatcher
from kumofire_core.handlers.deadline import Deadline
from tests.builders import Aws, LambdaContext

NOTHING = {
    "dispatched": 0, "schedules": 0, "resent": 0, "postponed": 0, "recovered": 0, "failed": 0, "canceled": 0,
    "unsent": 0, "refused": 0, "errors": 0, "handed_over": 0, "resumed": 0, "unread": 0, "complete": True,
}  # fmt: skip


@pytest.fixture
def jobs(aws: Aws) -> Jobs:
    jobs = aws.jobs(clock=lambda: datetime.now(UTC))
    jobs.handler("email")(print)
    return jobs


@pytest.fixture
def edge(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The edge as a cold start imports it, with the application's ``Jobs`` in a module of its own.

    A service is named after its test, because Powertools keeps a logger for each.
    """
    application = types.ModuleType("application_of_this_test")
    application.jobs = jobs  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, application.__name__, application)
    monkeypatch.setenv("KUMOFIRE_JOBS", f"{application.__name__}:jobs")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", request.node.name)
    monkeypatch.delitem(sys.modules, "handler.dispatcher", raising=False)
    telemetry._the_metrics.cache_clear()
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)
    outputs = root.handlers[:]
    import handler.dispatcher

    yield handler.dispatcher
    for output in root.handlers[:]:
        if output not in outputs:
            root.removeHandler(output)
    sys.modules.pop("handler.dispatcher", None)
    telemetry._the_metrics.cache_clear()


@pytest.fixture
def log(edge: ModuleType) -> io.StringIO:
    """What the edge and all that it calls log, in place of stdout."""
    output = io.StringIO()
    [written_to] = [
        one for one in logging.getLogger().handlers if any(isinstance(each, AttemptLogFilter) for each in one.filters)
    ]
    written_to.setStream(output)  # type: ignore[attr-defined]
    return output


def lines(text: str) -> list[dict[str, Any]]:
    """Return what was written as JSON, line by line."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_tick_sends_what_is_due_and_answers_with_its_counts(edge: ModuleType, aws: Aws):
    past = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp() * 1000)
    aws.a_run(status="scheduled", scheduled_for=past, wake_at=past)

    answer = edge.handler({"source": "aws.events"}, LambdaContext())

    assert answer == NOTHING | {"dispatched": 1}
    assert json.loads(json.dumps(answer)) == answer
    assert len(aws.sqs.parameters("send_message_batch")) == 1


@pytest.mark.parametrize("event", [{}, None, [], {"anything": ["else"]}, "text"])
def test_the_event_is_not_read(edge: ModuleType, event: Any):
    assert edge.handler(event, LambdaContext()) == NOTHING


def test_a_tick_invokes_itself_for_a_partition_with_much_to_do_and_that_invocation_for_none(
    edge: ModuleType, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    invoked: list[tuple[str, Any]] = []
    monkeypatch.setattr(edge_dispatcher, "invoke_async", lambda function, payload: invoked.append((function, payload)))
    monkeypatch.setattr(dispatcher, "PAGE_SIZE", 3)
    past = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp() * 1000)
    for shard in (0, 0, 2, 2, 2, 2, 5, 5, 5):
        aws.a_run(status="scheduled", scheduled_for=past, wake_at=past, wake_shard=shard)
    context = LambdaContext()

    assert edge.handler({}, context) == NOTHING | {"dispatched": 2, "handed_over": 2}
    assert [function for function, _ in invoked] == [context.invoked_function_arn] * 2

    answers = [edge.handler(json.loads(payload), context) for _, payload in invoked]
    assert answers == [NOTHING | {"dispatched": 4}, NOTHING | {"dispatched": 3}]
    assert len(invoked) == 2


def test_a_partition_that_cannot_be_handed_over_is_handled_by_the_tick(
    edge: ModuleType, aws: Aws, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
):
    def refused(function: str, payload: bytes) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "Invoke")

    monkeypatch.setattr(edge_dispatcher, "invoke_async", refused)
    monkeypatch.setattr(dispatcher, "PAGE_SIZE", 2)
    past = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp() * 1000)
    for _ in range(3):
        aws.a_run(status="scheduled", scheduled_for=past, wake_at=past)

    assert edge.handler({}, LambdaContext()) == NOTHING | {"dispatched": 3}
    assert "partition 0 could not be handed over (ClientError AccessDeniedException)" in log.getvalue()


def test_a_tick_ends_within_the_time_that_lambda_gives_it(edge: ModuleType, aws: Aws, monkeypatch: pytest.MonkeyPatch):
    given: list[float] = []
    monkeypatch.setattr("kumofire_core.jobs.Deadline", lambda seconds: given.append(seconds) or Deadline(seconds))
    past = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp() * 1000)
    aws.a_run(status="scheduled", scheduled_for=past, wake_at=past)

    assert edge.handler({}, LambdaContext(remaining_ms=400)) == NOTHING | {"complete": False}
    assert edge.handler({}, LambdaContext(remaining_ms=50_000))["dispatched"] == 1
    assert [round(seconds, 1) for seconds in given] == [0.4, 50.0]


def test_a_tick_writes_what_it_did_as_metrics_and_as_a_line(
    edge: ModuleType,
    jobs: Jobs,
    log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    result = DispatchResult(
        dispatched=1,
        schedules=2,
        resent=3,
        recovered=4,
        failed=5,
        canceled=6,
        unsent=7,
        refused=9,
        errors=8,
        resumed=10,
        complete=False,
    )
    monkeypatch.setattr(jobs, "dispatch", lambda **_: result)

    edge.handler({}, LambdaContext(aws_request_id="request-of-this-tick"))

    [line] = lines(log.getvalue())
    assert line["message"] == "dispatched"
    assert line["level"] == "INFO"
    assert line["function_request_id"] == "request-of-this-tick"
    assert (line["dispatched"], line["errors"], line["complete"]) == (1, 8, False)
    [metrics] = lines(capsys.readouterr().out)
    assert {name: value for name, value in metrics.items() if name not in ("_aws", "service")} == {
        "DispatcherPasses": [1.0],
        "RunsDispatched": [1.0],
        "OccurrencesFired": [2.0],
        "RunsResent": [3.0],
        "RunsRecovered": [4.0],
        "RunsFailed": [5.0],
        "RunsCanceled": [6.0],
        "MessagesUnsent": [7.0],
        "MessagesRefused": [9.0],
        "DispatchErrors": [8.0],
        "RunsResumed": [10.0],
        "DispatcherPassesCutShort": [1.0],
    }


def test_a_tick_with_nothing_to_do_is_counted_and_writes_no_line(
    edge: ModuleType, log: io.StringIO, capsys: pytest.CaptureFixture[str]
):
    edge.handler({}, LambdaContext())

    assert log.getvalue() == ""
    [metrics] = lines(capsys.readouterr().out)
    assert metrics["DispatcherPasses"] == [1.0]
    assert "RunsDispatched" not in metrics


def test_what_a_pass_logs_is_json_with_the_ticks_request_and_no_payload(edge: ModuleType, aws: Aws, log: io.StringIO):
    past = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp() * 1000)
    aws.a_run("bad", payload='"secret"', status="sleeping", wake_at=past)

    assert edge.handler({}, LambdaContext(aws_request_id="of-this-tick"))["errors"] == 1

    line, summary = lines(log.getvalue())
    assert (line["level"], line["function_request_id"]) == ("ERROR", "of-this-tick")
    assert "run#bad could not be dispatched" in line["message"]
    assert summary["message"] == "dispatched"
    assert "secret" not in log.getvalue()


def test_a_tick_that_cannot_read_a_part_of_the_index_tells_what_it_did_and_fails(
    edge: ModuleType,
    jobs: Jobs,
    aws: Aws,
    log: io.StringIO,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    past = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp() * 1000)
    aws.a_run(status="scheduled", scheduled_for=past, wake_at=past)
    query = aws.dynamodb.client.query

    def not_shard_3(**parameters: Any) -> Any:
        if parameters["ExpressionAttributeValues"][":shard"] == {"N": "3"}:
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "no"}}, "Query")
        return query(**parameters)

    monkeypatch.setattr(aws.dynamodb.client, "query", not_shard_3)

    with pytest.raises(PartlyDispatchedError, match=r"1 partitions .*ThrottlingException"):
        edge.handler({}, LambdaContext())

    [metrics] = lines(capsys.readouterr().out)
    assert (metrics["RunsDispatched"], metrics["PartitionsUnread"]) == ([1.0], [1.0])
    assert "DispatcherPasses" not in metrics
    refusal, summary = lines(log.getvalue())
    assert "partition 3 of the wake-up index could not be read" in refusal["message"]
    assert (summary["dispatched"], summary["unread"], summary["complete"]) == (1, 1, False)


def test_an_error_of_the_pass_itself_fails_the_tick(edge: ModuleType, jobs: Jobs, monkeypatch: pytest.MonkeyPatch):
    def unreadable(**_: Any) -> DispatchResult:
        raise ConnectionError("no index")

    monkeypatch.setattr(jobs, "dispatch", unreadable)

    with pytest.raises(ConnectionError, match="no index"):
        edge.handler({}, LambdaContext())
