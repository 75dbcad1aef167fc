"""An order and the run that confirms it: both are stored, or neither is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import boto3
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from kumofire_core import JobContext, Jobs

TABLE = "orders"
TRIES = 3

jobs = Jobs.from_env()


@dataclass
class Confirmation:
    """Which order is to be confirmed."""

    order_id: str


class OrderExistsError(Exception):
    """There is an order with this id already."""


def place(order_id: str, customer: str) -> str:
    """Store an order together with the run that confirms it, and return the run's id. Raises ``OrderExistsError``."""
    confirmation = jobs.create_in_transaction("confirm", Confirmation(order_id))
    order = {
        "TableName": TABLE,
        "Item": {"id": {"S": order_id}, "customer": {"S": customer}, "run_id": {"S": confirmation.run_id}},
        "ConditionExpression": "attribute_not_exists(id)",
    }
    for attempt in range(1, TRIES + 1):
        try:
            with confirmation:
                dynamodb().transact_write_items(TransactItems=[{"Put": order}, confirmation.entry])
            break
        except (ReadTimeoutError, ConnectionClosedError):
            # It may have been committed, and only the reply was lost. The same `confirmation` is committed once.
            if attempt == TRIES:
                raise
        except ClientError as error:
            reasons = [each["Code"] for each in error.response.get("CancellationReasons", ())]
            if reasons[:1] == ["ConditionalCheckFailed"]:
                raise OrderExistsError(f"order {order_id} exists already") from error
            raise
    return confirmation.run_id


@jobs.handler("confirm")
def confirm(ctx: JobContext[Confirmation]) -> str:
    """Confirm the order, and return whose it is. The order is there, because it was stored with this run."""
    confirmed = dynamodb().update_item(
        TableName=TABLE,
        Key={"id": {"S": ctx.payload.order_id}},
        # A second attempt keeps the first one's time.
        UpdateExpression="SET confirmed_at = if_not_exists(confirmed_at, :now)",
        ConditionExpression="attribute_exists(id)",
        ExpressionAttributeValues={":now": {"S": ctx.now.isoformat()}},
        ReturnValues="ALL_NEW",
    )["Attributes"]
    return str(confirmed["customer"]["S"])


@cache
def dynamodb() -> Any:
    return boto3.client("dynamodb")
