"""DynamoDB's condition, update and key expressions: the part of the language that this project writes.

Whatever is not understood is an error, so that the simulation can't pass over a condition in silence. Attributes are
Python values here: ``str`` for S, ``int`` for N, a frozenset of ``int`` for NS. Each expression is made a Python
function once, because the simulation evaluates the same few ones millions of times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

Item = Mapping[str, Any]
Names = Mapping[str, str]
Condition = Callable[[Item, Item], bool]
Change = Callable[[Item, Item], dict[str, Any]]

_TOKEN = re.compile(r"\s*([#:]?\w+|<=|>=|<>|[=<>(),+-])")
_MISSING = object()


class ValidationError(Exception):
    """The service would answer ``ValidationException``."""


class Expressions:
    """The expressions of one request: whether they hold of an item, and what they make of it.

    ``holds`` and ``changed`` take the item as it is and the request's values.
    """

    def __init__(self, update: str | None, condition: str | None, names: Names) -> None:
        self.names = names
        self.placeholders: frozenset[str] = frozenset()
        self.changes: tuple[str, ...] = ()
        """The attributes that the update changes or removes."""
        self.changed: Change = lambda item, values: dict(item)
        self.holds: Condition = lambda item, values: True
        if update is not None:
            self.changed, self.changes = self._compile_update(update)
        if condition is not None:
            parser = _Parser(condition, names)
            source = parser.disjunction()
            parser.require_end()
            self.placeholders |= parser.placeholders
            self.holds = _function(f"return {source}")
        self.values_used = frozenset(each for each in self.placeholders if each[0] == ":")
        self.names_fit = names.keys() == self.placeholders - self.values_used
        """The names are just those that are used."""

    def _compile_update(self, text: str) -> tuple[Change, tuple[str, ...]]:
        parser = _Parser(text, self.names)
        sections = {
            "SET": parser.set_clause,
            "ADD": parser.add_clause,
            "REMOVE": parser.remove_clause,
            "DELETE": parser.delete_clause,
        }
        lines, changes, seen = ["new = dict(item)"], [], set()
        while not parser.done():
            section = parser.take().upper()
            if section not in sections or section in seen:
                raise ValidationError(f"unexpected {section!r} in {text!r}")
            seen.add(section)
            while True:
                name, line = sections[section]()
                changes.append(name)
                lines.append(line)
                if not parser.accept(","):
                    break
        if len(set(changes)) != len(changes):
            raise ValidationError("two document paths overlap")
        self.placeholders |= parser.placeholders
        return _function("; ".join([*lines, "return new"])), tuple(changes)


_known: dict[tuple[str | None, str | None], Expressions] = {}


def expressions(update: str | None, condition: str | None, names: Names) -> Expressions:
    """Return the expressions of a request; ``ValidationError`` where they can't be read."""
    found = _known.get((update, condition))
    if found is None or (found.names is not names and found.names != names):
        if len(_known) > 1_000:
            _known.clear()
        found = _known[update, condition] = Expressions(update, condition, names)
    return found


