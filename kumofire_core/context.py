"""What a handler is given, and the log fields of the attempt that is under way. Free of AWS and of the engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kumofire_core.failure import error_name
from kumofire_core.run import Run

JOB_LOGGER = "kumofire_core.job"

_log_fields: ContextVar[dict[str, Any] | None] = ContextVar("kumofire_log_fields", default=None)


CANCEL_CHECK_SECONDS = 3.0


class Cancellation:
    """Whether a run's cancellation was asked for, read with ``read`` and not too often."""

    def __init__(self, read: Callable[[], bool]) -> None:
        self._read = read
        self._requested = False
        self._next_read = 0.0

    def requested(self) -> bool:
        """Return the answer of the latest read; once it is yes, it stays so."""
        if not self._requested and time.monotonic() >= self._next_read:
            self._next_read = time.monotonic() + CANCEL_CHECK_SECONDS
            try:
                self._requested = self._read()
            except Exception as error:  # a question that can't be answered now must not fail the attempt
                logging.getLogger("kumofire_core").warning(
                    "could not read whether the run is to be canceled: %s", error_name(error)
                )
        return self._requested


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """One attempt, as its handler sees it."""

    run: Run
    attempt: int
    """The number of this attempt: 1 for the first."""
    fencing_token: int
    """Greater in every later claim of the run. A resource that remembers the greatest one it has seen, and refuses
    smaller ones, can't be written to by an attempt that outlived its lease."""
    now: datetime
    """When the attempt started."""
    logger: logging.LoggerAdapter[logging.Logger] = field(repr=False)
    """Adds run id, job and attempt to every line."""
    _cancellation: Cancellation = field(repr=False)
    _ends: float = field(repr=False)
    """On ``time.monotonic``'s scale: when the attempt is cut, or where nothing cuts it, when its lease ends."""

    @property
    def payload(self) -> Any:
        """The run's payload, equal to what was given to ``create``."""
        return self.run.payload

    def cancel_requested(self) -> bool:
        """Say whether a person has asked for this run's cancellation; raise any error to end the attempt ``canceled``.

        The table is read at most once every ``CANCEL_CHECK_SECONDS``; between two reads, and where a read fails, the
        last answer is repeated. So it may be called in a loop.
        """
        return self._cancellation.requested()

    def time_left(self) -> timedelta:
        """Return how long this attempt may still take; zero when its time is over."""
        return timedelta(seconds=max(0.0, self._ends - time.monotonic()))


def attempt_logger(run: Run) -> logging.LoggerAdapter[logging.Logger]:
    """Return the logger for an attempt of ``run``."""
    return _FieldsAdapter(logging.getLogger(JOB_LOGGER), log_fields(run))


def log_fields(run: Run) -> dict[str, Any]:
    """Return the fields that tell a run's attempt apart in a log. Never its payload."""
    return {"job_run_id": run.id, "job_name": run.job_name, "attempt": run.attempt + 1}


def enter_log_fields(run: Run) -> Token[dict[str, Any] | None]:
    """Make this the attempt whose fields ``AttemptLogFilter`` adds, in this context, until ``leave_log_fields``."""
    return _log_fields.set(log_fields(run))


def leave_log_fields(token: Token[dict[str, Any] | None]) -> None:
    """End what ``enter_log_fields`` began."""
    _log_fields.reset(token)


class AttemptLogFilter(logging.Filter):
    """Adds run id, job and attempt to every record logged while an attempt is under way, whoever logs it.

    Put it on a logging handler: a filter on a logger does not see its children's records.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields that the record does not bring itself; let every record pass."""
        for name, value in (_log_fields.get() or {}).items():
            if name not in record.__dict__:
                record.__dict__[name] = value
        return True


class _FieldsAdapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        # The base class drops the caller's own ``extra`` (until Python 3.13's merge_extra).
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
