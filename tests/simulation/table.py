"""The simulated table: the product's table in memory, with a past, refusals, and pages as small as they may be.

Every version of every item is kept for a history's length, so that the index can show what was true a while ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kumofire_core.deployment.table import DEFINITION
from kumofire_core.testing import table
from kumofire_core.testing.dynamodb import TokensOf, index_of
from kumofire_core.testing.expressions import expressions
from kumofire_core.testing.partiql import parse_statement
from kumofire_core.testing.refusals import canceled, invalid, throttled
from kumofire_core.testing.values import Attributes, item_bytes, native, typed

__all__ = ["INDEX_TYPES", "Attributes", "Key", "SimulatedTable", "canceled", "item_bytes", "native", "typed"]

Key = tuple[str, str]
Observer = Callable[[Key, Attributes | None, Attributes | None], None]

INDEXES = {each["IndexName"]: index_of(each, is_global=True) for each in DEFINITION["GlobalSecondaryIndexes"]}
INDEX_TYPES = {"wake_shard": int, "wake_at": int, "list_shard": str, "list_at": int}
PROJECTION = ("ProjectionExpression", "ExpressionAttributeNames")
PAGE = 3
"""How many items beside one come in one page: few, as DynamoDB may always answer for some only."""
_NOTHING: dict[str, Any] = {}


class SimulatedTable(table.MemoryTable):
    """Items by key. ``now`` gives the time of a write; ``observe`` is told of every change, just after it."""

    items: dict[Key, Attributes]  # type: ignore[assignment]

    def __init__(self, now: Callable[[], int], observe: Observer) -> None:
        super().__init__("table", ("pk", "sk"), {}, INDEXES)
        self.index_types = INDEX_TYPES
        self._now = now
        self._observe = observe
        self.versions: dict[Key, list[tuple[int, Attributes | None]]] = {}
        self.refuses: Callable[[Key, Attributes | None, Attributes | None], bool] | None = None
        """Says of a change whether it is refused at present, because something that it writes to is throttled."""
        self._tokens: dict[str, tuple[int, str]] = {}

    def key_of(self, operation: str, given: Mapping[str, Any]) -> Key:
        return given["pk"]["S"], given["sk"]["S"]

    def key_in(self, operation: str, item: Attributes) -> Key:
        return item["pk"], item["sk"]

    def transact_write_items(
        self, *, TransactItems: Sequence[Mapping[str, Any]], ClientRequestToken: str | None = None
    ) -> dict[str, Any]:
        """Make all of these actions or none; a repeat that its token shows changes nothing."""
        known = TokensOf(self._tokens, self._now(), ClientRequestToken, TransactItems)
        if known.is_repeat():
            return {}
        reply = table.transact(lambda name: self, TransactItems)
        known.keep()
        return reply

    def try_action(
        self, kind: str, action: Mapping[str, Any], *, operation: str = "TransactWriteItems"
    ) -> tuple[table.Change, dict[str, Any]]:
        change, reason = super().try_action(kind, action)
        key, old, new = change
        if reason["Code"] == "None" and old is not new and self.refuses is not None and self.refuses(key, old, new):  # type: ignore[arg-type]
            return change, {"Code": "ThrottlingError"}
        return change, reason

    def commit(self, changes: Iterable[table.Change]) -> None:
        made = list(changes)
        for key, _, new in made:
            assert new is not None
            self.items[key] = new  # type: ignore[index]
            self.versions.setdefault(key, []).append((self._now(), new))  # type: ignore[arg-type]
        for key, old, new in made:  # when all of it is there
            self._observe(key, old, new)  # type: ignore[arg-type]

    def get_item(self, *, ConsistentRead: bool = False, lag_ms: int = 0, **parameters: Any) -> dict[str, Any]:
        """Read an item as it is, or as it was ``lag_ms`` ago."""
        key: Key = parameters["Key"]["pk"]["S"], parameters["Key"]["sk"]["S"]
        item = self.items.get(key) if ConsistentRead else self._as_of(key, self._now() - lag_ms)
        if item is None:
            return {}
        if "ProjectionExpression" in parameters:
            item = table._shown(
                "GetItem", item, parameters["ProjectionExpression"], parameters.get("ExpressionAttributeNames")
            )
        return {"Item": typed(item)}

    def batch_get_item(self, *, RequestItems: Mapping[str, Any], lag_ms: int = 0) -> dict[str, Any]:
        responses, unprocessed = {}, {}
        for name, request in RequestItems.items():
            keys = request["Keys"]
            consistent = request.get("ConsistentRead", False)
            shown = {each: request[each] for each in PROJECTION if each in request}
            found = [
                self.get_item(TableName=name, Key=key, ConsistentRead=consistent, lag_ms=lag_ms, **shown)
                for key in keys[:3]
            ]
            responses[name] = [reply["Item"] for reply in found if reply]
            if keys[3:]:  # it may always answer for some only
                unprocessed[name] = {**request, "Keys": keys[3:]}
        return {"Responses": responses, "UnprocessedKeys": unprocessed}

    def batch_execute_statement(self, *, Statements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"Responses": [self.execute_statement(statement) for statement in Statements]}

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
                raise invalid("Query", KeyConditionExpression)
            return self._beside(
                *native(ExpressionAttributeValues).values(),
                shown=[
                    (ExpressionAttributeNames or {})[each] for each in (ProjectionExpression or "").split(", ") if each
                ],
                after=None if ExclusiveStartKey is None else native(ExclusiveStartKey)["sk"],
            )
        index, names = INDEXES[IndexName], ExpressionAttributeNames or _NOTHING
        partition, sort = index.partition, index.sort
        assert sort is not None
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
        shown = (*keys, *(index.projected or ()))
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
        self._store(key, old, None)
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

    def _write(self, operation: str, key: Any, old: Attributes | None, new: Attributes | None) -> None:
        if self.refuses is not None and self.refuses(key, old, new):
            raise throttled(operation)
        self._store(key, old, new)

    def _store(self, key: Any, old: Attributes | None, new: Attributes | None) -> None:
        if new is None:
            del self.items[key]
        else:
            self.items[key] = new
        self.versions.setdefault(key, []).append((self._now(), new))
        self._observe(key, old, new)

    def _require_storable(self, operation: str, new: Attributes) -> None:
        for name, kind in INDEX_TYPES.items():
            if name in new and (not isinstance(new[name], kind) or new[name] == ""):
                raise invalid(operation, f"type mismatch for index key {name}")
        # Nothing but a payload makes an item large here.
        if len(new.get("payload", "")) > table.MOST_ITEM_BYTES // 4 and item_bytes(new) > table.MOST_ITEM_BYTES:
            raise invalid(operation, "Item size has exceeded the maximum allowed size")


def _in_bytes(key: Key) -> tuple[bytes, bytes]:
    return key[0].encode(), key[1].encode()
