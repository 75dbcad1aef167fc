"""The fields of typed payloads: which of those that a payload has its type does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple


def is_pydantic(found: Any) -> bool:
    """Say whether a type is a model or a dataclass of pydantic's."""
    return isinstance(found, type) and "__pydantic_core_schema__" in dir(found)


class _Names(NamedTuple):
    """The fields of an object: the name of each in JSON, and its attribute."""

    fields: dict[str, str]
    others: frozenset[str] = frozenset()


def _names_of(restored: object) -> _Names | None:
    kind: Any = type(restored)
    if hasattr(kind, "__struct_encode_fields__"):
        tag = kind.__struct_config__.tag_field
        names = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
        return _Names(names, frozenset() if tag is None else frozenset({tag}))
    if is_dataclass(kind) and not is_pydantic(kind):
        return _Names({each.name: each.name for each in fields(kind)})
    return None


def unknown_field(given: object, restored: object, path: str) -> str | None:
    """Return a sentence about a field in ``given`` that was left out of what it was read as, or ``None``.

    What pydantic read is not looked at: its models decide about unknown fields themselves.
    """
    if isinstance(given, dict):
        names: Mapping[str, str]
        others: frozenset[str]
        if isinstance(restored, dict):
            if not all(isinstance(key, str) for key in restored):
                return None
            names, others, kind = {key: key for key in restored}, frozenset(), "its type"
            at = restored.get
        elif (found := _names_of(restored)) is not None:
            names, others, kind = found.fields, found.others, type(restored).__name__
            at = partial(getattr, restored)
        else:
            return None
        for key, value in given.items():
            if key in names:
                problem = unknown_field(value, at(names[key]), f"{path}.{key}")
                if problem is not None:
                    return problem
            elif key not in others:
                from difflib import get_close_matches

                close = get_close_matches(key[:64], list(names), n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                return f"{path}.{key[:80]}: {kind} has no such field{hint}"
    elif isinstance(given, list | tuple) and isinstance(restored, list | tuple):
        for index, (value, item) in enumerate(zip(given, restored, strict=False)):
            if not isinstance(value, dict | list | tuple):
                continue
            problem = unknown_field(value, item, f"{path}[{index}]")
            if problem is not None:
                return problem
    return None
