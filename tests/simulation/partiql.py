"""PartiQL's ``UPDATE``, as far as this project writes it, in the terms of ``UpdateItem``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.simulation.expressions import ValidationError

_UPDATE = re.compile(r'UPDATE "([^"]+)" ((?:SET|REMOVE) .+) WHERE (.+) RETURNING (ALL|MODIFIED) NEW \*')
_CLAUSE = re.compile(r"\s*\b(SET|REMOVE) ")
_TOKEN = re.compile(r'"(\w+)"|\?')
_VALUE = re.compile(r"""\?|'([^']*)'|(?<=[=+\s,\[])(-?\d+)""")


@dataclass(frozen=True)
class Statement:
    """An update: its expressions, in which ``:p0`` is the first parameter."""

    table: str
    update: str
    condition: str
    names: Mapping[str, str]
    key: Mapping[str, str]
    """The placeholders of ``pk`` and ``sk``."""
    modified_only: bool
    """Its answer has the changed attributes alone, and so no key."""


def with_parameters(statement: Mapping[str, Any]) -> tuple[Statement, list[Any]]:
    """Parse a statement, and return it with all its values, as if none of them stood in its text."""
    given = iter(statement["Parameters"])
    values: list[Any] = []

    def placeholder(found: re.Match[str]) -> str:
        text, number = found.groups()
        values.append(next(given) if text is number is None else {"N": number} if number else {"S": text})
        return "?"

    text = _VALUE.sub(placeholder, statement["Statement"])
    return parse_statement(text), values


@lru_cache(maxsize=64)
def parse_statement(text: str) -> Statement:
    """Parse a statement; ``ValidationError`` where it is another than this project writes."""
    match = _UPDATE.fullmatch(text)
    if match is None:
        raise ValidationError(f"can't read {text!r}")
    names: dict[str, str] = {}
    count = 0

    def placeholder(found: re.Match[str]) -> str:
        nonlocal count
        if found[1]:
            names[f"#{found[1]}"] = found[1]
            return f"#{found[1]}"
        count += 1
        return f":p{count - 1}"

    # Each clause has a keyword of its own: SET "a"=? SET "b"=? REMOVE "c" REMOVE "d".
    _, *clauses = _CLAUSE.split(_TOKEN.sub(placeholder, match[2]))
    by_keyword: dict[str, list[str]] = {}
    for keyword, clause in zip(clauses[::2], clauses[1::2], strict=True):
        by_keyword.setdefault(keyword, []).append(clause.strip())
    update = " ".join(f"{keyword} {', '.join(parts)}" for keyword, parts in by_keyword.items())
    condition = _TOKEN.sub(placeholder, match[3]).replace("[", "(").replace("]", ")")
    key = {name: found[1] for name in ("pk", "sk") if (found := re.search(rf"#{name}=(:p\d+)", condition))}
    if len(key) < 2:
        raise ValidationError(f"{text!r} does not name one item")
    return Statement(match[1], update, condition, names, key, match[4] == "MODIFIED")
