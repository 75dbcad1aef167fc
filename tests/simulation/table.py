"""A simulated table with its two indexes: DynamoDB's answers to the requests this project makes, without a network.

It is compared with real emulators in ``test_simulation.py``. Every version of every item is kept for a history's
length, so that the index can show what was true a while ago.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from tests.simulation.expressions import Expressions, ValidationError, expressions
from tests.simulation.partiql import parse_statement

Key = tuple[str, str]
Attributes = dict[str, Any]
Observer = Callable[[Key, Attributes | None, Attributes | None], None]


class Index(NamedTuple):
    """A secondary index: an item is in it that has both its keys."""

    partition: str
    sort: str
    projected: tuple[str, ...] = ()
    """The attributes that it shows besides the keys."""


INDEXES = {
    "wake": Index("wake_shard", "wake_at"),
    "listing": Index("list_shard", "list_at", ("job_name", "error_type")),
}
INDEX_TYPES = {"wake_shard": int, "wake_at": int, "list_shard": str, "list_at": int}
PROJECTION = ("ProjectionExpression", "ExpressionAttributeNames")
PAGE = 3
"""How many items beside one come in one page: few, as DynamoDB may always answer for some only."""
MOST_ITEM_BYTES = 400 * 1024
MOST_ACTIONS = 100
TOKEN_MS = 10 * 60_000
"""How long a transaction's ``ClientRequestToken`` is known."""
_NOTHING: dict[str, Any] = {}


