"""What ``template.yaml`` promises of the bucket for large payloads, and of the function that cleans it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

import boto3
import pytest

from kumofire_core import Jobs
from tests.builders import Aws, Clock, LambdaContext, event, message
from tests.deploy.test_template import (
    LOGS,
    POLLER,
    TEMPLATE,
    environment,
    granted,
    properties,
    resolved,
    resources,
    statements,
    under,
)

__all__ = ["resources"]

LARGE = "x" * 6_000
KEEPS = "KeepsLargePayloads"
OF_THE_FEATURE = {
    "Bucket",
    "BucketPolicy",
    "Cleaner",
    "CleanerRole",
    "CleanerLogs",
    "CleanerErrorsAlarm",
    "CleanerDeletions",
    "CleanerSweep",
    "CleanerSweepPermission",
}


def test_without_the_parameter_the_stack_has_nothing_of_it(resources: dict[str, Any]) -> None:
    assert TEMPLATE["Parameters"]["LargePayloads"]["Default"] == "false"
    assert TEMPLATE["Conditions"][KEEPS] == {"Fn::Equals": [{"Ref": "LargePayloads"}, "true"]}
    assert {name for name, each in resources.items() if each.get("Condition") == KEEPS} == OF_THE_FEATURE
    stream = properties(resources, "Table")["StreamSpecification"]
    assert stream == {"Fn::If": [KEEPS, {"StreamViewType": "OLD_IMAGE"}, {"Ref": "AWS::NoValue"}]}
    assert resolved(environment(resources)["KUMOFIRE_BUCKET"]) == ""
    # What is there without the condition needs nothing that is not.
    others = {name: each for name, each in resources.items() if name not in OF_THE_FEATURE}
    without = re.sub(rf"\{{'Fn::If': \['{KEEPS}'.*?AWS::NoValue'\}}\]\}}", "", str(others))
    without = without.replace(str(environment(resources)["KUMOFIRE_BUCKET"]), "")
    assert not [name for name in OF_THE_FEATURE if f"'Ref': '{name}'" in without or f"['{name}', '" in without]


def test_the_bucket_is_private_encrypted_and_kept(resources: dict[str, Any]) -> None:
    bucket = properties(resources, "Bucket")
    [deny] = properties(resources, "BucketPolicy")["PolicyDocument"]["Statement"]

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert "VersioningConfiguration" not in bucket  # deleted versions would stay
    assert (resources["Bucket"]["DeletionPolicy"], resources["Bucket"]["UpdateReplacePolicy"]) == ("Retain", "Retain")
    assert (deny["Effect"], deny["Principal"], deny["Action"]) == ("Deny", "*", "s3:*")
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_no_rule_of_the_bucket_deletes_an_object_for_its_age(resources: dict[str, Any]) -> None:
    rules = properties(resources, "Bucket")["LifecycleConfiguration"]["Rules"]

    assert [set(rule) for rule in rules] == [{"Id", "Status", "AbortIncompleteMultipartUpload"}]


def matches(pattern: Any, record: Any) -> bool:
    """Say whether a record fits one of Lambda's event patterns, of the parts that are used here."""
    if isinstance(pattern, dict):
        return isinstance(record, dict) and all(
            name in record and matches(part, record[name]) for name, part in pattern.items()
        )
    return any(
        isinstance(record, str) and record.startswith(each["prefix"]) if isinstance(each, dict) else record == each
        for each in pattern
    )


