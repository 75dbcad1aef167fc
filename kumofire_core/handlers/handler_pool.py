"""Calling a handler, with a limit to its time. Free of AWS, runs and storage.

Python can't stop code from outside. A handler that may be cut therefore runs in a thread of its own while its caller
waits: when the time is over the caller goes on without it and drops whatever the handler returns later. A coroutine is
canceled. Plain code is left alone, because an exception raised in it from outside can strike between taking a lock and
the code that gives it back, and leave the whole process without that lock. A thread that goes on is counted as stray,
for whoever owns the process to end it.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kumofire_core.handlers.event_loop import HandlerLoop

HIDDEN_IN_TRACEBACKS = True

_current = threading.local()
"""``call``: the call that this thread makes, while it makes one."""

_within: ContextVar[HandlerCall | None] = ContextVar("kumofire_call", default=None)
"""The call whose coroutine this is, or which a thread beside the coroutine belongs to."""


class HandlerTimeoutError(Exception):
    """A call's time was over before it ended. Private to the engine, so no handler can raise it."""


class AttemptCutError(Exception):
    """A call that had time left was given up, because its process ends or its lease does. Private to the engine."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class HandlerPool:
    """Daemon threads, made when none is idle and kept for the next call.

    Not ``concurrent.futures``: its threads are joined when the interpreter ends, so one handler that never returns
    would keep its process alive for ever.
    """

    def __init__(self) -> None:
        self._idle: list[_Thread] = []
        self._lock = threading.Lock()
        self._stray: set[_Thread] = set()
        self._process = os.getpid()

    def start(self, function: Callable[[], Any], *, is_part: bool = False) -> HandlerCall:
        """Begin ``function`` in a thread, in a copy of the caller's context.

        ``is_part`` says that it does a part of the coroutine that starts it, and nothing once that one was given up.
        """
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]  # after a fork there are no threads but the one that forked
        call = HandlerCall(function, contextvars.copy_context(), _within.get() if is_part else None)
        with self._lock:
            thread = self._idle.pop() if self._idle else None
        if thread is None:
            thread = _Thread(self)
            thread.start()
        thread.inbox.put(call)
        return call

    def run(self, function: Callable[[], Any], *, seconds: float) -> Any:
        """Return what ``function`` returns or raise what it raises, if it ends within ``seconds``.

        Raises ``HandlerTimeoutError`` otherwise; the caller is then free of it.
        """
        call = self.start(function)
        if not call.wait(seconds) and self.abandon(call):
            raise HandlerTimeoutError
        call.wait()
        return call.result()

    def stray(self, *, patience_seconds: float = 0.0) -> int:
        """Return how many abandoned calls still run, after waiting up to ``patience_seconds`` for them to end."""
        give_up = time.monotonic() + patience_seconds
        with self._lock:
            strays = list(self._stray)
        for thread in strays:
            thread.join(max(0.0, give_up - time.monotonic()))
        with self._lock:
            self._stray = {thread for thread in self._stray if thread.is_alive()}
            return len(self._stray)

    def abandon(self, call: HandlerCall) -> bool:
        """Give a call up, and cancel its coroutine if it runs one; whoever waits for it goes on.

        ``False`` where it has ended just now, or was given up before.
        """
        with call.lock:
            if call.ended or call.abandoned:
                return False
            call.abandoned = True
            thread = call.thread
            if thread is not None:  # else it has not begun, and will not
                with self._lock:
                    self._stray.add(thread)
        if thread is not None and (cancel := call.cancel) is not None:
            cancel()
        call.let_go()
        return True

    def take_back(self, thread: _Thread) -> None:
        """Keep a thread for the next call."""
        with self._lock:
            self._idle.append(thread)


class BoundedPool:
    """Calls under way at once, at most ``limit``: starting one more waits for the oldest."""

    def __init__(self, threads: HandlerPool, limit: int) -> None:
        self._threads = threads
        self._limit = limit
        self._calls: deque[HandlerCall] = deque()

    def start(self, function: Callable[[], object]) -> None:
        """Begin ``function`` in a thread; raises what an earlier one raised."""
        while len(self._calls) >= self._limit:
            self._await_oldest()
        self._calls.append(self._threads.start(function))

    def finish(self) -> None:
        """Wait for all; raises what one of them raised."""
        while self._calls:
            self._await_oldest()

    def _await_oldest(self) -> None:
        call = self._calls.popleft()
        call.wait()
        call.result()


class HandlerCall:
    """One function call in a thread of ``HandlerPool``."""

    def __init__(
        self, function: Callable[[], Any], context: contextvars.Context, within: HandlerCall | None = None
    ) -> None:
        self._function = function
        self._context = context
        self._within = within
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self.lock = threading.Lock()
        """Guards ``ended`` and ``abandoned``: a call is either one that ended or one that was given up."""
        self.ended = False
        self.abandoned = False
        self.thread: _Thread | None = None
        self.cancel: Callable[[], object] | None = None
        """Cancels the coroutine that the call runs, where it runs one."""

    def is_given_up(self) -> bool:
        """Say whether the call was given up, or the one that it is a part of.

        A coroutine gives up its parts in threads when the loop comes to cancel it. That is a little after its own call
        was given up, and where other code blocks the loop, much later.
        """
        return self.abandoned or (self._within is not None and self._within.is_given_up())

    def let_go(self) -> None:
        """Let whoever waits for the call go on, because it was given up."""
        self._done.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the call has ended or was given up, for ever or for ``seconds``; say whether it has."""
        if not self._done.acquire(timeout=-1 if seconds is None else max(0.0, min(seconds, threading.TIMEOUT_MAX))):
            return False
        self._done.release()
        return True

    def result(self) -> Any:
        """Return what the function returned or raise what it raised; once, and only for a call that has ended."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame, which would otherwise keep it alive
        return self._value

    def execute(self, thread: _Thread) -> bool:
        """Make the call in ``thread``, and give the thread back; ``False`` where the call was abandoned meanwhile."""
        with self.lock:
            if self.abandoned:
                thread.owner.take_back(thread)
                return True
            self.thread = thread
        _current.call = self
        try:
            self._value = self._context.run(self._function)
        except BaseException as error:
            self._error = error
        _current.call = None
        with self.lock:
            self.ended = True
            if self.abandoned:
                self._value = self._error = None  # nobody asks for them
                return False
        thread.owner.take_back(thread)
        self._done.release()
        return True


class _Thread(threading.Thread):
    def __init__(self, owner: HandlerPool) -> None:
        super().__init__(name="kumofire-handler", daemon=True)
        self.inbox: queue.SimpleQueue[HandlerCall] = queue.SimpleQueue()
        self.owner = owner

    def run(self) -> None:
        while self.inbox.get().execute(self):
            pass


def calling_pool() -> HandlerPool | None:
    """Return the pool whose thread this is; ``None`` in a thread of somebody else's."""
    call: HandlerCall | None = getattr(_current, "call", None)
    return None if call is None or call.thread is None else call.thread.owner


