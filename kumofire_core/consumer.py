"""Consuming one message: claim the run, call its handler, record how the attempt ended.

This is the engine's main path. What each write is and when it applies is in ``transitions``; this module decides which
one is next. Free of boto3 and of the shape of SQS events.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from kumofire_core import jsontext, transitions
from kumofire_core.attempt import CallCutError, Threads, call_handler
from kumofire_core.context import (
    JobContext,
    enter_attempt,
    leave_attempt,
    log_fields,
)
from kumofire_core.deadline import Deadline
from kumofire_core.errors import (
    AttemptTimeoutError,
    DeadlineTooCloseError,
    InvalidJSONError,
    KumofireError,
    SealedError,
)
from kumofire_core.failure import error_places, error_text, lost_attempt, type_name
from kumofire_core.registry import Job
from kumofire_core.retry import next_attempt_at
from kumofire_core.run import FINAL, MAX_PAYLOAD_BYTES, RunStatus, StoredRun, fit_in_item, text_bytes
from kumofire_core.runs import Runs, new_token
from kumofire_core.table import Answer
from kumofire_core.times import duration_ms

if TYPE_CHECKING:
    from kumofire_core.together import EarlyClaim, Ends, Together

log = logging.getLogger("kumofire_core")

LONGEST_REQUEST_SECONDS = 15.0
"""What the four tries of a request by this package's clients may take, with the waits between."""


class Outcome(StrEnum):
    """What consuming a message came to."""

    IGNORED = "ignored"
    """Nothing was changed: no such run, or it is finished, not yet due, or leased by another consumer."""
    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    """The attempt failed, and the run waits for the next one."""
    FAILED = "failed"
    CANCELED = "canceled"
    """The attempt failed, and there is no next one because the run's cancellation had been asked for."""


