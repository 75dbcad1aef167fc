"""An error as text: what is stored with a run, and what of it may appear in a log."""

from __future__ import annotations

import traceback

from kumofire_core.errors import LeaseExpiredError
from kumofire_core.model.times import from_ms

MAX_ERROR_LENGTH = 1000


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
    """Return the last places that an error passed through, for a log; without the engine's own way to the handler.

    Places only: an error's text, and the lines of a formatted traceback, may quote a payload. A module that only leads
    to the handler says so by a variable ``HIDDEN_IN_TRACEBACKS``.
    """
    shown = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    kept = [not frame.f_globals.get("HIDDEN_IN_TRACEBACKS") for frame in shown]
    summary = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    places = [
        f"{place.filename}:{place.lineno} in {place.name}" for place, keep in zip(summary, kept, strict=True) if keep
    ]
    return places[-8:]


def lost_attempt(attempt: int, lease_until: int | None) -> LeaseExpiredError:
    """Return the error of an attempt whose lease ended, at this epoch millisecond, without a word from its worker."""
    until = from_ms(lease_until or 0).isoformat(timespec="seconds")
    return LeaseExpiredError(
        f"attempt {attempt} was lost: its lease expired at {until}; its worker died or was cut off"
    )
