"""When a process ends, and what may still be begun before. Free of AWS and of the engine."""

from __future__ import annotations

import time
from typing import Protocol


class LambdaContext(Protocol):
    """The part of Lambda's context object that is used."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function's timeout."""
        ...


class Deadline:
    """When a process ends, ``seconds`` from now, and when what it runs must have ended before."""

    RESERVE_SECONDS = 2.0
    """What is kept for recording how an attempt ended: a few requests, with a repeat or two."""
    LEAST_START_SECONDS = 0.75
    """With less than this, nothing is started at all."""

    __slots__ = ("ends", "reserve")

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds
        """On ``time.monotonic``'s scale."""
        self.reserve = min(self.RESERVE_SECONDS, max(0.0, seconds) / 3)
        """Seconds; a third of a very short time, so that a function with a timeout of 3 s can do something, too."""

    def seconds_left(self) -> float:
        """Return the seconds until the process ends."""
        return self.ends - time.monotonic()

    def seconds_to_run(self) -> float:
        """Return the seconds until a handler is cut."""
        return self.seconds_left() - self.reserve

    def too_close_to_start(self) -> bool:
        """Say whether an attempt begun now would have less time than recording its end takes."""
        return self.seconds_left() < max(self.LEAST_START_SECONDS, 2 * self.reserve)
