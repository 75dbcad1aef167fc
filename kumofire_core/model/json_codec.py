"""JSON values as the text that is stored. Strict both ways: what is read back equals what was given, or it is refused.

Free of storage and of any other format: JSON is the only (de)serialisation in this package.
"""

from __future__ import annotations

import json

from kumofire_core.errors import InvalidJSONError

MAX_DEPTH = 200
"""Levels of nesting. Fixed, because how many an interpreter can read differs between Python's versions."""

_TEXT = frozenset({str})
_PLAIN = frozenset({str, int, float, bool, type(None)})

_dumps = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_decoder = json.JSONDecoder()
_loads = _decoder.decode
_scan = _decoder.scan_once  # type: ignore[attr-defined]  # absent from the stubs


def encode(what: str, value: object) -> str:
    """Return the JSON text of ``value``.

    Raises ``InvalidJSONError`` for what JSON has no form for: NaN and infinities, keys that are no strings (Python's
    encoder would turn them into strings and could merge two into one), circular or too deeply nested values, and any
    other type. Tuples become arrays. ``what`` names the value in the error; the value itself is not quoted there.
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
        # UTF-8 has no form for half a surrogate pair; its JSON escape has, and reads back equal.
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        if json.loads(text) != value:
            raise InvalidJSONError(f"{what} is not JSON: it holds the two halves of a surrogate pair apart")
    return text


def decode(text: str) -> object:
    """Return the value of JSON text; ``ValueError`` where it is none, or nested too deeply to be read."""
    try:
        try:
            value, end = _scan(text, 0)
        except StopIteration:  # there is space before it, or it is none
            end = -1
        # Where text is left, the decoder that knows of spaces decides. To call it costs more than to read a payload.
        return value if end == len(text) else _loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _is_flat(value: object) -> bool:
    """Say whether this is an object of plain values under strings: what JSON surely gives back as it was."""
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
    # json's own texts for these two quote no value; any other error's text might.
    text = str(error)
    known = ("Circular reference detected", "Exceeds the limit")
    return text if text.startswith(known) else "it holds a value that JSON has no form for"


def _offender(value: object) -> str | None:
    """Find the first thing in ``value`` that is not JSON and say where it is, or ``None``; bounded by its size."""
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
