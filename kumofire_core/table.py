"""The table: the only place that speaks DynamoDB. It knows items and conditions, and no rule of the protocol.

Every error of the service or of the network leaves these methods as botocore raised it. A condition that does not hold
is no error but an answer: at-least-once delivery makes it ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from kumofire_core.write import SCHEMA, Attributes, Value, Write

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

WAKE_INDEX = "wake"

_OWN_WORDS = frozenset({"sk", "lease_token", "settled_by"})
"""Attributes whose values this package makes, of letters and digits."""


class Answer(NamedTuple):
    """What a conditional write came to."""

    applied: bool
    """The write was made: by this request, or by its first copy whose reply was lost."""
    item: Attributes | None
    """After a write that was to be read back: the item as it is now. After a refusal: the item found, if any."""


_APPLIED = Answer(True, None)


class Key(NamedTuple):
    """The key of an item of ours: what kind of thing it is, and its id."""

    kind: str
    id: str

    def typed(self) -> dict[str, Any]:
        """Return the key in DynamoDB's typed form."""
        return {"pk": {"S": f"{self.kind}#{self.id}"}, "sk": {"S": self.kind}}


class WakeUp(NamedTuple):
    """An entry of the wake-up index. The index is eventually consistent: the item may say something else by now."""

    key: Key
    wake_at: int


