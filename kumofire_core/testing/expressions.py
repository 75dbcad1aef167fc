"""DynamoDB's condition, update, filter, key and projection expressions.

Whatever is not understood is an error, so that no condition is passed over in silence. Attributes are the Python values
of ``kumofire_core.testing.values``. Each expression is made a Python function once, because tests and the simulation
evaluate the same few ones again and again.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from kumofire_core.testing.refusals import NotImitatedError
from kumofire_core.testing.reserved import RESERVED
from kumofire_core.testing.values import type_name

Item = Mapping[str, Any]
Names = Mapping[str, str]
Condition = Callable[[Item, Item], bool]
Change = Callable[[Item, Item], dict[str, Any]]

Path = tuple[str | int, ...]
"""An attribute, and where in its value."""

_TOKEN = re.compile(r"\s*([#:]?\w+|<=|>=|<>|[=<>(),+\-.\[\]])")
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
        self.attributes: frozenset[str] = frozenset()
        """The attributes that the condition looks at."""
        self.changed: Change = lambda item, values: dict(item)
        self.holds: Condition = lambda item, values: True
        if update is not None:
            self.changed, self.changes = self._compile_update(update)
        if condition is not None:
            parser = _Parser(condition, names)
            source = parser.disjunction()
            parser.require_end()
            self.placeholders |= parser.placeholders
            self.attributes = frozenset(parser.attributes)
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
        lines, paths, seen = ["new = dict(item)"], list[Path](), set[str]()
        while not parser.done():
            section = parser.take().upper()
            if section not in sections or section in seen:
                raise ValidationError(f"unexpected {section!r} in {text!r}")
            seen.add(section)
            while True:
                path, line = sections[section]()
                paths.append(path)
                lines.append(line)
                if not parser.accept(","):
                    break
        if _overlap(paths):
            raise ValidationError("two document paths overlap")
        self.placeholders |= parser.placeholders
        return _function("; ".join([*lines, "return new"])), tuple(dict.fromkeys(str(path[0]) for path in paths))


def _overlap(paths: list[Path]) -> bool:
    if all(len(path) == 1 for path in paths):
        return len(set(paths)) != len(paths)
    return any(
        one[: len(other)] == other for number, one in enumerate(paths) for at, other in enumerate(paths) if at != number
    )


_latest: dict[tuple[str | None, str | None], Expressions] = {}
"""By their texts, those with the names of the latest request."""
_known: dict[tuple[object, ...], Expressions] = {}
"""By their texts and names."""


def expressions(update: str | None, condition: str | None, names: Names) -> Expressions:
    """Return the expressions of a request; ``ValidationError`` where they can't be read."""
    found = _latest.get((update, condition))
    if found is None or (found.names is not names and found.names != names):
        key = (update, condition, *names.items())
        found = _known.get(key)
        if found is None:
            if len(_known) > 1_000:
                _known.clear()
                _latest.clear()
            found = _known[key] = Expressions(update, condition, names)
        _latest[update, condition] = found
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
        self.attributes: set[str] = set()

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

    def follows(self, token: str) -> bool:
        return self._tokens[self._at + 1 : self._at + 2] == [token]

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise ValidationError(f"expected {token!r}, found {self.peek()!r}")

    def set_clause(self) -> tuple[Path, str]:
        path = self.path()
        self.expect("=")
        operand = self.set_operand()
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            operand = f"added({operand}, {self.set_operand()}, {sign})"
        value = operand if _is_value(operand) else f"present({operand})"
        return path, f"new[{path[0]!r}] = {value}" if len(path) == 1 else f"placed(new, {path!r}, {value})"

    def set_operand(self) -> str:
        if (self.peek() or "").lower() != "list_append":
            return self.operand()
        self.take()
        self.expect("(")
        first = self.operand()
        self.expect(",")
        second = self.operand()
        self.expect(")")
        return f"joined({first}, {second})"

    def add_clause(self) -> tuple[Path, str]:
        path = self.path()
        if len(path) > 1:
            return path, f"placed(new, {path!r}, accumulated({_read(path)}, {self.value()}))"
        return path, f"new[{path[0]!r}] = accumulated(item.get({path[0]!r}, missing), {self.value()})"

    def delete_clause(self) -> tuple[Path, str]:
        path = self.path()
        if len(path) > 1:
            raise NotImitatedError("DELETE of elements of a set inside another value")
        return path, f"without(new, {path[0]!r}, {self.value()})"

    def remove_clause(self) -> tuple[Path, str]:
        path = self.path()
        return path, f"new.pop({path[0]!r}, None)" if len(path) == 1 else f"removed(new, {path!r})"

    def path(self) -> Path:
        """Take a path, and return the attribute that it names, with where in its value."""
        parts: list[str | int] = [self.name()]
        while (found := self.peek()) in (".", "["):
            self.take()
            if found == ".":
                parts.append(self.name())
                continue
            index = self.take()
            if not index.isdecimal():
                raise ValidationError(f"{index!r} is no index of a list")
            parts.append(int(index))
            self.expect("]")
        self.attributes.add(str(parts[0]))
        return tuple(parts)

    def name(self) -> str:
        token = self.take()
        if not re.fullmatch(r"#?\w+", token):
            raise ValidationError(f"{token!r} is no path")
        if token[0] == "#" and token not in self._names:
            raise ValidationError(f"{token!r} is not defined")
        if token[0] == "#":
            return self._names[token]
        if token.upper() in RESERVED:
            raise ValidationError(f"Attribute name is a reserved keyword; reserved keyword: {token}")
        return token

    def value(self) -> str:
        return f"values[{self.placeholder()!r}]"

    def placeholder(self) -> str:
        token = self.take()
        if token[0] != ":":
            raise ValidationError(f"{token!r} is no value")
        return token

    def operand(self) -> str:
        if (self.peek() or "").lower() == "if_not_exists":
            self.take()
            self.expect("(")
            path = self.path()
            self.expect(",")
            otherwise = self.operand()
            self.expect(")")
            if len(path) > 1:
                return f"first_of({_read(path)}, {otherwise})"
            return f"(item[{path[0]!r}] if {path[0]!r} in item else {otherwise})"
        if (self.peek() or " ")[0] == ":":
            return self.value()
        if (self.peek() or "").lower() == "size" and self.follows("("):
            self.take()
            self.expect("(")
            path = self.path()
            self.expect(")")
            return f"size({_read(path)})"
        return _read(self.path())

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
            path = self.path()
            self.expect(")")
            if len(path) > 1:
                return f"({_read(path)} is {'not ' if function == 'attribute_exists' else ''}missing)"
            return f"({path[0]!r} {'in' if function == 'attribute_exists' else 'not in'} item)"
        if function in _PREDICATES and self.follows("("):
            self.take()
            self.expect("(")
            subject = _read(self.path())
            self.expect(",")
            operand = self.operand()
            self.expect(")")
            return f"{function}({subject}, {operand})"
        if self.follows("(") and function not in ("if_not_exists", "size"):
            raise NotImitatedError(f"the function {function!r} of an expression")
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


