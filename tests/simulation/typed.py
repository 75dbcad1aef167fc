"""A job whose payloads have a type, in some histories: every third of its payloads does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kumofire_core import JobContext

JOB = "timed"
REASON = "payload does not fit"


@dataclass
class Letter:
    """The payload of the job; persons, who have no handlers, create any."""

    of: str
    number: int
    filler: str = ""

    def __post_init__(self) -> None:
        if self.number % 3 == 2:
            raise ValueError("a number that does not fit")


def is_unfit(job_name: str, payload: dict[str, Any]) -> bool:
    """Say whether a consumer is to refuse a payload, by another way than the engine's."""
    return job_name == JOB and payload["number"] % 3 == 2


def typed(handle: Callable[[Any], Any], violate: Callable[[str, str], None]) -> Callable[[JobContext[Letter]], Any]:
    """Return a handler that checks its payload's type, and does what the others do."""

    def handle_letter(context: JobContext[Letter]) -> Any:
        letter: Any = context.payload
        if not isinstance(letter, Letter):
            violate("a typed handler is given its type", f"{context.run.id} was given a {type(letter).__name__}")
        context.read_payload(lambda value: value)  # as the other handlers' payloads are checked
        if is_unfit(JOB, context.run.payload):
            violate("no handler is given a payload that does not fit", context.run.id)
        return handle(context)

    return handle_letter
