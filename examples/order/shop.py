"""What an order acts on: the stock, a bank and the parcels, in one DynamoDB table. Free of jobs.

Every call may come twice, because a step may be executed twice. So each carries the order's id, and ``_add_once``
changes a counter in one transaction with a mark that says so. A bank or a carrier does the same with the key that you
give it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import boto3
from botocore.exceptions import ClientError

TABLE = "shop"
DECLINED_CARD = "4000000000000002"


def reserve(order_id: str, item: str, quantity: int) -> bool:
    """Take ``quantity`` out of the stock; return ``False`` where there is not enough."""
    return _add_once(f"reserved/{order_id}", f"stock/{item}", -quantity)


def release(order_id: str, item: str, quantity: int) -> None:
    """Put ``quantity`` back into the stock."""
    _add_once(f"released/{order_id}", f"stock/{item}", quantity)


def charge(order_id: str, card: str, cents: int) -> dict[str, str]:
    """Charge the card; return the receipt, or why there is none."""
    if card == DECLINED_CARD:
        return {"declined": "the card was declined"}
    _add_once(f"charged/{order_id}", "account", cents)
    return {"receipt": f"charged/{order_id}"}


def refund(order_id: str, cents: int) -> None:
    """Give the money back."""
    _add_once(f"refunded/{order_id}", "account", -cents)


def ship(order_id: str) -> str:
    """Hand a parcel to the carrier; return its number."""
    _add_once(f"shipped/{order_id}", "parcels", 1)
    return f"parcel-{order_id}"


def amount(counter: str) -> int:
    """Return what ``stock/…``, ``account`` or ``parcels`` has come to."""
    found = dynamodb().get_item(TableName=TABLE, Key={"id": {"S": counter}}, ConsistentRead=True).get("Item")
    return int(found["amount"]["N"]) if found else 0


def _add_once(mark: str, counter: str, change: int) -> bool:
    """Add ``change`` to the counter unless the mark is there; return ``False`` where it would fall below zero."""
    marking = {
        "TableName": TABLE,
        "Item": {"id": {"S": mark}},
        "ConditionExpression": "attribute_not_exists(id)",
    }
    adding: dict[str, Any] = {
        "TableName": TABLE,
        "Key": {"id": {"S": counter}},
        "UpdateExpression": "ADD amount :change",
        "ExpressionAttributeValues": {":change": {"N": str(change)}},
    }
    if change < 0:
        adding["ConditionExpression"] = "amount >= :needed"
        adding["ExpressionAttributeValues"][":needed"] = {"N": str(-change)}
    try:
        dynamodb().transact_write_items(TransactItems=[{"Put": marking}, {"Update": adding}])
    except ClientError as error:
        reasons = [each["Code"] for each in error.response.get("CancellationReasons", ())]
        if reasons[:1] == ["ConditionalCheckFailed"]:
            return True  # an earlier call has done it
        if reasons[1:] == ["ConditionalCheckFailed"]:
            return False
        raise  # the service is down or busy: the attempt fails, and the next one calls again
    return True


@cache
def dynamodb() -> Any:
    return boto3.client("dynamodb")
