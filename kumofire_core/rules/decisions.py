"""What follows when an attempt failed, a worker was lost, or a claim was refused.

The consumer and the dispatcher both apply these decisions, so that a run ends in the same way whoever finds it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kumofire_core.errors import AttemptTimeoutError, StepError
from kumofire_core.model.attempts import texts_of
from kumofire_core.model.error_text import attempt_message, error_leaves, error_text, lost_attempt, type_name
from kumofire_core.model.run import FINAL, AttemptEnding, Outcome, RunStatus
from kumofire_core.model.run_item import UNREADABLE, StoredRun
from kumofire_core.model.steering import Cancel, Fail, RetryAfter, Snooze, Steering
from kumofire_core.model.times import LAST_MS, from_ms
from kumofire_core.rules import run_writes
from kumofire_core.rules.retry import RetryPolicy, is_retried, next_attempt_at
from kumofire_core.rules.run_writes import Failure, Transition

FIRST_HANDLER_WAIT_MS = 1_000
LONGEST_HANDLER_WAIT_MS = 60_000
MISSING_HANDLER_GRACE_MS = 24 * 60 * 60_000
"""How long a run waits in all for a consumer that has its handler, where it is to wait at all."""


class Told(NamedTuple):
    """An error as it is stored with a run and with its attempt."""

    error: str
    """For the run: the error's text; only its type, where texts are encrypted."""
    error_type: str
    texts: str | None
    """For the attempt: message and traceback, encrypted where there is a cipher."""
    log: str | None = None
    """Where the attempt logged."""


class AttemptEnd(NamedTuple):
    """How an attempt without success ends."""

    write: Transition
    outcome: Outcome
    told: Told
    due_ms: int | None = None
    """Epoch milliseconds of the next attempt, where there is one."""
    snoozed: bool = False

    @property
    def error_type(self) -> str:
        """The name of the error's type."""
        return self.told.error_type


class JobRules(Protocol):
    """What a job says of its failures."""

    @property
    def retry(self) -> RetryPolicy:
        """When the next attempt is made."""
        ...

    @property
    def retry_on(self) -> tuple[type[BaseException], ...] | None:
        """The only errors after which there is another attempt; ``None``: all."""
        ...

    @property
    def fail_on(self) -> tuple[type[BaseException], ...]:
        """The errors after which there is none."""
        ...


def after_failure(
    claimed: StoredRun, error: BaseException, told: Told, job: JobRules, *, now_ms: int, expires_at: int | None
) -> AttemptEnd:
    """Return how an attempt ends whose handler raised ``error``: the run is retried, or has failed.

    The handler may have decided itself, by ``Snooze``, ``RetryAfter``, ``Fail`` or ``Cancel``. The write is refused
    where the run's cancellation was requested meanwhile; ``after_canceled_failure`` then fits.
    """
    error = _steering_of(error)
    if isinstance(error, Snooze):
        due_ms = min(now_ms + error.delay_ms, LAST_MS)
        attempts = _attempts(claimed, AttemptEnding.SNOOZED, told._replace(error_type="", texts=None), now_ms)
        write = run_writes.snooze(claimed, now_ms=now_ms, due_ms=due_ms, attempts=attempts)
        return AttemptEnd(write, Outcome.RETRIED, told, due_ms, snoozed=True)
    if isinstance(error, Cancel):
        failure = _failure(claimed, AttemptEnding.CANCELED, told, now_ms)
        write = run_writes.cancel_attempt(
            claimed, now_ms=now_ms, failure=failure, expires_at=expires_at, reason=error.reason
        )
        return AttemptEnd(write, Outcome.CANCELED, told)
    ending = AttemptEnding.TIMED_OUT if isinstance(error, AttemptTimeoutError) else AttemptEnding.RAISED
    failure = _failure(claimed, ending, told, now_ms)
    next_ms = _next_attempt_at(claimed, error, job, now_ms)
    if next_ms is None:
        write = run_writes.fail(claimed, now_ms=now_ms, failure=failure, expires_at=expires_at)
        return AttemptEnd(write, Outcome.FAILED, told)
    write = run_writes.reschedule(claimed, now_ms=now_ms, due_ms=next_ms, failure=failure)
    return AttemptEnd(write, Outcome.RETRIED, told, next_ms)


