"""Deliberate mistakes with payloads that have a type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kumofire_core.engine import consumer
from kumofire_core.handlers.handler_pool import call_handler
from kumofire_core.handlers.payload_types import PayloadType
from tests.simulation.typed import Letter

Mutant = Callable[..., Any]


def _read_anything(original: Any) -> Mutant:
    def mutant(self: Any, value: Any) -> Any:
        return Letter(**{**value, "number": 0}) if isinstance(value, dict) else original(self, value)

    return mutant


def _refuse_one_more(original: Any) -> Mutant:
    def mutant(self: Any, value: Any) -> Any:
        return original(self, {**value, "number": 2} if value["number"] % 6 == 1 else value)

    return mutant


MISTAKES: dict[str, tuple[tuple[Any, str, Callable[[Any], Any]], ...]] = {
    "call a handler without reading its payload": (
        (consumer, "_call_typed", lambda original: lambda job, handler, context: call_handler(handler, context)),
    ),
    "give a handler what does not fit": ((PayloadType, "read", _read_anything),),
    "refuse a payload that fits": ((PayloadType, "read", _refuse_one_more),),
    "try again what does not fit": (
        (consumer, "InvalidPayloadError", lambda original: type("Another", (Exception,), {})),
    ),
}
