"""Random requests as applications make them to their own tables: all types, documents, indexes, transactions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from tests.simulation.history import Choices

TABLE: dict[str, Any] = {
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [
        {"AttributeName": "customer", "AttributeType": "S"},
        {"AttributeName": "serial", "AttributeType": "N"},
        {"AttributeName": "state", "AttributeType": "S"},
        {"AttributeName": "code", "AttributeType": "B"},
    ],
    "KeySchema": [
        {"AttributeName": "customer", "KeyType": "HASH"},
        {"AttributeName": "serial", "KeyType": "RANGE"},
    ],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": "by_state",
            "KeySchema": [
                {"AttributeName": "state", "KeyType": "HASH"},
                {"AttributeName": "serial", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "ALL"},
        }
    ],
    "LocalSecondaryIndexes": [
        {
            "IndexName": "by_code",
            "KeySchema": [
                {"AttributeName": "customer", "KeyType": "HASH"},
                {"AttributeName": "code", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["amount"]},
        }
    ],
}

CUSTOMERS = ("ada", "bob")
NUMBERS = ("1", "2", "-3", "2.5", "10")
STATES = ("new", "paid", "nß")
VALUES: tuple[dict[str, Any], ...] = (
    {"S": "text"},
    {"S": ""},
    {"N": "5"},
    {"N": "0.25"},
    {"B": b"\x00\xff"},
    {"BOOL": True},
    {"BOOL": False},
    {"NULL": True},
    {"SS": ["a", "b"]},
    {"NS": ["1", "2.5"]},
    {"BS": [b"x"]},
    {"L": [{"N": "1"}, {"S": "b"}, {"L": [{"N": "2"}]}]},
    {"M": {"amount": {"N": "7"}, "lines": {"L": [{"M": {"sku": {"S": "x"}}}]}}},
)
ATTRIBUTES = ("amount", "data", "tags")
PATHS = ("data", "amount", "#data.amount", "#data.#lines[0].sku", "#data[1]", "#data[2][0]", "tags", "state")


def requests(choices: Choices, table: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield requests; each is valid, or is refused by all that answer as DynamoDB does."""
    makers = (_put, _put, _put, _update, _update, _update, _delete, _get, _query, _query, _scan, _transaction, _batch)
    for _ in range(count):
        yield choices.of(makers)(choices, table)


