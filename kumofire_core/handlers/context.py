"""The context that a handler gets, and the log fields of the current attempt. Free of AWS and of the engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import Context, ContextVar, Token
from datetime import datetime, timedelta
from functools import partial
from math import inf
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

from kumofire_core.model.error_text import error_name
from kumofire_core.model.run_item import StoredRun

if TYPE_CHECKING:
    import typing_extensions

    from kumofire_core.handlers.step_calls import AsyncStepCalls, KeepsSteps
    from kumofire_core.model.batch import Batch
    from kumofire_core.model.run_view import Run

    # A JobContext without a parameter has a payload of any type.
    Payload_co = typing_extensions.TypeVar("Payload_co", covariant=True, default=Any)
else:
    # So that annotations can be resolved at run time, and a cold start does not pay for the import.
    Batch = AsyncStepCalls = Run = Any
    Payload_co = TypeVar("Payload_co", covariant=True)  # Python 3.11 has no defaults
TestPayload = TypeVar("TestPayload")

JOB_LOGGER = "kumofire_core.job"

P = ParamSpec("P")
T = TypeVar("T")

REQUIRED: Any = object()
"""Stands for a ``default`` that was left out, because ``None`` is one."""

_under_way: ContextVar[StoredRun | None] = ContextVar("kumofire_run", default=None)


CANCEL_CHECK_SECONDS = 3.0


class Cancellation:
    """Whether a person requested a run's cancellation; calls ``read`` at most once every ``CANCEL_CHECK_SECONDS``."""

    def __init__(self, read: Callable[[], bool]) -> None:
        self._read = read
        self._requested = False
        self._next_read = 0.0

    def requested(self) -> bool:
        """Return the answer of the latest read; after ``True``, it does not read again."""
        if not self._requested and time.monotonic() >= self._next_read:
            self._next_read = time.monotonic() + CANCEL_CHECK_SECONDS
            try:
                self._requested = self._read()
            except Exception as error:  # a failed read must not fail the attempt
                logging.getLogger("kumofire_core").warning(
                    "could not read whether the run is to be canceled: %s", error_name(error)
                )
        return self._requested


class ProgressTarget(Protocol):
    """Takes what one attempt tells of its progress."""

    def tell(self, fraction: object, note: object) -> None:
        """Take what is told last, in place of what is not written yet."""
        ...

    def end(self) -> None:
        """Take nothing more, and write nothing more."""
        ...


class ToldProgress:
    """What one attempt tells of its progress; ``begin`` is called when it tells something for the first time."""

    __slots__ = ("_begin", "_ended", "_lock", "_target")

    def __init__(self, begin: Callable[[], ProgressTarget]) -> None:
        self._begin = begin
        self._target: ProgressTarget | None = None
        self._ended = False
        self._lock = threading.Lock()

    def tell(self, fraction: object, note: object) -> None:
        """Pass on what a handler tells; not after the attempt's end, when its code may go on."""
        with self._lock:
            if self._ended:
                return
            if self._target is None:
                self._target = self._begin()
        self._target.tell(fraction, note)

    def end(self) -> None:
        """Let nothing more be told."""
        with self._lock:
            self._ended = True
        if self._target is not None:
            self._target.end()


class Suspension(BaseException):
    """Leaves a handler whose run goes on later. Private to the engine.

    It is no ``Exception``, so that handlers let it pass.
    """

    def __init__(self, reason: str, due_ms: int, waits_for: str | None = None) -> None:
        super().__init__(f"the run is suspended: {reason}")
        self.reason = reason
        self.due_ms = due_ms
        self.waits_for = waits_for
        """The name of the signal that it waits for."""


class StepsBroken(BaseException):
    """Leaves a handler whose steps can't be read or kept now. Private to the engine; ``error`` is why.

    It is no ``Exception``, so that handlers do not take what happened to the table for what their functions did.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__("the steps of this run can't be read or kept now")
        self.error = error


class AttemptSteps:
    """The steps of one attempt; ``begin`` is called when it uses the first one."""

    __slots__ = ("_begin", "_ended", "_lock", "_target")

    def __init__(self, begin: Callable[[], KeepsSteps]) -> None:
        self._begin = begin
        self._target: KeepsSteps | None = None
        self._ended = False
        self._lock = threading.Lock()

    def get(self) -> KeepsSteps:
        """Return what keeps this attempt's steps."""
        with self._lock:
            if self._target is None:
                self._target = self._begin()
                if self._ended:
                    self._target.end()
        return self._target

    def begin_pass(self) -> None:
        """Let a handler be called again in the same attempt: its calls begin anew, and what is kept stays."""
        if self._target is not None:
            self._target.begin_pass()

    def end(self) -> BaseException | None:
        """Let nothing more be kept; return as what the steps have ended the attempt, if they have.

        That is a ``Suspension``, a ``StepError``, or an error of the table.
        """
        with self._lock:
            self._ended = True
        if self._target is None:
            return None
        self._target.end()
        return self._target.ending