class ConsumeResult(NamedTuple):
    """How one message was consumed. Results are equal when outcome and run are."""

    outcome: Outcome
    job_run_id: str
    job_name: str | None = None
    attempt: int | None = None
    """The number of the attempt, where a handler was called."""
    duration: timedelta | None = None
    """How long the handler took, where one was called."""
    reason: str | None = None
    """Why the message was ignored, or what the attempt failed with: the error's type, never its text."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConsumeResult) and self[:2] == other[:2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:2])


class Consumer:
    """Executes runs, one message at a time; safe to call from many threads."""

    def __init__(self, runs: Runs, *, lease: timedelta, batch_writes: bool) -> None:
        self._runs = runs
        self._lease_ms = duration_ms(lease)
        self._together: Together | None = None
        if batch_writes:  # else not imported: it would be paid for at every cold start
            from kumofire_core.together import Together

            self._together = Together(runs)
        self.threads = Threads()

    def claim_early(self, run_ids: Sequence[str], deadline: Deadline | None) -> dict[str, EarlyClaim]:
        """Try the claims of runs that are about to be consumed in one request, where that was asked for."""
        if self._together is None or not self._has_time_for_two(deadline):
            return {}
        return self._together.try_claims(run_ids, longest_ms=self._longest_ms(deadline))

    def consume(self, run_id: str, deadline: Deadline | None, early: EarlyClaim | None = None) -> ConsumeResult:
        """Execute a run if it is due and nobody else does; two requests to the table, or one when it is ignored.

        A takeover from a lost worker costs one more. Errors of the table leave as botocore raised them, also after the
        handler returned: the run then stays leased, and is taken over when its lease ends. Raises
        ``DeadlineTooCloseError``, with nothing claimed, where there is too little time to start. ``early`` is what an
        earlier try to claim this run came to.
        """
        claimed: StoredRun | ConsumeResult
        if early is not None and early.claimed is not None:
            claimed, ends = early.claimed, early.ends
        else:
            if deadline is not None and deadline.too_close_to_start():
                raise DeadlineTooCloseError(deadline.seconds_left())
            claimed, ends = self._claim(run_id, deadline, new_token() if early is None else early.token), None
            if isinstance(claimed, ConsumeResult):
                return claimed
        token = enter_attempt(claimed)
        try:
            return self._attempt(claimed, deadline, ends)
        finally:
            leave_attempt(token)
            if ends is not None:
                ends.leave(run_id)

    @staticmethod
    def _has_time_for_two(deadline: Deadline | None) -> bool:
        """Say whether a request for many may hang for as long as one can, and the ordinary ones still be made."""
        return deadline is None or deadline.seconds_left() > LONGEST_REQUEST_SECONDS + 2 * deadline.reserve

    def _longest_ms(self, deadline: Deadline | None) -> int:
        return self._lease_ms if deadline is None else max(0, int(deadline.seconds_left() * 1000))

    def _claim(self, run_id: str, deadline: Deadline | None, token: str) -> StoredRun | ConsumeResult:
        now_ms, longest_ms = self._runs.now_ms(), self._longest_ms(deadline)
        # A run's own timeout may only make the lease shorter than the process lives, and DynamoDB has no minimum.
        heeds_timeout = deadline is None or self._runs.registry.has_timeouts_within(longest_ms)
        claim = transitions.claim(token, now_ms=now_ms, longest_ms=longest_ms, heeds_timeout=heeds_timeout)
        answer = self._runs.apply(run_id, claim, read_back=True)
        if answer.item is None:
            return _ignored(run_id, "no such run")
        found = self._runs.read(run_id, answer.item)
        if answer.applied:
            return found
        if found.status is not RunStatus.RUNNING:
            return _ignored(run_id, found.status if found.status in FINAL else "not yet due", found)
        if found.lease_until is None or found.lease_until > now_ms:
            return _ignored(run_id, "leased", found)
        if found.timeout_ms is not None:
            longest_ms = found.timeout_ms if deadline is None else min(longest_ms, found.timeout_ms)
        return self._take_over(found, token, now_ms=now_ms, longest_ms=longest_ms)

    def _take_over(self, expired: StoredRun, token: str, *, now_ms: int, longest_ms: int) -> StoredRun | ConsumeResult:
        """Take a run from a worker that was lost, or end it where that was its last attempt or it is to be canceled."""
        lost = lost_attempt(expired.attempt + 1, expired.lease_until)
        error = error_text(lost)
        last = next_attempt_at(self._runs.registry.policy(expired.job_name), expired.run, lost, now_ms=now_ms) is None
        if expired.cancel_requested or last:
            ended = RunStatus.CANCELED if expired.cancel_requested else RunStatus.FAILED
            make = transitions.cancel_expired if expired.cancel_requested else transitions.fail_expired
            end = make(expired, token, now_ms=now_ms, error=error, expires_at=self._runs.expires_at(now_ms))
            if not self._runs.apply(expired.id, end).applied:
                return _ignored(expired.id, "taken over by another consumer", expired)
            log.error("the worker of a run was lost; the run ended %s", ended, extra=log_fields(expired))
            return ConsumeResult(
                outcome=Outcome(ended), job_run_id=expired.id, job_name=expired.job_name, reason=type(lost).__name__
            )
        take = transitions.take_over(expired, token, now_ms=now_ms, longest_ms=longest_ms, error=error)
        answer = self._runs.apply(expired.id, take, read_back=True)
        if not answer.applied or answer.item is None:
            return _ignored(expired.id, "taken over by another consumer", expired)
        log.warning("the worker of a run was lost; taking the run over", extra=log_fields(expired))
        return self._runs.read(expired.id, answer.item)

    def _attempt(self, claimed: StoredRun, deadline: Deadline | None, ends: Ends | None) -> ConsumeResult:
        job = self._runs.registry.get(claimed.job_name)
        if job is None:
            return self._refuse(claimed, f'Missing handler for job "{claimed.job_name}"', "missing handler")
        if claimed.attempt >= claimed.max_attempts:
            # Its job's limit was lowered after its creator had left the limit to the job.
            return self._refuse(
                claimed, f"no attempts left: {claimed.attempt} of {claimed.max_attempts}", "no attempts left"
            )
        try:
            claimed = self._runs.opened(claimed, required=True)
        except SealedError as error:  # the key may be out of reach for a while only
            return self._give_back(claimed, error)
        begun = time.monotonic()
        try:
            output = self._call(job, claimed, deadline)
        except _NoTimeLeft as late:
            return self._give_back(claimed, DeadlineTooCloseError(late.seconds_left))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # a person ends this process; the lease will end, too
            return self._failed(claimed, job, error, timedelta(0, time.monotonic() - begun))
        taken = timedelta(0, time.monotonic() - begun)
        if output is not None:
            output = self._runs.sealed_output(claimed.id, output)  # its errors are not the handler's
            if not fit_in_item(claimed.payload_text, output):
                room, size = MAX_PAYLOAD_BYTES - text_bytes(claimed.payload_text), text_bytes(output)
                too_large = InvalidJSONError(
                    f"the handler's return value has {size} bytes as it would be stored; beside its payload there is "
                    f"room for {room} (DynamoDB's item limit); store it elsewhere and return a reference"
                )
                return self._failed(claimed, job, too_large, taken)
        now_ms = self._runs.now_ms()
        done = transitions.succeed(claimed, now_ms=now_ms, output=output, expires_at=self._runs.expires_at(now_ms))
        recorded = ends is not None and self._has_time_for_two(deadline) and ends.record(claimed.id, done)
        if not recorded and not self._runs.apply(claimed.id, done).applied:
            return self._lost_lease(claimed, taken)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("run succeeded", extra=log_fields(claimed))
        return _result(Outcome.SUCCEEDED, claimed, taken)

    def _call(self, job: Job, claimed: StoredRun, deadline: Deadline | None) -> str | None:
        """Call the handler within its time and return its output as JSON text."""
        timeout_ms = _least(job.timeout_ms, claimed.timeout_ms)
        timeout = None if timeout_ms is None else timeout_ms / 1000
        limit = _least(timeout, None if deadline is None else deadline.seconds_to_run())
        lease_ms = (claimed.lease_until or 0) - self._runs.now_ms()
        lease_left = (lease_ms - transitions.CLOCK_SKEW_MS) / 1000
        if lease_left <= 0 or (limit is not None and limit <= 0):
            raise _NoTimeLeft(lease_left if limit is None else min(limit, lease_left))
        if limit is not None:
            # The reply to the claim may have come late, or Lambda may have frozen the process meanwhile: the lease went
            # on by the clock on the wall, which the monotonic one does not know of.
            limit = min(limit, lease_left)
        context = JobContext(
            claimed,
            read_cancellation=self._runs.cancel_requested,
            ends=time.monotonic() + ((lease_ms - transitions.LEASE_MARGIN_MS) / 1000 if limit is None else limit),
        )
        if limit is None:
            value = contextvars.copy_context().run(call_handler, job.handler, context, self.threads)
        else:
            try:
                value = self.threads.run(partial(call_handler, job.handler, context, self.threads), seconds=limit)
            except CallCutError:
                why = "its process was near its deadline" if deadline is not None else "its lease was about to end"
                raise AttemptTimeoutError(_cut_text(context.attempt, limit, timeout, why)) from None
        if value is None:
            return None
        return jsontext.encode("the handler's return value", value)

    def _failed(self, claimed: StoredRun, job: Job, error: BaseException, taken: timedelta) -> ConsumeResult:
        """Record an attempt that raised: the run waits for the next one, or has failed, or was to be canceled."""
        now_ms = self._runs.now_ms()
        text, kind = error_text(error), type_name(error)
        expires_at = self._runs.expires_at(now_ms)
        due_ms = next_attempt_at(job.retry, claimed.run, error, now_ms=now_ms)
        if due_ms is None:
            outcome = Outcome.FAILED
            end = transitions.fail(claimed, now_ms=now_ms, error=text, expires_at=expires_at)
        else:
            outcome = Outcome.RETRIED
            end = transitions.reschedule(claimed, now_ms=now_ms, due_ms=due_ms, error=text)
        answer = self._runs.apply(claimed.id, end)
        if not answer.applied and _cancellation_came_between(claimed, answer):
            outcome = Outcome.CANCELED
            end = transitions.cancel_attempt(claimed, now_ms=now_ms, error=text, expires_at=expires_at)
            answer = self._runs.apply(claimed.id, end)
        if not answer.applied:
            return self._lost_lease(claimed, taken)
        # The error's own text may quote the payload: it is in the table, for those who may read it.
        log.warning(
            "attempt failed with %s; the run is %s",
            kind,
            end.target,
            extra={**log_fields(claimed), "error_type": kind, "error_at": error_places(error)},
        )
        if outcome is Outcome.RETRIED and due_ms is not None:
            self._runs.send_waiting(claimed.id, due_ms=due_ms, now_ms=now_ms)
        return _result(outcome, claimed, taken, reason=kind)

    def _give_back(self, claimed: StoredRun, error: KumofireError) -> ConsumeResult:
        """Put a run back whose handler can't be called now, and raise ``error``, so that its message comes again.

        No attempt was made, so none is counted.
        """
        answer = self._runs.apply(claimed.id, transitions.give_back(claimed, now_ms=self._runs.now_ms()))
        if not answer.applied:
            return self._unattempted(claimed, answer)
        raise error

    def _refuse(self, claimed: StoredRun, error: str, reason: str) -> ConsumeResult:
        """Fail a run that can't be attempted."""
        now_ms = self._runs.now_ms()
        end = transitions.fail_unattempted(
            claimed, now_ms=now_ms, error=error, expires_at=self._runs.expires_at(now_ms)
        )
        answer = self._runs.apply(claimed.id, end)
        if not answer.applied:
            return self._unattempted(claimed, answer)
        log.error("the run failed without an attempt: %s", reason, extra=log_fields(claimed))
        return ConsumeResult(outcome=Outcome.FAILED, job_run_id=claimed.id, job_name=claimed.job_name, reason=reason)

    def _unattempted(self, claimed: StoredRun, refusal: Answer) -> ConsumeResult:
        """Cancel a run whose handler was not called, where its cancellation is why something else was refused."""
        now_ms = self._runs.now_ms()
        end = transitions.cancel_unattempted(claimed, now_ms=now_ms, expires_at=self._runs.expires_at(now_ms))
        if not _cancellation_came_between(claimed, refusal) or not self._runs.apply(claimed.id, end).applied:
            return self._lost_lease(claimed, None)
        reason = "canceled before its attempt"
        return ConsumeResult(outcome=Outcome.CANCELED, job_run_id=claimed.id, job_name=claimed.job_name, reason=reason)

    def _lost_lease(self, run: StoredRun, taken: timedelta | None) -> ConsumeResult:
        log.warning("lost the lease before the end of the attempt; nothing of it is recorded", extra=log_fields(run))
        return ConsumeResult(
            outcome=Outcome.IGNORED,
            job_run_id=run.id,
            job_name=run.job_name,
            attempt=None if taken is None else run.attempt + 1,
            duration=taken,
            reason="lost its lease",
        )


