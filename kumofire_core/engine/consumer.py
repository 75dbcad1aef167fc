"""Consuming one message: claim the run, call its handler, record how the attempt ended.

This is the engine's main path. ``rules.decisions`` says what follows a failure, a lost worker or a refused claim, and
``rules.run_writes`` what each of these writes is.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core.aws.dynamodb import Answer
from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine.pause_reader import PauseReader
from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.errors import (
    AttemptTimeoutError,
    DeadlineTooCloseError,
    DecryptionError,
    InvalidJSONError,
    InvalidPayloadError,
    LargeValueError,
)
from kumofire_core.handlers.context import (
    AttemptSteps,
    JobContext,
    Suspension,
    ToldProgress,
    enter_attempt,
    leave_attempt,
    log_fields,
)
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.handlers.handler_pool import AttemptCutError, HandlerPool, HandlerTimeoutError, call_handler
from kumofire_core.handlers.registry import Job
from kumofire_core.model import json_codec
from kumofire_core.model.error_text import error_causes, error_places, forget_frames
from kumofire_core.model.run import FINAL, Outcome, RunStatus
from kumofire_core.model.run_item import MAX_PAYLOAD_BYTES, StoredRun, fit_in_item, is_apart
from kumofire_core.model.steering import Cancel, Snooze
from kumofire_core.model.times import duration_ms, whole_seconds_until
from kumofire_core.model.write import text_bytes
from kumofire_core.rules import decisions, run_writes

if TYPE_CHECKING:
    from kumofire_core.aws.sqs import Queue
    from kumofire_core.engine.attempt_progress import AttemptProgress, ProgressWriter
    from kumofire_core.engine.batch_writes import BatchClaim, BatchCompleter, BatchWriter
    from kumofire_core.engine.hooks import Hooks
    from kumofire_core.engine.limits import Slots
    from kumofire_core.engine.renewal import HeldAttempt, Renewal
    from kumofire_core.engine.steps import Steps
    from kumofire_core.model.batch import Batch
    from kumofire_core.rules.limits import Beat

HIDDEN_IN_TRACEBACKS = True

log = logging.getLogger("kumofire_core")

MISSING_HANDLER = "missing handler"
EXPIRED = "expired"
PAUSED = "paused"
UNFIT = "payload does not fit"
LIMITED = "limited"
MOMENTS_TRIED = 5
"""How many moments a run reserves in one go, where it comes too late for each."""
UNREADABLE_PAYLOAD = "unreadable payload"

LONG_WAIT_MS = 10 * 24 * 60 * 60_000
"""Before a run waits for longer, what it has kept is given more time."""

LONGEST_REQUEST_SECONDS = 15.0
"""What the four tries of a request by this package's clients may take, with the waits between."""


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
    early_seconds: int | None = None
    """How many seconds before its run is due the message came, by this process's clock, where that is why it was
    ignored."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConsumeResult) and self[:2] == other[:2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:2])


class Consumer:
    """Executes runs, one message at a time; safe to call from many threads."""

    def __init__(self, store: RunStore, *, lease: timedelta, batch_writes: bool, missing_handler: str) -> None:
        self._store = store
        self._pauses = PauseReader(store)
        self._awaits_handlers = missing_handler == "retry"
        self._lease_ms = duration_ms(lease)
        self._batch_writer: BatchWriter | None = None
        if batch_writes:  # imported only then, because every cold start would pay for it
            from kumofire_core.engine.batch_writes import BatchWriter

            self._batch_writer = BatchWriter(store)
        self.pool = HandlerPool()
        self.sleeps_for_rates = True
        """Whether an attempt that may start within two seconds, by the rate of its job, waits for that here."""
        self.renewal: Renewal | None = None
        """How attempts without a deadline keep their leases, in a worker."""
        self._busy_rates: dict[str, bool] = {}
        self._progress_lock = threading.Lock()
        self._progress_writer: ProgressWriter | None = None

    @property
    def queue(self) -> Queue:
        """The queue that messages come from and go to."""
        return self._store.queue

    @property
    def hooks(self) -> Hooks | None:
        """Who is told what happens to runs, where anybody is."""
        return self._store.hooks

    def claim_early(self, run_ids: Sequence[str], deadline: Deadline | None) -> dict[str, BatchClaim]:
        """Try the claims of runs that are about to be consumed in one request, where that was asked for."""
        if self._batch_writer is None or self.renewal is not None or not self._has_time_for_two(deadline):
            return {}
        return self._batch_writer.try_claims(run_ids, longest_ms=self._longest_ms(deadline), logged=_log(deadline))

    def consume(self, run_id: str, deadline: Deadline | None, early: BatchClaim | None = None) -> ConsumeResult:
        """Execute a run if it is due and nobody else does; two requests to the table, or one when it is ignored.

        A takeover from a lost worker costs one more. The first call of a process, and then one in 15 seconds, also
        reads which jobs are paused; a run of such a job is put aside by its second request. Errors of the table leave
        as botocore raised them, also after the handler returned: the run then stays leased, and is taken over when its
        lease ends. Raises ``DeadlineTooCloseError``, with nothing claimed, where there is too little time to start.
        ``early`` is what an earlier try to claim this run came to.
        """
        if deadline is None or not deadline.too_close_to_start():
            self._pauses.refresh()
        claimed: StoredRun | ConsumeResult
        if early is not None and early.claimed is not None:
            claimed, completer = early.claimed, early.completer
        else:
            if deadline is not None and deadline.too_close_to_start():
                raise DeadlineTooCloseError(deadline.seconds_left())
            claimed, completer = self._claim(run_id, deadline, new_token() if early is None else early.token), None
            if isinstance(claimed, ConsumeResult):
                return claimed
        token = enter_attempt(claimed)
        try:
            return self._attempt(claimed, deadline, completer)
        finally:
            leave_attempt(token)
            if completer is not None:
                completer.leave(run_id)

    @staticmethod
    def _has_time_for_two(deadline: Deadline | None) -> bool:
        """Say whether a request for many may hang for as long as one can, and the ordinary ones still be made."""
        return deadline is None or deadline.seconds_left() > LONGEST_REQUEST_SECONDS + 2 * deadline.reserve

    def _longest_ms(self, deadline: Deadline | None) -> int:
        if deadline is None:
            return self._lease_ms if self.renewal is None else self.renewal.lease_ms
        return max(0, int(deadline.seconds_left() * 1000))

    def _renewed(self, deadline: Deadline | None) -> Renewal | None:
        """Return what renews the leases of attempts that begin now, where they are renewed."""
        return self.renewal if deadline is None else None

    def _claim(self, run_id: str, deadline: Deadline | None, token: str) -> StoredRun | ConsumeResult:
        now_ms, longest_ms = self._store.now_ms(), self._longest_ms(deadline)
        # A run's own timeout may only make the lease shorter than the process lives, and DynamoDB has no minimum.
        heeds_timeout = self._renewed(deadline) is None and (
            deadline is None or self._store.registry.has_timeouts_within(longest_ms)
        )
        claim = run_writes.claim(
            token, now_ms=now_ms, longest_ms=longest_ms, heeds_timeout=heeds_timeout, log=_log(deadline)
        )
        answer = self._store.apply(run_id, claim, read_back=True)
        if answer.item is None:
            return _ignored(run_id, "no such run")
        # A claimed run whose payload can't be read is not left to its lease: ``_attempt`` fails it.
        found = self._store.read(run_id, answer.item, payload_required=False)
        if answer.applied:
            return found
        reason = decisions.claim_refused(found, now_ms=now_ms)
        if reason is not None:
            ignored = _ignored(run_id, reason, found)
            if found.limited and found.status in FINAL:
                from kumofire_core.engine.limits import Line

                Line(self._store).collect(found)
            if found.status not in (RunStatus.QUEUED, RunStatus.SCHEDULED):
                return ignored
            return ignored._replace(early_seconds=whole_seconds_until(found.due_ms, now_ms))
        if found.timeout_ms is not None and self._renewed(deadline) is None:
            longest_ms = found.timeout_ms if deadline is None else min(longest_ms, found.timeout_ms)
        return self._rescue(found, token, now_ms=now_ms, longest_ms=longest_ms, logged=_log(deadline))

    def _rescue(
        self, expired: StoredRun, token: str, *, now_ms: int, longest_ms: int, logged: str | None
    ) -> StoredRun | ConsumeResult:
        """Take a run over from a lost worker, or end it where that was its last attempt or it is to be canceled."""
        rules = self._store.registry.rules(expired.job_name)
        expires_at = self._store.expires_at(now_ms)
        end = decisions.after_lost_worker(expired, token, rules, now_ms=now_ms, expires_at=expires_at)
        if end.outcome is not Outcome.RETRIED:
            if not self._store.apply(expired.id, end.write).applied:
                return _ignored(expired.id, "taken over by another consumer", expired)
            log.error(
                "the worker of a run was lost; the run ended %s",
                end.outcome,
                extra={**log_fields(expired), **_end_fields(end)},
            )
            self._store.ended(expired, end.write.target)
            self._store.tell(end.outcome, expired, end.write, attempt=expired.attempt + 1, error_type=end.error_type)
            return ConsumeResult(
                outcome=end.outcome, job_run_id=expired.id, job_name=expired.job_name, reason=end.error_type
            )
        rescue = decisions.rescued(expired, token, end, now_ms=now_ms, longest_ms=longest_ms, log=logged)
        answer = self._store.apply(expired.id, rescue, read_back=True)
        if not answer.applied or answer.item is None:
            return _ignored(expired.id, "taken over by another consumer", expired)
        log.warning("the worker of a run was lost; taking the run over", extra=log_fields(expired))
        found = self._store.read(expired.id, answer.item, payload_required=False)
        self._store.tell(Outcome.RETRIED, found, attempt=expired.attempt + 1, error_type=end.error_type)
        return found

    def _attempt(
        self, claimed: StoredRun, deadline: Deadline | None, completer: BatchCompleter | None
    ) -> ConsumeResult:
        job = self._store.registry.get(claimed.job_name)
        if not claimed.limited and (job is None or not (job.concurrency or job.rate)):
            return self._prepared(claimed, deadline, completer, None)
        from kumofire_core.engine.limits import Slots  # other jobs do not pay for its import

        slots = Slots(self._store, claimed)
        try:
            return self._prepared(claimed, deadline, completer, slots)
        finally:
            slots.leave()

    def _prepared(
        self, claimed: StoredRun, deadline: Deadline | None, completer: BatchCompleter | None, slots: Slots | None
    ) -> ConsumeResult:
        """Execute a claimed run, unless something is in the way of it."""
        if self._pauses.is_paused(claimed.job_name):
            return self._put_aside(claimed)
        job = self._store.registry.get(claimed.job_name)
        if job is None:
            return self._without_handler(claimed)
        if (refusal := decisions.not_attemptable(claimed)) is not None:
            return self._refuse(claimed, *refusal)
        if (too_late := self._too_late(claimed, job)) is not None:
            return self._expire(claimed, too_late)
        try:
            if is_apart(claimed.payload_text):
                claimed = self._load(claimed, deadline)
                if (too_late := self._too_late(claimed, job)) is not None:  # by the time that this took
                    return self._expire(claimed, too_late)
            else:
                claimed = self._store.decrypted(claimed, required=True)
        except LargeValueError as error:
            if error.permanent:
                return self._refuse(claimed, f"{error}; restore the object and retry the run", UNREADABLE_PAYLOAD)
            return self._release(claimed, error)
        except (DecryptionError, DeadlineTooCloseError, *AWS_ERRORS) as error:
            return self._release(claimed, error)  # key or bucket may be out of reach for a while only
        if claimed.callback_of is not None:
            self._require_batch_done(claimed)
        if slots is not None and (waits := self._take_slots(job, claimed, deadline, slots)) is not None:
            return waits
        begun = time.monotonic()
        try:
            output = self._call(job, claimed, deadline)
        except _UnfitPayload as unfit:
            # What its problems are can quote the payload.
            return self._refuse(claimed, str(unfit.error) if self._store.cipher is None else unfit.error.summary, UNFIT)
        except _KeyOutOfReach as late:
            return self._release(claimed, late.error)
        except _NoTimeLeft as late:
            return self._release(claimed, DeadlineTooCloseError(late.seconds_left))
        except _LeaseLost:
            return self._lost_lease(claimed, timedelta(0, time.monotonic() - begun))
        except Suspension as suspension:
            result = self._suspended(claimed, suspension, timedelta(0, time.monotonic() - begun))
            forget_frames(suspension)
            return result
        except _UnusableOutput as unusable:
            return self._unusable(claimed, unusable.error, timedelta(0, time.monotonic() - begun), deadline)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # a person ends this process; the lease will end, too
            result = self._failed(claimed, job, error, timedelta(0, time.monotonic() - begun), deadline)
            if self.hooks is None or not self.hooks.holds(error):
                forget_frames(error)  # a handler's local variables must not wait for the garbage collector
            return result
        return self._succeeded(claimed, output, timedelta(0, time.monotonic() - begun), deadline, completer)

    def _take_slots(
        self, job: Job, claimed: StoredRun, deadline: Deadline | None, slots: Slots
    ) -> ConsumeResult | None:
        """Take the slots that a run needs; where it has to wait for one, put it aside and say so."""
        slots.know(claimed)
        try:
            wanted = slots.wanted(job)
            beat = None if job.rate is None else slots.beat(job)
        except Exception as error:  # of a key, which is the application's
            return self._failed(claimed, job, error, timedelta(0), deadline)
        try:
            turn = slots.take(wanted)
            if turn is None:
                return None if beat is None else self._await_moment(claimed, deadline, beat)
        except AWS_ERRORS as error:
            return self._release(claimed, error)
        answer = self._store.apply(claimed.id, slots.write_of(turn))
        if not answer.applied:
            return self._unattempted(claimed, answer)
        slots.waits(turn)
        log.debug("the run waits for a slot of its limit", extra=log_fields(claimed))
        return ConsumeResult(Outcome.IGNORED, claimed.id, claimed.job_name, reason=LIMITED)

    def _await_moment(self, claimed: StoredRun, deadline: Deadline | None, beat: Beat) -> ConsumeResult | None:
        """Wait until a run may start by its job's rate; where that is not soon, put it back and say so."""
        from kumofire_core.engine.rates import EARLY_MS, MOST_WAIT_US, Moments

        moments = Moments(self._store, claimed, beat, self._busy_rates)
        longest_us = MOST_WAIT_US if self.sleeps_for_rates else 0
        most_us = longest_us if deadline is None else min(longest_us, int(deadline.seconds_to_run() * 500_000))
        for _ in range(MOMENTS_TRIED):
            left_us = moments.microseconds_left()
            if left_us > most_us:
                break
            time.sleep(left_us / 1e6)
            if not moments.is_missed():
                return None
        write, due_ms = moments.write_of(claimed, early_ms=EARLY_MS if self.sleeps_for_rates else 0)
        answer = self._store.apply(claimed.id, write)
        if not answer.applied:
            return self._unattempted(claimed, answer)
        log.debug("the run waits for its moment, by the rate of its job", extra=log_fields(claimed))
        self._store.send_waiting(claimed.id, due_ms=due_ms, now_ms=self._store.now_ms(), group=claimed.group)
        return ConsumeResult(Outcome.IGNORED, claimed.id, claimed.job_name, reason=LIMITED)

    def _too_late(self, claimed: StoredRun, job: Job) -> str | None:
        """Return why a run is too late to be of use, or ``None``."""
        if job.expires_after_ms is None:
            return None
        return decisions.expired_reason(claimed, job.expires_after_ms, now_ms=self._store.now_ms())

    def _load(self, claimed: StoredRun, deadline: Deadline | None) -> StoredRun:
        """Return a run with its payload from S3, as ``RunStore.decrypted`` does, before the process's deadline."""
        load = partial(self._store.decrypted, claimed, required=True)
        if deadline is None:
            return load()
        loaded, found = self._in_time(load, deadline.seconds_to_run())
        if not loaded:
            raise DeadlineTooCloseError(deadline.seconds_left())
        stored: StoredRun = found
        return stored

    def _in_time(self, call: Callable[[], Any], seconds: float) -> tuple[bool, Any]:
        """Make a call that may hang in another thread; return whether it ended in this time, and its result."""
        try:
            under_way = self.pool.start(call)
        except RuntimeError:  # the process may have no more threads
            return True, call()
        return (True, under_way.result()) if under_way.wait(max(0.0, seconds)) else (False, None)

    def _output_apart(self, claimed: StoredRun, output: str, deadline: Deadline | None) -> str:
        """Return what the item holds for a large output: where in S3 it is, or itself where S3 can't be reached.

        Its errors are not the handler's: where the item has no room for the output, they leave the run leased.
        """
        put = partial(self._store.large_values.put, claimed.id, "output", output)
        if deadline is None or not fit_in_item(claimed.payload_text, output):
            return put()
        done, stored = self._in_time(put, deadline.seconds_left() - deadline.reserve * 3 / 4)
        if done:
            return str(stored)
        log.warning("S3 did not take an output in time; it is stored in the table", extra=log_fields(claimed))
        return output

    def _succeeded(
        self,
        claimed: StoredRun,
        output: str | None,
        taken: timedelta,
        deadline: Deadline | None,
        completer: BatchCompleter | None,
    ) -> ConsumeResult:
        """Record what a handler returned; an output that is too large to be stored fails the run."""
        if output is not None:
            output = self._store.encrypted_output(claimed.id, output)  # its errors are not the handler's
            if self._store.is_large_output(output):
                try:
                    output = self._output_apart(claimed, output, deadline)
                except InvalidJSONError as too_large:
                    return self._unusable(claimed, too_large, taken, deadline)
            if not fit_in_item(claimed.payload_text, output):
                return self._unusable(claimed, _output_too_large(claimed, output), taken, deadline)
        now_ms = self._store.now_ms()
        done = run_writes.succeed(
            claimed,
            now_ms=now_ms,
            output=output,
            expires_at=self._store.expires_at(now_ms),
            lists=self._store.list_succeeded,
        )
        recorded = completer is not None and self._has_time_for_two(deadline) and completer.record(claimed.id, done)
        if not recorded:
            answer = self._store.apply(claimed.id, done)
            if not answer.applied:
                self._store.discard(output, certain=answer.sent_once and completer is None)
                return self._lost_lease(claimed, taken)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("run succeeded", extra=log_fields(claimed))
        self._store.ended(claimed, RunStatus.SUCCEEDED)
        self._store.tell(Outcome.SUCCEEDED, claimed, done, attempt=claimed.attempt + 1)
        return _result(Outcome.SUCCEEDED, claimed, taken)

    def _call(self, job: Job, claimed: StoredRun, deadline: Deadline | None) -> str | None:
        """Call the handler within its time and return its output as JSON text."""
        timeout_ms = _least(job.timeout_ms, claimed.timeout_ms)
        timeout = None if timeout_ms is None else timeout_ms / 1000
        limit = _least(timeout, None if deadline is None else deadline.seconds_to_run())
        lease_ms = (claimed.lease_until or 0) - self._store.now_ms()
        lease_left = (lease_ms - run_writes.CLOCK_SKEW_MS) / 1000
        if lease_left <= 0 or (limit is not None and limit <= 0):
            raise _NoTimeLeft(lease_left if limit is None else min(limit, lease_left))
        renewal, held = self._renewed(deadline), None
        if renewal is not None:
            held = self._held(renewal, claimed)
        elif limit is not None:
            # The reply to the claim may have come late, or Lambda may have frozen the process meanwhile: the lease went
            # on by the clock on the wall, which the monotonic one does not know of.
            limit = min(limit, lease_left)
        progress = ToldProgress(partial(self._progress_of, claimed))
        # Until when steps are executed here: a job's own timeout limits one invocation, and no process.
        seconds = (lease_left if timeout is None else None) if deadline is None else deadline.seconds_to_run()
        began = time.monotonic()
        ends = began + ((lease_ms - run_writes.LEASE_MARGIN_MS) / 1000 if limit is None else limit)
        if held is not None:
            seconds, ends = None, inf if limit is None else ends
        stops = None if held is None else held.stops
        steps = AttemptSteps(partial(self._steps_of, claimed, seconds, began, ends, threading.get_ident(), stops))
        context = JobContext(
            claimed,
            read_cancellation=self._store.cancel_requested,
            tell_progress=progress.tell,
            read_batch=partial(self._batch_of, claimed),
            steps=steps,
            ends=ends,
            stops=stops,
        )
        call = partial(call_handler if job.payload_type is None else partial(_call_typed, job), job.handler, context)
        try:
            if held is not None:
                value = held.run(call, seconds=limit)
            else:
                value = contextvars.copy_context().run(call) if limit is None else self.pool.run(call, seconds=limit)
        except AttemptCutError as cut:
            raise self._interrupted(claimed, cut, steps) from None
        except HandlerTimeoutError:
            if (ending := steps.end()) is not None:
                raise self._left_by(None, ending, claimed) from None
            why = "its process was near its deadline" if deadline is not None else "its lease was about to end"
            raise AttemptTimeoutError(_cut_text(context.attempt, limit or 0.0, timeout, why)) from None
        except BaseException as error:
            if (ending := steps.end()) is None or ending is error:
                raise
            value = self._left_by(error, ending, claimed)
        else:
            value = value if (ending := steps.end()) is None else self._left_by(None, ending, claimed)
        finally:
            progress.end()
        if ending is not None:
            raise value
        if value is None:
            return None
        try:
            return json_codec.encode("the handler's return value", value)
        except InvalidJSONError as error:
            refusal = error
        try:
            typed = self._store.registry.typed_output(job.name, value)
            return json_codec.encode("the handler's return value", typed)
        except InvalidJSONError:
            raise _UnusableOutput(refusal) from None

    def _held(self, renewal: Renewal, claimed: StoredRun) -> HeldAttempt:
        """Return what executes an attempt whose lease is renewed."""
        from kumofire_core.engine.renewal import HeldAttempt

        return HeldAttempt(renewal, self._store, self.pool, claimed)

    def _interrupted(self, claimed: StoredRun, cut: AttemptCutError, steps: AttemptSteps) -> BaseException:
        """Return as what an attempt ends that was cut although it had time left: no failure of its handler."""
        from kumofire_core.engine.renewal import INTERRUPTED_WAIT_MS, LOST

        ending = steps.end()
        if cut.why == LOST:
            return _LeaseLost()
        if ending is not None:
            return self._left_by(None, ending, claimed)
        return Suspension(cut.why, self._store.now_ms() + INTERRUPTED_WAIT_MS)

    def _steps_of(
        self,
        claimed: StoredRun,
        seconds: float | None,
        began: float,
        ends: float,
        thread: int,
        stops: Callable[[], bool] | None,
    ) -> Steps:
        """Return what keeps the steps of an attempt. A handler without steps does not pay for its import."""
        from kumofire_core.engine.steps import Steps

        return Steps(
            self._store, self.pool, claimed, seconds=seconds, began=began, ends=ends, thread=thread, stops=stops
        )

    @staticmethod
    def _left_by(error: BaseException | None, ending: BaseException, claimed: StoredRun) -> BaseException:
        """Return as what an attempt ends that its steps have ended, whatever its handler has made of that."""
        from kumofire_core.engine.suspending import left_by

        decided = left_by(error, ending, claimed)
        return _KeyOutOfReach(decided) if decided is ending and isinstance(decided, DecryptionError) else decided

    def _suspended(self, claimed: StoredRun, suspension: Suspension, taken: timedelta) -> ConsumeResult:
        """Put a run back that waits, sleeps or goes on in another invocation. No attempt is counted."""
        from kumofire_core.engine.suspending import suspend

        suspended = suspend(self._store, claimed, suspension)
        if suspended is None:
            return self._lost_lease(claimed, taken)
        if suspended.outcome is Outcome.CANCELED:
            self._store.ended(claimed, RunStatus.CANCELED)
            self._store.tell(Outcome.CANCELED, claimed, suspended.write)
        return _result(suspended.outcome, claimed, taken, reason=suspension.reason)

    def _progress_of(self, claimed: StoredRun) -> AttemptProgress:
        """Return what writes the progress of an attempt. A handler that tells none does not pay for its import."""
        from kumofire_core.engine.attempt_progress import AttemptProgress, ProgressWriter

        with self._progress_lock:
            if self._progress_writer is None:
                self._progress_writer = ProgressWriter(self._store, self.pool)
        return AttemptProgress(self._progress_writer, claimed)

    def _batch_of(self, claimed: StoredRun) -> Batch | None:
        """Return the batch that a callback follows."""
        from kumofire_core.engine.batch_marks import public_batch

        return None if claimed.callback_of is None else public_batch(self._store, claimed.callback_of)

    def _failed(
        self, claimed: StoredRun, job: Job, error: BaseException, taken: timedelta, deadline: Deadline | None
    ) -> ConsumeResult:
        """Record an attempt that raised: the run waits for the next one, or has failed, or is canceled."""
        told = self._told(claimed, error, deadline)
        now_ms = self._store.now_ms()
        expires_at = self._store.expires_at(now_ms)
        end = decisions.after_failure(claimed, error, told, job, now_ms=now_ms, expires_at=expires_at)
        return self._unsuccessful(claimed, end, error, taken)

    def _unusable(
        self, claimed: StoredRun, error: InvalidJSONError, taken: timedelta, deadline: Deadline | None
    ) -> ConsumeResult:
        """Record an attempt whose return value can't be stored: its run has failed, or was to be canceled."""
        told = self._told(claimed, error, deadline)
        now_ms = self._store.now_ms()
        expires_at = self._store.expires_at(now_ms)
        end = decisions.after_unusable_output(claimed, told, now_ms=now_ms, expires_at=expires_at)
        return self._unsuccessful(claimed, end, error, taken)

    def _told(self, claimed: StoredRun, error: BaseException, deadline: Deadline | None) -> decisions.Told:
        """Return an error as it is stored. A key that does not answer must not keep the end from being stored."""
        logged = _log(deadline)
        if self._store.cipher is not None and isinstance(error, Snooze):  # of which no text is stored
            return self._store.told(claimed.id, error, logged, texts=False)
        if self._store.cipher is None or deadline is None:
            return self._store.told(claimed.id, error, logged)
        try:
            call = self.pool.start(partial(self._store.told, claimed.id, error, logged))
        except RuntimeError:  # the process may have no more threads
            return self._store.told(claimed.id, error, logged, texts=False)
        if call.wait(deadline.seconds_left() - deadline.reserve * 3 / 4):
            told: decisions.Told = call.result()
            return told
        log.warning(
            "the texts of an error could not be encrypted in time; they are left out", extra=log_fields(claimed)
        )
        return self._store.told(claimed.id, error, logged, texts=False)

    def _unsuccessful(
        self, claimed: StoredRun, end: decisions.AttemptEnd, error: BaseException, taken: timedelta
    ) -> ConsumeResult:
        """Write how an attempt without success ends, log it, and send what is to come."""
        now_ms = self._store.now_ms()
        expires_at = self._store.expires_at(now_ms)
        if end.due_ms is not None and end.due_ms - now_ms > LONG_WAIT_MS:
            from kumofire_core.engine.step_expiry import keep_while_waiting

            keep_while_waiting(self._store, claimed, due_ms=end.due_ms, pool=self.pool)
        answer = self._store.apply(claimed.id, end.write)
        if not answer.applied and _cancellation_came_between(claimed, answer):
            end = decisions.after_canceled_failure(claimed, end, now_ms=now_ms, expires_at=expires_at)
            answer = self._store.apply(claimed.id, end.write)
        if not answer.applied:
            return self._lost_lease(claimed, taken)
        if end.snoozed:
            log.info("the run was snoozed", extra={**log_fields(claimed), **_end_fields(end)})
        elif isinstance(error, Cancel):
            log.info("the handler canceled the run", extra={**log_fields(claimed), **_end_fields(end)})
        else:
            # The error's own text may quote the payload. It is in the table, for those who may read that.
            log.log(
                logging.ERROR if end.outcome is Outcome.FAILED else logging.WARNING,
                "attempt failed with %s; the run is %s",
                end.error_type,
                end.write.target,
                extra={**log_fields(claimed), **_end_fields(end), "error_type": end.error_type, **_whence(error)},
            )
        if end.due_ms is not None:
            self._store.send_waiting(claimed.id, due_ms=end.due_ms, now_ms=now_ms, group=claimed.group)
        else:
            self._store.ended(claimed, end.write.target)
        if not end.snoozed:  # last, because the hooks' thread forgets the error's frames
            attempt, kind = claimed.attempt + 1, end.error_type
            self._store.tell(end.outcome, claimed, end.write, attempt=attempt, error=error, error_type=kind)
        return _result(end.outcome, claimed, taken, reason=end.error_type)

    def _require_batch_done(self, claimed: StoredRun) -> None:
        """Make sure that the batch of a callback is marked as done before its handler is called."""
        from kumofire_core.engine.batch_marks import require_done

        try:
            require_done(self._store, claimed)
        except Exception:
            self._store.apply(claimed.id, run_writes.release(claimed, now_ms=self._store.now_ms()))
            raise

    def _release(self, claimed: StoredRun, error: Exception) -> ConsumeResult:
        """Put a run back whose handler can't be called now, and raise ``error``, so that its message comes again.

        No attempt was made, so none is counted.
        """
        answer = self._store.apply(claimed.id, run_writes.release(claimed, now_ms=self._store.now_ms()))
        if not answer.applied:
            return self._unattempted(claimed, answer)
        raise error

    def _put_aside(self, claimed: StoredRun) -> ConsumeResult:
        """Let a run wait until its job is resumed. Its message is done with: the dispatcher sends another one."""
        answer = self._store.apply(claimed.id, run_writes.park(claimed, now_ms=self._store.now_ms()))
        if not answer.applied:
            return self._unattempted(claimed, answer)
        log.debug("the run is put aside: its job is paused", extra=log_fields(claimed))
        return ConsumeResult(Outcome.IGNORED, claimed.id, claimed.job_name, reason=PAUSED)

    def _without_handler(self, claimed: StoredRun) -> ConsumeResult:
        """Fail a run whose job has no handler here, or put it back for a consumer that has one."""
        error = f'Missing handler for job "{claimed.job_name}"'
        now_ms = self._store.now_ms()
        waits = decisions.handler_awaited_until(claimed, now_ms=now_ms) if self._awaits_handlers else None
        if waits is None:
            return self._refuse(claimed, error, MISSING_HANDLER)
        due_ms, since_ms = waits
        put_back = run_writes.await_handler(claimed, now_ms=now_ms, due_ms=due_ms, since_ms=since_ms, error=error)
        answer = self._store.apply(claimed.id, put_back)
        if not answer.applied:
            return self._unattempted(claimed, answer)
        log.warning("no handler for the job of a run; it waits for a consumer that has one", extra=log_fields(claimed))
        self._store.send_waiting(claimed.id, due_ms=due_ms, now_ms=now_ms, group=claimed.group)
        self._store.tell(Outcome.RETRIED, claimed, put_back, error_type=MISSING_HANDLER)
        return ConsumeResult(Outcome.RETRIED, claimed.id, claimed.job_name, reason=MISSING_HANDLER)

    def _refuse(self, claimed: StoredRun, error: str, reason: str) -> ConsumeResult:
        """Fail a run that can't be attempted."""
        now_ms = self._store.now_ms()
        end = run_writes.fail_unattempted(
            claimed, now_ms=now_ms, error=error, error_type=reason, expires_at=self._store.expires_at(now_ms)
        )
        answer = self._store.apply(claimed.id, end)
        if not answer.applied:
            return self._unattempted(claimed, answer)
        fields = {"status": end.target.value, "outcome": Outcome.FAILED.value}
        log.error("the run failed without an attempt: %s", reason, extra={**log_fields(claimed), **fields})
        self._store.ended(claimed, RunStatus.FAILED, attempted=False)
        self._store.tell(Outcome.FAILED, claimed, end, error_type=reason)
        return ConsumeResult(outcome=Outcome.FAILED, job_run_id=claimed.id, job_name=claimed.job_name, reason=reason)

    def _expire(self, claimed: StoredRun, reason: str) -> ConsumeResult:
        """Cancel a run that is too late to be of use; its handler is not called."""
        now_ms = self._store.now_ms()
        end = run_writes.cancel_unattempted(
            claimed, now_ms=now_ms, expires_at=self._store.expires_at(now_ms), reason=reason
        )
        answer = self._store.apply(claimed.id, end)
        if not answer.applied:
            return self._unattempted(claimed, answer)
        log.warning("the run expired: it is canceled without an attempt", extra=log_fields(claimed))
        self._store.ended(claimed, RunStatus.CANCELED, attempted=False)
        self._store.tell(Outcome.CANCELED, claimed, end, error_type=EXPIRED)
        return ConsumeResult(Outcome.CANCELED, claimed.id, claimed.job_name, reason=EXPIRED)

    def _unattempted(self, claimed: StoredRun, refusal: Answer) -> ConsumeResult:
        """Cancel a run whose handler was not called, where its cancellation is why something else was refused."""
        now_ms = self._store.now_ms()
        end = run_writes.cancel_unattempted(claimed, now_ms=now_ms, expires_at=self._store.expires_at(now_ms))
        if not _cancellation_came_between(claimed, refusal) or not self._store.apply(claimed.id, end).applied:
            return self._lost_lease(claimed, None)
        self._store.ended(claimed, RunStatus.CANCELED, attempted=False)
        self._store.tell(Outcome.CANCELED, claimed, end)
        reason = "canceled before its attempt"
        return ConsumeResult(outcome=Outcome.CANCELED, job_run_id=claimed.id, job_name=claimed.job_name, reason=reason)

    def _lost_lease(self, run: StoredRun, taken: timedelta | None) -> ConsumeResult:
        log.warning("lost the lease before the end of the attempt; nothing of it is recorded", extra=log_fields(run))
        self._store.tell("lease_lost", run, attempt=None if taken is None else run.attempt + 1)
        return ConsumeResult(
            outcome=Outcome.IGNORED,
            job_run_id=run.id,
            job_name=run.job_name,
            attempt=None if taken is None else run.attempt + 1,
            duration=taken,
            reason="lost its lease",
        )