class JobContext(Generic[Payload_co]):
    """The argument of a handler: one attempt of a run.

    ``JobContext[Email]`` says that the payload is an ``Email``: it is checked, and ``payload`` is one
    (docs/typed-jobs.md).
    """

    __slots__ = (
        "_batch",
        "_cancellation",
        "_claimed",
        "_ends",
        "_payload",
        "_read_batch",
        "_read_cancellation",
        "_steps",
        "_stops",
        "_tell_progress",
    )

    if not TYPE_CHECKING:
        # Generic's own keeps what it returned, and takes A | B for the same as B | A, of which the first counts.
        __class_getitem__ = classmethod(GenericAlias)

    def __init__(
        self,
        claimed: StoredRun,
        *,
        read_cancellation: Callable[[str], bool],
        tell_progress: Callable[[object, object], None],
        steps: AttemptSteps,
        ends: float,
        read_batch: Callable[[], Batch | None] | None = None,
        stops: Callable[[], bool] | None = None,
    ) -> None:
        self._stops = stops
        self._claimed = claimed
        self._payload: Any = claimed.payload
        self._read_batch = read_batch
        self._batch: Batch | None = None
        self._steps = steps
        self._tell_progress = tell_progress
        self._cancellation: Cancellation | None = None
        self._read_cancellation = read_cancellation
        # On time.monotonic's scale: when the attempt times out or, without any timeout, when its lease ends.
        self._ends = ends

    def __repr__(self) -> str:
        return f"JobContext(run={self.run!r}, attempt={self.attempt}, fencing_token={self.fencing_token})"

    @staticmethod
    def for_test(
        payload: TestPayload = None,  # type: ignore[assignment]
        *,
        attempt: int = 1,
        max_attempts: int = 3,
        run_id: str = "test-run",
        job_name: str = "test",
        fencing_token: int = 1,
        now: datetime | None = None,
        time_left: timedelta = timedelta(seconds=60),
        cancel_requested: bool = False,
        signals: Mapping[str, Any] | None = None,
        occurrence: datetime | None = None,
    ) -> JobContextForTest[TestPayload]:
        """Return a context to call a handler with in a test; it needs no AWS.

        The payload is what the handler gets; it is not checked. ``now`` is an aware datetime, by default the current
        time. Steps are executed, and sleeps are over at once. A wait gets what ``signals`` has under its name; without
        that, its time is over. ``occurrence`` is that of the schedule which made the run, an aware datetime. Raises
        ``InvalidArgumentError`` for a wrong argument.
        """
        from kumofire_core.handlers.context_for_test import run_for_test

        stored = run_for_test(
            payload,
            attempt=attempt,
            max_attempts=max_attempts,
            run_id=run_id,
            job_name=job_name,
            fencing_token=fencing_token,
            now=now,
            time_left=time_left,
            cancel_requested=cancel_requested,
            signals=signals,
            occurrence=occurrence,
        )
        return JobContextForTest(
            stored, time_left=time_left, cancel_requested=cancel_requested, signals={} if signals is None else signals
        )

    @property
    def run(self) -> Run:
        """The run as it was when this attempt claimed it."""
        return self._claimed.run

    @property
    def payload(self) -> Payload_co:
        """The run's payload: of the declared type, or else equal to what ``create`` got (tuples became lists)."""
        payload: Payload_co = self._payload
        return payload

    def read_payload(self, read: Callable[[Any], Any]) -> None:
        """Let the payload be what ``read`` makes of its JSON value."""
        self._payload = read(self._claimed.payload)

    @property
    def attempt(self) -> int:
        """The number of this attempt: 1 for the first."""
        return self._claimed.attempt + 1

    @property
    def fencing_token(self) -> int:
        """A number that grows with every claim of the run.

        Pass it to a store that remembers the greatest number and refuses smaller ones. Then an attempt that goes on
        after its lease can't overwrite the next attempt's work.
        """
        return self._claimed.claims

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context in which the run was created, where that was traced (``kumofire_core.tracing``)."""
        return self._claimed.traceparent

    @property
    def now(self) -> datetime:
        """When the attempt started, as an aware UTC datetime."""
        return self.run.started_at or self.run.updated_at

    @property
    def batch(self) -> Batch | None:
        """The batch that this run is the callback of, or ``None``; read when it is first asked for.

        Its members are counted then, and ``ctx.batch.members()`` reads them with their outputs (docs/batches.md). Both
        make requests, so an ``async`` handler asks in a thread. Errors of the table leave as botocore raised them.
        """
        if self._batch is None and self._read_batch is not None:
            self._batch = self._read_batch()
        return self._batch

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that adds run id, job and attempt to every line."""
        return _FieldsAdapter(logging.getLogger(JOB_LOGGER), log_fields(self._claimed))

    def cancel_requested(self) -> bool:
        """Return whether a person requested this run's cancellation; if so, raise any error to end it ``canceled``.

        Call it as often as you like: it reads the table at most once every 3 seconds (``CANCEL_CHECK_SECONDS``), and
        repeats the last answer between two reads and after a read that failed.
        """
        if self._cancellation is None:
            self._cancellation = Cancellation(partial(self._read_cancellation, self._claimed.id))
        return self._cancellation.requested()

    def stop_requested(self) -> bool:
        """Return whether this attempt is to stop soon, because its worker ends or the lease was lost (docs/worker.md).

        Keep what is done then, and raise ``Snooze(0)``: the run goes on in another process, and no attempt is counted.
        An attempt that goes on is interrupted later. It makes no request. In a Lambda function it is always ``False``:
        ``time_left`` says when an invocation ends.
        """
        return self._stops is not None and self._stops()

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Tell how far this attempt is, from 0 to 1, and in words; ``get_status`` and lists show it as ``progress``.

        Call it as often as you like, also from a coroutine: it only notes what is told, and a thread beside the handler
        writes the latest of it, at most once a second. What is told within that second is written when it is over, if
        the attempt is still on then. A run that has ended keeps what was written last.

        It never raises. A fraction outside 0 to 1 is taken for the nearer of the two, and NaN for 0. Of ``note``, 200
        characters in at most 400 bytes are kept, and 200 bytes where a cipher leaves no more room. A wrong type, and a
        write that fails, are logged once for an attempt.
        """
        self._tell_progress(fraction, note)

    def step(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``fn(*args, **kwargs)`` returned: called now, or kept since an earlier attempt or invocation.

        The result is JSON, and returned as JSON has it. ``name``, of at most 100 characters, is used once in a handler.
        What ``fn`` raises leaves this call, and nothing is kept. Where the process is near its deadline, the run goes
        on in another invocation instead, without an attempt counted (docs/steps.md).

        Raises ``DuplicateStepError``, ``StepMismatchError`` or ``StepsLostError`` before ``fn`` is called,
        ``StepResultError`` for a result that can't be kept, ``InvalidArgumentError`` for a wrong argument and for a
        coroutine function (``await ctx.aio.step(…)`` takes those), and botocore's errors of the table unchanged.
        """
        from kumofire_core.handlers import step_calls

        return step_calls.step(self._steps.get(), name, fn, args, kwargs)

    def sleep(self, delay: timedelta | float, name: str | None = None) -> None:
        """Let the run wait for ``delay``, a timedelta or a number of seconds, and go on behind this call then.

        Meanwhile it is ``scheduled``, and no process is held. No attempt is counted. The time is fixed by the first
        call. ``name`` is ``sleep-1`` and so on, if left out. Raises as ``step`` does.
        """
        from kumofire_core.handlers import step_calls

        step_calls.sleep(self._steps.get(), delay, name)

    def wait_for(self, name: str, timeout: timedelta | float | None = None, default: Any = REQUIRED) -> Any:
        """Return the payload of the signal ``name``, as ``jobs.signal`` gives it, after waiting for it if need be.

        After ``timeout``, a timedelta or a number of seconds from the first call on, it returns ``default``; without a
        ``default`` it raises ``WaitTimeoutError``, which fails the run if it leaves the handler. Raises as ``step``
        does.
        """
        from kumofire_core.handlers import step_calls

        return step_calls.wait_for(self._steps.get(), name, timeout, default)

    def create_child(
        self,
        job: str,
        payload: Any = None,
        *,
        name: str | None = None,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        group: str | None = None,
    ) -> str:
        """Create a run of another job, once over all attempts of this one, and return its id.

        The arguments are those of ``jobs.create``. It is kept like a step: ``name`` is ``child-1`` and so on, if left
        out. The child runs at once; ``wait_for_children`` waits for it, and ``jobs.cancel_tree`` cancels it with this
        run. Raises as ``step`` and ``create`` do, and ``BatchIncompleteError`` where the table refused it: the next
        attempt goes on with it (docs/children.md).
        """
        from kumofire_core.handlers import step_calls

        options: Any = {"run_at": run_at, "delay": delay, "max_attempts": max_attempts, "group": group}
        request = step_calls.child_request(job, payload, options)
        return step_calls.child_of(step_calls.create_children(self._steps.get(), [request], name, "create_child"))

    def create_children(self, requests: Iterable[Mapping[str, object]], *, name: str | None = None) -> str:
        """Create many runs, once over all attempts of this one; return the id of their batch.

        ``requests`` are those of ``jobs.create_batch``. See ``create_child``.
        """
        from kumofire_core.handlers import step_calls

        return step_calls.create_children(self._steps.get(), requests, name, "create_children")

    def wait_for_children(self, timeout: timedelta | float | None = None) -> list[Run]:
        """Wait until all children that were created before this call have ended, and return them in their order.

        They have succeeded, failed or been canceled; their ``status`` and ``output`` say so. They are read as they are
        now, those that are kept. Children that an earlier call has waited for are not among them. The run is suspended
        meanwhile, as by ``wait_for``. After ``timeout`` it raises ``WaitTimeoutError``; the children go on.
        """
        from kumofire_core.handlers import step_calls

        return step_calls.wait_for_children(self._steps.get(), timeout)

    @property
    def aio(self) -> AsyncStepCalls:
        """``step``, ``sleep`` and ``wait_for`` for ``async`` handlers: ``await ctx.aio.step("name", fetch, url)``."""
        from kumofire_core.handlers.step_calls import AsyncStepCalls

        return AsyncStepCalls(self._steps.get)

    def time_left(self) -> timedelta:
        """Return how long this attempt may still take; zero after its end.

        In a worker without a ``timeout`` of the job it is ``timedelta.max`` (docs/worker.md).
        """
        return timedelta.max if self._ends == inf else timedelta(seconds=max(0.0, self._ends - time.monotonic()))