class SimulatedTable:
    """Items by key. ``now`` gives the time of a write; ``observe`` is told of every change, just after it."""

    def __init__(self, now: Callable[[], int], observe: Observer) -> None:
        self._now = now
        self._observe = observe
        self.items: dict[Key, Attributes] = {}
        self.versions: dict[Key, list[tuple[int, Attributes | None]]] = {}
        self.refuses: Callable[[Key, Attributes | None, Attributes | None], bool] | None = None
        """Says of a change whether it is refused at present, because something that it writes to is throttled."""
        self._tokens: dict[str, tuple[int, str]] = {}
        """When the transaction with a token was committed, and what it was."""

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
        _require_index_types("PutItem", new)
        parsed, values = _parsed(
            "PutItem", None, ConditionExpression, ExpressionAttributeNames, ExpressionAttributeValues
        )
        if not parsed.holds(old or _NOTHING, values):
            raise refusal("PutItem", old, ReturnValuesOnConditionCheckFailure)
        self._write("PutItem", key, old, new)
        return {}

    def transact_write_items(
        self, *, TransactItems: Sequence[Mapping[str, Any]], ClientRequestToken: str | None = None
    ) -> dict[str, Any]:
        """Make all of these puts or none, and check conditions; a repeat that its token shows changes nothing."""
        name, what = "TransactWriteItems", repr(TransactItems)
        if ClientRequestToken in self._tokens:
            at, before = self._tokens[ClientRequestToken]
            if self._now() - at <= TOKEN_MS:
                if before != what:
                    raise ClientError({"Error": {"Code": "IdempotentParameterMismatchException"}}, name)
                return {}
        if not 1 <= len(TransactItems) <= MOST_ACTIONS:
            raise _invalid(name, f"a transaction has 1 to {MOST_ACTIONS} actions")
        tried = [self._tried(kind, action) for each in TransactItems for kind, action in each.items()]
        if len({key for key, *_ in tried}) < len(tried):
            raise _invalid(name, "Transaction request cannot include multiple operations on one item")
        if any(reason["Code"] != "None" for *_, reason in tried):
            raise canceled([reason for *_, reason in tried])
        if ClientRequestToken is not None:
            self._tokens[ClientRequestToken] = (self._now(), what)
        made = [(key, old, new) for key, old, new, _ in tried if new is not None]
        for key, _, new in made:
            self.items[key] = new
            self.versions.setdefault(key, []).append((self._now(), new))
        for key, old, new in made:  # when all of it is there
            self._observe(key, old, new)
        return {}

    def _tried(
        self, kind: str, action: Mapping[str, Any]
    ) -> tuple[Key, Attributes | None, Attributes | None, dict[str, Any]]:
        """Return an action's item, before and after it, and the reason for which it cancels its transaction."""
        identity = native(action["Item"] if kind == "Put" else action["Key"])
        key = (identity["pk"], identity["sk"])
        old, new = self.items.get(key), identity if kind == "Put" else None
        condition, names = action.get("ConditionExpression"), action.get("ExpressionAttributeNames")
        parsed, values = _parsed("TransactWriteItems", None, condition, names, action.get("ExpressionAttributeValues"))
        if new is not None:
            try:
                _require_index_types("TransactWriteItems", new)
            except ClientError:
                return key, old, new, {"Code": "ValidationError"}
        if not parsed.holds(old or _NOTHING, values):
            shown = old is not None and action.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
            return key, old, new, {"Code": "ConditionalCheckFailed", **({"Item": typed(old or {})} if shown else {})}
        if new is not None and self.refuses is not None and self.refuses(key, old, new):
            return key, old, new, {"Code": "ThrottlingError"}
        return key, old, new, {"Code": "None"}

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
        parsed, values = _parsed(
            "UpdateItem", UpdateExpression, ConditionExpression, ExpressionAttributeNames, ExpressionAttributeValues
        )
        if "pk" in parsed.changes or "sk" in parsed.changes:
            raise _invalid("UpdateItem", "a part of the key can't be updated")
        if not parsed.holds(old or _NOTHING, values):
            raise refusal("UpdateItem", old, ReturnValuesOnConditionCheckFailure)
        try:
            new = parsed.changed(old or {"pk": key[0], "sk": key[1]}, values)
        except ValidationError as error:
            raise _invalid("UpdateItem", error) from None
        self._write("UpdateItem", key, old, new)
        if ReturnValues == "ALL_NEW":
            return {"Attributes": typed(new)}
        if ReturnValues == "UPDATED_NEW":
            return {"Attributes": typed({name: new[name] for name in parsed.changes if name in new})}
        if ReturnValues == "ALL_OLD" and old is not None:
            return {"Attributes": typed(old)}
        return {}

    def delete_item(
        self,
        *,
        TableName: str,
        Key: Mapping[str, Any],
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ReturnValues: str = "NONE",
    ) -> dict[str, Any]:
        key = (Key["pk"]["S"], Key["sk"]["S"])
        old = self.items.get(key)
        if ConditionExpression is not None:
            parsed, values = _parsed(
                "DeleteItem", None, ConditionExpression, ExpressionAttributeNames, ExpressionAttributeValues
            )
            if not parsed.holds(old or _NOTHING, values):
                raise refusal("DeleteItem", old, "NONE")
        if old is None:
            return {}
        if self.refuses is not None and self.refuses(key, old, None):
            raise throttled("DeleteItem")
        del self.items[key]
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
            shown = {name: request[name] for name in PROJECTION if name in request}
            found = [
                self.get_item(TableName=table, Key=key, ConsistentRead=consistent, lag_ms=lag_ms, **shown)
                for key in keys[:3]
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
        try:
            values = parsed.values(statement["Parameters"])
        except ValidationError as error:
            return {"Error": {"Code": "ValidationError", "Message": str(error)}}
        try:
            reply = self.update_item(
                TableName=parsed.table,
                Key={name: values[placeholder] for name, placeholder in parsed.key.items()},
                UpdateExpression=parsed.update,
                ConditionExpression=parsed.condition,
                ExpressionAttributeNames=parsed.names,
                ExpressionAttributeValues=values,
                ReturnValues="UPDATED_NEW" if parsed.modified_only else "ALL_NEW",
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            code = "ValidationError" if code == "ValidationException" else code.removesuffix("Exception")
            return {"Error": {"Code": code, "Message": str(error)}}
        return {"TableName": parsed.table, "Item": reply["Attributes"]}

    def statement_item(self, statement: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the item that a statement is about, as it is now; no more of it than the statement would show."""
        parsed = parse_statement(statement["Statement"])
        values = parsed.values(statement["Parameters"])
        item = self.items.get((values[parsed.key["pk"]]["S"], values[parsed.key["sk"]]["S"]))
        if item is not None and parsed.modified_only:
            changes = expressions(parsed.update, parsed.condition, parsed.names).changes
            item = {name: item[name] for name in changes if name in item}
        return None if item is None else typed(item)

    def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Mapping[str, Any],
        IndexName: str | None = None,
        Limit: int = 1_000,
        ConsistentRead: bool = False,
        ProjectionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        FilterExpression: str | None = None,
        ScanIndexForward: bool = True,
        ExclusiveStartKey: Mapping[str, Any] | None = None,
        lag_ms: int = 0,
    ) -> dict[str, Any]:
        """Read an index as it was ``lag_ms`` ago: what was written since is missing, what has gone is still there.

        Or the items beside one, as they are now.
        """
        if IndexName is None:
            if KeyConditionExpression != "pk = :pk AND begins_with(sk, :prefix)" or not ConsistentRead:
                raise _invalid("Query", KeyConditionExpression)
            return self._beside(
                *native(ExpressionAttributeValues).values(),
                shown=[
                    (ExpressionAttributeNames or {})[each] for each in (ProjectionExpression or "").split(", ") if each
                ],
                after=None if ExclusiveStartKey is None else native(ExclusiveStartKey)["sk"],
            )
        index, names = INDEXES[IndexName], ExpressionAttributeNames or _NOTHING
        partition, sort = index.partition, index.sort
        holds = expressions(None, KeyConditionExpression, names).holds
        values, at = native(ExpressionAttributeValues), self._now() - lag_ms
        found = []
        for key, versions in self.versions.items():
            for time, item in reversed(versions):
                if time <= at:
                    if item is not None and sort in item and partition in item and holds(item, values):
                        found.append((item[sort], *key, item))
                    break
        found.sort(key=lambda entry: entry[:3], reverse=not ScanIndexForward)
        if ExclusiveStartKey is not None:
            after = native(ExclusiveStartKey)
            start = (after[sort], after["pk"], after["sk"])
            found = [entry for entry in found if (entry[:3] > start if ScanIndexForward else entry[:3] < start)]
        keys = ("pk", "sk", partition, sort)
        page = [entry[3] for entry in found[:Limit]]
        reply: dict[str, Any] = {}
        if page and len(found) >= Limit:
            reply["LastEvaluatedKey"] = typed({name: page[-1][name] for name in keys})
        if FilterExpression is not None:
            fits = expressions(None, FilterExpression, names).holds
            page = [item for item in page if fits(item, values)]
        shown = (*keys, *index.projected)
        items = [typed({name: item[name] for name in shown if name in item}) for item in page]
        return {"Items": items, "Count": len(items), **reply}

    def _beside(self, pk: str, prefix: str, *, shown: list[str], after: str | None) -> dict[str, Any]:
        """Return up to three items of a partition whose sort keys begin with ``prefix``, in the order of these."""
        keys = sorted((key for key in self.items if key[0] == pk and key[1].startswith(prefix)), key=_in_bytes)
        keys = [key for key in keys if after is None or key[1].encode() > after.encode()]
        items = [self.items[key] for key in keys[:PAGE]]
        page = [{name: item[name] for name in shown if name in item} if shown else item for item in items]
        last = {"LastEvaluatedKey": typed({"pk": pk, "sk": keys[PAGE - 1][1]})} if len(keys) > PAGE else {}
        return {"Items": [typed(item) for item in page], "Count": len(page), **last}

    def shows_wake_up(self, *, until_ms: int, lag_ms: int) -> bool:
        """Say whether the index, as it is or as it was up to ``lag_ms`` ago, has an entry up to ``until_ms``."""
        since = self._now() - lag_ms
        for versions in self.versions.values():
            for time, item in reversed(versions):
                if item is not None and item.get("wake_at", until_ms + 1) <= until_ms:
                    return True
                if time <= since:
                    break
        return False

    def expire(self, key: Key) -> bool:
        """Delete an item whose ``expires_at`` has passed, as DynamoDB's TTL does; say whether it was deleted."""
        old = self.items.get(key)
        if old is None or old.get("expires_at", self._now()) * 1000 > self._now():
            return False
        del self.items[key]
        self.versions[key].append((self._now(), None))
        self._observe(key, old, None)
        return True

    def restore(self, at: int) -> None:
        """Let every item be as it was at a time. Nobody is told: no request did it.

        DynamoDB restores into a new table. So the processes that use it are started anew, and each stores its number of
        index partitions before its next run. Here the processes go on, so what they have stored stays.
        """
        self._tokens.clear()
        for key, versions in self.versions.items():
            if key[1] == "settings":
                continue
            then = self._as_of(key, at)
            if then is self.items.get(key):
                continue
            versions.append((self._now(), then))
            if then is None:
                del self.items[key]
            else:
                self.items[key] = then

    def _as_of(self, key: Key, at: int) -> Attributes | None:
        for time, item in reversed(self.versions.get(key, ())):
            if time <= at:
                return item
        return None

    def _write(self, operation: str, key: Key, old: Attributes | None, new: Attributes) -> None:
        _require_index_types(operation, new)
        if self.refuses is not None and self.refuses(key, old, new):
            raise throttled(operation)
        self.items[key] = new
        self.versions.setdefault(key, []).append((self._now(), new))
        self._observe(key, old, new)


def native(attributes: Mapping[str, Any]) -> Attributes:
    """Return attributes in DynamoDB's typed form as Python values."""
    return {
        name: str(value["S"]) if "S" in value else int(value["N"]) if "N" in value else frozenset(map(int, value["NS"]))
        for name, value in attributes.items()
    }


def typed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return Python values in DynamoDB's typed form."""
    return {
        name: {"N": str(value)}
        if type(value) is int
        else {"S": value}
        if type(value) is str
        else {"NS": [str(number) for number in sorted(value)]}
        for name, value in attributes.items()
    }


def refusal(operation: str, old: Attributes | None, show: str) -> ClientError:
    """Return the error of a condition that does not hold, with the item where it was asked for."""
    response: dict[str, Any] = {
        "Error": {"Code": "ConditionalCheckFailedException", "Message": "The conditional request failed"}
    }
    if old is not None and show == "ALL_OLD":
        response["Item"] = typed(old)
    return ClientError(response, operation)  # type: ignore[arg-type]


def canceled(reasons: list[dict[str, Any]]) -> ClientError:
    """Return the error of a transaction that is canceled, with the reason of each of its actions."""
    response: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
    return ClientError(response, "TransactWriteItems")


def throttled(operation: str) -> ClientError:
    """Return the error of a table or an index whose capacity is used up."""
    code = "ProvisionedThroughputExceededException"
    return ClientError({"Error": {"Code": code, "Message": "too fast"}}, operation)


def _in_bytes(key: Key) -> tuple[bytes, bytes]:
    return key[0].encode(), key[1].encode()


def _invalid(operation: str, problem: object) -> ClientError:
    return ClientError({"Error": {"Code": "ValidationException", "Message": str(problem)}}, operation)


def _require_index_types(operation: str, new: Attributes) -> None:
    for name, kind in INDEX_TYPES.items():
        if name in new and (not isinstance(new[name], kind) or new[name] == ""):
            raise _invalid(operation, f"type mismatch for index key {name}")
    if len(new.get("payload", "")) > MOST_ITEM_BYTES // 4 and item_bytes(new) > MOST_ITEM_BYTES:
        raise _invalid(operation, "Item size has exceeded the maximum allowed size")


def item_bytes(item: Attributes) -> int:
    """Return about how large DynamoDB takes an item to be: names, texts in UTF-8, numbers of two digits a byte."""
    return sum(
        len(name) + (len(value.encode()) if isinstance(value, str) else len(str(value)) // 2 + 2)
        for name, value in item.items()
    )


def _parsed(
    operation: str,
    update: str | None,
    condition: str | None,
    names: Mapping[str, str] | None,
    values: Mapping[str, Any] | None,
) -> tuple[Expressions, Attributes]:
    """Return a request's expressions and values; names and values must be just those that the expressions use."""
    names, values = names or _NOTHING, values or _NOTHING
    try:
        parsed = expressions(update, condition, names)
    except ValidationError as error:
        raise _invalid(operation, error) from None
    if not parsed.names_fit or values.keys() != parsed.values_used:
        raise _invalid(operation, "a name or value is unused in the expressions, or not defined")
    return parsed, native(values)
