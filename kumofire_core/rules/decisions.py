"""What follows when an attempt failed, a worker was lost, or a claim was refused.

The consumer and the dispatcher both apply these decisions, so that a run ends in the same way whoever finds it.
"""

from __future__ import annotations

from typing import NamedTuple

from kumofire_core.errors import InvalidJSONError
from kumofire_core.model.error_text import error_text, lost_attempt, type_name
from kumofire_core.model.run import FINAL, Outcome, RunStatus
from kumofire_core.model.run_item import UNREADABLE, StoredRun
from kumofire_core.rules import run_writes
from kumofire_core.rules.retry import RetryPolicy, next_attempt_at
from kumofire_core.rules.run_writes import Transition

FIRST_HANDLER_WAIT_MS = 1_000
LONGEST_HANDLER_WAIT_MS = 60_000
MISSING_HANDLER_GRACE_MS = 24 * 60 * 60_000
"""How long a run waits in all for a consumer that has its handler, where it is to wait at all."""


class AttemptEnd(NamedTuple):
    """How an attempt without success ends."""

    write: Transition
    outcome: Outcome
    error: str
    """The error as it is stored with the run."""
    error_type: str
    due_ms: int | None = None
    """Epoch milliseconds of the next attempt, where there is one."""


def after_failure(
    claimed: StoredRun, error: BaseException, policy: RetryPolicy, *, now_ms: int, expires_at: int | None
) -> AttemptEnd:
    """Return how an attempt ends whose handler raised ``error``: the run is retried, or has failed.

    Its write is refused where the run's cancellation was requested meanwhile; ``after_canceled_failure`` then fits.
    """
    text, kind = error_text(error), type_name(error)
    due_ms = next_attempt_at(policy, claimed.run, error, now_ms=now_ms)
    if due_ms is None:
        write = run_writes.fail(claimed, now_ms=now_ms, error=text, expires_at=expires_at)
        return AttemptEnd(write, Outcome.FAILED, text, kind)
    write = run_writes.reschedule(claimed, now_ms=now_ms, due_ms=due_ms, error=text)
    return AttemptEnd(write, Outcome.RETRIED, text, kind, due_ms)


def after_unusable_output(
    claimed: StoredRun, error: InvalidJSONError, *, now_ms: int, expires_at: int | None
) -> AttemptEnd:
    """Return how an attempt ends whose handler returned what can't be stored: the run has failed.

    There is no other attempt, whatever the policy says: it would repeat the handler's effect and return the same. Its
    write is refused as that of ``after_failure`` is.
    """
    text = error_text(error)
    write = run_writes.fail(claimed, now_ms=now_ms, error=text, expires_at=expires_at)
    return AttemptEnd(write, Outcome.FAILED, text, type_name(error))


def after_canceled_failure(
    claimed: StoredRun, failed: AttemptEnd, *, now_ms: int, expires_at: int | None
) -> AttemptEnd:
    """Return how an attempt ends that failed after its run's cancellation was requested: there is no other attempt."""
    write = run_writes.cancel_attempt(claimed, now_ms=now_ms, error=failed.error, expires_at=expires_at)
    return AttemptEnd(write, Outcome.CANCELED, failed.error, failed.error_type)


def after_lost_worker(
    expired: StoredRun, token: str, policy: RetryPolicy, *, now_ms: int, expires_at: int | None
) -> AttemptEnd:
    """Return how an attempt ends whose lease expired: the run is retried, has failed, or is canceled.

    The lost attempt counts. Where the outcome is ``retried``, a consumer that holds the run's message may start the
    next attempt at once instead, with ``run_writes.rescue``.
    """
    lost = lost_attempt(expired.attempt + 1, expired.lease_until)
    text, kind = error_text(lost), type_name(lost)
    if expired.cancel_requested:
        write = run_writes.cancel_expired(expired, token, now_ms=now_ms, error=text, expires_at=expires_at)
        return AttemptEnd(write, Outcome.CANCELED, text, kind)
    due_ms = next_attempt_at(policy, expired.run, lost, now_ms=now_ms)
    if due_ms is None:
        write = run_writes.fail_expired(expired, token, now_ms=now_ms, error=text, expires_at=expires_at)
        return AttemptEnd(write, Outcome.FAILED, text, kind)
    write = run_writes.reschedule_expired(expired, token, now_ms=now_ms, due_ms=due_ms, error=text)
    return AttemptEnd(write, Outcome.RETRIED, text, kind, due_ms)


def handler_awaited_until(claimed: StoredRun, *, now_ms: int) -> tuple[int, int] | None:
    """Return until when a run waits for a consumer that has its handler, and since when; ``None``: no longer.

    Each wait is as long as all before it, within bounds, so it doubles.
    """
    since_ms = now_ms if claimed.no_handler_since is None else claimed.no_handler_since
    waited_ms = max(0, now_ms - since_ms)
    if waited_ms >= MISSING_HANDLER_GRACE_MS:
        return None
    return now_ms + min(max(waited_ms, FIRST_HANDLER_WAIT_MS), LONGEST_HANDLER_WAIT_MS), since_ms


def not_attemptable(claimed: StoredRun) -> tuple[str, str] | None:
    """Return why the handler of a claimed run can't be called, now or later, or ``None``.

    The first text is stored with the run; the second, which quotes nothing of it, is for logs and metrics.
    """
    if claimed.attempt >= claimed.max_attempts:
        # Its job's limit was lowered after its creator had left the limit to the job.
        return f"no attempts left: {claimed.attempt} of {claimed.max_attempts}", "no attempts left"
    if claimed.payload is UNREADABLE:
        return "the stored payload is not JSON; restore it and retry the run", "unreadable payload"
    return None


def claim_refused(found: StoredRun, *, now_ms: int) -> str | None:
    """Return why a message is ignored whose run could not be claimed, or ``None``: the run's lease has expired."""
    if found.status is not RunStatus.RUNNING:
        return found.status if found.status in FINAL else "not yet due"
    if found.lease_until is None or found.lease_until > now_ms:
        return "leased"
    return None