class JobContextForTest(JobContext[Payload_co]):
    """What ``JobContext.for_test`` returns: a ``JobContext`` that remembers what the handler told it."""

    __slots__ = ("_requested", "steps", "told")

    def __init__(
        self, stored: StoredRun, *, time_left: timedelta, cancel_requested: bool, signals: Mapping[str, Any]
    ) -> None:
        self.told: list[tuple[float, str | None]] = []
        """What the handler told by ``progress``: each fraction and note, in order."""
        self.steps: dict[str, Any] = {}
        """What steps returned, how long sleeps are (timedeltas) and what waits got, by name and in order."""
        self._requested = cancel_requested

        def begin() -> KeepsSteps:
            from kumofire_core.handlers.context_for_test import StepsForTest

            return StepsForTest(self.steps, signals)

        super().__init__(
            stored,
            read_cancellation=lambda run_id: self._requested,
            steps=AttemptSteps(begin),
            tell_progress=lambda fraction, note: self.told.append((fraction, note)),  # type: ignore[arg-type]
            ends=time.monotonic() + time_left.total_seconds(),
        )

    def cancel_requested(self) -> bool:
        """Return whether the run's cancellation was requested: at once, where a real run may notice 3 seconds late."""
        return self._requested

    def request_cancel(self) -> None:
        """Let ``cancel_requested`` return ``True`` from now on."""
        self._requested = True