def _steering_of(error: BaseException) -> BaseException:
    """Return what steers a run, where that is all that a group of errors holds, as a ``TaskGroup`` raises it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = error_leaves(error)
    return leaves[0] if len(leaves) == 1 and isinstance(leaves[0], Steering | StepError) else error


def _next_attempt_at(run: StoredRun, error: BaseException, job: JobRules, now_ms: int) -> int | None:
    """Return when the next attempt is made, or ``None`` for never."""
    if isinstance(error, Fail | StepError) or not is_retried(error, retry_on=job.retry_on, fail_on=job.fail_on):
        return None
    if isinstance(error, RetryAfter):
        return None if run.attempt + 1 >= run.max_attempts else min(now_ms + error.delay_ms, LAST_MS)
    return next_attempt_at(job.retry, run.run, error, now_ms=now_ms)


def after_unusable_output(claimed: StoredRun, told: Told, *, now_ms: int, expires_at: int | None) -> AttemptEnd:
    """Return how an attempt ends whose handler returned what can't be stored: the run has failed.

    There is no other attempt, whatever the policy says: it would repeat the handler's effect and return the same. Its
    write is refused as that of ``after_failure`` is.
    """
    failure = _failure(claimed, AttemptEnding.RAISED, told, now_ms)
    write = run_writes.fail(claimed, now_ms=now_ms, failure=failure, expires_at=expires_at)
    return AttemptEnd(write, Outcome.FAILED, told)


def after_canceled_failure(
    claimed: StoredRun, failed: AttemptEnd, *, now_ms: int, expires_at: int | None
) -> AttemptEnd:
    """Return how an attempt ends that failed after its run's cancellation was requested: there is no other attempt."""
    failure = _failure(claimed, AttemptEnding.CANCELED, failed.told, now_ms)
    write = run_writes.cancel_attempt(claimed, now_ms=now_ms, failure=failure, expires_at=expires_at)
    return AttemptEnd(write, Outcome.CANCELED, failed.told)


def after_lost_worker(
    expired: StoredRun, token: str, job: JobRules, *, now_ms: int, expires_at: int | None
) -> AttemptEnd:
    """Return how an attempt ends whose lease expired: the run is retried, has failed, or is canceled.

    The lost attempt counts. Where the outcome is ``retried``, a consumer that holds the run's message may start the
    next attempt at once instead, with ``rescued``.
    """
    lost = lost_attempt(expired.attempt + 1, expired.lease_until)
    text = error_text(lost)
    told = Told(text, type_name(lost), texts_of(attempt_message(lost), None), expired.log)
    failure = _failure(expired, AttemptEnding.WORKER_LOST, told, now_ms)
    if expired.cancel_requested:
        write = run_writes.cancel_expired(expired, token, now_ms=now_ms, failure=failure, expires_at=expires_at)
        return AttemptEnd(write, Outcome.CANCELED, told)
    due_ms = _next_attempt_at(expired, lost, job, now_ms)
    if due_ms is None:
        write = run_writes.fail_expired(expired, token, now_ms=now_ms, failure=failure, expires_at=expires_at)
        return AttemptEnd(write, Outcome.FAILED, told)
    write = run_writes.reschedule_expired(expired, token, now_ms=now_ms, due_ms=due_ms, failure=failure)
    return AttemptEnd(write, Outcome.RETRIED, told, due_ms)


def rescued(
    expired: StoredRun, token: str, end: AttemptEnd, *, now_ms: int, longest_ms: int, log: str | None
) -> Transition:
    """Return the write that takes a run over from a lost worker, whose attempt ended as ``end`` says."""
    failure = _failure(expired, AttemptEnding.WORKER_LOST, end.told, now_ms)
    return run_writes.rescue(expired, token, now_ms=now_ms, longest_ms=longest_ms, failure=failure, log=log)


def _failure(run: StoredRun, ended: AttemptEnding, told: Told, now_ms: int) -> Failure:
    return Failure(told.error, told.error_type, _attempts(run, ended, told, now_ms))


def _attempts(run: StoredRun, ended: AttemptEnding, told: Told, now_ms: int) -> str:
    return run.with_attempt(ended, now_ms=now_ms, error_type=told.error_type or None, log=told.log, texts=told.texts)


def expired_reason(claimed: StoredRun, expires_after_ms: int, *, now_ms: int) -> str | None:
    """Return why a run that has not started yet is too late to be of use, or ``None``.

    A run that its handler snoozed has started, although that attempt is not counted. Each wait for a consumer that has
    the handler gives a run another time; it was due when a handler was first missing. So does each wait for a rate.
    """
    earlier = [each for each in (claimed.no_handler_since, claimed.rate_since) if each is not None]
    due_ms = min([claimed.due_ms, *earlier])
    if claimed.has_started or now_ms <= due_ms + expires_after_ms:
        return None
    return (
        f"expired: it was due at {from_ms(due_ms).isoformat(timespec='seconds')}, and its job's runs are of "
        f"use for {expires_after_ms / 1000:g} s"
    )


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
