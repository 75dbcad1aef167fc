"""The time at which a process ends, and the time left for attempts. Free of AWS and of the engine."""

from __future__ import annotations

import time
from typing import Protocol

LOG_LENGTH = 200
"""How long request id and log stream are together, at most; longer ones are not kept."""


class LambdaContext(Protocol):
    """The part of Lambda's context object that this package uses."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function's timeout."""
        ...


class Deadline:
    """The time at which a process ends, ``seconds`` from now, and the earlier time at which attempts time out."""

    RESERVE_SECONDS = 2.0
    """The time for recording an attempt's end: a few requests, each repeated once or twice."""
    LEAST_START_SECONDS = 0.75
    """With less time left, an attempt does not start."""

    __slots__ = ("ends", "log", "reserve")

    def __init__(self, seconds: float, log: str | None = None) -> None:
        self.ends = time.monotonic() + seconds
        """On ``time.monotonic``'s scale."""
        self.reserve = min(self.RESERVE_SECONDS, max(0.0, seconds) / 3)
        """In seconds. At most a third of the time, so that a function with a timeout of 3 s can still run attempts."""
        self.log = log
        """Where the process logs until then: the invocation's request id and the log stream, with a space between."""

    @classmethod
    def of_invocation(cls, context: LambdaContext) -> Deadline:
        """Return the deadline of a Lambda invocation, and where it logs."""
        places = (getattr(context, name, None) for name in ("aws_request_id", "log_stream_name"))
        request_id, log_stream = (place if isinstance(place, str) else "" for place in places)
        log = f"{request_id} {log_stream}"
        usable = request_id and log.isascii() and log.isprintable() and len(log) <= LOG_LENGTH
        return cls(context.get_remaining_time_in_millis() / 1000, log if usable else None)

    def seconds_left(self) -> float:
        """Return the seconds until the process ends."""
        return self.ends - time.monotonic()

    def seconds_to_run(self) -> float:
        """Return the seconds until attempts time out."""
        return self.seconds_left() - self.reserve

    def too_close_to_start(self) -> bool:
        """Return whether an attempt that starts now would have less time than recording its end takes."""
        return self.seconds_left() < max(self.LEAST_START_SECONDS, 2 * self.reserve)