class Table:
    """The items in one DynamoDB table. ``client`` makes the low-level client, on the first request."""

    def __init__(self, name: str, client: Callable[[], DynamoDBClient]) -> None:
        self.name = name
        self._client = client

    def put_new(self, key: Key, attributes: Attributes) -> Answer:
        """Put a new item. Refused where the key exists, unless that item is this very put's first copy."""
        try:
            self._client().put_item(
                TableName=self.name,
                Item=key.typed() | marshal(attributes),
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            return _refused(refusal, ("create_token", attributes["create_token"]))
        return _APPLIED

    def apply(self, key: Key, write: Write, *, read_back: bool = False) -> Answer:
        """Make one conditional write, in one request. ``read_back`` asks for the item as it is afterwards."""
        update, condition, names, values = _expression(write)
        try:
            reply = self._client().update_item(
                TableName=self.name,
                Key=key.typed(),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW" if read_back else "NONE",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            return _refused(refusal, write.evidence)
        return Answer(True, unmarshal(reply["Attributes"])) if read_back else _APPLIED

    def try_together(self, writes: Mapping[Key, Write], *, read_back: bool = False) -> dict[Key, Attributes]:
        """Try conditional writes, at most 25, in one request; return what came back of those that surely were made.

        That is the item as it is afterwards with ``read_back``, and else what was changed in it. Sure is only what
        comes back with the write's evidence. Whatever else the service says of a write, or does not say, leaves it
        undecided: make it again with ``apply``, whose answer decides. So a service that behaves otherwise than this was
        built on costs a request, and nothing else.
        https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchExecuteStatement.html
        """
        returning = "ALL NEW *" if read_back else "MODIFIED NEW *"
        reply: Any = self._client().batch_execute_statement(
            Statements=[_statement(self.name, key, write, returning) for key, write in writes.items()]
        )
        by_evidence = {write.evidence: key for key, write in writes.items()}
        names = {name for name, _ in by_evidence}
        made: dict[Key, Attributes] = {}
        for answer in reply.get("Responses") or ():
            item = unmarshal(answer.get("Item") or {})
            for name in names if "Error" not in answer else ():
                key = by_evidence.get((name, item.get(name, "")))
                if key is not None:
                    made[key] = item
        return made

    def get(self, key: Key) -> Attributes | None:
        """Read an item as it is now (a consistent read), or ``None``."""
        reply = self._client().get_item(TableName=self.name, Key=key.typed(), ConsistentRead=True)
        item = reply.get("Item")
        return unmarshal(item) if item else None

    def get_many(self, keys: Sequence[Key]) -> dict[Key, Attributes]:
        """Read up to 100 items as they are now, those that exist; what the service leaves out is asked for again."""
        request: Any = {self.name: {"Keys": [key.typed() for key in keys], "ConsistentRead": True}} if keys else {}
        found: dict[Key, Attributes] = {}
        while request:
            reply = self._client().batch_get_item(RequestItems=request)
            for item in reply["Responses"].get(self.name, []):
                attributes = unmarshal(item)
                kind, _, id = str(attributes["pk"]).partition("#")
                found[Key(kind, id)] = attributes
            request = reply.get("UnprocessedKeys")
        return found

    def get_attribute(self, key: Key, name: str) -> Value | None:
        """Read one attribute of an item as it is now, or ``None``. Costs as much as the whole item, but moves less."""
        reply = self._client().get_item(
            TableName=self.name,
            Key=key.typed(),
            ConsistentRead=True,
            ProjectionExpression="#name",
            ExpressionAttributeNames={"#name": name},
        )
        return unmarshal(reply.get("Item", {})).get(name)

    def delete(self, key: Key) -> bool:
        """Delete an item; say whether there was one."""
        reply = self._client().delete_item(TableName=self.name, Key=key.typed(), ReturnValues="ALL_OLD")
        return bool(reply.get("Attributes"))

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
            reply = self._client().query(**request)
            yield [found for item in reply["Items"] if (found := _wake_up(item)) is not None]
            if "LastEvaluatedKey" not in reply:
                return
            request["ExclusiveStartKey"] = reply["LastEvaluatedKey"]

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


def marshal(attributes: Attributes) -> dict[str, Any]:
    """Return attributes in DynamoDB's typed form. By hand: boto3's TypeSerializer costs ten times as much."""
    return {name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in attributes.items()}


def typed(value: Value) -> dict[str, str]:
    """Return one value in DynamoDB's typed form."""
    return {"S": value} if isinstance(value, str) else {"N": str(value)}


def unmarshal(item: Mapping[str, Any]) -> dict[str, Value]:
    """Return the text and number attributes of an item. Others are none of ours and are passed over."""
    try:
        return {name: value["S"] if "S" in value else int(value["N"]) for name, value in item.items()}
    except (KeyError, ValueError):
        pass  # an attribute is among them that is none of ours
    attributes: dict[str, Any] = {}
    for name, value in item.items():
        if "S" in value:
            attributes[name] = value["S"]
        elif "N" in value:
            number = value["N"]
            # Ours are all whole. Another's decimal becomes what is neither, for whoever reads that attribute to refuse.
            attributes[name] = int(number) if number.lstrip("-").isdecimal() else float(number)
    return attributes


def _wake_up(item: Mapping[str, Any]) -> WakeUp | None:
    """Return the wake-up of an index entry, or ``None`` for an item that is none of ours."""
    attributes = unmarshal(item)
    kind, _, id = str(attributes.get("pk")).partition("#")
    wake_at = attributes.get("wake_at")
    if not id or attributes.get("sk") != kind or not isinstance(wake_at, int):
        return None
    return WakeUp(Key(kind, id), wake_at)


def _refused(refusal: ClientError, evidence: tuple[str, Value]) -> Answer:
    """Turn a failed condition into an answer; any other error goes on."""
    if refusal.response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
        raise refusal
    item: Mapping[str, Any] | None = refusal.response.get("Item")  # type: ignore[assignment]  # absent from the stubs
    if not item:
        return Answer(False, None)
    attributes = unmarshal(item)
    name, value = evidence
    return Answer(attributes.get(name) == value, attributes)


def _expression(write: Write) -> tuple[str, str, dict[str, str], dict[str, Any]]:
    """Return update, condition, names and values for a write.

    The texts depend on its shape alone, of which there are a few, and are made once each.
    """
    holds, at_most, sets, computes = write.holds, write.at_most, write.sets, write.computes
    given: Iterable[Value] = chain(holds.values(), at_most.values(), sets.values())
    computed: tuple[str, ...] = ()
    for name, sum in computes.items():
        computed += (name, sum.name)
        given = chain(given, sum[1:])
    tests = (write.source, tuple(holds), tuple(at_most), write.absent)
    shape = (tests, write.target, tuple(sets), computed, write.counts, write.removes)
    texts = _shapes.get(shape)
    if texts is None:
        texts = _shapes[shape] = _texts(write)
    update, condition, names, constants, placeholders = texts
    values = constants.copy()
    for placeholder, value in zip(placeholders, given, strict=True):
        values[placeholder] = {"S": value} if isinstance(value, str) else {"N": str(value)}
    return update, condition, names, values


def _statement(table: str, key: Key, write: Write, returning: str) -> Any:
    """Return a write as a PartiQL statement; ``ValueError`` for one that PartiQL has no form for."""
    if write.absent or write.computes:
        raise ValueError("this write can't be a PartiQL statement")
    parameters: list[dict[str, str]] = []

    def given(name: str, value: Value) -> str:
        # A number, or a word that this package made, may stand in the text: that costs the client and the service less.
        # What a handler or a sender made is always a parameter.
        if isinstance(value, int):
            return str(value)
        if name in _OWN_WORDS and value.isascii() and value.isalnum():
            return f"'{value}'"
        parameters.append(typed(value))
        return "?"

    clauses = [] if write.target is None else [f"SET \"status\"='{write.target}'"]
    clauses += [f'SET "{name}"={given(name, value)}' for name, value in write.sets.items()]
    clauses += [f'SET "{name}"="{name}"+1' for name in write.counts]
    clauses += [f'REMOVE "{name}"' for name in write.removes]
    identity = {"pk": f"{key.kind}#{key.id}", "sk": key.kind, **write.holds}
    terms = [f'"{name}"={given(name, value)}' for name, value in identity.items()]
    if write.source:
        options = "','".join(write.source)
        terms.append(f"\"status\" IN ['{options}']")
    terms += [f'"{name}"<={most}' for name, most in {"schema": SCHEMA, **write.at_most}.items()]
    return {
        "Statement": f'UPDATE "{table}" {" ".join(clauses)} WHERE {" AND ".join(terms)} RETURNING {returning}',
        "Parameters": parameters,
    }


_Texts = tuple[str, str, dict[str, str], dict[str, Any], tuple[str, ...]]

_shapes: dict[tuple[object, ...], _Texts] = {}
"""As many as there are kinds of writes: shapes are made by this package's code alone, and not by data."""


def _texts(write: Write) -> _Texts:
    """Return update, condition, names, the values that are always the same, and placeholders for the others in order.

    Every name is given as a placeholder, because DynamoDB reserves hundreds of words, ``status`` among them.
    """
    constants = {":schema": typed(SCHEMA)}
    # An item that does not exist has no schema, so the first term also asks that it exists.
    terms = ["#schema <= :schema"]
    if write.source:
        options = {f":status{index}": typed(status) for index, status in enumerate(write.source)}
        constants |= options
        terms.append(f"#status IN ({', '.join(options)})")
    terms += [f"#{name} = :is_{name}" for name in write.holds]
    terms += [f"#{name} <= :max_{name}" for name in write.at_most]
    terms += [f"attribute_not_exists(#{name})" for name in write.absent]
    assignments = [f"#{name} = :to_{name}" for name in write.sets]
    if write.target is not None:
        constants[":to_status"] = typed(write.target)
        assignments.append("#status = :to_status")
    placeholders = [f":is_{name}" for name in write.holds] + [f":max_{name}" for name in write.at_most]
    placeholders += [f":to_{name}" for name in write.sets]
    for name, sum in write.computes.items():
        assignments.append(f"#{name} = if_not_exists(#{sum.name}, :else_{name}) + :plus_{name}")
        placeholders += (f":else_{name}", f":plus_{name}")
    parts = ["SET " + ", ".join(assignments)]
    if write.counts:
        constants[":one"] = typed(1)
        parts.append("ADD " + ", ".join(f"#{name} :one" for name in write.counts))
    if write.removes:
        parts.append("REMOVE " + ", ".join(f"#{name}" for name in write.removes))
    used = {"schema", *write.holds, *write.at_most, *write.absent, *write.sets, *write.counts}
    used |= {"status"} if write.source or write.target else set()
    used |= {*write.removes, *write.computes, *(sum.name for sum in write.computes.values())}
    return " ".join(parts), " AND ".join(terms), {f"#{name}": name for name in used}, constants, tuple(placeholders)
