"""The types of payloads: what a handler's ``JobContext[…]`` names, and how its values become JSON and are read back.

Imported where the first job with such a type is registered. msgspec does the work for dataclasses and the like, and
pydantic for types that have one of its models in them. Each is imported where a type needs it. Free of AWS and of the
engine.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from kumofire_core.errors import ConfigurationError, InvalidJSONError, InvalidPayloadError
from kumofire_core.handlers.context import JobContext
from kumofire_core.handlers.payload_fields import is_pydantic, unknown_field
from kumofire_core.model import json_codec
from kumofire_core.rules.validation import require_room

HIDDEN_IN_TRACEBACKS = True

MOST_PROBLEMS = 3
"""How many problems of one payload an error names."""


class _Unfit(Exception):
    """A value does not fit; ``problems`` are sentences that begin with the path of what is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__()
        self.problems = problems


class _Reader(typing.Protocol):
    """How the values of one type become JSON, and are read back."""

    def to_json(self, value: object) -> object:
        """Return what ``value`` is in JSON; ``TypeError`` or ``ValueError`` where it has no JSON form."""
        ...

    def read(self, value: object) -> Any:
        """Return the value of a JSON value; ``_Unfit`` where it does not fit."""
        ...


class PayloadType:
    """The type of one job's payloads."""

    def __init__(self, job_name: str, find: Callable[[], Any]) -> None:
        self._job_name = job_name
        self._find = find
        self._reader: _Reader | None = None
        self._name = ""

    def resolve(self) -> None:
        """Find the type and the library that reads it, where that is not done yet.

        Raises ``ConfigurationError`` for a type that can't be read, or a library that is not installed, and
        ``NameError`` for a name that is not defined, or not yet.
        """
        if self._reader is None:
            found = self._find()
            self._name = _name_of(found)
            self._reader = _reader_of(self._job_name, found)

    def text(self, payload: object, most_bytes: int) -> str:
        """Return the JSON text of a payload that is to be stored.

        Raises ``InvalidPayloadError`` where it does not fit or has a field that the type does not have, and
        ``InvalidJSONError`` as ``payload_text`` does.
        """
        reader = self._resolved()
        value = _json_of(reader, payload)
        text = json_codec.encode("the payload", value)
        require_room(text, most_bytes)
        restored = self.read(value)
        unknown = unknown_field(value, restored, "payload")
        if unknown is not None:
            raise self._error([unknown])
        if type(payload) is not type(restored) and isinstance(reader, _FirstThatFits) and reader.has(type(payload)):
            kinds = type(payload).__name__, type(restored).__name__
            raise self._error(
                [
                    "payload: a consumer would read this {} as a {}, whose fields fit too and which comes first; name "
                    "{} first, or give the types a field that tells them apart".format(*kinds, kinds[0])
                ]
            )
        return text

    def read(self, value: object) -> Any:
        """Return the payload that a JSON value is; raises ``InvalidPayloadError`` where it does not fit."""
        reader = self._resolved()
        try:
            return reader.read(value)
        except KeyboardInterrupt:
            raise
        except _Unfit as unfit:
            problems = unfit.problems
        except RecursionError:
            problems = ["payload: nested too deeply for this type"]
        except BaseException as error:  # of the type's own code, sys.exit() too
            problems = [f"payload: {type(error).__name__}: {error}"]
        raise self._error(problems)

    def _resolved(self) -> _Reader:
        try:
            self.resolve()
        except NameError as error:
            raise ConfigurationError(
                [
                    f"the type of job {self._job_name!r}'s payload can't be found: {error}; define or import it at the "
                    "top level of the handler's module, and not under TYPE_CHECKING"
                ]
            ) from None
        assert self._reader is not None
        return self._reader

    def _error(self, problems: list[str]) -> InvalidPayloadError:
        return InvalidPayloadError(self._job_name, self._name, problems)


def payload_type_of(job_name: str, handler: Callable[..., Any]) -> PayloadType | None:
    """Return the type that a handler's context names, or ``None`` where it names none.

    Raises ``ConfigurationError`` for a type that can't be read. A name that is not defined yet is looked up again when
    the type is first needed.
    """
    annotation, namespace = _annotation_of(handler)
    if annotation is None:
        return None
    find = partial(_payload_argument, annotation, namespace)
    try:
        if find() in (Any, object):
            return None
        found = PayloadType(job_name, find)
        found.resolve()
        return found
    except NameError:
        # Before it was evaluated, an annotation with a name for type checkers alone did no harm.
        return PayloadType(job_name, find) if "JobContext[" in str(annotation) else None
    except ConfigurationError:
        raise
    except Exception as error:
        if "JobContext[" not in str(annotation):
            return None
        raise ConfigurationError(
            [f"the type of job {job_name!r}'s payload can't be used: {type(error).__name__}: {error}"]
        ) from error


