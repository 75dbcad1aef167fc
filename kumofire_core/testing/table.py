"""One table in memory, with its indexes: DynamoDB's answers to requests, without a network.

It holds what is true now, and nothing of what was before. Free of locks: ``kumofire_core.testing.dynamodb`` lets one
request at a time through.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from kumofire_core.testing.expressions import (
    Expressions,
    KeyCondition,
    Projection,
    ValidationError,
    expressions,
    key_condition,
    projection,
)
from kumofire_core.testing.partiql import parse_statement
from kumofire_core.testing.refusals import NotImitatedError, canceled, invalid, refusal
from kumofire_core.testing.values import Attributes, item_bytes, native, typed

Key = tuple[Any, ...]
"""The values of an item's key: of its partition, and of its sort key where the table has one."""

Change = tuple[Key, Attributes | None, Attributes | None]
"""An item before and after a write."""

MOST_ITEM_BYTES = 400 * 1024
PAGE_BYTES = 1024 * 1024
"""How much a query or a scan reads for one page."""
_NOTHING: dict[str, Any] = {}
_TYPES: dict[str, type | tuple[type, ...]] = {"S": str, "N": (int, Decimal), "B": bytes}


class Index(NamedTuple):
    """A secondary index: an item is in it that has all its keys."""

    partition: str
    sort: str | None = None
    projected: tuple[str, ...] | None = ()
    """The attributes that it shows besides the keys; ``None`` for all."""
    is_global: bool = True


