"""The sentence and the exit code for errors of the library and of AWS. Imported when there is one."""

from __future__ import annotations

from kumofire_core.aws.error_notes import advice, code_of
from kumofire_core.aws.errors import AWS_ERRORS, note_of
from kumofire_core.cli.exits import Exit
from kumofire_core.errors import (
    ConfigurationError,
    InvalidArgumentError,
    InvalidJSONError,
    InvalidScheduleError,
    KumofireError,
    UnknownJobError,
)

_WRONG_INPUT = (ConfigurationError, InvalidArgumentError, InvalidJSONError, InvalidScheduleError, UnknownJobError)


def explained(error: Exception) -> tuple[int, str]:
    """Return the exit code for an error, and the sentence that tells it."""
    if isinstance(error, _WRONG_INPUT):
        return Exit.USAGE, str(error)
    if isinstance(error, KumofireError):
        return Exit.TROUBLE, str(error)
    if isinstance(error, AWS_ERRORS):
        return Exit.TROUBLE, f"{note_of(error) or advice(error)} ({code_of(error)}: {_said(error)})"
    return (
        Exit.UNEXPECTED,
        f"unexpected {type(error).__name__}: {error} (this is a mistake in kumofire; --debug shows where it happened)",
    )


def _said(error: Exception) -> str:
    response = getattr(error, "response", None)
    message = response.get("Error", {}).get("Message") if isinstance(response, dict) else None
    return str(message or error)
