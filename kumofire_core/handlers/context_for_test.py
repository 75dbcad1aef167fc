"""The run and the steps of a context for tests (``JobContext.for_test``). Free of AWS and of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from kumofire_core.errors import DuplicateStepError, InvalidArgumentError, short_repr
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.handlers.step_calls import Call, Kept, Waited
from kumofire_core.model.message import MAX_RUN_ID_LENGTH
from kumofire_core.model.run import RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.run_view import Run
from kumofire_core.model.steps import StepKind
from kumofire_core.model.times import delay_ms, require_aware, to_ms, utc_now
from kumofire_core.rules.retry import is_attempt_count
from kumofire_core.rules.steps import step_name_problem
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
    signals: object,
    occurrence: datetime | None,
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
    if signals is not None and not isinstance(signals, Mapping):
        raise InvalidArgumentError(f"signals must be a mapping of names to values, not {type(signals).__name__}")
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
    if occurrence is not None:
        item["occurrence"] = to_ms(require_aware("occurrence", occurrence))
    stored = StoredRun(run_id, item, max_attempts)
    stored.payload = payload  # ``run.payload`` is what the handler gets, too: nothing made JSON of it
    return stored


class StepsForTest:
    """Executes steps, ends sleeps at once, and answers waits; ``made`` gets what each came to."""

    def __init__(self, made: dict[str, Any], signals: Mapping[str, Any]) -> None:
        self._made = made
        self._signals = signals
        self.slots: dict[Any, Any] = {}
        self.pool = HandlerPool()
        self._unnamed: dict[StepKind, int] = {}

    @property
    def ending(self) -> BaseException | None:
        """As what the steps have ended the attempt: never."""
        return None

    def begin_pass(self) -> None:
        """Do nothing: there is one pass."""

    def begin(self, kind: StepKind, name: object, outer: tuple[str, ...] = ()) -> Call:
        """Take the next position; raises as a real attempt does for a wrong name, or one that was used before."""
        if name is None and kind in (StepKind.SLEEP, StepKind.CHILD):
            self._unnamed[kind] = number = self._unnamed.get(kind, 0) + 1
            name = f"{kind}-{number}"
        if problem := step_name_problem(name):
            raise InvalidArgumentError(problem)
        assert isinstance(name, str)
        if name in self._made:
            raise DuplicateStepError(name)
        return Call(kind, name, len(self._made) + 1, outer)

    def leave(self, call: Call, error: BaseException | None) -> None:
        """Do nothing: only what has been kept is in the way of another call of that name."""

    def give_way(self, outer: tuple[str, ...]) -> None:
        """Do nothing: no call suspends the run."""

    def awaits_others(self, outer: tuple[str, ...]) -> bool:
        """Say that nothing is awaited."""
        return False

    def finds_at_once(self, call: Call) -> bool:
        """Say that nothing is read."""
        return True

    def find(self, call: Call) -> Kept | None:
        """Return ``None``: this is the run's first attempt to get so far."""
        return None

    def before_execution(self, call: Call) -> None:
        """Let it go on."""

    def keep(self, call: Call, value: object, *, seconds: float) -> Kept:
        """Keep a result."""
        self._made.setdefault(call.name, value)  # of children there is what was asked for
        return Kept(value)

    def create_children(self, call: Call, requests: Any, what: str) -> str:
        """Note what was asked for; nobody executes it."""
        self._made[call.name] = [{key: value for key, value in each.items() if value is not None} for each in requests]
        return f"test-{call.name}"

    def note_children(self, batch_id: str) -> None:
        """Do nothing."""

    def take_children(self) -> dict[str, str]:
        """Return none, because none is executed."""
        return {}

    def wait_for_children(self, call: Call, batch_id: str, timeout: object) -> Waited:
        """Return that they have ended; never called, because none is executed."""
        return Waited(None, None)

    def read_children(self, batch_ids: Sequence[str]) -> list[Run]:
        """Return none."""
        return []

    def sleep(self, call: Call, delay: object) -> None:
        """Return at once; raises ``InvalidArgumentError`` for what is no time."""
        self._made[call.name] = timedelta(milliseconds=delay_ms("delay", delay))

    def wait(self, call: Call, timeout: object) -> Waited:
        """Return the signal that the test gave, or that its time is over."""
        if call.name in self._signals:
            self._made[call.name] = self._signals[call.name]
            return Waited(self._signals[call.name], None)
        return Waited(None, to_ms(utc_now()))

    def end(self) -> None:
        """Do nothing."""
