"""What a handler raises to decide itself how its run goes on."""

from __future__ import annotations

from datetime import timedelta

from kumofire_core.errors import InvalidArgumentError
from kumofire_core.model.times import delay_ms


class Steering(Exception):
    """The base of what a handler raises to decide how its run goes on. It is not for raising itself."""


class Snooze(Steering):
    """Put the run back, and call its handler again after ``delay``; no attempt is counted.

    ``delay`` is a timedelta or a number of seconds. A run may be snoozed without an end, so a handler that waits for
    something should give up at some time. Raises ``InvalidArgumentError`` for a wrong delay.
    """

    def __init__(self, delay: timedelta | float) -> None:
        self.delay_ms = delay_ms("delay", delay)
        super().__init__(f"snoozed for {self.delay_ms / 1000:g} s")


class RetryAfter(Steering):
    """Let the attempt fail, and make the next one after ``delay``, whatever the retry policy says.

    The attempt counts: after the last one the run has failed. ``delay`` is a timedelta or a number of seconds, for
    example what the HTTP header Retry-After says. Raises ``InvalidArgumentError`` for a wrong delay.
    """

    def __init__(self, delay: timedelta | float, reason: str | None = None) -> None:
        self.delay_ms = delay_ms("delay", delay)
        super().__init__(_reason(reason) or f"to be attempted again after {self.delay_ms / 1000:g} s")


class Fail(Steering):
    """Let the run fail at once, whatever attempts remain. A person can still retry it."""

    def __init__(self, reason: str) -> None:
        super().__init__(_reason(reason))


class Cancel(Steering):
    """End the run as ``canceled`` at once, with this reason (at most 3 KB). It is not encrypted."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = _reason(reason)
        super().__init__(*(() if reason is None else (reason,)))


def _reason(reason: str | None) -> str | None:
    if reason is not None and not isinstance(reason, str):
        raise InvalidArgumentError(f"reason must be a string, not {type(reason).__name__}")
    return reason
