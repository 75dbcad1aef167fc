"""Hooks: functions that are told what happened to runs. Imported where the first of them is registered.

They run beside the attempts, in a few daemon threads, after the write they tell of. The queue before them is bounded,
and so is the time of each call. Whatever a hook does, the run and its consumer go on as if there were none.
"""

from __future__ import annotations

import atexit
import contextvars
import inspect
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core.errors import ConfigurationError, short_repr
from kumofire_core.handlers.handler_pool import HandlerPool, HandlerTimeoutError, call_hook
from kumofire_core.handlers.middleware import is_async
from kumofire_core.model.error_text import error_name, error_places, forget_frames, type_name
from kumofire_core.model.run_item import UNREADABLE, StoredRun
from kumofire_core.model.run_view import Run

if TYPE_CHECKING:
    from kumofire_core.handlers.deadline import Deadline

HIDDEN_IN_TRACEBACKS = True

EVENTS = ("created", "succeeded", "retried", "failed", "canceled", "lease_lost")

HOOK_SECONDS = 5.0
"""How long one call of a hook may take. One that takes longer is left to itself."""

FINISH_SECONDS = 1.0
"""How long the end of a batch, of a dispatcher's pass or of the process waits for hooks."""

MOST_THREADS = 4
"""How many events are told at once."""

MOST_WAITING = 1_000
MOST_WAITING_BYTES = 16 * 1024 * 1024
"""How many events may wait, and how large the payloads and outputs of their runs may be together."""

MOST_FRAMES = 20
"""How many waiting errors keep their tracebacks, and with these the local variables of handlers."""

log = logging.getLogger("kumofire_core")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """What happened to a run, as a hook is told. It was written to the table before."""

    event: str
    """``created``, ``succeeded``, ``retried``, ``failed``, ``canceled`` or ``lease_lost``."""
    run_id: str
    job_name: str
    attempt: int | None
    """The number of the attempt that ended; ``None`` where none did, as for a run that was canceled while it waited."""
    at: datetime
    """When this process knew that it was written, as an aware UTC datetime."""
    error_type: str | None
    """The name of the error's type, or why the run could not be attempted; ``None`` where nothing failed."""
    error: BaseException | None = field(repr=False)
    """What the attempt raised, with its traceback; ``None`` where another process raised it. Its text may quote the
    payload."""
    run: Run | None
    """The run as the write left it. For ``lease_lost``, as the attempt claimed it. ``None`` where it can't be read."""


class _Hook:
    """A registered function, and whether a call of it hangs."""

    def __init__(self, function: Callable[[RunEvent], Any]) -> None:
        self.function = function
        self.name = name_of(function)
        self._under_way = 0
        self._hangs = False
        self._lock = threading.Lock()

    def call(self, event: RunEvent) -> None:
        with self._lock:
            self._under_way += 1
        try:
            call_hook(self.function, event)
        finally:
            with self._lock:
                self._under_way -= 1
                self._hangs = self._hangs and self._under_way > 0

    def give_up(self) -> bool:
        """Call it no more until the calls that are under way have ended; ``False`` where that was so already."""
        with self._lock:
            news = not self._hangs
            self._hangs = self._under_way > 0
            return news

    @property
    def hangs(self) -> bool:
        return self._hangs


class _Told(NamedTuple):
    """An event on its way to the hooks."""

    event: str
    run_id: str
    job_name: str
    at: datetime
    attempt: int | None
    error_type: str | None
    error: BaseException | None
    find_run: Callable[[], StoredRun]
    size: int
    """The bytes of payload and output, about."""