def _read(path: Path) -> str:
    """Return the source of what is at a path of the item."""
    return f"item.get({path[0]!r}, missing)" if len(path) == 1 else f"at(item, {path!r})"


def _is_value(operand: str) -> bool:
    return operand.startswith("values[")


def _present(value: Any) -> Any:
    if value is _MISSING:
        raise ValidationError("the provided expression refers to an attribute that does not exist in the item")
    return value


def _added(first: Any, second: Any, sign: int) -> Any:
    if first is _MISSING or second is _MISSING:
        return _MISSING
    if not isinstance(first, int | Decimal) or not isinstance(second, int | Decimal):
        raise ValidationError("an operand of an addition is no number")
    return _whole(first + sign * second)


def _whole(number: int | Decimal) -> int | Decimal:
    return int(number) if isinstance(number, Decimal) and number == int(number) else number


def _joined(first: Any, second: Any) -> Any:
    """Return what ``list_append`` makes of two lists."""
    if first is _MISSING or second is _MISSING:
        return _MISSING
    if not isinstance(first, list) or not isinstance(second, list):
        raise ValidationError("an operand of list_append is no list")
    return first + second


def _at(item: Item, path: Path) -> Any:
    """Return what is at a path, or what stands for nothing."""
    found: Any = item
    for part in path:
        if isinstance(part, str):
            found = found.get(part, _MISSING) if isinstance(found, Mapping) else _MISSING
        else:
            found = found[part] if isinstance(found, list) and part < len(found) else _MISSING
        if found is _MISSING:
            return _MISSING
    return found


def _copied(new: dict[str, Any], path: Path) -> Any:
    """Copy the values on the way to the last part of a path, and return the one that it is in."""
    inside: Any = new
    for part, following in itertools.pairwise(path):
        found = _at({"": inside}, ("", part))
        if not isinstance(found, dict if isinstance(following, str) else list):
            raise ValidationError("the document path provided in the update expression is invalid for update")
        inside[part] = type(found)(found)
        inside = inside[part]
    return inside


def _placed(new: dict[str, Any], path: Path, value: Any) -> None:
    inside, last = _copied(new, path), path[-1]
    if isinstance(last, int) and last >= len(inside):
        inside.append(value)
    else:
        inside[last] = value


def _removed(new: dict[str, Any], path: Path) -> None:
    if _at(new, path) is not _MISSING:
        inside = _copied(new, path)
        del inside[path[-1]]


def _accumulated(first: Any, second: Any) -> Any:
    """Return what ``ADD`` makes of an attribute: a sum, or a larger set."""
    if isinstance(second, frozenset):
        if first is not _MISSING and (not isinstance(first, frozenset) or type_name(first) != type_name(second)):
            raise ValidationError("a set is added to what is no set of its type")
        return second if not isinstance(first, frozenset) else first | second
    return _added(0 if first is _MISSING else first, second, 1)


def _without(new: dict[str, Any], name: str, value: Any) -> None:
    """Take elements out of a set, as ``DELETE`` does: a set without any is no attribute."""
    if not isinstance(value, frozenset):
        raise ValidationError("what is deleted is no set")
    if name not in new:
        return
    if not isinstance(new[name], frozenset) or type_name(new[name]) != type_name(value):
        raise ValidationError("a set is deleted from what is no set of its type")
    new[name] -= value
    if not new[name]:
        del new[name]