@lru_cache(maxsize=2_048)
def _function(body: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(f"def function(item, values): {body}", _RUNTIME, namespace)
    return namespace["function"]


class _Parser:
    """Reads an expression, and returns its parts as the source of Python expressions over ``item`` and ``values``."""

    def __init__(self, text: str, names: Names) -> None:
        self._tokens = []
        self._names = names
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

    def require_end(self) -> None:
        if not self.done():
            raise ValidationError(f"unexpected {self.peek()!r}")

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

    def set_clause(self) -> tuple[str, str]:
        name = self.path()
        self.expect("=")
        operand = self.operand()
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            operand = f"added({operand}, {self.operand()}, {sign})"
        return name, f"new[{name!r}] = {operand if _is_value(operand) else f'present({operand})'}"

    def add_clause(self) -> tuple[str, str]:
        name = self.path()
        return name, f"new[{name!r}] = accumulated(item.get({name!r}, missing), {self.value()})"

    def delete_clause(self) -> tuple[str, str]:
        name = self.path()
        return name, f"without(new, {name!r}, {self.value()})"

    def remove_clause(self) -> tuple[str, str]:
        name = self.path()
        return name, f"new.pop({name!r}, None)"

    def path(self) -> str:
        """Take a path, and return the attribute that it names."""
        token = self.take()
        if not re.fullmatch(r"#?\w+", token):
            raise ValidationError(f"{token!r} is no path")
        if token[0] == "#" and token not in self._names:
            raise ValidationError(f"{token!r} is not defined")
        return self._names[token] if token[0] == "#" else token

    def value(self) -> str:
        token = self.take()
        if token[0] != ":":
            raise ValidationError(f"{token!r} is no value")
        return f"values[{token!r}]"

    def operand(self) -> str:
        if (self.peek() or "").lower() == "if_not_exists":
            self.take()
            self.expect("(")
            name = self.path()
            self.expect(",")
            otherwise = self.operand()
            self.expect(")")
            return f"(item[{name!r}] if {name!r} in item else {otherwise})"
        if (self.peek() or " ")[0] == ":":
            return self.value()
        return f"item.get({self.path()!r}, missing)"

    def disjunction(self) -> str:
        terms = [self.conjunction()]
        while self.accept("OR"):
            terms.append(self.conjunction())
        return f"({' or '.join(terms)})"

    def conjunction(self) -> str:
        terms = [self.negation()]
        while self.accept("AND"):
            terms.append(self.negation())
        return f"({' and '.join(terms)})"

    def negation(self) -> str:
        if self.accept("NOT"):
            return f"(not {self.negation()})"
        if self.accept("("):
            inner = self.disjunction()
            self.expect(")")
            return inner
        return self.comparison()

    def comparison(self) -> str:
        function = (self.peek() or "").lower()
        if function in ("attribute_exists", "attribute_not_exists"):
            self.take()
            self.expect("(")
            name = self.path()
            self.expect(")")
            return f"({name!r} {'in' if function == 'attribute_exists' else 'not in'} item)"
        left = self.operand()
        if self.accept("IN"):
            self.expect("(")
            options = [self.operand()]
            while self.accept(","):
                options.append(self.operand())
            self.expect(")")
            return f"({left} in ({', '.join(options)},) and {left} is not missing)"
        if self.accept("BETWEEN"):
            least = self.operand()
            self.expect("AND")
            return f"(at_least({left}, {least}) and at_most({left}, {self.operand()}))"
        operator = self.take()
        if operator not in _COMPARE:
            raise ValidationError(f"unknown operator {operator!r}")
        right = self.operand()
        if operator == "=" and _is_value(right):
            return f"({left} == {right})"  # nothing equals what is missing
        return f"{_COMPARE[operator]}({left}, {right})"


def _is_value(operand: str) -> bool:
    return operand.startswith("values[")


def _present(value: Any) -> Any:
    if value is _MISSING:
        raise ValidationError("the provided expression refers to an attribute that does not exist in the item")
    return value


def _added(first: Any, second: Any, sign: int) -> Any:
    if first is _MISSING or second is _MISSING:
        return _MISSING
    if not isinstance(first, int) or not isinstance(second, int):
        raise ValidationError("an operand of an addition is no number")
    return first + sign * second


def _accumulated(first: Any, second: Any) -> Any:
    """Return what ``ADD`` makes of an attribute: a sum, or a larger set."""
    if isinstance(second, frozenset):
        if first is not _MISSING and not isinstance(first, frozenset):
            raise ValidationError("a set is added to what is no set")
        return second if first is _MISSING else first | second
    return _added(0 if first is _MISSING else first, second, 1)


def _without(new: dict[str, Any], name: str, value: Any) -> None:
    """Take elements out of a set, as ``DELETE`` does: a set without any is no attribute."""
    if not isinstance(value, frozenset):
        raise ValidationError("what is deleted is no set")
    if name not in new:
        return
    if not isinstance(new[name], frozenset):
        raise ValidationError("a set is deleted from what is no set")
    new[name] -= value
    if not new[name]:
        del new[name]


def _have_an_order(left: Any, right: Any) -> bool:
    # Values of different types, and missing ones, have none: the condition is false.
    return (isinstance(left, int) and isinstance(right, int)) or (isinstance(left, str) and isinstance(right, str))


_COMPARE = {"=": "equal", "<>": "unequal", "<=": "at_most", "<": "less", ">=": "at_least", ">": "more"}

_RUNTIME: dict[str, Any] = {
    "missing": _MISSING,
    "present": _present,
    "added": _added,
    "accumulated": _accumulated,
    "without": _without,
    "equal": lambda left, right: left is not _MISSING and left == right,
    # A missing attribute differs from every value.
    "unequal": lambda left, right: right is not _MISSING and left != right,
    "at_most": lambda left, right: _have_an_order(left, right) and left <= right,
    "less": lambda left, right: _have_an_order(left, right) and left < right,
    "at_least": lambda left, right: _have_an_order(left, right) and left >= right,
    "more": lambda left, right: _have_an_order(left, right) and left > right,
}
