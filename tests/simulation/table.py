"""A simulated table with its wake-up index: DynamoDB's answers to the requests this project makes, without a network.

It is compared with real emulators in ``tests/test_simulation.py``. Every version of every item is kept for a history's
length, so that the index can show what was true a while ago.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from tests.simulation.expressions import ValidationError, parse_condition, parse_update
from tests.simulation.partiql import parse_statement

Key = tuple[str, str]
Attributes = dict[str, Any]
Observer = Callable[[Key, Attributes | None, Attributes | None], None]

INDEX_KEYS = ("pk", "sk", "wake_shard", "wake_at")


class SimulatedTable:
    """Items by key. ``now`` gives the time of a write; ``observe`` is told of every change, just after it."""

    def __init__(self, now: Callable[[], int], observe: Observer) -> None:
        self._now = now
        self._observe = observe
        self.items: dict[Key, Attributes] = {}
        self.versions: dict[Key, list[tuple[int, Attributes | None]]] = {}

    def put_item(
        self,
        *,
        TableName: str,
        Item: Mapping[str, Any],
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> dict[str, Any]:
        new = native(Item)
        key = (new["pk"], new["sk"])
        old = self.items.get(key)
        names, values = ExpressionAttributeNames or {}, native(ExpressionAttributeValues or {})
        used: set[str] = set()
        _require_index_types("PutItem", new)
        holds = self._holds("PutItem", ConditionExpression, old, names, values, used)
        _require_all_used("PutItem", used, names, values)
        if not holds:
            raise refusal("PutItem", old, ReturnValuesOnConditionCheckFailure)
        self._write("PutItem", key, old, new)
        return {}

    def update_item(
        self,
        *,
        TableName: str,
        Key: Mapping[str, Any],
        UpdateExpression: str,
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ReturnValues: str = "NONE",
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> dict[str, Any]:
        key = (Key["pk"]["S"], Key["sk"]["S"])
        old = self.items.get(key)
        names, values = ExpressionAttributeNames or {}, native(ExpressionAttributeValues or {})
        try:
            update = parse_update(UpdateExpression)
            used = set(update.placeholders)
            paths = update.paths(names)
        except ValidationError as error:
            raise _invalid("UpdateItem", error) from None
        if "pk" in paths or "sk" in paths:
            raise _invalid("UpdateItem", "a part of the key can't be updated")
        holds = self._holds("UpdateItem", ConditionExpression, old, names, values, used)
        _require_all_used("UpdateItem", used, names, values)
        if not holds:
            raise refusal("UpdateItem", old, ReturnValuesOnConditionCheckFailure)
        try:
            new = update.apply(old or {"pk": key[0], "sk": key[1]}, names, values)
        except ValidationError as error:
            raise _invalid("UpdateItem", error) from None
        self._write("UpdateItem", key, old, new)
        if ReturnValues == "ALL_NEW":
            return {"Attributes": typed(new)}
        if ReturnValues == "ALL_OLD" and old is not None:
            return {"Attributes": typed(old)}
        return {}

    def delete_item(self, *, TableName: str, Key: Mapping[str, Any], ReturnValues: str = "NONE") -> dict[str, Any]:
        key = (Key["pk"]["S"], Key["sk"]["S"])
        old = self.items.pop(key, None)
        if old is None:
            return {}
        self.versions[key].append((self._now(), None))
        self._observe(key, old, None)
        return {"Attributes": typed(old)} if ReturnValues == "ALL_OLD" else {}

    def get_item(
        self,
        *,
        TableName: str,
        Key: Mapping[str, Any],
        ConsistentRead: bool = False,
        ProjectionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        lag_ms: int = 0,
    ) -> dict[str, Any]:
        key = (Key["pk"]["S"], Key["sk"]["S"])
        item = self.items.get(key) if ConsistentRead else self._as_of(key, self._now() - lag_ms)
        if item is None:
            return {}
        if ProjectionExpression is not None:
            names = ExpressionAttributeNames or {}
            wanted = [names.get(path, path) for path in ProjectionExpression.replace(" ", "").split(",")]
            item = {name: item[name] for name in wanted if name in item}
        return {"Item": typed(item)}

    def batch_get_item(self, *, RequestItems: Mapping[str, Any], lag_ms: int = 0) -> dict[str, Any]:
        responses, unprocessed = {}, {}
        for table, request in RequestItems.items():
            keys = request["Keys"]
            consistent = request.get("ConsistentRead", False)
            found = [
                self.get_item(TableName=table, Key=key, ConsistentRead=consistent, lag_ms=lag_ms) for key in keys[:3]
            ]
            responses[table] = [reply["Item"] for reply in found if reply]
            if keys[3:]:  # it may always answer for some only
                unprocessed[table] = {**request, "Keys": keys[3:]}
        return {"Responses": responses, "UnprocessedKeys": unprocessed}

    def batch_execute_statement(self, *, Statements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"Responses": [self.execute_statement(statement) for statement in Statements]}

    def execute_statement(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        """Make one statement of a batch, and return its answer: an item, or an error."""
        parsed = parse_statement(statement["Statement"])
        values = {f":p{index}": value for index, value in enumerate(statement["Parameters"])}
        try:
            reply = self.update_item(
                TableName=parsed.table,
                Key={name: values[placeholder] for name, placeholder in parsed.key.items()},
                UpdateExpression=parsed.update,
                ConditionExpression=parsed.condition,
                ExpressionAttributeNames=parsed.names,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            code = "ValidationError" if code == "ValidationException" else code.removesuffix("Exception")
            return {"Error": {"Code": code, "Message": str(error)}}
        return {"TableName": parsed.table, "Item": reply["Attributes"]}

    def statement_item(self, statement: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the item that a statement is about, as it is now."""
        parsed = parse_statement(statement["Statement"])
        key = [statement["Parameters"][int(parsed.key[name][2:])]["S"] for name in ("pk", "sk")]
        item = self.items.get((key[0], key[1]))
        return None if item is None else typed(item)

    def query(
        self,
        *,
        TableName: str,
        IndexName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Mapping[str, Any],
        Limit: int,
        ExclusiveStartKey: Mapping[str, Any] | None = None,
        lag_ms: int = 0,
    ) -> dict[str, Any]:
        """Read the index as it was ``lag_ms`` ago: what was written since is missing, what has gone is still there."""
        condition, _ = parse_condition(KeyConditionExpression)
        values, at = native(ExpressionAttributeValues), self._now() - lag_ms
        found = []
        for key in self.versions:
            item = self._as_of(key, at)
            if item is None or "wake_shard" not in item or "wake_at" not in item:
                continue
            if condition(item, {}, values):
                found.append((item["wake_at"], *key, item))
        found.sort(key=lambda entry: entry[:3])
        if ExclusiveStartKey is not None:
            after = native(ExclusiveStartKey)
            start = (after["wake_at"], after["pk"], after["sk"])
            found = [entry for entry in found if entry[:3] > start]
        page = [typed({name: entry[3][name] for name in INDEX_KEYS}) for entry in found[:Limit]]
        reply: dict[str, Any] = {"Items": page, "Count": len(page)}
        if page and len(found) >= Limit:
            reply["LastEvaluatedKey"] = page[-1]
        return reply

    def _as_of(self, key: Key, at: int) -> Attributes | None:
        for time, item in reversed(self.versions.get(key, ())):
            if time <= at:
                return item
        return None

    def _holds(
        self,
        operation: str,
        text: str | None,
        old: Attributes | None,
        names: Mapping[str, str],
        values: Attributes,
        used: set[str],
    ) -> bool:
        if text is None:
            return True
        try:
            condition, placeholders = parse_condition(text)
            used |= placeholders
            return condition(old or {}, names, values)
        except (ValidationError, KeyError) as error:
            raise _invalid(operation, error) from None

    def _write(self, operation: str, key: Key, old: Attributes | None, new: Attributes) -> None:
        _require_index_types(operation, new)
        self.items[key] = new
        self.versions.setdefault(key, []).append((self._now(), new))
        self._observe(key, old, new)


