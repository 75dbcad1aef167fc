"""PartiQL's ``UPDATE``, as far as this project writes it, in the terms of ``UpdateItem``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kumofire_core.testing.expressions import ValidationError

_UPDATE = re.compile(r'UPDATE "([^"]+)" ((?:SET|REMOVE) .+) WHERE (.+) RETURNING (ALL|MODIFIED) NEW \*')
_CLAUSE = re.compile(r"\s*\b(SET|REMOVE) ")
_TOKEN = re.compile(r""""(\w+)"|\?|'((?:[^']|'')*)'|(?<![\w#:])(-?\d+)""")


@dataclass(frozen=True)
class Statement:
    """An update: its expressions, in which ``:p0`` is the first value, whether it is in the text or a parameter."""

    table: str
    update: str
    condition: str
    names: Mapping[str, str]
    key: Mapping[str, str]
    """The placeholders of ``pk`` and ``sk``."""
    literals: Sequence[dict[str, str] | None]
    """The value of each placeholder, where it is in the text; ``None`` for the next parameter."""
    modified_only: bool
    """Its answer has the changed attributes alone, and so no key."""

    def values(self, parameters: Sequence[dict[str, str]]) -> dict[str, dict[str, str]]:
        """Return the value of each placeholder; ``ValidationError`` where there are too many parameters or too few."""
        if self.literals.count(None) != len(parameters):
            raise ValidationError(f"{len(parameters)} parameters for {self.literals.count(None)}")
        given = iter(parameters)
        return {f":p{index}": next(given) if each is None else each for index, each in enumerate(self.literals)}


@lru_cache(maxsize=64)
def parse_statement(text: str) -> Statement:
    """Parse a statement; ``ValidationError`` where it is another than this project writes."""
    match = _UPDATE.fullmatch(text)
    if match is None:
        raise ValidationError(f"can't read {text!r}")
    names: dict[str, str] = {}
    literals: list[dict[str, str] | None] = []

    def placeholder(found: re.Match[str]) -> str:
        if found[1]:
            names[f"#{found[1]}"] = found[1]
            return f"#{found[1]}"
        text, number = found[2], found[3]
        literals.append(
            {"N": number} if number is not None else None if text is None else {"S": text.replace("''", "'")}
        )
        return f":p{len(literals) - 1}"

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
    return Statement(match[1], update, condition, names, key, literals, match[4] == "MODIFIED")