class _UnusableOutput(Exception):
    """The handler returned what is not JSON. Private, so that it is never an ``InvalidJSONError`` of the handler's."""

    def __init__(self, error: InvalidJSONError) -> None:
        super().__init__()
        self.error = error


class _UnfitPayload(Exception):
    """The payload does not fit its job's type. Private, so that it is never an error of the handler's own."""

    def __init__(self, error: InvalidPayloadError) -> None:
        super().__init__()
        self.error = error


def _call_typed(job: Job, handler: Callable[[Any], Any], context: JobContext) -> Any:
    """Read the payload as its job's type, and call the handler.

    Both are the application's code, so both happen in the attempt's thread and time.
    """
    assert job.payload_type is not None
    try:
        context.read_payload(job.payload_type.read)
    except InvalidPayloadError as error:
        raise _UnfitPayload(error) from None
    return call_handler(handler, context)


class _LeaseLost(Exception):
    """The lease was found to be lost while the handler was executing, which was cut. Nothing can be recorded."""


class _NoTimeLeft(Exception):
    """The handler was not called, because its attempt's time was over before it began."""

    def __init__(self, seconds_left: float) -> None:
        super().__init__()
        self.seconds_left = seconds_left


class _KeyOutOfReach(Exception):
    """What a run has kept can't be decrypted now; the run is put back, and no attempt is counted."""

    def __init__(self, error: DecryptionError) -> None:
        super().__init__()
        self.error = error


