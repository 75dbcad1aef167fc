"""DynamoDB's condition, update and key expressions: the part of the language that this project writes.

Whatever is not understood is an error, so that the simulation can't pass over a condition in silence. Attributes are
Python values here: ``str`` for S, ``int`` for N.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

Item = Mapping[str, Any]
Names = Mapping[str, str]
Condition = Callable[[Item, Names, Item], bool]
Operand = Callable[[Item, Names, Item], Any]

_TOKEN = re.compile(r"\s*([#:]?\w+|<=|>=|<>|[=<>(),+-])")
_MISSING = object()


class ValidationError(Exception):
    """The service would answer ``ValidationException``."""


class Update:
    """A parsed update expression."""

    def __init__(self, text: str) -> None:
        parser = _Parser(text)
        self.sets: list[tuple[str, Operand]] = []
        self.adds: list[tuple[str, str]] = []
        self.removes: list[str] = []
        sections = {"SET": self._set, "ADD": self._add, "REMOVE": self._remove}
        seen = set()
        while not parser.done():
            section = parser.take().upper()
            if section not in sections or section in seen:
                raise ValidationError(f"unexpected {section!r} in {text!r}")
            seen.add(section)
            sections[section](parser)
            while parser.accept(","):
                sections[section](parser)
        self.placeholders = parser.placeholders

    def paths(self, names: Names) -> list[str]:
        """Return the attributes that are changed; the same one twice is an error of the service."""
        found = [path for path, _ in self.sets] + [path for path, _ in self.adds] + self.removes
        resolved = [names.get(path, path) for path in found]
        if len(set(resolved)) != len(resolved):
            raise ValidationError("two document paths overlap")
        return resolved

    def apply(self, item: Item, names: Names, values: Item) -> dict[str, Any]:
        """Return the item as it is afterwards. All values are computed from the item as it was before."""
        new = dict(item)
        for path, operand in self.sets:
            value = operand(item, names, values)
            if value is _MISSING:
                raise ValidationError("the provided expression refers to an attribute that does not exist in the item")
            new[names[path] if path[0] == "#" else path] = value
        for path, placeholder in self.adds:
            name, plus = names.get(path, path), values[placeholder]
            base = item.get(name, 0)
            if not isinstance(base, int) or not isinstance(plus, int):
                raise ValidationError("ADD needs numbers")
            new[name] = base + plus
        for path in self.removes:
            new.pop(names[path] if path[0] == "#" else path, None)
        return new

    def _set(self, parser: _Parser) -> None:
        path = parser.path()
        parser.expect("=")
        operand = parser.operand()
        while parser.peek() in ("+", "-"):
            sign = 1 if parser.take() == "+" else -1
            operand = _sum(operand, parser.operand(), sign)
        self.sets.append((path, operand))

    def _add(self, parser: _Parser) -> None:
        self.adds.append((parser.path(), parser.value()))

    def _remove(self, parser: _Parser) -> None:
        self.removes.append(parser.path())


@lru_cache(maxsize=512)
def parse_update(text: str) -> Update:
    """Parse an update expression; ``ValidationError`` where it can't be read."""
    return Update(text)


