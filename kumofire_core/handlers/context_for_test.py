"""The run of a context that is made for tests (``JobContext.for_test``). Free of AWS and of the engine."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from kumofire_core.errors import InvalidArgumentError, short_repr
from kumofire_core.model.message import MAX_RUN_ID_LENGTH
from kumofire_core.model.run import RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.times import require_aware, to_ms, utc_now
from kumofire_core.rules.retry import is_attempt_count
from kumofire_core.rules.validation import require_flag, require_job_name


def run_for_test(
    payload: object,
    *,
    attempt: int,
    max_attempts: int,
    run_id: str,
    job_name: str,
    fencing_token: int,
    now: datetime | None,
    time_left: timedelta,
    cancel_requested: bool,
) -> StoredRun:
    """Return a run that is executing; raises ``InvalidArgumentError`` for a wrong argument."""
    for name, number in (("attempt", attempt), ("max_attempts", max_attempts), ("fencing_token", fencing_token)):
        if not is_attempt_count(number):
            raise InvalidArgumentError(f"{name} must be a whole number of at least 1, not {short_repr(number)}")
    if not isinstance(run_id, str) or not 1 <= len(run_id) <= MAX_RUN_ID_LENGTH:
        raise InvalidArgumentError(
            f"run_id must be a string of 1 to {MAX_RUN_ID_LENGTH} characters, not {short_repr(run_id)}"
        )
    require_job_name(job_name)
    if not isinstance(time_left, timedelta):
        raise InvalidArgumentError(f"time_left must be a timedelta, not {short_repr(time_left)}")
    require_flag("cancel_requested", cancel_requested)
    now_ms = to_ms(utc_now() if now is None else require_aware("now", now))
    item: dict[str, Any] = {
        "status": RunStatus.RUNNING.value,
        "job_name": job_name,
        "attempt": attempt - 1,
        "claims": fencing_token,
        "max_attempts": max_attempts,
        "scheduled_for": now_ms,
        "created_at": now_ms,
        "updated_at": now_ms,
        "started_at": now_ms,
    }
    stored = StoredRun(run_id, item, max_attempts)
    stored.payload = payload  # ``run.payload`` is what the handler gets, too: nothing made JSON of it
    return stored
