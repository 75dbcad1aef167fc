"""Items and writes in DynamoDB's form: typed values, update expressions and PartiQL statements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

from kumofire_core.model.write import LATEST_SCHEMA, Attributes, Key, Value, Write

_OWN_WORDS = frozenset({"sk", "lease_token", "settled_by"})
"""Attributes whose values this package makes, of letters and digits."""


def typed_key(key: Key) -> dict[str, Any]:
    """Return a key in DynamoDB's typed form."""
    return {"pk": {"S": f"{key.kind}#{key.id}"}, "sk": {"S": key.part or key.kind}}


KNOWN_SCHEMA = "(attribute_not_exists(#schema) OR #schema <= :schema)"
"""The condition that an item, if there is one, is of a schema that this release knows."""


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


def unmarshal_sets(item: Mapping[str, Any]) -> dict[str, frozenset[int]]:
    """Return the sets of whole numbers of an item."""
    return {name: frozenset(map(int, value["NS"])) for name, value in item.items() if "NS" in value}


class Shape(NamedTuple):
    """What the text of an update depends on: a write without its values."""

    source: tuple[str, ...]
    equals: tuple[str, ...]
    at_most: tuple[str, ...]
    not_exists: tuple[str, ...]
    target: str | None
    sets: tuple[str, ...]
    computed: tuple[str, ...]
    """For each computed attribute: its name, and the name of the attribute that it is computed from."""
    increments: tuple[str, ...]
    removes: tuple[str, ...]


class CompiledUpdate(NamedTuple):
    """The text of an update, and where its values go."""

    update: str
    condition: str
    names: dict[str, str]
    constants: dict[str, Any]
    """The values that are the same for every write of this shape."""
    placeholders: tuple[str, ...]
    """For the other values, in the order: equals, at most, sets, computed."""


def update_expression(write: Write) -> tuple[str, str, dict[str, str], dict[str, Any]]:
    """Return update, condition, names and values for a write."""
    equals, at_most, sets, computes = write.equals, write.at_most, write.sets, write.computes
    given: Iterable[Value] = chain(equals.values(), at_most.values(), sets.values())
    computed: tuple[str, ...] = ()
    for name, sum in computes.items():
        computed += (name, sum.name)
        given = chain(given, sum[1:])
    shape = Shape(
        write.source,
        tuple(equals),
        tuple(at_most),
        write.not_exists,
        write.target,
        tuple(sets),
        computed,
        write.increments,
        write.removes,
    )
    update, condition, names, constants, placeholders = compile_update(shape)
    values = constants.copy()
    for placeholder, value in zip(placeholders, given, strict=True):
        values[placeholder] = {"S": value} if isinstance(value, str) else {"N": str(value)}
    return update, condition, names, values


def partiql_statement(table: str, key: Key, write: Write, returning: str) -> Any:
    """Return a write as a PartiQL statement; ``ValueError`` for one that PartiQL has no form for."""
    if write.not_exists or write.computes:
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
    clauses += [f'SET "{name}"="{name}"+1' for name in write.increments]
    clauses += [f'REMOVE "{name}"' for name in write.removes]
    identity = {"pk": f"{key.kind}#{key.id}", "sk": key.part or key.kind, **write.equals}
    terms = [f'"{name}"={given(name, value)}' for name, value in identity.items()]
    if write.source:
        options = "','".join(write.source)
        terms.append(f"\"status\" IN ['{options}']")
    terms += [f'"{name}"<={most}' for name, most in {"schema": LATEST_SCHEMA, **write.at_most}.items()]
    return {
        "Statement": f'UPDATE "{table}" {" ".join(clauses)} WHERE {" AND ".join(terms)} RETURNING {returning}',
        "Parameters": parameters,
    }


@cache
def compile_update(shape: Shape) -> CompiledUpdate:
    """Return the text for writes of a shape. There are as many shapes as kinds of writes, and data makes none of them.

    Making the text takes three times as long as all else that a request needs here, so each is kept. Every name is a
    placeholder, because DynamoDB reserves hundreds of words, ``status`` among them.
    """
    constants = {":schema": typed(LATEST_SCHEMA)}
    # An item that does not exist has no schema, so the first term also requires that the item exists.
    terms = ["#schema <= :schema"]
    if shape.source:
        options = {f":status{index}": typed(status) for index, status in enumerate(shape.source)}
        constants |= options
        terms.append(f"#status IN ({', '.join(options)})")
    terms += [f"#{name} = :is_{name}" for name in shape.equals]
    terms += [f"#{name} <= :max_{name}" for name in shape.at_most]
    terms += [f"attribute_not_exists(#{name})" for name in shape.not_exists]
    assignments = [f"#{name} = :to_{name}" for name in shape.sets]
    if shape.target is not None:
        constants[":to_status"] = typed(shape.target)
        assignments.append("#status = :to_status")
    placeholders = [f":is_{name}" for name in shape.equals] + [f":max_{name}" for name in shape.at_most]
    placeholders += [f":to_{name}" for name in shape.sets]
    for name, source in zip(shape.computed[::2], shape.computed[1::2], strict=True):
        assignments.append(f"#{name} = if_not_exists(#{source}, :else_{name}) + :plus_{name}")
        placeholders += (f":else_{name}", f":plus_{name}")
    parts = ["SET " + ", ".join(assignments)]
    if shape.increments:
        constants[":one"] = typed(1)
        parts.append("ADD " + ", ".join(f"#{name} :one" for name in shape.increments))
    if shape.removes:
        parts.append("REMOVE " + ", ".join(f"#{name}" for name in shape.removes))
    used = {"schema", *shape.equals, *shape.at_most, *shape.not_exists, *shape.sets, *shape.computed}
    used |= {*shape.increments, *shape.removes} | ({"status"} if shape.source or shape.target else set())
    names = {f"#{name}": name for name in used}
    return CompiledUpdate(" ".join(parts), " AND ".join(terms), names, constants, tuple(placeholders))
