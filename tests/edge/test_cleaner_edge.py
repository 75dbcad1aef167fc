"""The cleaner's Lambda function: it removes what the records tell of, or sweeps, and says what it did."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from kumofire_core import ConfigurationError, Jobs
from kumofire_core.edge import cleaner_handler
from kumofire_core.engine import cleaning
from tests.builders import Aws, Clock, LambdaContext, message, raises

LARGE = "x" * 6_000


class RealClock(Clock):
    """The real time, from which a function's deadline is counted, until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, **length: float) -> None:
        self._ahead += timedelta(**length)


@pytest.fixture
def clock() -> Clock:
    return RealClock()


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    s3 = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").client("s3")
    s3.create_bucket(Bucket="large-values")
    return aws.jobs(clock=clock, bucket="large-values", s3=s3, handlers={"email": lambda ctx: None})


@pytest.fixture
def handler(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", request.node.name)
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", root.level)
    outputs = root.handlers[:]
    yield cleaner_handler(jobs)
    root.handlers = outputs


def deleted(aws: Aws, jobs: Jobs) -> dict[str, Any]:
    """The event of the stream that tells that a run which has ended was deleted."""
    run_id = jobs.create("email", LARGE)
    jobs.consume(message(run_id))
    key = {"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}
    image = aws.dynamodb.client.get_item(TableName=aws.table, Key=key)["Item"]
    assert jobs.delete(run_id)
    told = {"Keys": key, "OldImage": image, "ApproximateCreationDateTime": time.time() + 7_200}
    return {"Records": [{"eventName": "REMOVE", "dynamodb": told}]}


def test_the_objects_of_deleted_runs_are_removed(handler: Any, aws: Aws, jobs: Jobs, clock: Clock):
    event = deleted(aws, jobs)

    assert handler(event, LambdaContext()) == {"deleted": 1, "left": 0, "looked_at": 0, "complete": True}


def test_the_event_of_the_schedule_sweeps(handler: Any, aws: Aws, jobs: Jobs, monkeypatch: pytest.MonkeyPatch):
    jobs.create("email", LARGE, delay=3_600)
    deleted(aws, jobs)
    monkeypatch.setattr(cleaning, "SWEPT_AFTER", timedelta(days=-1))

    answer = handler({"sweep": True}, LambdaContext(remaining_ms=900_000))

    assert answer == {"deleted": 1, "left": 0, "looked_at": 2, "complete": True}


def test_a_sweep_ends_before_its_function_does(handler: Any):
    assert handler({"sweep": True}, LambdaContext(remaining_ms=15_000))["complete"] is False


def test_an_error_fails_the_invocation_so_that_the_stream_gives_its_records_again(
    handler: Any, aws: Aws, jobs: Jobs, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    event = deleted(aws, jobs)
    monkeypatch.setattr("kumofire_core.aws.s3.Bucket.delete", lambda bucket, keys: raises(ConnectionError())(None))

    with pytest.raises(ConnectionError):
        handler(event, LambdaContext())


def test_an_event_of_nothing_removes_nothing(handler: Any):
    assert handler({}, LambdaContext())["deleted"] == 0


def test_the_function_needs_no_application_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "handler.cleaner", raising=False)
    monkeypatch.delenv("KUMOFIRE_TABLE", raising=False)

    with pytest.raises(ConfigurationError, match="KUMOFIRE_TABLE is not set"):
        importlib.import_module("handler.cleaner")
