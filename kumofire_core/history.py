"""What a run was before each of a person's retries: its public form, and its form in the item. Free of AWS."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kumofire_core import jsontext
from kumofire_core.run import Run, RunStatus
from kumofire_core.times import from_ms, to_ms

HISTORY_LENGTH = 10
HISTORY_ERROR_LENGTH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """How a run had ended when a person retried it."""

    status: RunStatus
    attempt: int
    finished_at: datetime | None
    last_error: str | None = field(default=None, repr=False)
    cancel_reason: str | None = None


def history_with(run: Run) -> str:
    """Return the stored form of a run's history with how it has ended now; bounded, the oldest goes first."""
    now = PastRun(
        status=run.status,
        attempt=run.attempt,
        finished_at=run.finished_at,
        last_error=run.last_error,
        cancel_reason=run.cancel_reason,
    )
    past = [
        [
            entry.status.value,
            entry.attempt,
            None if entry.finished_at is None else to_ms(entry.finished_at),
            None if entry.last_error is None else entry.last_error[:HISTORY_ERROR_LENGTH],
            None if entry.cancel_reason is None else entry.cancel_reason[:HISTORY_ERROR_LENGTH],
        ]
        for entry in (*run.history, now)[-HISTORY_LENGTH:]
    ]
    return jsontext.encode("the history", past)


def read_history(text: str) -> tuple[PastRun, ...]:
    """Return the history that an item holds; ``ValueError``, ``TypeError``, ``OverflowError`` where it holds none."""
    past: Any = jsontext.decode(text)
    return tuple(
        PastRun(
            status=RunStatus(status),
            attempt=int(attempt),
            finished_at=None if finished_at is None else from_ms(int(finished_at)),
            last_error=_text_or_none(last_error),
            cancel_reason=_text_or_none(rest[0] if rest else None),
        )
        for status, attempt, finished_at, last_error, *rest in past
    )


def _text_or_none(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("history")
    return value
