"""The one event loop in which all ``async`` handlers of a process run, and the one of its ``async`` hooks.

Imported where the first of them is called.

It lives as long as the process, in a daemon thread of its own, so a connection, pool or lock that is bound to the loop
by one run serves the next one. Python can't interrupt code that blocks a loop. A loop that does not answer when one of
its handlers is to be cut is therefore left to itself, and later runs get a new one.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Awaitable
from contextvars import Context, ContextVar, copy_context
from typing import Any

from kumofire_core.handlers.context import attempt_fields

HIDDEN_IN_TRACEBACKS = True

ANSWER_SECONDS = 0.5
"""How long a loop may take to answer when one of its handlers is cut. It is part of the reserve before a deadline."""

EXIT_SECONDS = 1.0
"""How long the end of the process, or of a run that a person interrupts, waits for coroutines to clean up."""

log = logging.getLogger("kumofire_core")

_inside: ContextVar[HandlerLoop | None] = ContextVar("kumofire_event_loop", default=None)
_left: ContextVar[HandlerLoop | None] = ContextVar("kumofire_event_loop_left", default=None)


def is_inside() -> bool:
    """Say whether the caller belongs to a handler in the loop. Whatever it waits for must then run elsewhere."""
    return _inside.get() is not None


def leave() -> None:
    """Say that the caller, in a copy of its context, is a thread beside the loop, which goes on while it waits."""
    _left.set(_inside.get())
    _inside.set(None)


def is_main_task() -> bool:
    """Say whether a coroutine is a handler's own one, and not that of a task which the handler has made."""
    inside, task = _inside.get(), asyncio.current_task()
    return inside is not None and any(call.task is task for call in tuple(inside.calls))


class HandlerLoop:
    """An event loop in a daemon thread of its own. ``serves`` is whose code runs in it: ``handler`` or ``hook``."""

    def __init__(self, serves: str = "handler") -> None:
        self.serves = serves
        self._place = "loop" if serves == "handler" else "hook_loop"
        self.loop = asyncio.new_event_loop()
        self.retired = False
        self.unended = 1
        """Calls that this loop was given out for and that have not ended, the first one included; under ``_lock``."""
        self.calls: set[LoopCall] = set()
        """Those under way; used in the loop's thread only. A loop itself holds its tasks by weak references."""
        name = "kumofire-event-loop" if serves == "handler" else "kumofire-hook-loop"
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def start(self, awaitable: Awaitable[Any]) -> LoopCall:
        """Begin to await ``awaitable`` in a copy of the caller's context."""
        return LoopCall(self, awaitable, copy_context())

    def is_this_thread(self) -> bool:
        """Say whether the caller is in the loop's own thread."""
        return threading.current_thread() is self._thread

    def retire(self) -> None:
        """Let later runs have another loop, because a handler blocks this one; say which one."""
        with _lock:
            if self.retired:
                return
            self.retired = True
            if getattr(_process, self._place) is self:
                setattr(_process, self._place, None)
        fields = self._blocking_attempt()
        who = f"the handler of job {fields.get('job_name', '(unknown)')!r}" if self.serves == "handler" else "a hook"
        log.error(
            "%s blocks the event loop: it does not await; later %s get another loop",
            who,
            "runs" if self.serves == "handler" else "hooks",
            extra={**fields, "blocked_at": self._places()},
        )
        with contextlib.suppress(RuntimeError):  # it has ended meanwhile
            self.loop.call_soon_threadsafe(self.stop_if_idle)

    def stop_if_idle(self) -> None:
        """End a retired loop after its last handler; to be called in its thread."""
        with _lock:  # a thread may have been given the loop before it was retired, and not have started its call yet
            is_idle = self.retired and not self.unended
        if is_idle:
            self.loop.stop()

    def close(self, *, patience_seconds: float) -> None:
        """Cancel what is left and end the thread; wait up to ``patience_seconds`` for that."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(patience_seconds)

    def _serve(self) -> None:
        while True:
            try:
                self.loop.run_forever()
                break
            except (KeyboardInterrupt, SystemExit):  # a task's own; whoever awaits the task gets it as well
                continue
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:  # its end cancels tasks and closes generators
            runner.get_loop()

    def _blocking_attempt(self) -> dict[str, Any]:
        """Return the log fields of the attempt whose code the loop is executing, as far as that can be told."""
        task = asyncio.current_task(self.loop)
        for call in tuple(self.calls):
            if call.task is task and task is not None:
                return attempt_fields(call.context)
        get_context = getattr(task, "get_context", None)  # since Python 3.12; for a task that a handler has made
        return {} if get_context is None else attempt_fields(get_context())

    def _places(self) -> list[str]:
        """Return where the loop's thread is, without the loop's own code."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        stack = [] if frame is None else list(traceback.walk_stack(frame))
        kept = [
            (each, line)
            for each, line in reversed(stack)
            if not each.f_globals.get("HIDDEN_IN_TRACEBACKS")
            and not str(each.f_globals.get("__name__")).startswith(("asyncio.", "threading"))
        ]
        summary = traceback.StackSummary.extract(iter(kept), lookup_lines=False)
        return [f"{place.filename}:{place.lineno} in {place.name}" for place in summary][-8:]