class _Top:
    """Greater than everything."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True


_TOP = _Top()


class MemoryTable:
    """The items of one table, by key. Attributes are those of ``kumofire_core.testing.values``."""

    key_names: tuple[str, ...]
    indexes: Mapping[str, Index]
    index_types: Mapping[str, type | tuple[type, ...]]
    """The types of the attributes that are a part of any key."""

    def __init__(
        self, name: str, key_names: Sequence[str], types: Mapping[str, str], indexes: Mapping[str, Index]
    ) -> None:
        self.name = name
        self.key_names = tuple(key_names)
        self.indexes = indexes
        self.index_types = {attribute: _TYPES[kind] for attribute, kind in types.items()}
        self.items: dict[Key, Attributes] = {}
        self.on_change: Callable[[Key, Attributes | None, Attributes | None], None] | None = None
        """Told of every change, just after it."""
        self._order: list[Key] = []
        self._entries: dict[str, list[Key]] = {index: [] for index in indexes}

    def entries(self, index_name: str) -> list[Key]:
        """Return the keys of an index's entries, in their order: its own, and then the table's."""
        return self._entries[index_name]

    def key_of(self, operation: str, given: Mapping[str, Any]) -> Key:
        """Return the key that is given in DynamoDB's typed form."""
        key = _natives(operation, given)
        if set(key) != set(self.key_names):
            raise invalid(operation, "The provided key element does not match the schema")
        self._require_keys(operation, key)
        return tuple([key[name] for name in self.key_names])

    def key_in(self, operation: str, item: Attributes) -> Key:
        """Return the key of an item."""
        try:
            return tuple([item[name] for name in self.key_names])
        except KeyError as missing:
            raise invalid(
                operation, f"One or more parameter values were invalid: Missing the key {missing.args[0]} in the item"
            ) from None

    def put_item(
        self,
        *,
        TableName: str,
        Item: Mapping[str, Any],
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ReturnValues: str = "NONE",
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> dict[str, Any]:
        """Put an item in the place of the one that has its key, if any."""
        new = _natives("PutItem", Item)
        key = self.key_in("PutItem", new)
        old = self.items.get(key)
        self._require_storable("PutItem", new)
        parsed, values = _parsed(
            "PutItem", None, ConditionExpression, ExpressionAttributeNames, ExpressionAttributeValues
        )
        if not parsed.holds(old or _NOTHING, values):
            raise refusal("PutItem", old, ReturnValuesOnConditionCheckFailure)
        self._write("PutItem", key, old, new)
        return {"Attributes": typed(old)} if ReturnValues == "ALL_OLD" and old is not None else {}

    def update_item(
        self,
        *,
        TableName: str,
        Key: Mapping[str, Any],
        UpdateExpression: str | None = None,
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ReturnValues: str = "NONE",
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> dict[str, Any]:
        """Change an item, or make it."""
        key = self.key_of("UpdateItem", Key)
        old = self.items.get(key)
        parsed, values = _parsed(
            "UpdateItem", UpdateExpression, ConditionExpression, ExpressionAttributeNames, ExpressionAttributeValues
        )
        new = self._updated("UpdateItem", parsed, values, key, old)
        if new is None:
            raise refusal("UpdateItem", old, ReturnValuesOnConditionCheckFailure)
        self._require_storable("UpdateItem", new)
        self._write("UpdateItem", key, old, new)
        if ReturnValues == "ALL_NEW":
            return {"Attributes": typed(new)}
        if ReturnValues == "ALL_OLD":
            return {"Attributes": typed(old)} if old is not None else {}
        if ReturnValues == "UPDATED_NEW":
            return {"Attributes": typed({name: new[name] for name in parsed.changes if name in new})}
        if ReturnValues == "UPDATED_OLD":
            before = old or {}
            return {"Attributes": typed({name: before[name] for name in parsed.changes if name in before})}
        return {}

    def _updated(
        self, operation: str, parsed: Expressions, values: Attributes, key: Key, old: Attributes | None
    ) -> Attributes | None:
        """Return what an update makes of an item, or ``None`` where its condition does not hold."""
        if not parsed.holds(old or _NOTHING, values):
            return None
        if any(name in parsed.changes for name in self.key_names):
            raise invalid(operation, f"Cannot update attribute {self.key_names}. This attribute is part of the key")
        try:
            return parsed.changed(old or dict(zip(self.key_names, key, strict=True)), values)
        except ValidationError as error:
            raise invalid(operation, error) from None

    def delete_item(
        self,
        *,
        TableName: str,
        Key: Mapping[str, Any],
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ReturnValues: str = "NONE",
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> dict[str, Any]:
        """Delete an item, if it is there."""
        key = self.key_of("DeleteItem", Key)
        old = self.items.get(key)
        if ConditionExpression is not None:
            parsed, values = _parsed(
                "DeleteItem", None, ConditionExpression, ExpressionAttributeNames, ExpressionAttributeValues
            )
            if not parsed.holds(old or _NOTHING, values):
                raise refusal("DeleteItem", old, ReturnValuesOnConditionCheckFailure)
        if old is None:
            return {}
        self._write("DeleteItem", key, old, None)
        return {"Attributes": typed(old)} if ReturnValues == "ALL_OLD" else {}

    def get_item(
        self,
        *,
        TableName: str,
        Key: Mapping[str, Any],
        ConsistentRead: bool = False,
        ProjectionExpression: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Read an item."""
        item = self.items.get(self.key_of("GetItem", Key))
        if item is None:
            return {}
        return {"Item": typed(_shown("GetItem", item, ProjectionExpression, ExpressionAttributeNames))}

    def execute_statement(self, statement: Mapping[str, Any]) -> dict[str, Any]:
        """Make one statement of a batch, and return its answer: an item, or an error."""
        try:
            parsed = parse_statement(statement["Statement"])
            values = parsed.values(statement.get("Parameters", ()))
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

    def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Mapping[str, Any],
        IndexName: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ConsistentRead: bool = False,
        ScanIndexForward: bool = True,
        **reading: Any,
    ) -> dict[str, Any]:
        """Return one page of a partition of the table or of an index, in the order of its sort key."""
        names = tuple((ExpressionAttributeNames or _NOTHING).items())
        index = self._index("Query", IndexName)
        if ConsistentRead and index.is_global and IndexName is not None:
            raise invalid("Query", "Consistent reads are not supported on global secondary indexes")
        try:
            condition = key_condition(KeyConditionExpression, names)
        except ValidationError as error:
            raise invalid("Query", error) from None
        values = _natives("Query", ExpressionAttributeValues)
        low, high = _bounds(index, condition, values)
        entries = self._order if IndexName is None else self._entries[IndexName]
        found = range(bisect_left(entries, low), bisect_left(entries, high))
        return self._page(
            "Query",
            IndexName,
            entries,
            found,
            used=condition.placeholders,
            names=dict(names),
            values=values,
            forward=ScanIndexForward,
            **reading,
        )

    def scan(
        self,
        *,
        TableName: str,
        IndexName: str | None = None,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Any] | None = None,
        ConsistentRead: bool = False,
        **reading: Any,
    ) -> dict[str, Any]:
        """Return one page of the table or of an index."""
        self._index("Scan", IndexName)
        entries = self._order if IndexName is None else self._entries[IndexName]
        return self._page(
            "Scan",
            IndexName,
            entries,
            range(len(entries)),
            used=frozenset(),
            names=ExpressionAttributeNames or _NOTHING,
            values=_natives("Scan", ExpressionAttributeValues or _NOTHING),
            forward=True,
            **reading,
        )

    def _index(self, operation: str, name: str | None) -> Index:
        if name is None:
            return Index(self.key_names[0], next(iter(self.key_names[1:]), None), None)
        if name not in self.indexes:
            raise invalid(operation, f"The table does not have the specified index: {name}")
        return self.indexes[name]

    def _page(
        self,
        operation: str,
        index_name: str | None,
        entries: list[Key],
        found: range,
        *,
        used: frozenset[str],
        names: Mapping[str, str],
        values: Attributes,
        forward: bool,
        Limit: int | None = None,
        FilterExpression: str | None = None,
        ProjectionExpression: str | None = None,
        ExclusiveStartKey: Mapping[str, Any] | None = None,
        Select: str | None = None,
    ) -> dict[str, Any]:
        index = self._index(operation, index_name)
        key_names = self._entry_names(index_name)
        if ExclusiveStartKey is not None:
            start = _natives(operation, ExclusiveStartKey)
            if set(start) != set(key_names):
                raise invalid(operation, "The provided starting key is invalid")
            after = tuple([start[name] for name in key_names])
            found = (
                range(max(found.start, bisect_right(entries, after)), found.stop)
                if forward
                else range(found.start, min(found.stop, bisect_left(entries, after)))
            )
        if Limit is not None and Limit < 1:
            raise invalid(operation, "Limit must be greater than or equal to 1")
        holds = None
        if FilterExpression is not None:
            parsed = _read_expressions(operation, None, FilterExpression, names)
            used, holds = used | parsed.placeholders, parsed.holds
            own = {index.partition, index.sort}
            if operation == "Query" and (found_keys := parsed.attributes & own):
                listed = ", ".join(sorted(filter(None, found_keys)))
                raise invalid(operation, f"Filter Expression can only contain non-primary key attributes: {listed}")
            self._require_projected(operation, index_name, parsed.attributes)
        show = None
        if ProjectionExpression is not None:
            show = _projection(operation, ProjectionExpression, names)
            used |= show.placeholders
            if index.is_global:
                self._require_projected(operation, index_name, {str(path[0]) for path in show.paths})
        if {*names, *values} != used:
            raise invalid(operation, "a name or value is unused in the expressions, or not defined")
        shown_names = None if index.projected is None else {*self.key_names, *key_names, *index.projected}
        page: list[Attributes] = []
        read = size = 0
        last: Key | None = None
        for at in found if forward else reversed(found):
            entry = entries[at]
            item = self.items[entry[-len(self.key_names) :]]
            if shown_names is not None:
                item = {name: value for name, value in item.items() if name in shown_names}
            read, last = read + 1, entry
            size += item_bytes(item)
            if holds is None or holds(item, values):
                page.append(item if show is None else show.of(item))
            if read == Limit or size > PAGE_BYTES:
                break
        else:
            last = None
        reply: dict[str, Any] = {"Count": len(page), "ScannedCount": read}
        if Select != "COUNT":
            reply["Items"] = [typed(item) for item in page]
        if last is not None:
            reply["LastEvaluatedKey"] = typed(dict(zip(key_names, last, strict=True)))
        return reply

    def _require_projected(self, operation: str, index_name: str | None, wanted: Iterable[str]) -> None:
        if index_name is None or (shown := self.indexes[index_name].projected) is None:
            return
        missing = sorted(set(wanted) - {*shown, *self._entry_names(index_name)})
        if missing:
            raise invalid(operation, f"Secondary index {index_name} does not project one or more attributes: {missing}")

    def _entry_names(self, index_name: str | None) -> tuple[str, ...]:
        """Return the attributes that order an index, or the table."""
        if index_name is None:
            return self.key_names
        index = self.indexes[index_name]
        return (index.partition, *((index.sort,) if index.sort else ()), *self.key_names)

    def try_action(
        self, kind: str, action: Mapping[str, Any], *, operation: str = "TransactWriteItems"
    ) -> tuple[Change, dict[str, Any]]:
        """Return what an action of a transaction changes, and the reason for which it cancels the transaction."""
        if kind == "Put":
            item = _natives(operation, action["Item"])
            key = self.key_in(operation, item)
        else:
            item = {}
            key = self.key_of(operation, action["Key"])
        old = self.items.get(key)
        parsed, values = _parsed(
            operation,
            action["UpdateExpression"] if kind == "Update" else None,
            action.get("ConditionExpression"),
            action.get("ExpressionAttributeNames"),
            action.get("ExpressionAttributeValues"),
        )
        change = (key, old, old)
        if kind == "Put":
            if any(item.get(name) in ("", b"") for name in self.index_types):
                self._require_keys(operation, item)  # which no transaction is even begun with
            try:
                self._require_storable(operation, item)
            except ClientError as error:
                return (key, old, item), {"Code": "ValidationError", "Message": str(error)}
        if not parsed.holds(old or _NOTHING, values):
            shown = old is not None and action.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
            return change, {
                "Code": "ConditionalCheckFailed",
                "Message": "The conditional request failed",
                **({"Item": typed(old or {})} if shown else {}),
            }
        if kind == "Put":
            change = (key, old, item)
        elif kind == "Update":
            try:
                new = self._updated(operation, parsed, values, key, old)
                assert new is not None
                self._require_storable(operation, new)
            except ClientError as error:
                return change, {"Code": "ValidationError", "Message": str(error)}
            change = (key, old, new)
        elif kind == "Delete":
            change = (key, old, None)
        elif kind != "ConditionCheck":
            raise NotImitatedError(f"the action {kind!r} of a transaction")
        return change, {"Code": "None"}

    def commit(self, changes: Iterable[Change]) -> None:
        """Make changes that a transaction has tried."""
        for change in changes:
            self._store(*change)

    def _write(self, operation: str, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        """Make one change."""
        self._store(key, old, new)

    def _store(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        if new is None:
            if old is None:
                return
            del self.items[key]
            del self._order[bisect_left(self._order, key)]
        else:
            self.items[key] = new
            if old is None:
                insort(self._order, key)
        for name, entries in self._entries.items():
            before, after = self._entry(name, old), self._entry(name, new)
            if before != after:
                if before is not None:
                    del entries[bisect_left(entries, before)]
                if after is not None:
                    insort(entries, after)
        if self.on_change is not None:
            self.on_change(key, old, new)

    def _entry(self, index_name: str, item: Attributes | None) -> Key | None:
        if item is None:
            return None
        names = self._entry_names(index_name)
        return tuple([item[name] for name in names]) if all(name in item for name in names) else None

    def _require_storable(self, operation: str, new: Attributes) -> None:
        """Raise where an attribute that is a part of a key can't be one, or the item is too large."""
        self._require_keys(operation, new)
        if item_bytes(new) > MOST_ITEM_BYTES:
            raise invalid(operation, "Item size has exceeded the maximum allowed size")

    def _require_keys(self, operation: str, item: Attributes) -> None:
        for name, kind in self.index_types.items():
            if name in item:
                value = item[name]
                if not isinstance(value, kind) or value == "" or value == b"":
                    raise invalid(operation, f"One or more parameter values were invalid: Type mismatch for key {name}")


def transact(
    table_of: Callable[[str], MemoryTable], actions: Sequence[Mapping[str, Any]], *, most: int = 100
) -> dict[str, Any]:
    """Make all these actions or none; raises the error of a transaction that is canceled, with its reasons.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
    """
    name = "TransactWriteItems"
    if not 1 <= len(actions) <= most:
        raise invalid(name, f"a transaction has 1 to {most} actions")
    tried = [
        (table_of(action["TableName"]), *table_of(action["TableName"]).try_action(kind, action))
        for each in actions
        for kind, action in each.items()
    ]
    if len({(id(table), change[0]) for table, change, _ in tried}) < len(tried):
        raise invalid(name, "Transaction request cannot include multiple operations on one item")
    if any(reason["Code"] != "None" for *_, reason in tried):
        raise canceled([reason for *_, reason in tried])
    by_table: dict[int, tuple[MemoryTable, list[Change]]] = {}
    for table, change, _ in tried:
        if change[1] is not change[2]:
            by_table.setdefault(id(table), (table, []))[1].append(change)
    for table, changes in by_table.values():
        table.commit(changes)
    return {}


def _bounds(index: Index, condition: KeyCondition, values: Attributes) -> tuple[Key, Key]:
    """Return from where to where the entries of an index fit a key condition; the end is left out."""
    given = {name: (operator, operands) for name, operator, operands in condition.terms}
    if len(given) < len(condition.terms):
        raise invalid("Query", "KeyConditionExpressions must only contain one condition per key")
    operator, operands = given.pop(index.partition, ("", ()))
    if operator != "=" or given.keys() - {index.sort}:
        raise invalid("Query", "Query condition missed key schema element, or has another attribute")
    try:
        partition = values[operands[0]]
        operator, operands = given.get(index.sort or "", ("", ()))
        sort = [values[operand] for operand in operands]
    except KeyError as missing:
        raise invalid("Query", f"the value {missing.args[0]} is not defined") from None
    if not operator:
        return (partition,), (partition, _TOP)
    if operator == "begins_with":
        if not isinstance(sort[0], str):
            raise NotImitatedError("begins_with of a sort key that is not a text")
        return (partition, sort[0]), (partition, sort[0] + "\U0010ffff", _TOP)
    first, last = sort[0], sort[-1]
    return {
        "=": ((partition, first), (partition, first, _TOP)),
        "<": ((partition,), (partition, first)),
        "<=": ((partition,), (partition, first, _TOP)),
        ">": ((partition, first, _TOP), (partition, _TOP)),
        ">=": ((partition, first), (partition, _TOP)),
        "BETWEEN": ((partition, first), (partition, last, _TOP)),
    }[operator]


def _natives(operation: str, given: Mapping[str, Any]) -> Attributes:
    try:
        return native(given)
    except ValueError as problem:
        raise invalid(operation, problem) from None


def _shown(operation: str, item: Attributes, text: str | None, names: Mapping[str, str] | None) -> Attributes:
    if text is None:
        return item
    show = _projection(operation, text, names or _NOTHING)
    if show.placeholders != (names or _NOTHING).keys():
        raise invalid(operation, "a name is unused in the expressions, or not defined")
    return show.of(item)


def _projection(operation: str, text: str, names: Mapping[str, str]) -> Projection:
    try:
        return projection(text, tuple(names.items()))
    except ValidationError as error:
        raise invalid(operation, error) from None


def _read_expressions(
    operation: str, update: str | None, condition: str | None, names: Mapping[str, str]
) -> Expressions:
    try:
        return expressions(update, condition, names)
    except ValidationError as error:
        raise invalid(operation, error) from None


def _parsed(
    operation: str,
    update: str | None,
    condition: str | None,
    names: Mapping[str, str] | None,
    values: Mapping[str, Any] | None,
) -> tuple[Expressions, Attributes]:
    """Return a request's expressions and values; names and values must be just those that the expressions use."""
    names, values = names or _NOTHING, values or _NOTHING
    parsed = _read_expressions(operation, update, condition, names)
    if not parsed.names_fit or values.keys() != parsed.values_used:
        raise invalid(operation, "a name or value is unused in the expressions, or not defined")
    return parsed, _natives(operation, values)