def _whence(error: BaseException) -> dict[str, list[str]]:
    """Return the log's fields that say where an error came from, and what led to it."""
    causes = error_causes(error)
    places = {"error_at": error_places(error)}
    return places | {"error_causes": causes} if causes else places


def _log(deadline: Deadline | None) -> str | None:
    return None if deadline is None else deadline.log


def _least(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _cancellation_came_between(claimed: StoredRun, answer: Answer) -> bool:
    """Say whether the write was refused for a cancellation alone: the lease is still ours."""
    found = answer.item
    return found is not None and found.get("lease_token") == claimed.lease_token and "cancel_requested_at" in found


def _end_fields(end: decisions.AttemptEnd) -> dict[str, str]:
    """Return the log fields that tell a final failure from a retry."""
    return {"status": end.write.target.value, "outcome": end.outcome.value}


def _output_too_large(claimed: StoredRun, output: str) -> InvalidJSONError:
    room, size = MAX_PAYLOAD_BYTES - text_bytes(claimed.payload_text), text_bytes(output)
    return InvalidJSONError(
        f"the handler's return value has {size} bytes as it would be stored; beside its payload there is room for "
        f"{room} (DynamoDB's item limit); give Jobs a bucket (docs/large-payloads.md), or store it elsewhere and "
        "return a reference"
    )


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
