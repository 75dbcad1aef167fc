"""The recipes of docs/idempotent-handlers.md, executed as they are printed: a second attempt has no second effect."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from examples.deployment import PROJECT
from kumofire_core import Fail, JobContext, Jobs
from tests.builders import Aws

PAGE = (PROJECT / "docs/idempotent-handlers.md").read_text()
KEY = {"KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}], "BillingMode": "PAY_PER_REQUEST"}


def execute(*examples: str, **names: Any) -> dict[str, Any]:
    """Execute the examples that have these texts, one after the other, in one module; return its names."""
    namespace: dict[str, Any] = {"JobContext": JobContext, "timedelta": timedelta, "Fail": Fail, **names}
    for example in examples:
        (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if example in block]
        exec(compile(code, "docs/idempotent-handlers.md", "exec"), namespace)
    return namespace


def attempt(number: int, payload: Any, **fields: Any) -> JobContext[Any]:
    return JobContext.for_test(payload=payload, run_id="run-1", attempt=number, **fields)


def stored(names: dict[str, Any], table: str, item: str) -> dict[str, Any]:
    found: dict[str, Any] = names["dynamodb"].get_item(TableName=table, Key={"id": {"S": item}}).get("Item", {})
    return found


@pytest.fixture
def around(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The module around the examples: a ``Jobs``, and credentials that boto3's own clients find."""
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("ledger", "documents"):
        aws.dynamodb.client.create_table(
            TableName=name, AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}], **KEY
        )
    return {"jobs": aws.jobs(allow_unknown_jobs=True)}


def test_a_second_attempt_books_nothing(around: dict[str, Any]) -> None:
    names = execute('jobs.handler("book")', "def test_a_second_attempt_books_nothing", **around)

    names["test_a_second_attempt_books_nothing"]()


def test_a_balance_is_changed_once(around: dict[str, Any]) -> None:
    names = execute('jobs.handler("book")', 'jobs.handler("credit")', **around)

    for number in (1, 2):
        names["credit"](attempt(number, {"account": "7", "cents": 100}))

    assert stored(names, "ledger", "7")["cents"] == {"N": "100"}


def test_an_error_that_is_not_the_marker_s_fails_the_attempt(around: dict[str, Any]) -> None:
    names = execute('jobs.handler("book")', 'jobs.handler("credit")', **around)
    names["dynamodb"].put_item(TableName="ledger", Item={"id": {"S": "7"}, "cents": {"S": "no number"}})

    with pytest.raises(ClientError):
        names["credit"](attempt(1, {"account": "7", "cents": 100}))
    assert stored(names, "ledger", "run-1/credit") == {}


def test_a_late_writer_is_refused(around: dict[str, Any]) -> None:
    names = execute('jobs.handler("book")', 'jobs.handler("render"', render_slowly=str, **around)
    names["render"](attempt(2, {"document": "new"}, fencing_token=2))

    with pytest.raises(ClientError, match="ConditionalCheckFailed"):
        names["render"](attempt(1, {"document": "old"}, fencing_token=1))
    assert stored(names, "documents", "run-1")["html"] == {"S": "new"}


def test_an_export_is_one_object(around: dict[str, Any]) -> None:
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="my-exports")
        names = execute('jobs.handler("export")', boto3=boto3, export_rows=lambda customer: b"rows", **around)

        keys = {names["export"](attempt(number, {"customer": "7"})) for number in (1, 2)}

        listed = names["s3"].list_objects_v2(Bucket="my-exports")["Contents"]
        assert keys == {each["Key"] for each in listed} == {"exports/run-1.csv"}
        with pytest.raises(ClientError, match="PreconditionFailed"):
            names["s3"].put_object(Bucket="my-exports", Key="exports/run-1.csv", Body=b"", IfNoneMatch="*")


@pytest.mark.parametrize(
    ("first", "sent", "second"), [(None, 1, Fail), (ConnectionRefusedError(), 2, None), (TimeoutError(), 1, Fail)]
)
def test_an_e_mail_that_may_have_gone_is_not_sent_again(
    around: dict[str, Any], first: Exception | None, sent: int, second: type[Exception] | None
) -> None:
    calls: list[str] = []

    def send_email(to: str) -> None:
        calls.append(to)
        if first is not None and len(calls) == 1:
            raise first

    names = execute('jobs.handler("book")', 'jobs.handler("receipt"', send_email=send_email, **around)
    errors: list[type[Exception] | None] = []
    for number in (1, 2):
        try:
            names["send_receipt"](attempt(number, {"to": "ada@example.com"}))
            errors.append(None)
        except Exception as error:
            errors.append(type(error))

    assert errors == [None if first is None else type(first), second]
    assert len(calls) == sent


def test_a_handler_that_creates_runs_finds_those_of_the_attempt_before(around: dict[str, Any]) -> None:
    jobs: Jobs = around["jobs"]
    names = execute('jobs.handler("fan-out")', **around)

    for number in (1, 2):
        names["fan_out"](attempt(number, {"customers": ["7", "8"]}))

    runs = jobs.list_runs(status="queued", job_name="invoice").runs
    assert {run.dedupe_key for run in runs} == {"run-1/7", "run-1/8"}
    assert len(runs) == 2


def test_a_step_is_not_repeated(around: dict[str, Any]) -> None:
    charged: list[str] = []

    class Payments:
        def charge(self, card: str, amount: str, idempotency_key: str) -> str:
            charged.append(idempotency_key)
            return "charge-1"

    names = execute("def charge_card", payments=Payments(), send_receipt=lambda *told: "sent", **around)
    jobs: Jobs = around["jobs"]
    run_id = jobs.create("order", {"card": "4242", "amount": "5", "email": "ada@example.com"})
    jobs.consume({"version": 1, "kumofireJobRunId": run_id})

    assert charged == [f"{run_id}/charge"]
    assert names["order"] is not None
    assert [step.name for step in jobs.steps(run_id)] == ["charge", "mail"]