@lru_cache(maxsize=512)
def parse_condition(text: str) -> tuple[Condition, frozenset[str]]:
    """Parse a condition; return it with the placeholders it uses. ``ValidationError`` where it can't be read."""
    parser = _Parser(text)
    condition = parser.disjunction()
    if not parser.done():
        raise ValidationError(f"unexpected {parser.peek()!r} in {text!r}")
    return condition, frozenset(parser.placeholders)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = []
        at, end = 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValidationError(f"can't read {text[at:]!r}")
            self._tokens.append(match[1])
            at = match.end()
        self._at = 0
        self.placeholders: set[str] = set()

    def done(self) -> bool:
        return self._at >= len(self._tokens)

    def peek(self) -> str | None:
        return None if self.done() else self._tokens[self._at]

    def take(self) -> str:
        if self.done():
            raise ValidationError("the expression ends too early")
        self._at += 1
        token = self._tokens[self._at - 1]
        if token[0] in "#:":
            self.placeholders.add(token)
        return token

    def accept(self, *tokens: str) -> bool:
        found = self.peek()
        if found is None or found.upper() not in tokens:
            return False
        self._at += 1
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise ValidationError(f"expected {token!r}, found {self.peek()!r}")

    def path(self) -> str:
        token = self.take()
        if not re.fullmatch(r"#?\w+", token):
            raise ValidationError(f"{token!r} is no path")
        return token

    def value(self) -> str:
        token = self.take()
        if token[0] != ":":
            raise ValidationError(f"{token!r} is no value")
        return token

    def operand(self) -> Operand:
        if (self.peek() or "").lower() == "if_not_exists":
            self.take()
            self.expect("(")
            path = self.path()
            self.expect(",")
            otherwise = self.operand()
            self.expect(")")
            return _if_not_exists(_attribute(path), otherwise)
        if (self.peek() or " ")[0] == ":":
            token = self.value()
            return lambda item, names, values: values[token]
        return _attribute(self.path())

    def disjunction(self) -> Condition:
        terms = [self.conjunction()]
        while self.accept("OR"):
            terms.append(self.conjunction())
        return terms[0] if len(terms) == 1 else _any(tuple(terms))

    def conjunction(self) -> Condition:
        terms = [self.negation()]
        while self.accept("AND"):
            terms.append(self.negation())
        return terms[0] if len(terms) == 1 else _all(tuple(terms))

    def negation(self) -> Condition:
        if self.accept("NOT"):
            term = self.negation()
            return lambda item, names, values: not term(item, names, values)
        if self.accept("("):
            inner = self.disjunction()
            self.expect(")")
            return inner
        return self.comparison()

    def comparison(self) -> Condition:
        function = (self.peek() or "").lower()
        if function in ("attribute_exists", "attribute_not_exists"):
            self.take()
            self.expect("(")
            attribute = _attribute(self.path())
            self.expect(")")
            wanted = function == "attribute_exists"
            return lambda item, names, values: (attribute(item, names, values) is not _MISSING) is wanted
        left = self.operand()
        if self.accept("IN"):
            self.expect("(")
            options = [self.operand()]
            while self.accept(","):
                options.append(self.operand())
            self.expect(")")
            return _in(left, tuple(options))
        operator = self.take()
        if operator not in _COMPARE:
            raise ValidationError(f"unknown operator {operator!r}")
        return _comparison(left, _COMPARE[operator], self.operand())


def _attribute(path: str) -> Operand:
    if path[0] == "#":
        return lambda item, names, values: item.get(names[path], _MISSING)
    return lambda item, names, values: item.get(path, _MISSING)


def _if_not_exists(attribute: Operand, otherwise: Operand) -> Operand:
    def operand(item: Item, names: Names, values: Item) -> Any:
        found = attribute(item, names, values)
        return otherwise(item, names, values) if found is _MISSING else found

    return operand


def _sum(left: Operand, right: Operand, sign: int) -> Operand:
    def operand(item: Item, names: Names, values: Item) -> Any:
        first, second = left(item, names, values), right(item, names, values)
        if first is _MISSING or second is _MISSING:
            return _MISSING
        if not isinstance(first, int) or not isinstance(second, int):
            raise ValidationError("an operand of + or - is no number")
        return first + sign * second

    return operand


def _comparison(left: Operand, compare: Callable[[Any, Any], bool], right: Operand) -> Condition:
    def condition(item: Item, names: Names, values: Item) -> bool:
        return compare(left(item, names, values), right(item, names, values))

    return condition


def _in(left: Operand, options: tuple[Operand, ...]) -> Condition:
    def condition(item: Item, names: Names, values: Item) -> bool:
        found = left(item, names, values)
        return found is not _MISSING and any(found == option(item, names, values) for option in options)

    return condition


def _all(terms: tuple[Condition, ...]) -> Condition:
    def condition(item: Item, names: Names, values: Item) -> bool:
        for term in terms:  # noqa: SIM110  (a generator costs a third of the simulation's time here)
            if not term(item, names, values):
                return False
        return True

    return condition


def _any(terms: tuple[Condition, ...]) -> Condition:
    return lambda item, names, values: any(term(item, names, values) for term in terms)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    # Values of different types, and missing ones, have no order: the condition is false.
    return lambda left, right: (
        ((isinstance(left, int) and isinstance(right, int)) or (isinstance(left, str) and isinstance(right, str)))
        and compare(left, right)
    )


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: left is not _MISSING and left == right,
    # A missing attribute differs from every value.
    "<>": lambda left, right: right is not _MISSING and left != right,
    "<=": _ordered(lambda left, right: left <= right),
    "<": _ordered(lambda left, right: left < right),
    ">=": _ordered(lambda left, right: left >= right),
    ">": _ordered(lambda left, right: left > right),
}