class _NoTimeLeft(Exception):
    """The handler was not called, because its attempt's time was over before it began."""

    def __init__(self, seconds_left: float) -> None:
        super().__init__()
        self.seconds_left = seconds_left


def _least(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _cancellation_came_between(claimed: StoredRun, answer: Answer) -> bool:
    """Say whether the write was refused for a cancellation alone: the lease is still ours."""
    found = answer.item
    return found is not None and found.get("lease_token") == claimed.lease_token and "cancel_requested_at" in found


def _ignored(run_id: str, reason: str, run: StoredRun | None = None) -> ConsumeResult:
    log.debug("message ignored: %s", reason, extra={"job_run_id": run_id})
    name = None if run is None else run.job_name
    return ConsumeResult(outcome=Outcome.IGNORED, job_run_id=run_id, job_name=name, reason=reason)


def _result(outcome: Outcome, run: StoredRun, taken: timedelta | None, reason: str | None = None) -> ConsumeResult:
    return ConsumeResult(outcome, run.id, run.job_name, run.attempt + 1, taken, reason)


def _cut_text(attempt: int, limit: float, timeout: float | None, why: str) -> str:
    if timeout is not None and limit == timeout:
        return f"attempt {attempt} overran its job's timeout of {timeout:g} s and was cut"
    return f"attempt {attempt} overran: cut after {limit:.1f} s, because {why}"