_NUMBERS = (int, Decimal)


def _have_an_order(left: Any, right: Any) -> bool:
    # Values of different types, and missing ones, have none: the condition is false.
    return (
        (isinstance(left, int) and isinstance(right, int))
        or (isinstance(left, str) and isinstance(right, str))
        or (isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS))
        or (isinstance(left, bytes) and isinstance(right, bytes))
    )


def _begins_with(value: Any, prefix: Any) -> bool:
    if isinstance(value, str) and isinstance(prefix, str):
        return value.startswith(prefix)
    return isinstance(value, bytes) and isinstance(prefix, bytes) and value.startswith(prefix)


def _contains(value: Any, part: Any) -> bool:
    if isinstance(value, str | bytes):
        return isinstance(part, type(value)) and part in value  # type: ignore[operator]
    return isinstance(value, frozenset | list) and part is not _MISSING and part in value


def _size(value: Any) -> Any:
    return len(value) if isinstance(value, str | bytes | frozenset | list | dict) else _MISSING


_PREDICATES = ("begins_with", "contains", "attribute_type")

_COMPARE = {"=": "equal", "<>": "unequal", "<=": "at_most", "<": "less", ">=": "at_least", ">": "more"}

_RUNTIME: dict[str, Any] = {
    "missing": _MISSING,
    "present": _present,
    "added": _added,
    "accumulated": _accumulated,
    "without": _without,
    "joined": _joined,
    "at": _at,
    "placed": _placed,
    "removed": _removed,
    "first_of": lambda value, otherwise: otherwise if value is _MISSING else value,
    "begins_with": _begins_with,
    "contains": _contains,
    "size": _size,
    "attribute_type": lambda value, kind: value is not _MISSING and type_name(value) == kind,
    "equal": lambda left, right: left is not _MISSING and left == right,
    # A missing attribute differs from every value.
    "unequal": lambda left, right: right is not _MISSING and left != right,
    "at_most": lambda left, right: _have_an_order(left, right) and left <= right,
    "less": lambda left, right: _have_an_order(left, right) and left < right,
    "at_least": lambda left, right: _have_an_order(left, right) and left >= right,
    "more": lambda left, right: _have_an_order(left, right) and left > right,
}


class KeyCondition(NamedTuple):
    """A query's condition: the partition, and what the sort key must be."""

    terms: tuple[tuple[str, str, tuple[str, ...]], ...]
    """For each key: its name, the operator, and the placeholders of the operands."""
    placeholders: frozenset[str]
    """All placeholders in it, of names and of values."""


@lru_cache(maxsize=256)
def key_condition(text: str, names: tuple[tuple[str, str], ...]) -> KeyCondition:
    """Return a query's key condition; ``ValidationError`` where it is none."""
    parser = _Parser(text, dict(names))
    terms: list[tuple[str, str, tuple[str, ...]]] = []
    while True:
        opened = 0
        while parser.accept("("):
            opened += 1
        if (parser.peek() or "").lower() == "begins_with" and parser.follows("("):
            parser.take()
            parser.expect("(")
            name = parser.name()
            parser.expect(",")
            terms.append((name, "begins_with", (parser.placeholder(),)))
            parser.expect(")")
        else:
            name = parser.name()
            if parser.accept("BETWEEN"):
                least = parser.placeholder()
                parser.expect("AND")
                terms.append((name, "BETWEEN", (least, parser.placeholder())))
            else:
                operator = parser.take()
                if operator not in ("=", "<", "<=", ">", ">="):
                    raise ValidationError(f"invalid operator used in KeyConditionExpression: {operator}")
                terms.append((name, operator, (parser.placeholder(),)))
        for _ in range(opened):
            parser.expect(")")
        if not parser.accept("AND"):
            break
    parser.require_end()
    return KeyCondition(tuple(terms), frozenset(parser.placeholders))


class Projection(NamedTuple):
    """Which parts of an item are shown."""

    paths: tuple[Path, ...]
    placeholders: frozenset[str]

    def of(self, item: Item) -> dict[str, Any]:
        """Return the parts of an item that are to be shown."""
        shown: dict[str, Any] = {}
        for path in self.paths:
            value = _at(item, path)
            if value is _MISSING:
                continue
            if any(isinstance(part, int) for part in path):
                raise NotImitatedError("an element of a list in a ProjectionExpression")
            inside = shown
            for part in path[:-1]:
                inside = inside.setdefault(str(part), {})
            inside[str(path[-1])] = value
        return shown


@lru_cache(maxsize=256)
def projection(text: str, names: tuple[tuple[str, str], ...]) -> Projection:
    """Return what a projection expression shows; ``ValidationError`` where it can't be read."""
    parser = _Parser(text, dict(names))
    paths = [parser.path()]
    while parser.accept(","):
        paths.append(parser.path())
    parser.require_end()
    if _overlap(paths):
        raise ValidationError("two document paths overlap")
    return Projection(tuple(paths), frozenset(parser.placeholders))
