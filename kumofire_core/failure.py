"""How a failure is told: the text that is stored with a run, and what of it may go into a log. Pure."""

from __future__ import annotations

import traceback
from pathlib import Path

from kumofire_core.errors import LeaseExpiredError
from kumofire_core.times import from_ms

MAX_ERROR_LENGTH = 1000

_OURS = frozenset(str(Path(__file__).with_name(name)) for name in ("attempt.py", "consumer.py"))


def error_text(error: BaseException) -> str:
    """Return an error's type and text as it is stored: bounded, and always possible to store."""
    name = type_name(error)
    try:
        message = str(error)
    except BaseException:
        message = "(its text can't be made)"
    text = f"{name}: {message}" if message else name
    if len(text) > MAX_ERROR_LENGTH:
        text = text[: MAX_ERROR_LENGTH - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def type_name(error: BaseException) -> str:
    """Return the name of an error's type, in a length that fits into a line."""
    return type(error).__name__[:100]


def error_name(error: BaseException) -> str:
    """Return what names an error in a log: an AWS service's code where it gave one, else the exception's type."""
    response = getattr(error, "response", None)
    details = response.get("Error") if isinstance(response, dict) else None
    code = details.get("Code") if isinstance(details, dict) else None
    return f"{type_name(error)} {code}" if code else type_name(error)


def error_places(error: BaseException) -> list[str]:
    """Return the last places outside this package that an error passed through, for a log.

    Places only: an error's text, and the lines of a formatted traceback, may quote a payload.
    """
    frames = traceback.extract_tb(error.__traceback__) if error.__traceback__ else []
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames if frame.filename not in _OURS]
    return places[-8:]


def lost_attempt(attempt: int, lease_until: int | None) -> LeaseExpiredError:
    """Return the error of an attempt whose lease ended, at this epoch millisecond, without a word from its worker."""
    until = from_ms(lease_until or 0).isoformat(timespec="seconds")
    return LeaseExpiredError(
        f"attempt {attempt} was lost: its lease expired at {until}; its worker died or was cut off"
    )
