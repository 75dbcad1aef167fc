"""PartiQL's ``UPDATE``, as far as this project writes it, in the terms of ``UpdateItem``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from tests.simulation.expressions import ValidationError

_UPDATE = re.compile(r'UPDATE "([^"]+)" SET (.+) WHERE (.+) RETURNING ALL NEW \*')
_TOKEN = re.compile(r'"(\w+)"|\?')


@dataclass(frozen=True)
class Statement:
    """An update: its expressions, in which ``:p0`` is the first parameter."""

    table: str
    update: str
    condition: str
    names: Mapping[str, str]
    key: Mapping[str, str]
    """The placeholders of ``pk`` and ``sk``."""


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

    sets = _TOKEN.sub(placeholder, match[2]).split(" SET ")
    condition = _TOKEN.sub(placeholder, match[3]).replace("[", "(").replace("]", ")")
    key = {name: found[1] for name in ("pk", "sk") if (found := re.search(rf"#{name}=(:p\d+)", condition))}
    if len(key) < 2:
        raise ValidationError(f"{text!r} does not name one item")
    return Statement(match[1], "SET " + ", ".join(sets), condition, names, key)