def native(attributes: Mapping[str, Any]) -> Attributes:
    """Return attributes in DynamoDB's typed form as Python values."""
    return {name: value["S"] if "S" in value else int(value["N"]) for name, value in attributes.items()}


def typed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return Python values in DynamoDB's typed form."""
    return {name: {"N": str(value)} if type(value) is int else {"S": value} for name, value in attributes.items()}


def refusal(operation: str, old: Attributes | None, show: str) -> ClientError:
    """Return the error of a condition that does not hold, with the item where it was asked for."""
    response: dict[str, Any] = {
        "Error": {"Code": "ConditionalCheckFailedException", "Message": "The conditional request failed"}
    }
    if old is not None and show == "ALL_OLD":
        response["Item"] = typed(old)
    return ClientError(response, operation)  # type: ignore[arg-type]


def _invalid(operation: str, problem: object) -> ClientError:
    return ClientError({"Error": {"Code": "ValidationException", "Message": str(problem)}}, operation)


def _require_index_types(operation: str, new: Attributes) -> None:
    for name in ("wake_shard", "wake_at"):
        if not isinstance(new.get(name, 0), int):
            raise _invalid(operation, f"type mismatch for index key {name}")


def _require_all_used(operation: str, used: set[str], names: Mapping[str, str], values: Mapping[str, Any]) -> None:
    if names.keys() | values.keys() != used:
        raise _invalid(operation, "a name or value is unused in the expressions, or not defined")
