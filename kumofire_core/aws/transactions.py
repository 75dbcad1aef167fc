"""A put as an entry of an application's ``TransactWriteItems``, and what its refusal says. Makes no request itself."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from kumofire_core.aws.expressions import marshal, typed_key, unmarshal
from kumofire_core.model.write import Attributes, Key


def put_new_entry(table: str, key: Key, attributes: Attributes, *, plain: bool = False) -> dict[str, Any]:
    """Return the put of a new item, refused where the key exists, and then shown what has it.

    ``plain`` is the form for the client of a boto3 resource (``meta.client``), which takes Python's own values.
    """
    item: dict[str, Any] = typed_key(key) | marshal(attributes)
    if plain:
        item = {"pk": item["pk"]["S"], "sk": item["sk"]["S"], **attributes}
    return {
        "Put": {
            "TableName": table,
            "Item": item,
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
    }


def found_instead(error: BaseException | None, key: Key) -> Attributes | None:
    """Return the item that canceled a transaction because it has this key; ``None`` for any other error.

    DynamoDB gives a reason for each entry of the transaction, in its order, and shows the items that were asked for.
    The client of a boto3 resource leaves them in DynamoDB's typed form, too.
    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_CancellationReason.html
    """
    if not isinstance(error, ClientError):
        return None
    reply: Any = error.response
    if reply.get("Error", {}).get("Code") != "TransactionCanceledException":
        return None
    wanted = typed_key(key)
    for reason in reply.get("CancellationReasons") or ():
        item = reason.get("Item") or {}
        if reason.get("Code") == "ConditionalCheckFailed" and all(item.get(name) == wanted[name] for name in wanted):
            return unmarshal(item)
    return None