def json_value(value: object) -> object:
    """Return what a value of any supported type is in JSON; one that has no JSON form is returned as it is."""
    try:
        reader = _Pydantic.of_values() if _has_pydantic_value(value) else _Msgspec(Any)
        return reader.to_json(value)
    except (ConfigurationError, TypeError, ValueError, RecursionError):
        return value


def declares_return(handler: Callable[..., Any]) -> bool:
    """Say whether a handler declares the type of what it returns; ``object`` and ``Any`` say nothing of it."""
    try:
        declared = getattr(_code_of(handler), "__annotations__", {}).get("return", object)
        return declared not in ("object", "Any", "typing.Any", object, Any)
    except NameError:  # Python 3.14 evaluates them here
        return True


def _json_of(reader: _Reader, payload: object) -> object:
    try:
        return reader.to_json(payload)
    except RecursionError:
        raise InvalidJSONError("the payload is nested too deeply for JSON; flatten it or store a reference") from None
    except (TypeError, ValueError):
        return payload  # the encoder says what in it is not JSON


def _annotation_of(handler: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Return the annotation of a handler's first parameter, or ``None``, and the names that it may use."""
    code = inspect.unwrap(_code_of(handler))
    namespace = getattr(code, "__globals__", {})
    try:
        try:
            parameters = inspect.signature(handler).parameters
        except NameError:  # Python 3.14 evaluates annotations here
            from annotationlib import Format  # type: ignore[import-not-found,unused-ignore]

            parameters = inspect.signature(handler, annotation_format=Format.STRING).parameters  # type: ignore[call-arg,unused-ignore]
    except (TypeError, ValueError):  # some builtins have none to look at
        return None, {}
    first = next(iter(parameters.values()), None)
    if first is None or first.annotation is inspect.Parameter.empty:
        return None, {}
    return first.annotation, namespace


def _payload_argument(annotation: Any, namespace: dict[str, Any]) -> Any:
    """Return the ``P`` of an annotation ``JobContext[P]``, or ``Any`` for another one; ``NameError`` as names go."""

    def holder() -> None: ...

    holder.__annotations__ = {"ctx": annotation}
    names = {"JobContext": JobContext} | namespace
    found = typing.get_type_hints(holder, globalns=names, include_extras=True)["ctx"]
    return typing.get_args(found)[0] if typing.get_origin(found) is JobContext else Any


def _code_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that a call executes: that of a ``partial``, or an object's ``__call__``."""
    while isinstance(function, partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004 - it is called, and not asked whether it can be


def _reader_of(job_name: str, found: Any) -> _Reader:
    if found in (None, types.NoneType):
        return _Only(types.NoneType, "null")
    if found is dict or (typing.get_origin(found) is dict and typing.get_args(found) == (str, Any)):
        return _Only(dict, "an object")
    if any(map(is_pydantic, _parts(found))):
        return _Pydantic.of(job_name, found)
    try:
        import msgspec
        import msgspec.inspect
    except ImportError as missing:
        raise ConfigurationError(
            [
                f"job {job_name!r} has a payload of type {_name_of(found)}, which needs msgspec ({missing}): "
                "pip install 'kumofire-jobs[typed]'"
            ]
        ) from missing
    try:
        msgspec.json.Decoder(found)
    except TypeError as error:
        members = _members(found)
        if len(members) > 1 and "may not contain more than one" in str(error):
            return _FirstThatFits({member: _reader_of(job_name, member) for member in members})
        raise ConfigurationError(
            [
                f"job {job_name!r} has a payload of type {_name_of(found)}, which can't be read: {_sentence(error)} "
                "(of a union inside a type, make its members msgspec Structs with tags, or use pydantic)"
            ]
        ) from None
    strangers = list(_strangers(msgspec.inspect.type_info(found)))
    if any(map(is_pydantic, strangers)):
        return _Pydantic.of(job_name, found)
    if strangers:
        raise ConfigurationError(
            [
                f"job {job_name!r} has a payload of type {_name_of(found)}, in which {_name_of(strangers[0])} has no "
                "JSON form; use a dataclass, a TypedDict, a msgspec Struct or a pydantic model"
            ]
        )
    return _Msgspec(found)


class _Only:
    """Reads a type that needs no library."""

    def __init__(self, kind: type, name: str) -> None:
        self._kind = kind
        self._name = name

    def to_json(self, value: object) -> object:
        return value

    def read(self, value: object) -> Any:
        if not isinstance(value, self._kind):
            raise _Unfit([f"payload: expected {self._name}, got {type(value).__name__}"])
        return value


class _Msgspec:
    """Reads what msgspec knows; strict, so that no text becomes a number."""

    def __init__(self, found: Any) -> None:
        try:
            import msgspec
        except ImportError as missing:
            raise ConfigurationError([f"{missing}: pip install 'kumofire-jobs[typed]'"]) from missing
        self._type = found
        self._unfit = msgspec.ValidationError
        self._convert = msgspec.convert
        self._to_builtins = msgspec.to_builtins

    def to_json(self, value: object) -> object:
        return self._to_builtins(value, str_keys=True)

    def read(self, value: object) -> Any:
        try:
            return self._convert(value, self._type, str_keys=True)
        except self._unfit as error:
            raise _Unfit([_located(str(error))]) from None


class _FirstThatFits:
    """Reads a union of types that only their fields tell apart: the first that fits."""

    def __init__(self, readers: Mapping[Any, _Reader]) -> None:
        self._readers = readers

    def has(self, kind: type) -> bool:
        """Say whether a type is one of them."""
        return kind in self._readers

    def to_json(self, value: object) -> object:
        return next(iter(self._readers.values())).to_json(value)

    def read(self, value: object) -> Any:
        problems = []
        for kind, reader in self._readers.items():
            try:
                return reader.read(value)
            except _Unfit as unfit:
                problems.append(f"as {_name_of(kind)}: {unfit.problems[0]}")
        raise _Unfit(problems)


class _Pydantic:
    """Reads what has a pydantic model in it; the models decide how strict they are."""

    def __init__(self, adapter: Any) -> None:
        from pydantic import ValidationError
        from pydantic_core import to_jsonable_python

        self._adapter = adapter
        self._unfit = ValidationError
        self._to_jsonable = to_jsonable_python

    @classmethod
    def of(cls, job_name: str, found: Any) -> _Pydantic:
        try:
            from pydantic import TypeAdapter
        except ImportError as missing:
            raise ConfigurationError(
                [
                    f"job {job_name!r} has a payload of type {_name_of(found)}, which needs pydantic of version 2 "
                    f"({missing}): pip install 'pydantic>=2'"
                ]
            ) from missing
        return cls(TypeAdapter(found))

    @classmethod
    def of_values(cls) -> _Pydantic:
        """Return one that makes JSON, and reads nothing."""
        return cls(None)

    def to_json(self, value: object) -> object:
        return self._to_jsonable(value, by_alias=True)

    def read(self, value: object) -> Any:
        # As JSON, because a strict model takes a text for a datetime there, and nowhere else.
        text = json_codec.encode("the payload", value)
        try:
            return self._adapter.validate_json(text)
        except self._unfit as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            problems = [f"{_path_of(each['loc'])}: {_sentence(each['msg'])}" for each in found[:MOST_PROBLEMS]]
            if len(found) > MOST_PROBLEMS:
                problems.append(f"{len(found) - MOST_PROBLEMS} more")
            raise _Unfit(problems) from None


_AT = re.compile(r"(.*) - at `(key in )?\$?(.*)`\Z", re.DOTALL)


def _located(text: str) -> str:
    """Return msgspec's error with the path first: it says ``Expected `int`, got `str` - at `$.a``` ."""
    found = _AT.match(text)
    if found is None:
        return f"payload: {_sentence(text)}"
    problem, key, path = found.groups()
    return f"{key or ''}payload{path}: {_sentence(problem)}"


def _sentence(text: object) -> str:
    text = str(text).replace("`", "")
    return text[:1].lower() + text[1:]


def _path_of(location: tuple[int | str, ...]) -> str:
    return "payload" + "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in location)


def _name_of(found: Any) -> str:
    return found.__name__ if isinstance(found, type) and not typing.get_args(found) else str(found)


def _members(found: Any) -> tuple[Any, ...]:
    """Return the types of a union; the type alone where it is none."""
    is_union = typing.get_origin(found) in (typing.Union, types.UnionType)
    return typing.get_args(found) if is_union else (found,)


def _parts(found: Any) -> Iterator[Any]:
    """Yield a type and all that its parameters name."""
    yield found
    for each in typing.get_args(found):
        yield from _parts(each)


def _has_pydantic_value(value: object) -> bool:
    """Say whether a value is one of pydantic's, or a list or a mapping of them."""
    if "pydantic" not in sys.modules:
        return False
    if isinstance(value, Mapping):
        value = next(iter(value.values()), None)
    elif isinstance(value, list | tuple):
        value = next(iter(value), None)
    return is_pydantic(type(value))


def _strangers(info: Any, seen: set[int] | None = None) -> Iterator[type]:
    """Yield the classes in a type that msgspec has no JSON form for."""
    import msgspec

    seen = set() if seen is None else seen
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    elif isinstance(info, msgspec.Struct):
        for name in info.__struct_fields__:
            value = getattr(info, name)
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, msgspec.Struct):
                    yield from _strangers(each, seen)