class Hooks:
    """The hooks of one ``Jobs``, and the events that wait for them. Safe to use from many threads; never raises."""

    def __init__(self, hooks: dict[str, list[_Hook]] | None = None) -> None:
        self._hooks: dict[str, list[_Hook]] = {} if hooks is None else hooks
        self._begin()
        _known.add(self)

    def _begin(self) -> None:
        self._process = os.getpid()
        self._pool = HandlerPool()
        self._waiting: deque[_Told] = deque()
        self._waiting_bytes = 0
        self._under_way: list[_Told] = []
        self._threads = 0
        self._dropped = 0
        self._failures = 0
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)

    def anew(self) -> Hooks:
        """Return the same hooks for other events: a function that is added to one of the two is in both."""
        return Hooks(self._hooks)

    def add(self, events: tuple[str, ...], function: Callable[[RunEvent], Any]) -> None:
        """Tell ``function`` of these events from now on."""
        if is_async(function):
            from kumofire_core.handlers import event_loop  # noqa: F401 - so that its loops are closed after _at_exit
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)  # the last one is called first
        hook = _Hook(function)
        for event in dict.fromkeys(events):
            self._hooks[event] = [*self._hooks.get(event, ()), hook]

    def wants(self, event: str) -> bool:
        """Say whether any hook is for this event."""
        return event in self._hooks

    def tell(
        self,
        event: str,
        run_id: str,
        job_name: str,
        *,
        at: datetime,
        find_run: Callable[[], StoredRun],
        size: int,
        attempt: int | None = None,
        error: BaseException | None = None,
        error_type: str | None = None,
    ) -> None:
        """Let the hooks know what was written; drop that where too much waits for them already."""
        if event not in self._hooks:
            return
        if self._process != os.getpid():
            self._begin()  # after a fork there are no threads but the one that forked
        if error is not None and error_type is None:
            error_type = type_name(error)
        told = _Told(event, run_id, job_name, at, attempt, error_type, error, find_run, size)
        with self._lock:
            full = len(self._waiting) >= MOST_WAITING or self._waiting_bytes + size > MOST_WAITING_BYTES
            if full:
                self._dropped += 1
                self._failures += 1
                if self._dropped == 1:
                    log.error("hooks are too slow: %d events wait for them, and more are dropped", len(self._waiting))
                return
            self._waiting.append(told)
            self._waiting_bytes += size
            if self._threads >= MOST_THREADS:
                return
            self._threads += 1
        try:
            # In an empty context: the log fields of the run that is under way here are those of this run alone.
            contextvars.Context().run(self._pool.start, self._work)
        except RuntimeError as problem:  # the process may have no more threads; a later event tries again
            with self._lock:
                self._threads -= 1
            log.warning("a thread for hooks could not be started: %s", problem)

    def holds(self, error: BaseException) -> bool:
        """Say whether an event with this error is on its way; then its frames are forgotten after it was told."""
        with self._lock:
            if any(told.error is error for told in self._under_way):
                return True
            with_frames = [told.error for told in self._waiting if told.error is not None]
            return any(each is error for each in with_frames[:MOST_FRAMES])

    def wait(self, seconds: float) -> bool:
        """Wait until no event waits and no hook is being called, for at most ``seconds``; say whether that is so."""
        if self._process != os.getpid():
            return True  # what waits is the parent's
        with self._ended:
            return self._ended.wait_for(lambda: not self._waiting and not self._under_way, max(0.0, seconds))

    def finish(self, deadline: Deadline | None) -> None:
        """Wait for the hooks a little, because Lambda freezes the process next; never into the deadline's reserve."""
        self.wait(FINISH_SECONDS if deadline is None else min(FINISH_SECONDS, deadline.seconds_to_run()))

    def take_failures(self) -> int:
        """Return how many calls failed, were given up or were dropped since this was last asked."""
        with self._lock:
            failures, self._failures = self._failures, 0
            return failures

    def _work(self) -> None:
        """Tell one event after the other until none waits."""
        while (told := self._take()) is not None:
            try:
                self._tell(told)
            except BaseException as problem:
                self._count_failure()
                log.error("hooks could not be told that a run was %s: %s", told.event, error_name(problem))
            finally:
                if told.error is not None:
                    forget_frames(told.error)
                with self._lock:
                    self._under_way = [each for each in self._under_way if each is not told]
                    self._ended.notify_all()

    def _take(self) -> _Told | None:
        with self._lock:
            if self._waiting:
                told = self._waiting.popleft()
                self._waiting_bytes -= told.size
                self._under_way.append(told)
                return told
            self._threads -= 1
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("%d events were dropped, because hooks were too slow", dropped)
        return None

    def _tell(self, told: _Told) -> None:
        event = RunEvent(
            event=str(told.event),
            run_id=told.run_id,
            job_name=told.job_name,
            attempt=told.attempt,
            at=told.at,
            error_type=told.error_type,
            error=told.error,
            run=_found(told.find_run),
        )
        for hook in self._hooks[told.event]:
            fields = {"job_run_id": told.run_id, "job_name": told.job_name, "hook": hook.name, "event": told.event}
            if hook.hangs:
                self._count_failure()
                continue
            try:
                self._pool.run(partial(hook.call, event), seconds=HOOK_SECONDS)
            except HandlerTimeoutError:
                self._count_failure()
                if hook.give_up():
                    log.error(
                        "the hook %s did not end within %g s; it is told nothing more until it ends",
                        hook.name,
                        HOOK_SECONDS,
                        extra=fields,
                    )
            except BaseException as problem:
                self._count_failure()
                log.error(
                    "the hook %s failed with %s; the run is as it was written",
                    hook.name,
                    error_name(problem),
                    extra={**fields, "error_at": error_places(problem)},
                )
                if problem is not told.error:
                    forget_frames(problem)

    def _count_failure(self) -> None:
        with self._lock:
            self._failures += 1


def _found(find_run: Callable[[], StoredRun]) -> Run | None:
    try:
        found = find_run()
        return None if found.payload is UNREADABLE else found.run
    except Exception as problem:
        log.warning("a run could not be read, so its hooks get event.run as None: %s", error_name(problem))
        return None


def name_of(function: object) -> str:
    """Return the name of a function in logs and errors."""
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def require_events(events: tuple[object, ...]) -> None:
    """Raise ``ConfigurationError`` unless these are names of events, one at least."""
    listed = f"there are {', '.join(EVENTS)}; write @jobs.on('failed')"
    problems = [f"on has no event {short_repr(each)}" for each in events if each not in EVENTS]
    if not events:
        problems = ["on needs the names of events"]
    if problems:
        raise ConfigurationError([*problems, listed])


def require_hook(function: object) -> None:
    """Raise ``ConfigurationError`` unless ``function`` can be called with one argument."""
    how = "write def hook(event): ..."
    if not callable(function):
        raise ConfigurationError([f"a hook must be callable, not {type(function).__name__}; {how}"])
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none to look at
        return
    try:
        signature.bind(None)
    except TypeError:
        raise ConfigurationError([f"the hook {name_of(function)} must take (event), not {signature}; {how}"]) from None


_known: weakref.WeakSet[Hooks] = weakref.WeakSet()


def _at_exit() -> None:
    for hooks in list(_known):
        hooks.wait(FINISH_SECONDS)
