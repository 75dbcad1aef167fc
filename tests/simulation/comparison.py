"""The same random requests to the simulated table and to another one, every answer compared.

So the world that the engine is tried in answers as the service does, in all that this project asks of it: conditions,
updates, what a refusal returns, the index, statements in a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

from botocore.exceptions import ClientError

from kumofire_core.aws.dynamodb import Table
from kumofire_core.aws.expressions import partiql_statement, update_expression
from kumofire_core.deployment.table import make_table
from kumofire_core.model.batch import ENDS
from kumofire_core.model.write import Key, Sum, Write
from kumofire_core.testing.dynamodb import MemoryDynamoDB
from tests.simulation.history import Choices
from tests.simulation.table import SimulatedTable, typed

IDS = ("a", "b", "c", "d")
TEXTS = ("status", "lease_token", "note")
NUMBERS = ("attempt", "lease_until", "schema")
WORDS = ("queued", "running", "x")
INDEX_KEYS = ("wake_shard", "wake_at")
SHARDS = ("failed#0", "failed#1")
START_MS = 1_773_489_600_000

Request = tuple[str, dict[str, Any]]


def differences(other: Any, name: str, *, seed: int, requests: int, strict: bool) -> tuple[list[str], Counter[str]]:
    """Make requests of the table ``name`` of the client ``other``, of a new simulated table, and of the product's.

    Return what was answered differently, and how often each kind of answer was given. ``name`` must be empty.
    ``strict`` asks, too, for what is an error that not every emulator knows: to change one attribute twice, to add to a
    text.
    """
    in_memory = MemoryDynamoDB(lambda: 0)
    make_table(cast(Any, in_memory), name)
    imitations = {"simulated": SimulatedTable(lambda: 0, lambda key, old, new: None), "in memory": in_memory}
    found, answers = [], Counter[str]()
    for operation, parameters in random_requests(Choices(seed), name, requests, strict=strict):
        given = answer(other, operation, parameters)
        answers[f"{operation}: {_kind(given)}"] += 1
        for which, client in imitations.items():
            expected = answer(client, operation, parameters)
            if expected != given:
                found.append(f"{operation} {parameters}\n  {which}: {expected}\n  other: {given}")
        if found:
            break  # from here on the tables hold different items
    return found, answers


def answer(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
    """Return what a client answers, in a form that can be compared."""
    if operation == "parts":
        return Table(parameters["table"], lambda: client).parts(
            parameters["key"], parameters["prefix"], names=parameters["names"]
        )
    if operation == "query":
        return _all_pages(client, parameters)
    if operation == "batch_get_item":
        return _all_items(client, parameters)
    try:
        reply = getattr(client, operation)(**parameters)
    except ClientError as error:
        refused: Any = error.response
        reasons = [(each["Code"], each.get("Item")) for each in refused.get("CancellationReasons", ())]
        return refused["Error"]["Code"], _sorted(refused.get("Item")) or reasons or None
    if operation == "batch_execute_statement":
        return [each["Error"]["Code"] if "Error" in each else each["Item"] for each in reply["Responses"]]
    return _sorted(reply.get("Item", reply.get("Attributes")))


def _all_pages(client: Any, parameters: dict[str, Any]) -> Any:
    entries: list[dict[str, Any]] = []
    start: dict[str, Any] = {}
    while True:
        reply = client.query(**parameters, **start)
        entries += reply["Items"]
        if len(reply["Items"]) > parameters["Limit"]:
            return "a page is too long"
        if "LastEvaluatedKey" not in reply:
            break
        start = {"ExclusiveStartKey": reply["LastEvaluatedKey"]}
    sort = "wake_at" if parameters["IndexName"] == "wake" else "list_at"
    times = [int(entry[sort]["N"]) for entry in entries]
    # Among equal times any order is right.
    return times == sorted(times, reverse=not parameters.get("ScanIndexForward", True)), sorted(entries, key=_id)


def _all_items(client: Any, parameters: dict[str, Any]) -> Any:
    items, wanted = [], parameters["RequestItems"]
    while wanted:
        reply = client.batch_get_item(RequestItems=wanted)
        items += [item for of_table in reply["Responses"].values() for item in of_table]
        wanted = reply.get("UnprocessedKeys")
    return sorted(items, key=_id)


def _id(item: dict[str, Any]) -> str:
    return f"{item['pk']['S']} {item['sk']['S']}"


def random_requests(choices: Choices, name: str, count: int, *, strict: bool) -> Iterator[Request]:
    """Yield requests that this project could make, and some that it must not."""
    transactions = _transactions(choices, name)
    for _ in range(count):
        key = typed({"pk": f"run#{choices.of(IDS)}", "sk": "run"})
        what = choices.below(18)
        if what == 15:
            prefix, names = choices.of(("steps#", "steps#x#", "steps#x#b", "run")), choices.of(((), ("sk", "note")))
            yield "parts", {"table": name, "key": Key("run", choices.of(IDS)), "prefix": prefix, "names": names}
        elif what > 15:
            part = typed({"sk": f"steps#{choices.of(('x', 'y'))}#{choices.of(('a', 'b', 'é', 'B', '😀'))}"})
            yield "put_item", _put(choices, key | part) | {"TableName": name}
        elif what == 12:
            yield "transact_write_items", next(transactions)
        elif what < 2:
            yield "put_item", _put(choices, key) | {"TableName": name}
        elif what < 5:
            yield "update_item", _update(choices, key, strict=strict) | {"TableName": name}
        elif what < 7:
            yield "update_item", _engine_update(choices, key) | {"TableName": name}
        elif what == 7:
            shown = choices.of(({}, {"ReturnValues": "ALL_OLD"}))
            yield "delete_item", {"Key": key, "TableName": name, **shown, **_delete_condition(choices)}
        elif what == 8:
            yield "get_item", {"Key": key, "TableName": name, "ConsistentRead": True, **_projection(choices)}
        elif what == 9:
            ids = [each for each in IDS if choices.below(2)] or ["a"]
            keys = [typed({"pk": f"run#{each}", "sk": "run"}) for each in ids]
            wanted = {"Keys": keys, "ConsistentRead": True}
            if choices.below(2):
                names = {"#pk": "pk", "#sk": "sk", "#note": "note"}
                wanted |= {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
            yield "batch_get_item", {"RequestItems": {name: wanted}}
        elif what > 12:
            yield "update_item", _mark(choices, name)
        elif what == 10:
            yield "query", _query(choices) | {"TableName": name}
        else:
            ids = [each for each in IDS if choices.below(2)] or ["a"]
            writes = [(Key("run", each), _write(choices, for_statement=True)) for each in ids]
            statements = [
                _finish(choices, name, key, strict=strict)
                if choices.below(3) == 2
                else partiql_statement(name, key, write, "ALL NEW *")
                for key, write in writes
            ]
            yield "batch_execute_statement", {"Statements": statements}


def _mark(choices: Choices, name: str) -> dict[str, Any]:
    """Return the request that marks a member of a batch."""
    made: list[dict[str, Any]] = []

    class Client:
        def update_item(self, **parameters: Any) -> Any:
            made.append(parameters)
            return {"Attributes": {}}

    client: Any = Client()
    into = choices.of(ENDS)
    Table(name, lambda: client).mark(
        Key("bucket", choices.of(IDS)),
        choices.below(3),
        into=into,
        out_of=[each for each in ENDS if each != into] if choices.below(4) else [],
        retries=choices.below(3),
        sets={"expires_at": 5} if choices.below(2) else {},
    )
    return made[0]


def _sorted(item: Any) -> Any:
    """Return an item with its sets in order: the service keeps none."""
    if not isinstance(item, dict):
        return item
    return {key: {"NS": sorted(each["NS"], key=int)} if "NS" in each else each for key, each in item.items()}


def _attributes(choices: Choices) -> dict[str, Any]:
    found: dict[str, Any] = {each: choices.of(WORDS) for each in TEXTS if choices.below(3)}
    found |= {each: choices.below(3) - 1 for each in NUMBERS if choices.below(3)}
    if choices.below(3):
        found |= {"wake_shard": choices.below(2), "wake_at": START_MS + choices.below(40)}
    if choices.below(3):
        found |= {"list_shard": choices.of(SHARDS), "list_at": START_MS + choices.below(40)}
        found |= {"job_name": choices.of(WORDS)} if choices.below(2) else {}
    return found


def _put(choices: Choices, key: dict[str, Any]) -> dict[str, Any]:
    attributes = _attributes(choices)
    if choices.below(12) == 11:
        attributes |= choices.of(
            ({"wake_at": "noon"}, {"list_shard": 1}, {"list_shard": ""})
        )  # no index can hold these
    shown = choices.of(({}, {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}))
    condition = choices.of(({}, {}, {"ConditionExpression": "attribute_not_exists(pk)"}))
    return {"Item": key | typed(attributes), **condition, **shown}


def _transactions(choices: Choices, name: str) -> Iterator[dict[str, Any]]:
    """Yield puts and checks of some items together; now and then the last again, with its token or another."""
    last: dict[str, Any] = {}
    number = 0
    while True:
        number += 1
        again = choices.below(4) if last else 0
        if again != 3:
            ids = [each for each in IDS if choices.below(2)] or ["a"]
            last = {
                "TransactItems": [_action(choices, name, each) for each in ids],
                "ClientRequestToken": f"{name}-{number}",
            }
        elif choices.below(2):
            last = last | {"ClientRequestToken": f"{name}-{number}"}
        elif choices.below(3) == 2:  # other items with a token that may be known
            last = last | {"TransactItems": [_action(choices, name, "a")]}
        yield last


def _action(choices: Choices, table: str, id: str) -> dict[str, Any]:
    key = typed({"pk": f"run#{id}", "sk": "run"})
    shown = choices.of(({}, {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}))
    if choices.below(3) == 2:
        condition = choices.of(("attribute_exists(pk)", "attribute_not_exists(pk)"))
        return {"ConditionCheck": {"TableName": table, "Key": key, "ConditionExpression": condition, **shown}}
    guard = choices.of(({}, {"ConditionExpression": "attribute_not_exists(pk)"}))
    return {"Put": {"TableName": table, "Item": key | typed(_attributes(choices)), **guard, **shown}}


def _update(choices: Choices, key: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """Return an update in more of the language than the engine writes."""
    values: dict[str, Any] = {}
    names: dict[str, str] = {}

    def value(of: str) -> str:
        return _placed(values, ":v", choices.below(3) - 1 if of in NUMBERS else choices.of(WORDS))

    def path(of: str) -> str:
        names[f"#{of}"] = of
        return f"#{of}"

    def term() -> str:
        of = choices.of((*TEXTS, *NUMBERS))
        what = choices.below(8)
        if what == 0:
            return f"attribute_exists({path(of)})"
        if what == 1:
            return f"attribute_not_exists({path(of)})"
        if what == 2:
            return f"{path(of)} IN ({value(of)}, {value(of)})"
        if what == 3:
            return f"NOT {path(of)} = {value(of)}"
        # Also against a value of the other type.
        against = of if choices.below(4) else choices.of((*TEXTS, *NUMBERS))
        return f"{path(of)} {choices.of(('=', '<>', '<', '<=', '>', '>='))} {value(against)}"

    condition = term()
    for _ in range(choices.below(3)):
        other = term()
        condition = choices.of((f"{condition} AND {other}", f"{condition} OR {other}", f"({condition}) AND {other}"))
    parts = [f"{path('note')} = {value('note')}"]
    unchanged = [*NUMBERS, "lease_token", "status", "wake_at"]
    overlapping = strict and choices.below(4) == 3

    def one_of(*wanted: str) -> str:
        found = choices.of([each for each in wanted if overlapping or each in unchanged])
        if found in unchanged:
            unchanged.remove(found)
        return found

    if choices.below(2):
        base, base_of = one_of(*NUMBERS), choices.of((*NUMBERS, "status") if strict else NUMBERS)
        what = choices.below(3)
        if what == 0:
            parts.append(f"{path(base)} = if_not_exists({path(base_of)}, {value(base)}) + {value(base)}")
        elif what == 1:
            parts.append(f"{path(base)} = {path(base_of)} + {value(base)}")
        else:
            parts.append(f"{path(base)} = {value(base)}")
    update = "SET " + ", ".join(parts)
    if choices.below(3) == 2:
        of = one_of(*NUMBERS, *(("lease_token",) if strict else ()))
        update += f" ADD {path(of)} {_placed(values, ':v', choices.below(3))}"
    if choices.below(3) == 2:
        update += f" REMOVE {path(one_of('wake_at', 'status', 'lease_until'))}"
    odd = choices.below(24)
    if odd == 23:
        values[":unused"] = 1
    elif odd == 22:
        names["#unused"] = "unused"
    return {
        "Key": key,
        "UpdateExpression": update,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": typed(values),
        "ReturnValues": choices.of(("ALL_NEW", "NONE")),
        "ReturnValuesOnConditionCheckFailure": choices.of(("ALL_OLD", "NONE")),
    }


def _placed(values: dict[str, Any], prefix: str, value: Any) -> str:
    name = f"{prefix}{len(values)}"
    values[name] = value
    return name


def _engine_update(choices: Choices, key: dict[str, Any]) -> dict[str, Any]:
    """Return an update as the engine makes it of a write."""
    update, condition, names, values = update_expression(_write(choices, for_statement=False))
    return {
        "Key": key,
        "UpdateExpression": update,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": choices.of(("ALL_NEW", "NONE")),
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _write(choices: Choices, *, for_statement: bool) -> Write:
    computed = not for_statement and choices.below(2)
    return Write(
        source=(choices.of(WORDS), choices.of(WORDS)) if choices.below(3) else (),
        target=choices.of(WORDS),
        equals={"lease_token": choices.of(WORDS)} if choices.below(3) == 2 else {},
        at_most={"attempt": choices.below(3)} if choices.below(2) else {},
        not_exists=("note",) if not for_statement and choices.below(3) == 2 else (),
        sets={"settled_by": "t"},
        computes={"lease_until": Sum(name="attempt", otherwise=5, plus=1_000)} if computed else {},
        increments=("claims",) if choices.below(2) else (),
        removes=INDEX_KEYS if not for_statement and choices.below(3) == 2 else (),
        write_token=("settled_by", "t"),
    )


def _finish(choices: Choices, table: str, key: Key, *, strict: bool) -> dict[str, Any]:
    """Return a statement that removes attributes, and shows the whole item or only what it has set.

    MiniStack leaves out of the latter what had the same value before; DynamoDB does not.
    """
    shown = choices.of(("ALL", "MODIFIED")) if strict else "ALL"
    values = (choices.of(WORDS), choices.below(3), f"{key.kind}#{key.id}", key.kind, choices.of(WORDS))
    return {
        "Statement": f'UPDATE "{table}" SET "status"=? SET "attempt"=? REMOVE "wake_shard" REMOVE "wake_at" '
        f'WHERE "pk"=? AND "sk"=? AND "lease_token"=? RETURNING {shown} NEW *',
        "Parameters": [*typed(dict(zip("abcde", values, strict=True))).values()],
    }


def _projection(choices: Choices) -> dict[str, Any]:
    if choices.below(2):
        return {}
    return {"ProjectionExpression": "#status", "ExpressionAttributeNames": {"#status": "status"}}


def _delete_condition(choices: Choices) -> dict[str, Any]:
    if choices.below(2):
        return {}
    return {
        "ConditionExpression": "attribute_not_exists(pk) OR #status = :status AND #attempt = :attempt",
        "ExpressionAttributeNames": {"#status": "status", "#attempt": "attempt"},
        "ExpressionAttributeValues": typed({":status": choices.of(WORDS), ":attempt": choices.below(3) - 1}),
    }


def _list_query(choices: Choices) -> dict[str, Any]:
    """Return a query of the listing index as the engine makes it."""
    names = {"#partition": "list_shard", "#sort": "list_at"}
    values = {":partition": choices.of(SHARDS), ":from": START_MS + choices.below(20), ":to": START_MS + 39}
    filters = {}
    if choices.below(2):
        names["#f_job_name"], values[":f_job_name"] = "job_name", choices.of(WORDS)
        filters = {"FilterExpression": "#f_job_name = :f_job_name"}
    return {
        "IndexName": "listing",
        "KeyConditionExpression": "#partition = :partition AND #sort BETWEEN :from AND :to",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": typed(values),
        "ScanIndexForward": bool(choices.below(2)),
        "Limit": 1 + choices.below(3),
        **filters,
    }


def _query(choices: Choices) -> dict[str, Any]:
    if choices.below(2):
        return _list_query(choices)
    until = choices.below(2)
    values = {":shard": choices.below(2)} | ({":until": START_MS + choices.below(40)} if until else {})
    return {
        "IndexName": "wake",
        "KeyConditionExpression": "wake_shard = :shard" + (" AND wake_at <= :until" if until else ""),
        "ExpressionAttributeValues": typed(values),
        "Limit": 1 + choices.below(3),
    }


def _kind(answered: Any) -> str:
    if isinstance(answered, tuple) and isinstance(answered[0], str):
        return answered[0] + (", with the item" if answered[1] else "")
    return "an answer" if answered else "nothing"