class LoopCall:
    """One coroutine under way in a ``HandlerLoop``."""

    def __init__(self, owner: HandlerLoop, awaitable: Awaitable[Any], context: Context) -> None:
        self.context = context
        self.task: asyncio.Task[None] | None = None
        self._owner = owner
        self._awaitable = awaitable
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()
        context.run(_inside.set, owner)
        owner.loop.call_soon_threadsafe(self._start)

    def result(self) -> Any:
        """Wait for the end, and return what the coroutine returned or raise what it raised; once.

        An interruption of the waiting thread (Ctrl-C) cancels the coroutine.
        """
        try:
            self._done.acquire()
        except BaseException:
            self.cancel()
            self._done.acquire(timeout=EXIT_SECONDS)
            raise
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame, which would otherwise keep it alive
        return self._value

    def cancel(self) -> None:
        """Cancel the coroutine where it awaits; retire the loop where it does not answer."""
        answered = threading.Event()
        if self._owner.is_this_thread():  # a coroutine's part in a thread is cut, and that part's own coroutine
            self._cancel(answered)
            return
        try:
            self._owner.loop.call_soon_threadsafe(self._cancel, answered)
        except RuntimeError:  # the loop was closed in this instant
            return
        if not self._owner.retired and not answered.wait(ANSWER_SECONDS):
            self._owner.retire()

    def _start(self) -> None:
        self._owner.calls.add(self)
        self.task = self._owner.loop.create_task(self._run(), context=self.context)
        self.task.add_done_callback(self._ended)

    def _cancel(self, answered: threading.Event) -> None:
        answered.set()
        if self.task is not None:
            self.task.cancel()

    async def _run(self) -> None:
        try:
            self._value = await self._awaitable
        except BaseException as error:  # SystemExit among them, which would stop the loop
            self._error = error

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before it began
            self._error = asyncio.CancelledError()
            if (close := getattr(self._awaitable, "close", None)) is not None:
                close()
        self._owner.calls.discard(self)
        with _lock:
            self._owner.unended -= 1
        self._owner.stop_if_idle()
        self._done.release()


class _Process:
    """What belongs to this process."""

    loop: HandlerLoop | None = None
    """The loop of later runs, once there is one."""
    hook_loop: HandlerLoop | None = None


_lock = threading.Lock()
_process = _Process()
_of_the_parent: list[HandlerLoop] = []


def handler_loop() -> HandlerLoop:
    """Return this process's loop for one call, made where none answers; for a thread beside a loop, that one."""
    beside = _left.get()
    with _lock:
        if beside is not None and not beside.loop.is_closed():
            beside.unended += 1
            return beside
        if _process.loop is None:
            _process.loop = HandlerLoop()
        else:
            _process.loop.unended += 1
        return _process.loop


def hook_loop() -> HandlerLoop:
    """Return the loop of this process's hooks for one call. It is none of the handlers', which it can't hold up."""
    with _lock:
        if _process.hook_loop is None:
            _process.hook_loop = HandlerLoop("hook")
        else:
            _process.hook_loop.unended += 1
        return _process.hook_loop


def _after_fork() -> None:
    """Let a child process make a loop of its own: the parent's thread is not in it.

    The parent's loop is kept as it is, because to close it here would change the selector that they share.
    """
    global _lock
    _lock = threading.Lock()
    _of_the_parent.extend(loop for loop in (_process.loop, _process.hook_loop) if loop is not None)
    _process.loop = _process.hook_loop = None


def _at_exit() -> None:
    for loop in (_process.loop, _process.hook_loop):
        if loop is not None:
            loop.close(patience_seconds=EXIT_SECONDS)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