@pytest.mark.parametrize(
    ("name", "attributes", "passes"),
    [
        ("REMOVE", {"payload": "large"}, True),
        ("REMOVE", {"output": "large"}, True),
        ("REMOVE", {}, False),
        ("MODIFY", {"payload": "large", "output": "large"}, False),
        ("INSERT", {"payload": "large"}, False),
    ],
)
def test_the_cleaner_is_called_for_deleted_runs_with_objects_and_for_nothing_else(
    resources: dict[str, Any], keeper: Jobs, aws: Aws, name: str, attributes: dict[str, str], passes: bool
) -> None:
    patterns = [
        json.loads(each["Pattern"]) for each in properties(resources, "CleanerDeletions")["FilterCriteria"]["Filters"]
    ]
    run_id = keeper.create("email", LARGE if "payload" in attributes else "small")
    keeper.handler("email")(lambda ctx: LARGE if "output" in attributes else "small")
    keeper.consume(message(run_id))
    key = {"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}
    image = aws.dynamodb.client.get_item(TableName=aws.table, Key=key)["Item"]
    record = {"eventName": name, "dynamodb": {"Keys": key, "OldImage": image}}

    assert any(matches(pattern, record) for pattern in patterns) is passes


def test_the_cleaner_is_fed_by_the_stream_and_sweeps_once_a_week(resources: dict[str, Any]) -> None:
    mapping, rule = properties(resources, "CleanerDeletions"), properties(resources, "CleanerSweep")

    assert mapping["EventSourceArn"] == {"Fn::GetAtt": ["Table", "StreamArn"]}
    assert mapping["BisectBatchOnFunctionError"] is True
    assert rule["ScheduleExpression"] == "rate(7 days)"
    assert [json.loads(target["Input"]) for target in rule["Targets"]] == [{"sweep": True}]
    assert properties(resources, "Cleaner")["Handler"] == "handler.cleaner.handler"
    assert environment(resources, "Cleaner")["KUMOFIRE_PAYLOAD_KEY_ARN"] == ""


@contextmanager
def calls_of(client: Any) -> Iterator[set[tuple[str, str]]]:
    """Collect the permissions that the requests to S3 need, each with the resource."""
    needed: set[tuple[str, str]] = set()

    def collect(model: Any, params: dict[str, Any], **_: Any) -> None:
        name = {"DeleteObjects": "DeleteObject", "ListObjectsV2": "ListBucket"}.get(model.name, model.name)
        needed.add((f"s3:{name}", "Bucket" if name == "ListBucket" else "${Bucket.Arn}/runs/*"))
        if name in ("GetObject", "PutObject"):
            key = params["url_path"].lstrip("/").removeprefix("large-values/")
            assert fnmatchcase(key, "runs/*")

    client.meta.events.register("before-call.s3", collect)
    try:
        yield needed
    finally:
        client.meta.events.unregister("before-call.s3", collect)


@pytest.fixture
def s3(aws: Aws) -> Any:
    client = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").client("s3")
    client.create_bucket(Bucket="large-values")
    return client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(aws: Aws, s3: Any, clock: Clock) -> Jobs:
    return aws.jobs(bucket="large-values", s3=s3, allow_unknown_jobs=True, clock=clock)


LISTS = {("s3:ListBucket", "Bucket")}
"""By this right S3 says of an object that it is gone."""


def added(resources: dict[str, Any], place: str) -> set[tuple[str, str]]:
    if place in ("Consumer", "Dispatcher"):
        return granted(statements(resources, place, KEEPS)) - granted(statements(resources, place))
    policy = properties(resources, place)["PolicyDocument"]["Statement"]
    return granted(under(policy, KEEPS)) - granted(under(policy))


def test_a_bucket_adds_what_its_users_ask_of_it_and_nothing_else(
    resources: dict[str, Any], aws: Aws, s3: Any, keeper: Jobs, clock: Clock
) -> None:
    with calls_of(s3) as creating:
        run_id = keeper.create("email", LARGE, delay=3_600)
    with calls_of(s3) as reading:
        keeper.get_status(run_id)
    with calls_of(s3) as operating:
        clock.advance(hours=2)
        keeper.update(run_id, payload=[LARGE])
        keeper.get_status(run_id)
    with calls_of(s3) as consuming:
        keeper.handler("email")(lambda ctx: aws.change(run_id, lease_token="of another") or LARGE)
        assert keeper.consume_batch(event(run_id), LambdaContext()) == {"batchItemFailures": []}

    assert added(resources, "CreatorPolicy") == creating
    assert added(resources, "ReaderPolicy") == reading | LISTS
    assert added(resources, "OperatorPolicy") == operating | LISTS
    assert added(resources, "Consumer") == consuming | LISTS
    assert added(resources, "WorkerPolicy") == consuming | LISTS
    assert added(resources, "Dispatcher") == consuming | LISTS  # its hooks read, and its puts may be refused


def test_the_cleaner_may_do_what_it_does_and_nothing_else(
    resources: dict[str, Any], aws: Aws, s3: Any, keeper: Jobs, clock: Clock
) -> None:
    keeper.handler("email")(lambda ctx: None)
    run_id = keeper.create("email", LARGE)
    keeper.consume(message(run_id))
    image = aws.dynamodb.client.get_item(TableName=aws.table, Key={"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}})
    s3.put_object(Bucket="large-values", Key=f"runs/{aws.table}/gone/payload-1", Body=b"{}")
    put_at = s3.list_objects_v2(Bucket="large-values")["Contents"][0]["LastModified"]
    aws.dynamodb.requests.clear()
    with calls_of(s3) as needed:
        clock.now = put_at + timedelta(days=3)
        assert keeper.sweep_bucket().deleted == 1
        told = {"OldImage": image["Item"], "ApproximateCreationDateTime": put_at.timestamp()}
        assert keeper.clean_bucket([{"eventName": "REMOVE", "dynamodb": told}]).deleted == 1

    assert set(aws.dynamodb.count()) == {"batch_get_item"}
    stream = {"DescribeStream", "GetRecords", "GetShardIterator", "ListStreams"}
    # https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html (permissions)
    assert granted(statements(resources, "Cleaner")) == {
        *needed,
        ("dynamodb:BatchGetItem", "Table"),
        *((f"dynamodb:{action}", "Table/stream/*") for action in stream),
        *((action, "CleanerLogs") for action in LOGS),
    }
    assert not POLLER & {action for action, _ in granted(statements(resources, "Cleaner"))}