def is_pool_thread() -> bool:
    """Say whether this thread makes a call of a pool's, and is none of somebody else's."""
    return getattr(_current, "call", None) is not None


def is_given_up() -> bool:
    """Say whether the caller's own call, in a thread or a coroutine, was given up: nobody waits for what it does."""
    call: HandlerCall | None = getattr(_current, "call", None) or _within.get()
    return call is not None and call.is_given_up()


def call_handler(handler: Callable[[Any], Any], context: object) -> Any:
    """Call a handler in this thread, and where it is ``async``, wait while its coroutine runs in the process's loop."""
    value = handler(context)
    if not hasattr(value, "__await__"):
        return value
    from kumofire_core.handlers import event_loop

    if not event_loop.is_inside():
        return _run_in(event_loop.handler_loop(), value)
    loop = event_loop.HandlerLoop()  # the process's one may be busy running our caller, until this returns
    try:
        return _run_in(loop, value)
    finally:
        loop.close(patience_seconds=0.0)


def call_hook(hook: Callable[[Any], Any], event: object) -> None:
    """Call a hook in this thread, and where it is ``async``, wait while its coroutine runs in the loop of hooks."""
    value = hook(event)
    if hasattr(value, "__await__"):
        from kumofire_core.handlers import event_loop

        _run_in(event_loop.hook_loop(), value)


def _run_in(loop: HandlerLoop, value: Awaitable[Any]) -> Any:
    """Await a value in the loop and return what it came to; the call of this thread, if it is cut, cancels it."""
    call: HandlerCall | None = getattr(_current, "call", None)
    outer = _within.set(call)
    try:
        under_way = loop.start(value)  # in a copy of this context
    finally:
        _within.reset(outer)  # this context is the call's own, and would keep it alive
    if call is None:
        return under_way.result()
    call.cancel = under_way.cancel
    try:
        if call.abandoned:  # before it could be canceled
            under_way.cancel()
        return under_way.result()
    finally:
        call.cancel = None
