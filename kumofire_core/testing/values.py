"""DynamoDB's typed values as Python values, and back.

S is ``str``, N is ``int`` (``Decimal`` for other numbers), B is ``bytes``, sets are frozensets, M is a ``dict`` and L a
``list``. BOOL and NULL have values of their own here, because Python takes ``True`` and 1 for equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

Attributes = dict[str, Any]


class Constant:
    """A value of BOOL or NULL: equal to itself alone."""

    __slots__ = ("typed",)

    def __init__(self, kind: str, value: bool) -> None:
        self.typed = {kind: value}

    def __repr__(self) -> str:
        return str(self.typed)


TRUE: Final = Constant("BOOL", True)
FALSE: Final = Constant("BOOL", False)
NULL: Final = Constant("NULL", True)


def native(attributes: Mapping[str, Any]) -> Attributes:
    """Return attributes in DynamoDB's typed form as Python values; ``ValueError`` for what is in no such form."""
    try:  # nearly all of this package's own are texts and whole numbers
        return {name: str(value["S"]) if "S" in value else int(value["N"]) for name, value in attributes.items()}
    except (KeyError, ValueError, TypeError):
        return {name: native_value(value) for name, value in attributes.items()}


def native_value(value: Mapping[str, Any]) -> Any:
    """Return one value in DynamoDB's typed form as a Python value; ``ValueError`` for what is in no such form."""
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"{value!r} is no typed value, such as {{'S': 'text'}}")
    [(kind, held)] = value.items()
    try:
        return _NATIVE[kind](held)
    except KeyError:
        raise ValueError(f"{kind!r} is no type of DynamoDB's; there are {', '.join(_NATIVE)}") from None
    except (TypeError, ArithmeticError, AttributeError):
        raise ValueError(f"{held!r} is no value of the type {kind}") from None


def number(text: Any) -> int | Decimal:
    """Return a number as DynamoDB sends it: whole ones as ``int``. Raises ``ArithmeticError`` or ``TypeError``."""
    if not isinstance(text, str):
        raise TypeError
    try:
        return int(text)
    except ValueError:
        exact = Decimal(text)
        if not exact.is_finite():
            raise ArithmeticError from None
        whole = int(exact)
        return whole if whole == exact else exact


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        raise TypeError
    return bytes(getattr(value, "value", value))  # boto3's Binary keeps its bytes in ``value``


_NATIVE: dict[str, Any] = {
    "S": _text,
    "N": number,
    "B": _bytes,
    "BOOL": lambda value: TRUE if value else FALSE,
    "NULL": lambda value: NULL,
    "NS": lambda value: frozenset(map(number, value)),
    "SS": lambda value: frozenset(map(_text, value)),
    "BS": lambda value: frozenset(map(_bytes, value)),
    "L": lambda value: [native_value(each) for each in value],
    "M": lambda value: {name: native_value(each) for name, each in value.items()},
}


def typed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return Python values in DynamoDB's typed form."""
    return {
        name: {"N": str(value)} if type(value) is int else {"S": value} if type(value) is str else typed_value(value)
        for name, value in attributes.items()
    }


def typed_value(value: Any) -> dict[str, Any]:
    """Return one Python value in DynamoDB's typed form."""
    if isinstance(value, Constant):
        return dict(value.typed)
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, int | Decimal):
        return {"N": str(value) if isinstance(value, int) else f"{value.normalize():f}"}
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, dict):
        return {"M": typed(value)}
    if isinstance(value, list):
        return {"L": [typed_value(each) for each in value]}
    if isinstance(value, frozenset):
        kind = type_name(value)
        ordered = sorted(value)
        return {kind: [str(each) for each in ordered] if kind == "NS" else ordered}
    raise TypeError(f"{value!r} is no value of an item")


def type_name(value: Any) -> str:
    """Return the name of a value's type, as ``attribute_type`` takes it."""
    if isinstance(value, Constant):
        return next(iter(value.typed))
    if isinstance(value, frozenset):
        first = next(iter(value), 0)
        return "SS" if isinstance(first, str) else "BS" if isinstance(first, bytes) else "NS"
    kinds = ((str, "S"), (int, "N"), (Decimal, "N"), (bytes, "B"), (dict, "M"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "L")


def item_bytes(item: Mapping[str, Any]) -> int:
    """Return about how large DynamoDB takes an item to be: names, texts in UTF-8, numbers of two digits a byte.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(len(name) + value_bytes(value) for name, value in item.items())


def value_bytes(value: Any) -> int:
    """Return about how large DynamoDB takes a value to be."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    if isinstance(value, Constant):
        return 1
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, dict):
        return 3 + item_bytes(value) + len(value)
    if isinstance(value, list):
        return 3 + sum(1 + value_bytes(each) for each in value)
    if isinstance(value, frozenset):
        return sum(map(value_bytes, value))
    return len(str(value)) // 2 + 2
