"""The table: the only module that sends requests to DynamoDB. It knows items and conditions, not the run protocol.

Every error of the service or of the network leaves these methods as botocore raised it, with a note that says which
table it was, where, and what to do. A failed condition is a normal result and not an error: under at-least-once
delivery it happens all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from kumofire_core.aws.errors import explained, require_failed_condition, where
from kumofire_core.aws.expressions import (
    KNOWN_SCHEMA,
    marshal,
    partiql_statement,
    typed,
    typed_key,
    unmarshal,
    unmarshal_sets,
    update_expression,
)
from kumofire_core.model.write import NOTHING, SCHEMA, Attributes, Key, Value, Write

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

WAKE_INDEX = "wake"
LISTING_INDEX = "listing"


class Answer(NamedTuple):
    """What a conditional write came to."""

    applied: bool
    """The write was made: by this request, or by its first copy whose reply was lost."""
    item: Attributes | None
    """After a write that was to be read back: the item as it is now. After a refusal: the item found, if any."""
    sent_once: bool = False
    """After a refusal: no copy of the request can arrive later, because the SDK did not repeat it."""


_APPLIED = Answer(True, None)


class WakeUp(NamedTuple):
    """An entry of the wake-up index. The index is eventually consistent: the item may say something else by now."""

    key: Key
    wake_at: int


class Table:
    """The items in one DynamoDB table. ``client`` makes the low-level client, on the first request."""

    def __init__(self, name: str, client: Callable[[], DynamoDBClient]) -> None:
        self.name = name
        self._client = client

    def described(self) -> str:
        """Return what a note says of this table."""
        return f"table {self.name!r}{where(self._client)} (KUMOFIRE_TABLE, or table=… of Jobs)"

    @explained
    def put_new(self, key: Key, attributes: Attributes) -> Answer:
        """Put a new item. Refused where the key exists, unless that item is this very put's first copy."""
        try:
            self._client().put_item(
                TableName=self.name,
                Item=typed_key(key) | marshal(attributes),
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            return _refused(refusal, ("create_token", attributes["create_token"]))
        return _APPLIED

    @explained
    def put_larger(self, key: Key, name: str, value: int) -> bool:
        """Put an item that holds one number, unless the one there is as large: of many writers the largest wins.

        Say whether this request put it. After a lost reply that may be ``False`` although its first copy did.
        """
        try:
            self._client().put_item(
                TableName=self.name,
                Item=typed_key(key) | marshal({"schema": SCHEMA, name: value}),
                ConditionExpression="attribute_not_exists(pk) OR #name < :value",
                ExpressionAttributeNames={"#name": name},
                ExpressionAttributeValues={":value": typed(value)},
            )
        except ClientError as refusal:
            return _refused(refusal, (name, value)).applied
        return True

    @explained
    def put(self, key: Key, attributes: Attributes) -> None:
        """Put an item, in the place of the one there, if any."""
        self._client().put_item(TableName=self.name, Item=typed_key(key) | marshal(attributes))

    @explained
    def add(self, key: Key, amounts: Mapping[str, int], *, told_by: str, sets: Attributes) -> bool:
        """Add to numbers of an item, which is made if need be, and set further attributes; say whether that was done.

        ``told_by`` is stored. The item is not changed where it has this very token, because then this is a repetition
        of the latest addition, nor where it is of a schema that this release does not know.
        """
        added = {f"#a{number}": name for number, name in enumerate(amounts)}
        values = {f":a{number}": typed(amount) for number, amount in enumerate(amounts.values())}
        try:
            self._client().update_item(
                TableName=self.name,
                Key=typed_key(key),
                UpdateExpression=f"SET #told_by = :token, {', '.join(f'#{name} = :{name}' for name in sets)} "
                f"ADD {', '.join(f'#a{number} :a{number}' for number in range(len(amounts)))}",
                ConditionExpression=f"(attribute_not_exists(#told_by) OR #told_by <> :token) AND {KNOWN_SCHEMA}",
                ExpressionAttributeNames={f"#{name}": name for name in ("schema", "told_by", *sets)} | added,
                ExpressionAttributeValues=values
                | {":token": typed(told_by), ":schema": typed(SCHEMA)}
                | {f":{name}": typed(value) for name, value in sets.items()},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            return _refused(refusal, ("told_by", told_by)).applied
        return True

    @explained
    def mark(
        self, key: Key, number: int, *, into: str, out_of: Sequence[str] = (), retries: int = 0, sets: Attributes
    ) -> dict[str, frozenset[int]] | None:
        """Put a number into one set of an item, which is made if need be, and out of others; return all its sets.

        A repetition changes nothing. The item keeps, for each number, the largest ``retries`` that is not 0; a mark
        with fewer is refused, and ``None`` is returned. So is one of an item of a schema that this release does not
        know.
        """
        names = {"#schema": "schema", "#into": into, "#number": f"r{number}", **{f"#{name}": name for name in sets}}
        values: dict[str, Any] = {":number": {"NS": [str(number)]}, ":schema": typed(SCHEMA)}
        values |= {f":{name}": typed(value) for name, value in sets.items()}
        changes = ["#schema = :schema", *(f"#{name} = :{name}" for name in sets)]
        condition = "attribute_not_exists(#number)"
        if retries:
            values[":retries"] = typed(retries)
            changes.append("#number = :retries")
            condition = f"({condition} OR #number <= :retries)"
        update = f"SET {', '.join(changes)} ADD #into :number"
        if out_of:
            names |= {f"#o{place}": name for place, name in enumerate(out_of)}
            update += f" DELETE {', '.join(f'#o{place} :number' for place in range(len(out_of)))}"
        try:
            reply: Any = self._client().update_item(
                TableName=self.name,
                Key=typed_key(key),
                UpdateExpression=update,
                ConditionExpression=f"{condition} AND {KNOWN_SCHEMA}",
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
            )
        except ClientError as refusal:
            require_failed_condition(refusal)
            return None
        return unmarshal_sets(reply["Attributes"])

    @explained
    def get_sets(self, keys: Sequence[Key]) -> dict[Key, dict[str, frozenset[int]]]:
        """Read the sets of numbers of up to 100 items as they are now, of those that exist."""
        request: Any = {self.name: {"Keys": [typed_key(key) for key in keys], "ConsistentRead": True}} if keys else {}
        return {key: unmarshal_sets(item) for key, item in self._batch_get(request)}

    def _batch_get(self, request: Any) -> Iterator[tuple[Key, Any]]:
        """Yield the items of a batch that exist, as the service returns them; what it leaves out is asked for again."""
        while request:
            reply = self._client().batch_get_item(RequestItems=request)
            for item in reply["Responses"].get(self.name, []):
                kind, _, id = str(item["pk"]["S"]).partition("#")
                yield Key(kind, id), item
            request = reply.get("UnprocessedKeys")

    @explained
    def keep_until(self, key: Key, expires_at: int) -> bool:
        """Let an item that exists be kept until this epoch second at least; say whether there was anything to do."""
        try:
            self._client().update_item(
                TableName=self.name,
                Key=typed_key(key),
                UpdateExpression="SET #expires_at = :expires_at",
                ConditionExpression="attribute_exists(pk) AND #expires_at < :expires_at",
                ExpressionAttributeNames={"#expires_at": "expires_at"},
                ExpressionAttributeValues={":expires_at": typed(expires_at)},
            )
        except ClientError as refusal:
            require_failed_condition(refusal)
            return False
        return True

    @explained
    def apply(self, key: Key, write: Write, *, read_back: bool = False) -> Answer:
        """Make one conditional write, in one request. ``read_back`` asks for the item as it is afterwards."""
        update, condition, names, values = update_expression(write)
        try:
            reply = self._client().update_item(
                TableName=self.name,
                Key=typed_key(key),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW" if read_back else "NONE",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            return _refused(refusal, write.write_token)
        return Answer(True, unmarshal(reply["Attributes"])) if read_back else _APPLIED

    @explained
    def try_batch(self, writes: Mapping[Key, Write], *, read_back: bool = False) -> dict[Key, Attributes]:
        """Try conditional writes, at most 25, in one request; return what came back of those that surely were made.

        That is the item as it is afterwards with ``read_back``, and else what was changed in it. Sure is only what
        comes back with the write's evidence. Whatever else the service says of a write, or does not say, leaves it
        undecided: make it again with ``apply``, whose answer decides. So a service that behaves otherwise than this was
        built on costs a request, and nothing else.
        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchExecuteStatement.html
        """
        returning = "ALL NEW *" if read_back else "MODIFIED NEW *"
        reply: Any = self._client().batch_execute_statement(
            Statements=[partiql_statement(self.name, key, write, returning) for key, write in writes.items()]
        )
        by_evidence = {write.write_token: key for key, write in writes.items()}
        names = {name for name, _ in by_evidence}
        made: dict[Key, Attributes] = {}
        for answer in reply.get("Responses") or ():
            item = unmarshal(answer.get("Item") or {})
            for name in names if "Error" not in answer else ():
                key = by_evidence.get((name, item.get(name, "")))
                if key is not None:
                    made[key] = item
        return made

    @explained
    def get(self, key: Key, *, names: Sequence[str] = ()) -> Attributes | None:
        """Read an item as it is now (a consistent read), or ``None``.

        ``names`` are the attributes to return; all, if empty. The item costs as much to read in either case.
        """
        request: dict[str, Any] = {"TableName": self.name, "Key": typed_key(key), "ConsistentRead": True}
        if names:
            request |= _projection(names)
        item = self._client().get_item(**request).get("Item")
        return unmarshal(item) if item else None

    @explained
    def get_many(
        self, keys: Sequence[Key], *, names: Sequence[str] = (), consistent: bool = True
    ) -> dict[Key, Attributes]:
        """Read up to 100 items, those that exist; what the service leaves out is asked for again.

        ``names`` are the attributes to return; all, if empty. An item costs as much to read in either case. Reading
        that is not ``consistent`` costs half, and may return an item as it was a moment ago.
        """
        wanted: dict[str, Any] = {
            "Keys": [typed_key(key) for key in dict.fromkeys(keys)],  # DynamoDB refuses a key that comes twice
            "ConsistentRead": consistent,
        }
        if names:
            wanted |= _projection(names)
        request: Any = {self.name: wanted} if keys else {}
        return {key: unmarshal(item) for key, item in self._batch_get(request)}

    @explained
    def glance(self, keys: Sequence[Key], *, names: Sequence[str]) -> tuple[dict[Key, Attributes], float]:
        """Read attributes of up to 100 items in one request; return those that came, and the read units it took.

        Each is as it is now or was a moment ago. What the service leaves out of its reply is not asked for again.
        """
        request: Any = {
            "Keys": [typed_key(key) for key in dict.fromkeys(keys)],  # DynamoDB refuses a key that comes twice
            **_projection(names),
        }
        reply = self._client().batch_get_item(RequestItems={self.name: request}, ReturnConsumedCapacity="TOTAL")
        found: dict[Key, Attributes] = {}
        for item in reply["Responses"].get(self.name, []):
            attributes = unmarshal(item)
            kind, _, id = str(attributes["pk"]).partition("#")
            found[Key(kind, id)] = attributes
        taken: Any = reply.get("ConsumedCapacity") or ()
        return found, sum(each.get("CapacityUnits", 0.0) for each in taken)

    @explained
    def get_attribute(self, key: Key, name: str) -> Value | None:
        """Read one attribute of an item as it is now, or ``None``. Costs as much as the whole item, but moves less."""
        reply = self._client().get_item(
            TableName=self.name,
            Key=typed_key(key),
            ConsistentRead=True,
            ProjectionExpression="#name",
            ExpressionAttributeNames={"#name": name},
        )
        return unmarshal(reply.get("Item", {})).get(name)

    @explained
    def delete(self, key: Key) -> bool:
        """Delete an item; say whether there was one."""
        reply = self._client().delete_item(TableName=self.name, Key=typed_key(key), ReturnValues="ALL_OLD")
        return bool(reply.get("Attributes"))

    @explained
    def delete_unchanged(self, key: Key, *, equals: Mapping[str, Value]) -> bool:
        """Delete an item whose attributes still equal these values; say whether this call, or its first copy, did so.

        A repeated request finds no item, which is what was asked for. Raises ``ClientError`` as botocore raised it.
        """
        try:
            self._client().delete_item(
                TableName=self.name,
                Key=typed_key(key),
                ConditionExpression="attribute_not_exists(pk) OR "
                + " AND ".join(f"#{name} = :{name}" for name in equals),
                ExpressionAttributeNames={f"#{name}": name for name in equals},
                ExpressionAttributeValues={f":{name}": typed(value) for name, value in equals.items()},
            )
        except ClientError as refusal:
            require_failed_condition(refusal)
            return False
        return True

    @explained
    def parts(self, key: Key, prefix: str, *, names: Sequence[str] = ()) -> list[Attributes]:
        """Read all items beside one whose sort keys begin with ``prefix``, as they are now, in the order of these.

        A request for each MB. ``names`` are the attributes to return; all, if empty.
        """
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :prefix)",
            "ExpressionAttributeValues": {":pk": typed_key(key)["pk"], ":prefix": typed(prefix)},
            "ConsistentRead": True,
        }
        if names:
            request |= _projection(names)
        found: list[Attributes] = []
        while True:
            reply = self._client().query(**request)
            found += [unmarshal(item) for item in reply["Items"]]
            if "LastEvaluatedKey" not in reply:
                return found
            request["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

    @explained
    def index_page(
        self,
        index: str,
        partition: tuple[str, Value],
        sort: str,
        *,
        between: tuple[int, int],
        limit: int,
        newest_first: bool = False,
        after: Mapping[str, Value] | None = None,
        equals: Mapping[str, Value] = NOTHING,
        returns: Sequence[str] = (),
    ) -> tuple[list[Attributes], Attributes | None]:
        """Return one page of an index partition, in the order of its sort key, and what to give as ``after`` next.

        ``between`` bounds the sort key, both ends included. ``limit`` is the number of entries read. Of these, only the
        ones with the attributes in ``equals`` are returned. A page has at most 1 MB, by DynamoDB's own limit.
        ``returns`` are the attributes to return; all, if empty.
        """
        names = {"#partition": partition[0], "#sort": sort, **{f"#f_{name}": name for name in equals}}
        values = {":partition": typed(partition[1]), ":from": typed(between[0]), ":to": typed(between[1])}
        values |= {f":f_{name}": typed(value) for name, value in equals.items()}
        request: dict[str, Any] = {
            "TableName": self.name,
            "IndexName": index,
            "KeyConditionExpression": "#partition = :partition AND #sort BETWEEN :from AND :to",
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": not newest_first,
            "Limit": limit,
        }
        if equals:
            request["FilterExpression"] = " AND ".join(f"#f_{name} = :f_{name}" for name in equals)
        if returns:
            request["ProjectionExpression"] = ", ".join(f"#r_{name}" for name in returns)
            names |= {f"#r_{name}": name for name in returns}
        if after is not None:
            request["ExclusiveStartKey"] = marshal(after)
        reply = self._client().query(**request)
        last = reply.get("LastEvaluatedKey")
        return [unmarshal(item) for item in reply["Items"]], None if last is None else unmarshal(last)

    def wake_ups(self, shard: int, *, until_ms: int, page_size: int) -> Iterator[list[WakeUp]]:
        """Yield one partition of the wake-up index up to ``until_ms``, the earliest first, a page per request."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "IndexName": WAKE_INDEX,
            "KeyConditionExpression": "wake_shard = :shard AND wake_at <= :until",
            "ExpressionAttributeValues": {":shard": typed(shard), ":until": typed(until_ms)},
            "Limit": page_size,
        }
        while True:
            reply = self._query(request)
            yield [found for item in reply["Items"] if (found := _wake_up(item)) is not None]
            if "LastEvaluatedKey" not in reply:
                return
            request["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

    @explained
    def _query(self, request: dict[str, Any]) -> Any:
        return self._client().query(**request)

    @explained
    def page(self, shard: int, *, limit: int, after: Mapping[str, Value] | None) -> tuple[list[Key], Attributes | None]:
        """Return one page of the keys in a partition of the index, and what to give as ``after`` for the next one."""
        request: dict[str, Any] = {} if after is None else {"ExclusiveStartKey": marshal(after)}
        reply = self._client().query(
            TableName=self.name,
            IndexName=WAKE_INDEX,
            KeyConditionExpression="wake_shard = :shard",
            ExpressionAttributeValues={":shard": typed(shard)},
            Limit=limit,
            **request,
        )
        last = reply.get("LastEvaluatedKey")
        found = [wake_up.key for item in reply["Items"] if (wake_up := _wake_up(item)) is not None]
        return found, None if last is None else unmarshal(last)


def _projection(names: Sequence[str]) -> dict[str, Any]:
    """Return the part of a request that asks for these attributes only."""
    return {
        "ProjectionExpression": ", ".join(f"#{name}" for name in names),
        "ExpressionAttributeNames": {f"#{name}": name for name in names},
    }


def _wake_up(item: Mapping[str, Any]) -> WakeUp | None:
    """Return the wake-up of an index entry, or ``None`` for an item that is none of ours."""
    attributes = unmarshal(item)
    kind, _, id = str(attributes.get("pk")).partition("#")
    wake_at = attributes.get("wake_at")
    if not id or attributes.get("sk") != kind or not isinstance(wake_at, int):
        return None
    return WakeUp(Key(kind, id), wake_at)


def _refused(refusal: ClientError, write_token: tuple[str, Value]) -> Answer:
    """Turn a failed condition into an answer; any other error goes on."""
    require_failed_condition(refusal)
    item: Mapping[str, Any] | None = refusal.response.get("Item")  # type: ignore[assignment]  # absent from the stubs
    sent_once = refusal.response.get("ResponseMetadata", {}).get("RetryAttempts") == 0
    if not item:
        return Answer(False, None, sent_once)
    attributes = unmarshal(item)
    name, value = write_token
    return Answer(attributes.get(name) == value, attributes, sent_once)
