"""The table: the only place that speaks DynamoDB. It knows items and conditions, and no rule of the protocol.

Every error of the service or of the network leaves these methods as botocore raised it. A condition that does not hold
is no error but an answer: at-least-once delivery makes it ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from kumofire_core.run import SCHEMA, Attributes, Value
from kumofire_core.transitions import Sum, Transition

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

RUN_SORT_KEY = "run"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a conditional write came to."""

    applied: bool
    """The write was made: by this request, or by its first copy whose reply was lost."""
    item: Attributes | None
    """After a write that was to be read back: the item as it is now. After a refusal: the item found, if any."""


class Table:
    """The runs in one DynamoDB table. ``client`` makes the low-level client, on the first request."""

    def __init__(self, name: str, client: Callable[[], DynamoDBClient]) -> None:
        self.name = name
        self._client = client

    def put_run(self, run_id: str, attributes: Attributes) -> Answer:
        """Put a new run. Refused where the id exists, unless that item is this very put's first copy."""
        client = self._client()
        try:
            client.put_item(
                TableName=self.name,
                Item=_key(run_id) | marshal(attributes),
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            return _refused(refusal, ("create_token", attributes["create_token"]))
        return Answer(True, None)

    def apply(self, run_id: str, transition: Transition, *, read_back: bool = False) -> Answer:
        """Make one transition, in one request. ``read_back`` asks for the item as it is afterwards."""
        client = self._client()
        update, condition, names, values = _expression(transition)
        try:
            reply = client.update_item(
                TableName=self.name,
                Key=_key(run_id),
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW" if read_back else "NONE",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as refusal:
            return _refused(refusal, transition.evidence)
        return Answer(True, unmarshal(reply["Attributes"]) if read_back else None)

    def get_run(self, run_id: str) -> Attributes | None:
        """Read a run as it is now (a consistent read), or ``None``."""
        reply = self._client().get_item(TableName=self.name, Key=_key(run_id), ConsistentRead=True)
        item = reply.get("Item")
        return unmarshal(item) if item else None


def marshal(attributes: Attributes) -> dict[str, Any]:
    """Return attributes in DynamoDB's typed form. By hand: boto3's TypeSerializer costs ten times as much."""
    return {name: typed(value) for name, value in attributes.items()}


def typed(value: Value) -> dict[str, str]:
    """Return one value in DynamoDB's typed form."""
    return {"S": value} if isinstance(value, str) else {"N": str(value)}


def unmarshal(item: Mapping[str, Any]) -> dict[str, Value]:
    """Return the text and number attributes of an item. Others are none of ours and are passed over."""
    attributes: dict[str, Value] = {}
    for name, value in item.items():
        if "S" in value:
            attributes[name] = value["S"]
        elif "N" in value:
            number = value["N"]
            # Ours are all whole. Another's decimal stays text, for whoever reads that attribute to refuse.
            attributes[name] = int(number) if number.lstrip("-").isdecimal() else number
    return attributes


def _key(run_id: str) -> dict[str, Any]:
    return {"pk": {"S": f"run#{run_id}"}, "sk": {"S": RUN_SORT_KEY}}


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


def _expression(transition: Transition) -> tuple[str, str, dict[str, str], dict[str, Any]]:
    """Return update, condition, names and values for a transition.

    The texts depend on its shape alone, of which there are a few, and are made once each. Every name is given as a
    placeholder, because DynamoDB reserves hundreds of words, ``status`` among them.
    """
    sets = {"status": transition.target.value, **transition.sets}
    sums = tuple(name for name, value in sets.items() if isinstance(value, Sum))
    update, condition, names = _texts(
        len(transition.source),
        tuple(transition.holds),
        tuple(transition.at_most),
        transition.absent,
        tuple(sets),
        tuple((name, sets[name].name) for name in sums),  # type: ignore[union-attr]
        tuple(transition.adds),
        transition.removes,
    )
    values: dict[str, Any] = {":schema": typed(SCHEMA)}
    for index, status in enumerate(transition.source):
        values[f":from{index}"] = typed(status)
    for prefix, group in ((":is_", transition.holds), (":max_", transition.at_most), (":add_", transition.adds)):
        for name, value in group.items():
            values[prefix + name] = typed(value)
    for name, given in sets.items():
        if isinstance(given, Sum):
            values[f":else_{name}"] = typed(given.otherwise)
            values[f":plus_{name}"] = typed(given.plus)
        else:
            values[f":to_{name}"] = typed(given)
    return update, condition, names, values


@lru_cache(maxsize=256)
def _texts(
    sources: int,
    holds: tuple[str, ...],
    at_most: tuple[str, ...],
    absent: tuple[str, ...],
    sets: tuple[str, ...],
    sums: tuple[tuple[str, str], ...],
    adds: tuple[str, ...],
    removes: tuple[str, ...],
) -> tuple[str, str, dict[str, str]]:
    based_on = dict(sums)
    assignments = ", ".join(
        f"#{name} = if_not_exists(#{based_on[name]}, :else_{name}) + :plus_{name}"
        if name in based_on
        else f"#{name} = :to_{name}"
        for name in sets
    )
    update = f"SET {assignments}"
    if adds:
        update += " ADD " + ", ".join(f"#{name} :add_{name}" for name in adds)
    if removes:
        update += " REMOVE " + ", ".join(f"#{name}" for name in removes)
    terms = [f"#status IN ({', '.join(f':from{index}' for index in range(sources))})", "#schema <= :schema"]
    terms += [f"#{name} = :is_{name}" for name in holds]
    terms += [f"#{name} <= :max_{name}" for name in at_most]
    terms += [f"attribute_not_exists(#{name})" for name in absent]
    used = {"status", "schema", *holds, *at_most, *absent, *sets, *adds, *removes, *based_on.values()}
    return update, " AND ".join(terms), {f"#{name}": name for name in used}
