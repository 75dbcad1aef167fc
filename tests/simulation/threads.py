"""The engine's threads, locks and events, as tasks of the world and what they wait for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from kumofire_core.handlers.handler_pool import HandlerPool
from tests.simulation.world import DiedError, Task, running

if TYPE_CHECKING:
    from tests.simulation.coroutines import AsyncHandler

UNSHARED = nullcontext()
"""In place of a lock that is never held while a task waits."""


def must_live() -> Task:
    """Return the running task; raises where its process has died, so that it waits for nothing any more."""
    task = running()
    if task.incarnation != task.process.incarnation:
        raise DiedError
    return task


class SimulatedThreads(HandlerPool):
    """The engine's pool, which makes a task for each call and ends it when the call is cut.

    A plain handler ends where it is. A coroutine is canceled by the engine, and its task ends when it has ended.
    """

    def start(self, function: Callable[[], Any]) -> SimulatedCall:  # type: ignore[override]
        """Begin a function in a task of the running one's process."""
        return SimulatedCall(function)

    def abandon(self, call: SimulatedCall) -> bool:  # type: ignore[override]
        """Give a call up, and check what the engine does to its coroutine."""
        if call.ended:
            return False
        coroutine = call.coroutine
        if coroutine is not None:
            is_awaited = call.cancel is not None
            coroutine.cut()
            call.move_to_background()
            given_up = super().abandon(call)  # type: ignore[arg-type]
            if is_awaited:  # else its own thread cancels it
                coroutine.was_cut()
            return given_up
        waiter = call.task.waiter
        if given_up := super().abandon(call):  # type: ignore[arg-type]
            self._stray.discard(call)  # type: ignore[arg-type]
            call.task.abandoned = True
            call.task.world.end(call.task)
            if waiter is not None and waiter is not running():
                call.task.world.wake(waiter)
        return given_up


class SimulatedCall:
    """A call in a task, and its thread."""

    lock = UNSHARED
    abandoned = False
    cancel: Callable[[], object] | None = None
    coroutine: AsyncHandler | None = None
    """The ``async`` handler that it has called."""
    _has_begun = False

    def __init__(self, function: Callable[[], Any]) -> None:
        current = running()
        self._function = function
        self._context = copy_context()
        self.task = current.world.start(current.process, self._execute)
        self.task.call = self
        self._number = current.world.steps

    def __hash__(self) -> int:
        return self._number  # so that a set of them has the same order in every process

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.task.ended

    def _execute(self) -> Any:
        self._has_begun = True
        return self._context.run(self._function)

    @property
    def thread(self) -> SimulatedCall | None:
        """The thread that it has, once it has begun: itself, which no attribute says, so that it is no cycle."""
        return self if self._has_begun else None

    def move_to_background(self) -> None:
        """Let its process be free for other work."""
        task = self.task
        task.among.pop(task, None)
        task.among = task.process.background
        task.among[task] = None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, or for ``seconds``; say whether it has."""
        task, current = self.task, running()
        if not task.ended and (seconds is None or seconds > 0):
            task.waiter = current
            if seconds is None:
                task.world.suspend()
            else:
                task.world.pause(int(seconds * 1000))
            task.waiter = None
        return task.ended or self.abandoned

    def let_go(self) -> None:
        """Let whoever waits for it go on, because it was given up."""
        waiter = self.task.waiter
        if waiter is not None and waiter is not running():
            self.task.world.wake(waiter)

    def result(self) -> Any:
        """Return or raise what it came to."""
        error = self.task.error
        if error is None:
            return self.task.value
        try:
            raise error
        finally:
            del error, self  # which its traceback knows

    def join(self, seconds: float) -> None:
        """Wait for the end of its thread."""
        self.wait(seconds)

    def is_alive(self) -> bool:
        """Say whether its thread goes on."""
        return not self.task.ended


class CurrentCall:
    """What each thread keeps for itself: the call that it executes."""

    @property
    def call(self) -> SimulatedCall | None:
        """The running task's call."""
        call: SimulatedCall | None = running().call
        return call


class SimulatedLock:
    """A lock between tasks: it may be held while a request is under way."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[Task] = []

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, after waiting for ever or for ``timeout`` seconds, or not at all; say whether it was taken."""
        if self._held and not blocking:
            return False
        while self._held:
            task = must_live()
            self._waiting.append(task)
            if timeout < 0:
                task.world.suspend()
                continue
            task.world.pause(int(timeout * 1000))
            timeout = 0.0
            if task in self._waiting:
                self._waiting.remove(task)
                return False
        self._held = True
        return True

    def release(self) -> None:
        """Let others take it, whoever has taken it."""
        self._held = False
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            if task in task.world.tasks:  # else its process has died
                task.world.wake(task)


class SimulatedEvent:
    """An event that tasks wait for."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[Task] = []

    def set(self) -> None:
        """Let all that wait go on."""
        self._is_set = True
        for task in self._waiting:
            task.world.wake(task)
        self._waiting = []

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is set, or for ``seconds``; say whether it is."""
        if not self._is_set:
            task = must_live()
            self._waiting.append(task)
            if seconds is None:
                task.world.suspend()
            else:
                task.world.pause(int(seconds * 1000))
            if task in self._waiting:
                self._waiting.remove(task)
        return self._is_set


class SimulatedCondition:
    """A condition that tasks wait for, whose lock nobody holds during a request."""

    def __init__(self) -> None:
        self._waiting: list[Task] = []

    def __enter__(self) -> None:
        """Take the lock, which is free: no task gives way while it holds it."""

    def __exit__(self, *error: object) -> None:
        """Leave the lock."""

    def wait(self, seconds: float) -> None:
        """Wait until it is notified, or for ``seconds``, a whole millisecond at least."""
        task = must_live()
        self._waiting.append(task)
        task.world.pause(max(1, int(seconds * 1000)))
        if task in self._waiting:
            self._waiting.remove(task)

    def notify(self) -> None:
        """Let the first of those that wait go on."""
        if self._waiting:
            task = self._waiting.pop(0)
            task.world.wake(task)


class SimulatedThread:
    """A thread of the engine's that lives as long as its process."""

    ident = None
    _task: Task | None = None

    def __init__(self, *, target: Callable[[], object], name: str, daemon: bool) -> None:
        self._target = target

    def start(self) -> None:
        """Begin it."""
        current = running()
        self._task = current.world.start(current.process, self._target, background=True)
        self._task.thread = self


def current_thread() -> Any:
    """Return the thread that the running task is; ``None`` where it is another one."""
    return running().thread
