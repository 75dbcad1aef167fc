"""JSON values as stored text. Strict both ways: a value that would not be read back equal is refused.

Free of storage. JSON is the only serialization in this package.
"""

from __future__ import annotations

import json

from kumofire_core.errors import InvalidJSONError

MAX_DEPTH = 200
"""Levels of nesting. The limit is fixed, because the depth that ``json`` can read differs between Python versions."""

_TEXT = frozenset({str})
_PLAIN = frozenset({str, int, float, bool, type(None)})

_dumps = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decoder = json.JSONDecoder()
_loads = _decoder.decode
_scan = _decoder.scan_once  # type: ignore[attr-defined]  # absent from the stubs


def encode(what: str, value: object) -> str:
    """Return the JSON text of ``value``.

    Raises ``InvalidJSONError`` for a value that is not JSON: NaN and infinities, keys that are not strings (Python's
    encoder would turn them into strings and could merge two keys), circular values, values nested deeper than
    ``MAX_DEPTH``, and any other type. Tuples become arrays. The error names the value ``what`` and does not quote it.
    """
    try:
        text = _dumps(value)
        flat = _is_flat(value)
        same = flat or _loads(text) == value
    except RecursionError:
        raise InvalidJSONError(f"{what} is nested too deeply for JSON; flatten it or store a reference") from None
    except (TypeError, ValueError) as error:
        raise InvalidJSONError(f"{what} is not JSON: {_offender(value) or _reason(error)}") from None
    if not flat and text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise InvalidJSONError(f"{what} is nested deeper than {MAX_DEPTH} levels; flatten it or store a reference")
    if not same and (offender := _offender(value)):
        raise InvalidJSONError(f"{what} is not JSON: {offender}")
    if not text.isascii() and _has_lone_surrogate(text):
        # UTF-8 can't encode half a surrogate pair. A JSON escape can, and is read back equal.
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        if json.loads(text) != value:
            raise InvalidJSONError(f"{what} is not JSON: it holds the two halves of a surrogate pair apart")
    return text


def decode(text: str) -> object:
    """Return the value of JSON text; raise ``ValueError`` if it is not JSON or is nested too deeply to be read."""
    try:
        try:
            value, end = _scan(text, 0)
        except StopIteration:  # the text begins with a space, or is not JSON
            end = -1
        # If text is left, the full decoder decides, which allows spaces. Calling it costs more than reading a payload.
        return value if end == len(text) else _loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _is_flat(value: object) -> bool:
    """Return whether this is an object with string keys and scalar values, which JSON always reads back equal."""
    if type(value) is not dict:
        return False
    return _PLAIN.issuperset(map(type, value.values())) and _TEXT.issuperset(map(type, value))


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for here in level
            if isinstance(here, dict | list | tuple)
            for item in (here.values() if isinstance(here, dict) else here)
        ]
    return bool(level)


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _reason(error: Exception) -> str:
    # json's texts for these two errors don't quote a value; any other error's text might.
    text = str(error)
    known = ("Circular reference detected", "Exceeds the limit")
    return text if text.startswith(known) else "it holds a value that JSON has no form for"


def _offender(value: object) -> str | None:
    """Return a text that locates a part of ``value`` that is not JSON, or ``None``. Visits each part once."""
    pending: list[tuple[str, object]] = [("value", value)]
    seen: set[int] = set()
    while pending:
        path, here = pending.pop()
        if isinstance(here, dict | list | tuple):
            if id(here) in seen:
                continue
            seen.add(id(here))
        if isinstance(here, dict):
            for key, item in here.items():
                if not isinstance(key, str):
                    return f"{path} has a key of type {type(key).__name__}; JSON keys are strings"
                pending.append((f"{path}[{key[:40]!r}]" if len(path) < 200 else path, item))
        elif isinstance(here, list | tuple):
            pending.extend((f"{path}[{index}]" if len(path) < 200 else path, item) for index, item in enumerate(here))
        elif isinstance(here, float):
            if here != here or here in (float("inf"), float("-inf")):
                return f"{path} is NaN or infinite"
        elif here is not None and not isinstance(here, str | int):
            return f"{path} is of type {type(here).__name__}"
    return None
