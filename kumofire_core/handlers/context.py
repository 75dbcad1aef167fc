"""What a handler is given, and the log fields of the attempt that is under way. Free of AWS and of the engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, MutableMapping
from contextvars import Context, ContextVar, Token
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from kumofire_core.model.error_text import error_name
from kumofire_core.model.run import Run
from kumofire_core.model.run_item import StoredRun

JOB_LOGGER = "kumofire_core.job"

_under_way: ContextVar[StoredRun | None] = ContextVar("kumofire_run", default=None)


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


class JobContext:
    """One attempt, as its handler sees it."""

    __slots__ = ("_cancellation", "_claimed", "_ends", "_read_cancellation")

    def __init__(self, claimed: StoredRun, *, read_cancellation: Callable[[str], bool], ends: float) -> None:
        self._claimed = claimed
        self._cancellation: Cancellation | None = None
        self._read_cancellation = read_cancellation
        # On time.monotonic's scale: when the attempt is cut, or where nothing cuts it, when its lease ends.
        self._ends = ends

    def __repr__(self) -> str:
        return f"JobContext(run={self.run!r}, attempt={self.attempt}, fencing_token={self.fencing_token})"

    @property
    def run(self) -> Run:
        """The run, as it was claimed."""
        return self._claimed.run

    @property
    def payload(self) -> Any:
        """The run's payload, equal to what was given to ``create``."""
        return self._claimed.payload

    @property
    def attempt(self) -> int:
        """The number of this attempt: 1 for the first."""
        return self._claimed.attempt + 1

    @property
    def fencing_token(self) -> int:
        """Greater in every later claim of the run.

        A resource that remembers the greatest one it has seen, and refuses smaller ones, can't be written to by an
        attempt that outlived its lease.
        """
        return self._claimed.claims

    @property
    def now(self) -> datetime:
        """When the attempt started."""
        return self.run.started_at or self.run.updated_at

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds run id, job and attempt to every line."""
        return _FieldsAdapter(logging.getLogger(JOB_LOGGER), log_fields(self._claimed))

    def cancel_requested(self) -> bool:
        """Say whether a person has asked for this run's cancellation; raise any error to end the attempt ``canceled``.

        The table is read at most once every ``CANCEL_CHECK_SECONDS``; between two reads, and where a read fails, the
        last answer is repeated. So it may be called in a loop.
        """
        if self._cancellation is None:
            self._cancellation = Cancellation(partial(self._read_cancellation, self._claimed.id))
        return self._cancellation.requested()

    def time_left(self) -> timedelta:
        """Return how long this attempt may still take; zero when its time is over."""
        return timedelta(seconds=max(0.0, self._ends - time.monotonic()))


def log_fields(run: Run | StoredRun) -> dict[str, Any]:
    """Return the fields that tell a run's attempt apart in a log. Never its payload."""
    return {"job_run_id": run.id, "job_name": run.job_name, "attempt": run.attempt + 1}


def attempt_fields(context: Context) -> dict[str, Any]:
    """Return the log fields of the attempt that is under way in ``context``; none where there is no attempt."""
    run = context.get(_under_way)
    return {} if run is None else log_fields(run)


def enter_attempt(claimed: StoredRun) -> Token[StoredRun | None]:
    """Make this the run whose fields ``AttemptLogFilter`` adds, in this context, until ``leave_attempt``."""
    return _under_way.set(claimed)


def leave_attempt(token: Token[StoredRun | None]) -> None:
    """End what ``enter_attempt`` began."""
    _under_way.reset(token)


class AttemptLogFilter(logging.Filter):
    """Adds run id, job and attempt to every record logged while an attempt is under way, whoever logs it.

    Put it on a logging handler: a filter on a logger does not see its children's records.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields that the record does not bring itself; let every record pass."""
        run = _under_way.get()
        if run is not None:
            record.__dict__.update(log_fields(run) | record.__dict__)
        return True


class _FieldsAdapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        # The base class drops the caller's own ``extra`` (until Python 3.13's merge_extra).
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