def answer(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
    """Return what a client answers, in a form that can be compared."""
    try:
        reply = getattr(client, operation)(**parameters)
    except ClientError as error:
        response: Any = error.response
        reasons = [(each["Code"], _plain(each.get("Item"))) for each in response.get("CancellationReasons", ())]
        return response["Error"]["Code"], _plain(response.get("Item")), reasons
    found = reply.get("Attributes") or reply.get("Item") or reply.get("Items") or reply.get("Responses")
    if operation == "scan" or "IndexName" in parameters:  # among equal sort keys any order is right
        found = sorted(map(repr, map(_plain, reply.get("Items", []))))
    more = bool(reply.get("LastEvaluatedKey")) if "Limit" not in parameters else None
    return _plain(found), reply.get("Count"), reply.get("ScannedCount"), more


def _plain(value: Any) -> Any:
    """Return a reply with sets in order and numbers in one form: the service keeps neither."""
    if isinstance(value, dict):
        if len(value) == 1:
            [(kind, held)] = value.items()
            if kind == "N":
                return {"N": float(held)}
            if kind == "NS":
                return {"NS": sorted(map(float, held))}
            if kind in ("SS", "BS"):
                return {kind: sorted(held)}
        return {name: _plain(each) for name, each in sorted(value.items())}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _key(choices: Choices) -> dict[str, Any]:
    return {"customer": {"S": choices.of(CUSTOMERS)}, "serial": {"N": choices.of(NUMBERS)}}


def _item(choices: Choices) -> dict[str, Any]:
    item = _key(choices) | {name: choices.of(VALUES) for name in ATTRIBUTES if choices.below(3)}
    if choices.below(3):
        item["state"] = {"S": choices.of(STATES)}
    if choices.below(2):
        item["code"] = {"B": choices.of((b"a", b"ab", b"b"))}
    if choices.below(25) == 24:
        item |= choices.of(({"state": {"N": "1"}}, {"code": {"S": "a"}}, {"state": {"S": ""}}))
    return item


class _Expression:
    """Parts of expressions, with the names and values that they use."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.paths = PATHS
        self.names: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def path(self, text: str | None = None) -> str:
        text = text or self.choices.of(PATHS)
        for name in ("data", "lines"):
            if f"#{name}" in text:
                self.names[f"#{name}"] = name
        if text in ("data", "state", "tags", "amount"):  # the first two are reserved words
            self.names[f"#{text}"] = text
            return f"#{text}"
        return text

    def value(self, *of: dict[str, Any]) -> str:
        name = f":v{len(self.values)}"
        self.values[name] = self.choices.of(of or VALUES)
        return name

    def condition(self, *, of: tuple[str, ...] = PATHS) -> str:
        self.paths = of
        terms = [self._term() for _ in range(1 + self.choices.below(2))]
        return self.choices.of((" AND ", " OR ")).join(terms)

    def _term(self) -> str:
        what = self.choices.below(9)
        path = self.path(self.choices.of(self.paths))
        if what == 0:
            return f"attribute_exists({path})"
        if what == 1:
            return f"attribute_not_exists({path})"
        if what == 2:
            return f"begins_with({path}, {self.value({'S': 'te'}, {'S': 'n'})})"
        if what == 3:
            return f"contains({path}, {self.value({'S': 'a'}, {'S': 'ex'}, {'N': '1'}, {'BOOL': True})})"
        if what == 4:
            return (
                f"attribute_type({path}, {self.value(*({'S': kind} for kind in ('S', 'N', 'M', 'L', 'SS', 'BOOL')))})"
            )
        if what == 5:
            return f"size({path}) > {self.value({'N': '1'}, {'N': '2'})}"
        if what == 6:
            return f"{path} BETWEEN {self.value({'N': '1'})} AND {self.value({'N': '6'})}"
        if what == 7:
            return f"NOT {path} = {self.value()}"
        if self.choices.below(2):
            return f"{path} {self.choices.of(('<', '<=', '>', '>='))} {self.value({'S': 'm'}, {'N': '3'}, {'B': b'b'})}"
        return f"{path} {self.choices.of(('=', '<>'))} {self.value()}"

    def parameters(self) -> dict[str, Any]:
        return {
            **({"ExpressionAttributeNames": self.names} if self.names else {}),
            **({"ExpressionAttributeValues": self.values} if self.values else {}),
        }


def _conditional(choices: Choices, expression: _Expression) -> dict[str, Any]:
    if choices.below(2):
        return {}
    shown = choices.of(({}, {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}))
    return {"ConditionExpression": expression.condition(), **shown}


def _put(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    expression = _Expression(choices)
    given = {"TableName": table, "Item": _item(choices), **_conditional(choices, expression)}
    return "put_item", {**given, **expression.parameters(), "ReturnValues": choices.of(("NONE", "ALL_OLD"))}


def _updating(choices: Choices, expression: _Expression) -> str:
    clauses = []
    data = choices.of(
        (
            "{path} = {value}",
            "{path} = if_not_exists({path}, {value})",
            "{path} = list_append({path}, {list})",
            "{path} = {path} + {number}",
            "{path} = {number} - {number}",
        )
    )
    path = expression.path(choices.of(("data", "#data.amount", "#data.#lines[0].sku", "#data[1]", "#data[7]")))
    made = data.replace("{path}", path)
    for kind, values in (("value", VALUES), ("list", ({"L": [{"N": "9"}]},)), ("number", ({"N": "2"}, {"N": "0.5"}))):
        while f"{{{kind}}}" in made:
            made = made.replace(f"{{{kind}}}", expression.value(*values), 1)
    if choices.below(3):
        clauses.append(f"SET {made}")
    else:
        clauses.append(f"REMOVE {path}")
    if choices.below(3) == 2:
        clauses.append(f"ADD {expression.path('amount')} {expression.value({'N': '1.5'}, {'N': '-1'})}")
    if choices.below(3) == 2:
        of = expression.value({"SS": ["b", "c"]}, {"NS": ["2.5"]})
        clauses.append(f"{choices.of(('ADD', 'DELETE'))} {expression.path('tags')} {of}")
    seen, kept = set[str](), []
    for clause in clauses:
        if clause.split()[0] not in seen:
            kept.append(clause)
            seen.add(clause.split()[0])
    for dropped in [clause for clause in clauses if clause not in kept]:
        for word in dropped.split():
            expression.values.pop(word, None)
            if word == "#tags":
                expression.names.pop(word, None)
    return " ".join(kept)


def _update(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    expression = _Expression(choices)
    given = {"TableName": table, "Key": _key(choices), "UpdateExpression": _updating(choices, expression)}
    given |= _conditional(choices, expression) | expression.parameters()
    # What of a document is shown as updated is not imitated.
    return "update_item", {**given, "ReturnValues": choices.of(("NONE", "ALL_OLD", "ALL_NEW"))}


def _delete(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    expression = _Expression(choices)
    given = {"TableName": table, "Key": _key(choices), **_conditional(choices, expression)}
    return "delete_item", {**given, **expression.parameters(), "ReturnValues": choices.of(("NONE", "ALL_OLD"))}


def _get(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    expression = _Expression(choices)
    shown = {}
    if choices.below(2):
        shown["ProjectionExpression"] = f"{expression.path('amount')}, {choices.of(('serial', '#data.amount'))}"
        if "#data" in shown["ProjectionExpression"]:
            expression.path("#data.amount")
    return "get_item", {"TableName": table, "Key": _key(choices), **shown, **expression.parameters()}


def _query(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    expression = _Expression(choices)
    index = choices.of((None, "by_state", "by_code"))
    if index == "by_state":
        condition, sort = (
            f"{expression.path('state')} = {expression.value(*({'S': each} for each in STATES))}",
            "serial",
        )
    else:
        condition = f"customer = {expression.value(*({'S': each} for each in CUSTOMERS))}"
        sort = "serial" if index is None else "code"
    values: tuple[dict[str, Any], ...] = (
        tuple({"N": each} for each in NUMBERS) if sort == "serial" else ({"B": b"a"}, {"B": b"ab"})
    )
    what = choices.below(4)
    if what == 1:
        condition += f" AND {sort} {choices.of(('=', '<', '<=', '>', '>='))} {expression.value(*values)}"
    elif what == 2:
        condition += f" AND {sort} BETWEEN {expression.value(values[0])} AND {expression.value(values[-1])}"
    filters = {"FilterExpression": expression.condition(of=PATHS[:-1])} if choices.below(3) == 2 else {}
    return "query", {
        "TableName": table,
        "KeyConditionExpression": condition,
        "ScanIndexForward": bool(choices.below(2)),
        **({"IndexName": index} if index else {}),
        **({"Limit": 1 + choices.below(3)} if index is None and choices.below(2) else {}),
        **({"Select": "COUNT"} if choices.below(5) == 4 else {}),
        **filters,
        **expression.parameters(),
    }


def _scan(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    expression = _Expression(choices)
    filters = {"FilterExpression": expression.condition()} if choices.below(2) else {}
    return "scan", {"TableName": table, **filters, **expression.parameters()}


def _transaction(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    actions: list[dict[str, Any]] = []
    keys: list[dict[str, Any]] = []
    for _ in range(1 + choices.below(3)):
        expression = _Expression(choices)
        item = _item(choices)
        key = {name: item[name] for name in ("customer", "serial")}
        if key in keys:
            continue
        keys.append(key)
        kind = choices.of(("Put", "Update", "Delete", "ConditionCheck"))
        action: dict[str, Any] = {"TableName": table, **({"Item": item} if kind == "Put" else {"Key": key})}
        if kind == "Update":
            action["UpdateExpression"] = f"SET {expression.path('amount')} = {expression.value()}"
        if kind == "ConditionCheck":
            action["ConditionExpression"] = expression.condition()
        else:
            action |= _conditional(choices, expression)
        actions.append({kind: {**action, **expression.parameters()}})
    return "transact_write_items", {"TransactItems": actions}


def _batch(choices: Choices, table: str) -> tuple[str, dict[str, Any]]:
    keys = [dict(each) for each in {tuple((n, repr(v)) for n, v in _key(choices).items()): 0 for _ in range(3)}]
    typed = [{"customer": {"S": "ada"}, "serial": {"N": str(number)}} for number in range(1, 1 + len(keys))]
    if choices.below(2):
        return "transact_get_items", {"TransactItems": [{"Get": {"TableName": table, "Key": key}} for key in typed]}
    written = [{"PutRequest": {"Item": {**key, "amount": choices.of(VALUES)}}} for key in typed[:-1]]
    return "batch_write_item", {"RequestItems": {table: [*written, {"DeleteRequest": {"Key": typed[-1]}}]}}
