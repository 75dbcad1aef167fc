"""What tests of a deployment arrange: its table and queues in MiniStack, and answers of AWS that no emulator gives."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from examples.deployment import load_template
from examples.local_aws import REGION, LocalAws
from kumofire_core.deployment.discovery import AwsClients, Deployment

_names = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The table and the queues of a deployment, without its functions."""

    aws: LocalAws
    deployment: Deployment
    dead_letter_queue_url: str

    def found_without_a_stack(self) -> Deployment:
        return replace(self.deployment, dead_letter_queue_url=None)

    def bury(self, *bodies: str) -> None:
        """Put messages on the dead-letter queue."""
        for body in bodies:
            self.aws.client("sqs").send_message(QueueUrl=self.dead_letter_queue_url, MessageBody=body)


def clients_of(aws: LocalAws, **changed: Any) -> AwsClients:
    return AwsClients(**{"region": REGION, "endpoint_url": aws.endpoint_url, **changed})


def deployed(aws: LocalAws) -> Deployed:
    """Make a table and two queues of the template's properties, with names of their own."""
    name = f"deployed-{next(_names)}"
    properties = load_template()["Resources"]["Table"]["Properties"]
    given = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    dynamodb, sqs = aws.client("dynamodb"), aws.client("sqs")
    dynamodb.create_table(TableName=name, **{key: properties[key] for key in given})
    dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification=properties["TimeToLiveSpecification"])
    dynamodb.update_continuous_backups(
        TableName=name, PointInTimeRecoverySpecification=properties["PointInTimeRecoverySpecification"]
    )
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    attributes = {
        "VisibilityTimeout": "360",
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 200}),
    }
    queue = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    deployment = Deployment(table=name, queue_url=queue, dead_letter_queue_url=dead, clients=clients_of(aws))
    return Deployed(aws=aws, deployment=deployment, dead_letter_queue_url=dead)


@contextlib.contextmanager
def answering(client: Any, operation: str, change: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    """Change what a client answers to an operation: to what no emulator can be brought to say."""

    def changed(parsed: dict[str, Any], **_: Any) -> None:
        change(parsed)

    event = f"after-call.{client.meta.service_model.service_id.hyphenize()}.{operation}"
    client.meta.events.register(event, changed)
    try:
        yield
    finally:
        client.meta.events.unregister(event, changed)


@contextlib.contextmanager
def refusing(client: Any, code: str, *operations: str, message: str = "no", status: int = 400) -> Iterator[list[str]]:
    """Answer these operations of a client with an error of AWS, and no request; yields the names of those refused."""
    refused: list[str] = []

    def refuse(model: Any, **_: Any) -> Any:
        if operations and model.name not in operations:
            return None
        refused.append(model.name)
        error = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
        return SimpleNamespace(status_code=status), error

    client.meta.events.register("before-call", refuse)
    try:
        yield refused
    finally:
        client.meta.events.unregister("before-call", refuse)
