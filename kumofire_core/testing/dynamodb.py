"""A client of DynamoDB whose tables are in memory: boto3's low-level methods, for the code under test.

Threads may share it. An operation or a parameter that it does not know raises ``NotImitatedError``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from kumofire_core.testing.refusals import Exceptions, NotImitatedError, invalid, service_error
from kumofire_core.testing.table import Index, MemoryTable, transact
from kumofire_core.testing.values import item_bytes

TOKEN_MS = 10 * 60_000
"""How long a transaction's ``ClientRequestToken`` is known."""
MOST_READ_BYTES = 16 * 1024 * 1024
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""

_OF_ONE_TABLE = frozenset({"put_item", "update_item", "delete_item", "get_item", "query", "scan"})
_ASKED_BESIDE = frozenset({"ReturnConsumedCapacity", "ReturnItemCollectionMetrics"})


class MemoryDynamoDB:
    """Tables in memory, behind boto3's methods. ``now_ms`` gives the time by which tokens of transactions end."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.tables: dict[str, MemoryTable] = {}
        self.exceptions = Exceptions()
        self.meta = SimpleNamespace(region_name="in-process", endpoint_url=None)
        self._now_ms = now_ms
        self._lock = threading.RLock()
        self._settings: dict[str, dict[str, Any]] = {}
        self._tokens: dict[str, tuple[int, str]] = {}
        """When the transaction with a token was committed, and what it was."""

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation in _OF_ONE_TABLE:
            return partial(self._of_one_table, operation)
        if operation.startswith("_"):
            raise AttributeError(operation)
        raise NotImitatedError(f"DynamoDB's operation {operation!r}")

    def _of_one_table(self, operation: str, *, TableName: str, **parameters: Any) -> dict[str, Any]:
        for name in _ASKED_BESIDE & parameters.keys():
            del parameters[name]
        with self._lock:
            table = self.table(TableName, operation)
            try:
                return getattr(table, operation)(TableName=TableName, **parameters)  # type: ignore[no-any-return]
            except TypeError as error:
                if ("argument" in str(error) and operation in str(error)) or "_page()" in str(error):
                    raise NotImitatedError(f"these parameters of {operation}: {error}") from error
                raise

    def table(self, name: str, operation: str = "DescribeTable") -> MemoryTable:
        """Return a table; raises ``ResourceNotFoundException`` where there is none of this name."""
        name = name.rpartition("/")[2] if name.startswith("arn:") else name
        try:
            return self.tables[name]
        except KeyError:
            known = ", ".join(sorted(self.tables)) or "none"
            message = f"Requested resource not found: Table: {name} not found (there are {known})"
            raise service_error(operation, "ResourceNotFoundException", message) from None

    def create_table(
        self,
        *,
        TableName: str,
        KeySchema: Sequence[Mapping[str, str]],
        AttributeDefinitions: Sequence[Mapping[str, str]],
        GlobalSecondaryIndexes: Sequence[Mapping[str, Any]] = (),
        LocalSecondaryIndexes: Sequence[Mapping[str, Any]] = (),
        **settings: Any,
    ) -> dict[str, Any]:
        """Make a table with its indexes. Billing, encryption, streams and tags are not looked at."""
        with self._lock:
            if TableName in self.tables:
                raise service_error(
                    "CreateTable", "ResourceInUseException", f"Table already exists: {TableName} (in this test)"
                )
            types = {each["AttributeName"]: each["AttributeType"] for each in AttributeDefinitions}
            indexes = {
                each["IndexName"]: index_of(each, is_global=is_global)
                for is_global, listed in ((True, GlobalSecondaryIndexes), (False, LocalSecondaryIndexes))
                for each in listed
            }
            self.tables[TableName] = MemoryTable(TableName, _keys(KeySchema), types, indexes)
            self._settings[TableName] = {
                "KeySchema": [*KeySchema],
                "AttributeDefinitions": [*AttributeDefinitions],
                **({"GlobalSecondaryIndexes": [*GlobalSecondaryIndexes]} if GlobalSecondaryIndexes else {}),
                **({"LocalSecondaryIndexes": [*LocalSecondaryIndexes]} if LocalSecondaryIndexes else {}),
            }
            described: Any = self.describe_table(TableName=TableName)
            return {"TableDescription": described["Table"]}

    def delete_table(self, *, TableName: str) -> dict[str, Any]:
        """Delete a table with all that is in it."""
        with self._lock:
            self.table(TableName, "DeleteTable")
            del self.tables[TableName]
            return {"TableDescription": {"TableName": TableName, "TableStatus": "DELETING"}}

    def describe_table(self, *, TableName: str) -> dict[str, Any]:
        """Return what is known of a table."""
        with self._lock:
            table = self.table(TableName, "DescribeTable")
            about = {"TableName": TableName, "TableStatus": "ACTIVE", "ItemCount": len(table.items)}
            return {"Table": {**about, **self._settings[TableName]}}

    def list_tables(self) -> dict[str, Any]:
        """Return the names of all tables."""
        return {"TableNames": sorted(self.tables)}

    def get_waiter(self, name: str) -> Any:
        """Return what waits for a table: it does not need to."""
        if name not in ("table_exists", "table_not_exists"):
            raise NotImitatedError(f"DynamoDB's waiter {name!r}")
        return SimpleNamespace(wait=lambda **parameters: None)

    def get_paginator(self, operation: str) -> Any:
        """Return what asks for all pages of ``query`` or ``scan``."""
        if operation not in ("query", "scan"):
            raise NotImitatedError(f"DynamoDB's paginator {operation!r}")

        def paginate(**parameters: Any) -> Any:
            while True:
                reply = getattr(self, operation)(**parameters)
                yield reply
                if "LastEvaluatedKey" not in reply:
                    return
                parameters["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

        return SimpleNamespace(paginate=paginate)

    def batch_get_item(
        self, *, RequestItems: Mapping[str, Any], ReturnConsumedCapacity: str = "NONE"
    ) -> dict[str, Any]:
        """Read up to 100 items of one or more tables."""
        with self._lock:
            count = sum(len(request["Keys"]) for request in RequestItems.values())
            if not 1 <= count <= 100:
                raise invalid("BatchGetItem", f"a batch reads 1 to 100 items, not {count}")
            responses: dict[str, list[Any]] = {}
            unprocessed: dict[str, Any] = {}
            units: dict[str, float] = {}
            left = MOST_READ_BYTES
            for name, request in RequestItems.items():
                table = self.table(name, "BatchGetItem")
                keys = [table.key_of("BatchGetItem", key) for key in request["Keys"]]
                if len(set(keys)) < len(keys):
                    raise invalid("BatchGetItem", "Provided list of item keys contains duplicates")
                shown = {key: value for key, value in request.items() if key not in ("Keys", "ConsistentRead")}
                responses[name], units[name] = [], 0.0
                for number, key in enumerate(request["Keys"]):
                    size = item_bytes(table.items.get(keys[number], {}))
                    if size > left:
                        unprocessed[name] = {**request, "Keys": request["Keys"][number:]}
                        break
                    left -= size
                    consistent = request.get("ConsistentRead", False)
                    units[name] += max(1, -(-size // 4096)) * (1.0 if consistent else 0.5)
                    if reply := table.get_item(TableName=name, Key=key, **shown):
                        responses[name].append(reply["Item"])
            taken = [{"TableName": name, "CapacityUnits": each} for name, each in units.items()]
            asked = ReturnConsumedCapacity != "NONE"
            return {
                "Responses": responses,
                "UnprocessedKeys": unprocessed,
                **({"ConsumedCapacity": taken} if asked else {}),
            }

    def batch_write_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:
        """Put and delete up to 25 items of one or more tables."""
        with self._lock:
            requests = [(name, each) for name, listed in RequestItems.items() for each in listed]
            if not 1 <= len(requests) <= 25:
                raise invalid("BatchWriteItem", f"a batch writes 1 to 25 items, not {len(requests)}")
            for name, each in requests:
                table = self.table(name, "BatchWriteItem")
                if "PutRequest" in each:
                    table.put_item(TableName=name, Item=each["PutRequest"]["Item"])
                else:
                    table.delete_item(TableName=name, Key=each["DeleteRequest"]["Key"])
            return {"UnprocessedItems": {}}

    def batch_execute_statement(self, *, Statements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make statements of PartiQL that update one item each, in the form that this package writes."""
        with self._lock:
            if not 1 <= len(Statements) <= 25:
                raise invalid("BatchExecuteStatement", "a batch has 1 to 25 statements")
            answers = []
            for statement in Statements:
                name = statement["Statement"].partition('"')[2].partition('"')[0]
                if not statement["Statement"].startswith("UPDATE "):
                    raise NotImitatedError("statements of PartiQL other than this package's updates")
                answers.append(self.table(name, "BatchExecuteStatement").execute_statement(statement))
            return {"Responses": answers}

    def transact_write_items(
        self, *, TransactItems: Sequence[Mapping[str, Any]], ClientRequestToken: str | None = None, **beside: Any
    ) -> dict[str, Any]:
        """Make all of these actions or none; a repeat that its token shows changes nothing."""
        if unknown := beside.keys() - _ASKED_BESIDE:
            raise NotImitatedError(f"these parameters of transact_write_items: {', '.join(sorted(unknown))}")
        with self._lock:
            known = TokensOf(self._tokens, self._now_ms(), ClientRequestToken, TransactItems)
            if known.is_repeat():
                return {}
            reply = transact(partial(self.table, operation="TransactWriteItems"), TransactItems)
            known.keep()
            return reply

    def transact_get_items(self, *, TransactItems: Sequence[Mapping[str, Any]], **beside: Any) -> dict[str, Any]:
        """Read up to 100 items of one or more tables as they are at one moment."""
        if unknown := beside.keys() - _ASKED_BESIDE:
            raise NotImitatedError(f"these parameters of transact_get_items: {', '.join(sorted(unknown))}")
        with self._lock:
            return {
                "Responses": [
                    self.table(each["Get"]["TableName"], "TransactGetItems").get_item(**each["Get"])
                    for each in TransactItems
                ]
            }

    def close(self) -> None:
        """Do nothing: there is no connection."""