def log_fields(run: Run | StoredRun) -> dict[str, Any]:
    """Return the log fields that identify an attempt. They never include the payload."""
    return {"job_run_id": run.id, "job_name": run.job_name, "attempt": run.attempt + 1}


def attempt_fields(context: Context) -> dict[str, Any]:
    """Return the log fields of the attempt that is under way in ``context``; none where there is no attempt."""
    run = context.get(_under_way)
    return {} if run is None else log_fields(run)


def run_under_way() -> str | None:
    """Return the id of the run whose attempt is under way in the current context, or ``None``."""
    run = _under_way.get()
    return None if run is None else run.id


def enter_attempt(claimed: StoredRun) -> Token[StoredRun | None]:
    """Let this run's attempt be under way in the current context, until ``leave_attempt``.

    ``AttemptLogFilter`` adds its fields, and runs that are created have it as their parent.
    """
    return _under_way.set(claimed)


def leave_attempt(token: Token[StoredRun | None]) -> None:
    """Restore the state before ``enter_attempt``, which returned ``token``."""
    _under_way.reset(token)


class AttemptLogFilter(logging.Filter):
    """Adds run id, job and attempt to every record that any logger makes during an attempt.

    Add it to a logging handler: a filter on a logger does not see the records of child loggers.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields that the record does not have; return ``True`` for every record."""
        run = _under_way.get()
        if run is not None:
            record.__dict__.update(log_fields(run) | record.__dict__)
        return True


class _FieldsAdapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        # The base class drops the caller's own ``extra`` (until Python 3.13's merge_extra).
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
