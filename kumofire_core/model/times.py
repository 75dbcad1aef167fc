"""Times: aware UTC datetimes in the API, epoch milliseconds in the table.

Only ``utc_now`` reads a clock, and only ``Jobs`` uses it: everywhere else ``now`` is an argument.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from kumofire_core.errors import InvalidArgumentError, short_repr

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999
"""The end of the year 9999, the last year of a ``datetime``."""

_MILLISECOND = timedelta(milliseconds=1)


def utc_now() -> datetime:
    """Return the current time of this machine's clock, in UTC."""
    return datetime.now(UTC)


def to_ms(moment: datetime) -> int:
    """Return the epoch milliseconds of an aware datetime, rounded down."""
    return (moment - EPOCH) // _MILLISECOND


def from_ms(ms: int) -> datetime:
    """Return the aware UTC datetime of epoch milliseconds; raises ``OverflowError`` outside the years 1 to 9999."""
    return EPOCH + _MILLISECOND * ms


def duration_ms(length: timedelta) -> int:
    """Return a duration in milliseconds, rounded down."""
    return length // _MILLISECOND


def whole_seconds_until(due_ms: int, now_ms: int) -> int:
    """Return the seconds until ``due_ms``, at least 0. Rounded up, so that a message is not delivered early."""
    return max(0, math.ceil((due_ms - now_ms) / 1000))


def require_aware(name: str, moment: object) -> datetime:
    """Return ``moment`` in UTC; raises ``InvalidArgumentError``, with its ``name``, unless it is an aware datetime."""
    if not isinstance(moment, datetime):
        raise InvalidArgumentError(f"{name} must be a datetime with a time zone, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name} is {moment.isoformat()}, which has no time zone; pass an aware datetime, "
            "for example datetime.now(timezone.utc)"
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidArgumentError(f"{name} is {moment.isoformat()}, outside the years 1 to 9999 in UTC") from None


def delay_ms(name: str, delay: object) -> int:
    """Return a delay, a timedelta or a number of seconds, in milliseconds; ``name`` is the argument.

    Raises ``InvalidArgumentError`` for another type, for a negative or infinite delay, and for ``nan``.
    """
    if isinstance(delay, bool) or not isinstance(delay, int | float | timedelta):
        raise InvalidArgumentError(f"{name} must be a timedelta or a number of seconds, not {type(delay).__name__}")
    if isinstance(delay, float) and math.isnan(delay):
        raise InvalidArgumentError(f"{name} must be a number of seconds, and nan is not a number")
    if delay < (timedelta(0) if isinstance(delay, timedelta) else 0):  # type: ignore[operator]
        raise InvalidArgumentError(f"{name} must not be negative, and is {short_repr(delay)}")
    try:
        return duration_ms(delay if isinstance(delay, timedelta) else timedelta(seconds=delay))
    except OverflowError:
        raise InvalidArgumentError(f"{name} of {short_repr(delay)} seconds is out of range") from None