class TokensOf:
    """The token of one transaction, among those that are known.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html (ClientRequestToken)
    """

    def __init__(self, known: dict[str, tuple[int, str]], now_ms: int, token: str | None, actions: object) -> None:
        self._known = known
        self._now_ms = now_ms
        self._token = token
        self._what = "" if token is None else repr(actions)

    def is_repeat(self) -> bool:
        """Say whether this was committed already; raises where the token was another transaction's."""
        at_ms, before = self._known.get(self._token or "", (0, ""))
        if self._token is None or not before or self._now_ms - at_ms > TOKEN_MS:
            return False
        if before != self._what:
            code = "IdempotentParameterMismatchException"
            raise service_error("TransactWriteItems", code, "the token is that of another transaction")
        return True

    def keep(self) -> None:
        """Note that the transaction was committed."""
        if self._token is not None:
            self._known[self._token] = (self._now_ms, self._what)


def _keys(schema: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    ordered = sorted(schema, key=lambda each: each["KeyType"])  # HASH, then RANGE
    return tuple(each["AttributeName"] for each in ordered)


def index_of(definition: Mapping[str, Any], *, is_global: bool) -> Index:
    """Return the index that a definition for ``create_table`` describes."""
    partition, *sort = _keys(definition["KeySchema"])
    shown = definition.get("Projection", {})
    projected = None if shown.get("ProjectionType") == "ALL" else tuple(shown.get("NonKeyAttributes", ()))
    return Index(partition, sort[0] if sort else None, projected, is_global)
