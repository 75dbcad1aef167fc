"""``async`` handlers and the event loops that they run in: the engine's and asyncio's own code on the world's clock."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio import events
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from math import ceil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import patch

import greenlet

from kumofire_core.handlers import event_loop, handler_pool
from kumofire_core.handlers.context import attempt_fields
from tests.simulation.threads import (
    CurrentCall,
    SimulatedEvent,
    SimulatedLock,
    SimulatedThread,
    current_thread,
    must_live,
)
from tests.simulation.world import START_MS, DiedError, Process, Task, running

if TYPE_CHECKING:
    from kumofire_core.handlers.context import JobContext
    from tests.simulation.invariants import Attempt
    from tests.simulation.processes import Play

SKEW_MS = 500
HELD_UP_MS = (1, 400, 700, 3_000, 9_000)
"""For how long a thread may not go on, because others do or its process is frozen."""
SHOWS_BLOCKED_TASK = sys.version_info < (3, 14)
"""Later, a task that is under way is found by its thread, and all threads of the world are one."""

of_run: ContextVar[str] = ContextVar("simulated_run", default="")
"""Set by each coroutine, for itself."""


class SimulatedEventLoop(asyncio.BaseEventLoop):
    """asyncio's loop, without sockets, which waits as a task of the world."""

    def __init__(self) -> None:
        super().__init__()
        task = running()
        self._world, self.process = task.world, task.process
        self._selector = self
        self._clock_resolution = 0.0005
        self._sleeper: Task | None = None
        self._is_dead = False
        self._made: list[asyncio.Task[Any]] = []
        self.blocker: AsyncHandler | None = None
        """Who blocks it now."""
        self.blamed: tuple[str | None, ...] = ()
        self.blocks = 0
        """How often it was blocked."""
        self.freed_ms = 0
        """Until when it was blocked."""
        self.is_told = False
        """The engine has said that it is blocked."""
        self.was_told = False
        """It has said so once: then the loop is left, and it does not say so again."""
        self.must_be_left = False
        """The engine must know that it is blocked."""
        self.process.loops.append(self)

    def time(self) -> float:
        """Return the world's time, in seconds."""
        return (self._world.now - START_MS) / 1000

    def run_forever(self) -> None:
        """Run until it is stopped, while the loops of other processes are run by the same thread."""
        self._check_closed()
        self._thread_id = 1
        try:
            while not self._stopping:
                self._run_once()  # type: ignore[attr-defined]
        finally:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)

    def create_task(self, coro: Any, **given: Any) -> asyncio.Task[Any]:
        """Make a task, and remember it."""
        task = super().create_task(coro, **given)
        self._made.append(task)
        return task

    def call_soon_threadsafe(self, callback: Any, *given: Any, context: Context | None = None) -> asyncio.Handle:
        """Call something in the loop; the thread that asks for it may be held up before."""
        world, choices, call = self._world, self._world.choices, must_live().call
        if call is not None and call.coroutine is not None and call.coroutine.loop is None:
            call.coroutine.loop = self
            if self.must_be_left:
                world.violate("a run gets a loop that answers", f"{call.coroutine} is started in one that is blocked")
        rarely = 8 if self.blocker is None else 2
        if choices.below(rarely) == rarely - 1:
            world.pause(choices.of(HELD_UP_MS))
        return super().call_soon_threadsafe(callback, *given, context=context)

    def _write_to_self(self) -> None:
        if (task := self._sleeper) is not None:
            self._sleeper = None
            self._world.wake(task)

    def select(self, timeout: float | None) -> tuple[()]:
        """Wait for ``timeout`` seconds, or until it is called."""
        events._set_running_loop(None)
        task = must_live()  # a coroutine may have caught the end of its process
        if timeout == 0:
            self._world.pause(0)  # for others to go on at the same time
        else:
            self._sleeper = task
            if timeout is None:
                self._world.suspend()
            else:
                self._world.pause(ceil(timeout * 1000 - 0.01))
            self._sleeper = None
        events._set_running_loop(self)
        return ()

    def _process_events(self, found: tuple[()]) -> None:
        """Do nothing: it has no sockets."""

    @contextmanager
    def blocked(self, by: AsyncHandler, *, in_a_task_of_it: bool) -> Iterator[None]:
        """Let a coroutine wait without giving way to others; nothing waits in a process that has died."""
        must_live()
        task = asyncio.current_task(self)
        self.blocker, self.is_told = by, False
        # Before Python 3.12 a task that a handler has made does not tell whose it is.
        self.blamed = (by.attempt.run_id, None) if in_a_task_of_it else (by.attempt.run_id,)
        self.blocks += 1
        events._set_running_loop(None)
        if not SHOWS_BLOCKED_TASK and task is not None:
            asyncio.tasks._leave_task(self, task)
        try:
            yield
        finally:
            events._set_running_loop(self)
            if not SHOWS_BLOCKED_TASK and task is not None:
                asyncio.tasks._enter_task(self, task)
            self.blocker, self.freed_ms = None, self._world.now

    def _check_closed(self) -> None:
        if not self._is_dead:  # else a coroutine that is being unwound may call it, and nothing comes of that
            super()._check_closed()  # type: ignore[misc]

    def die(self) -> None:
        """End with its process: what is left in it is unwound."""
        self._is_dead = True
        for task in self._made:
            coroutine: Any = task.get_coro()
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if not coroutine.cr_running:
                coroutine.close()
        self._made.clear()
        self._closed = True
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]


class LoopOfProcess:
    """The engine's loop of the process that asks."""

    hook_loop = None
    """There is none: no history has hooks. The process's exit asks for it."""

    @property
    def loop(self) -> Any:
        """The loop, if there is one; outside of a history, as at the process's exit, there is none."""
        task = getattr(greenlet.getcurrent(), "task", None)
        return None if task is None else task.process.loop

    @loop.setter
    def loop(self, loop: Any) -> None:
        running().process.loop = loop


class Told:
    """The log of the event loop, in which it says that a handler blocks it."""

    def error(self, message: str, *given: object, extra: dict[str, Any]) -> None:
        """Take note of it, and check that it names the right one."""
        process, blamed = running().process, extra.get("job_run_id")
        blocked = [loop for loop in process.loops if loop.blocker is not None and not loop.is_told]
        for loop in blocked:
            if not SHOWS_BLOCKED_TASK or blamed in loop.blamed:
                loop.is_told = loop.was_told = True
                return
        if blocked:
            names = ", ".join(str(loop.blocker) for loop in blocked)
            running().world.violate("who blocks the loop is told", f"it is said of {blamed}, and {names} do")


@contextmanager
def simulated_event_loops() -> Iterator[None]:
    """Let the engine run coroutines in the simulation."""
    threading = SimpleNamespace(
        Lock=SimulatedLock, Event=SimulatedEvent, Thread=SimulatedThread, current_thread=current_thread
    )
    with ExitStack() as stack:
        for owner, name, replacement in (
            (event_loop, "asyncio", Asyncio()),
            (event_loop, "threading", threading),
            (event_loop, "log", Told()),
            (event_loop, "_process", LoopOfProcess()),
            (event_loop, "_lock", SimulatedLock()),
            (handler_pool, "_current", CurrentCall()),
        ):
            stack.enter_context(patch.object(owner, name, replacement))
        yield


class Asyncio:
    """asyncio, with another loop."""

    new_event_loop = SimulatedEventLoop

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


class GiveUpError(Exception):
    """A failure that no further attempt can mend."""


class AsyncHandler:
    """One call of an ``async`` handler: what it does, and what is known of it."""

    def __init__(self, play: Play, context: JobContext, attempt: Attempt) -> None:
        task = running()
        self.attempt = attempt
        self.process = task.process
        self.loop: SimulatedEventLoop | None = None
        self.finished = False
        self._play, self._world, self._context = play, task.world, context
        self._incarnation = task.incarnation
        self._called_ms = self._world.now
        self._is_cut = self._is_told = self._must_be_told = self._hangs = False
        self._block_at_cut = 0
        self._coroutine = self._run()
        self.process.coroutines.append(self)
        if task.call is not None:
            task.call.coroutine = self

    def __repr__(self) -> str:
        return f"{self.attempt.run_id} in {self.process}"

    def __await__(self) -> Generator[Any, None, Any]:
        return self._coroutine.__await__()

    def close(self) -> None:
        """Unwind it where it never began."""
        if not self.finished and not self._coroutine.cr_running:
            self._coroutine.close()
            self._finish("never begun", None)

    # What the engine does to it

    def cut(self) -> None:
        """Take note that the engine gives it up."""
        self._is_cut = True
        self._play.invariants.cut(self.attempt)
        self._block_at_cut = 0 if self.loop is None or self.loop.blocker is None else self.loop.blocks

    def was_cut(self) -> None:
        """Check that it was canceled, or that the engine knows why it can't be."""
        world, loop = self._world, self.loop
        self._must_be_told = True
        if loop is None:
            return
        if loop.blocker is not None and loop.blocks == self._block_at_cut:
            loop.must_be_left = True
            if not loop.was_told:
                world.violate("who blocks the loop is told", f"nobody was, though {loop.blocker} does")
        else:
            world.at(world.now + 1, self._check_is_told)

    def _check_is_told(self) -> None:
        if not self.finished and not self._is_told and self.loop is not None and self.loop.blocker is None:
            self._world.violate("a coroutine that is cut is canceled", f"{self} is not")

    def is_lost(self) -> bool:
        """Say whether it goes on for ever, and should not."""
        if self.finished or (self.loop is not None and self.loop.blocker is not None):
            return False
        return not self._hangs or (self._is_cut and not self._is_told)

    # What it does

    async def _run(self) -> Any:
        world, state, value = self._world, "raised", None
        self.loop = asyncio.get_running_loop()  # type: ignore[assignment]
        of_run.set(self.attempt.run_id)
        try:
            self._check_context()
            value = await self._behave()
            try:
                json.dumps(value)
                state = "returned"
            except TypeError:
                state = "returned no JSON"
            return value
        except asyncio.CancelledError:
            world.counts["a coroutine ends because it is canceled"] += 1
            raise
        except (DiedError, GeneratorExit):
            state = "died"
            raise
        finally:
            self._finish(state, value)

    def _finish(self, state: str, value: Any) -> None:
        self.finished = True
        self._play.invariants.ended(self.attempt, state, value)

    async def _behave(self) -> Any:
        play, choices, claims = self._play, self._world.choices, self.attempt.claims
        if play.settling:
            await self._sleep(choices.of((0, 20)))
            if choices.below(6) == 5:
                raise RuntimeError("boom")
            return f"done by {claims}"
        play.telling.tell(self._context, self.attempt, pauses=False)
        if choices.below(3) == 2 and (error := play.steering.raised(self._context)) is not None:
            await self._sleep(choices.of((0, 20)))
            raise error
        what = choices.below(24)
        if choices.below(8) == 7:
            self._left_behind = asyncio.create_task(self._block_later(choices.of((1, 20, 900, 4_000))))
        if self._context.fencing_token > 1 and choices.below(4):
            what = 3  # the one it was taken from may come back meanwhile
        elif play.variant.batch_writes and choices.below(2):
            what = choices.of((0, 1, 2, 4))  # soon, as the others of its batch
        elif any(each is not self and not each.finished for each in self.process.coroutines) and choices.below(4):
            what = choices.of((15, 6, 15))  # one blocks the loop while the other waits in it
        if what < 4:
            for _ in range(choices.of((1, 2, 3))):
                await self._sleep(choices.of((5, 0, 50, 1_000)))
            return None if what == 2 else f"done by {claims}"
        if what == 4:
            await self._sleep(3)
            raise choices.of((RuntimeError, SystemExit))("boom")
        if what < 13:
            await self._take_long()
        elif what < 15:
            left_ms = int(self._context.time_left().total_seconds() * 1000)
            await self._sleep(max(0, left_ms + choices.of((0, -1, 1))))
        elif what < 18:
            await self._sleep(choices.of((0, 20)))
            self._block(choices.of((200, 900, 4_400, 30_000)))
            if choices.below(2):
                await self._sleep(choices.of((0, 300)))
        elif what == 18:
            await self._sleep(choices.of((10, 1_500)))
            if self._asks_for_cancellation():
                raise RuntimeError("canceled")
        elif what == 19:
            return object()
        elif what == 20:
            await self._sleep(choices.of((1, 500)))
            self._die()
        elif what == 21:
            self._world.at(self._world.now + choices.of((1, 20, 900)), self._kill)
            await self._sleep(1_000)
        elif what == 22:
            self._hangs = True
            await self._awaited(asyncio.get_running_loop().create_future())
        else:
            self._block(None)
        if choices.below(2):
            raise choices.of((RuntimeError, GiveUpError))("late boom")
        return {"late by": [claims]}

    async def _block_later(self, wait_ms: int) -> None:
        """Block the loop, perhaps after the handler itself has ended."""
        await asyncio.sleep(wait_ms / 1000)
        with suppress(DiedError), self._blocked(in_a_task_of_it=True):
            self._world.pause(self._world.choices.of((100, 600, 5_000)))

    async def _take_long(self) -> None:
        """Wait for about as long as the lease, and answer a cancellation in one way or another."""
        play, world, choices, lease_until = self._play, self._world, self._world.choices, self.attempt.lease_until
        beyond = choices.of((700, 100, -100, -700, 3_000, 62_000))
        if choices.below(4):
            play._deliver_at(lease_until + SKEW_MS + 1, self.attempt.run_id)
        length_ms = max(0, lease_until - world.now - self.process.skew_ms + beyond)
        try:
            if choices.below(4) == 3:
                await self._awaited(asyncio.create_task(self._sleep(length_ms)))
            else:
                await self._sleep(length_ms)
        except asyncio.CancelledError:
            match choices.below(6):
                case 0:
                    raise
                case 1:
                    raise RuntimeError("it was canceled") from None
                case 2:
                    await self._sleep(choices.of((30, 400, 3_000)))  # to clean up
                    raise
                case 3:
                    self._block(choices.of((100, 700, 3_000)))
                    raise
                case 4:
                    await self._sleep(choices.of((200, 1_500, 30_000)))  # it does not care

    async def _sleep(self, length_ms: int) -> None:
        await self._awaited(asyncio.sleep(length_ms / 1000))

    async def _awaited(self, awaitable: Any) -> None:
        """Await something that is not the engine's, and check what becomes of it."""
        try:
            await awaitable
        except asyncio.CancelledError:
            if not self._is_cut:
                self._world.violate("a coroutine is canceled only where it is cut", str(self))
            self._is_told = True
            raise
        finally:
            if self._incarnation == self.process.incarnation:
                self._check_context()
        # Where the loop was blocked, it may have been about to go on.
        if self._must_be_told and not self._is_told and self.loop is not None and self.loop.freed_ms < self._world.now:
            self._world.violate("a coroutine that is cut is canceled", f"{self} goes on")

    def _check_context(self) -> None:
        """Check that what belongs to an attempt is its own."""
        if (found := attempt_fields(copy_context()).get("job_run_id")) != self.attempt.run_id:
            self._world.violate("an attempt has a context of its own", f"{self} logs as {found}")
        if of_run.get() != self.attempt.run_id:
            self._world.violate("an attempt has a context of its own", f"{self} sees the variables of {of_run.get()}")

    def _block(self, length_ms: int | None) -> None:
        """Wait without awaiting; for ever, where no time is given."""
        with self._blocked():
            if length_ms is None:
                self._world.suspend()
            else:
                self._world.pause(length_ms)

    def _blocked(self, *, in_a_task_of_it: bool = False) -> Any:
        if self.loop is None:
            raise AssertionError("a coroutine without a loop")
        self._world.counts["event loop blocked"] += 1
        return self.loop.blocked(self, in_a_task_of_it=in_a_task_of_it)

    def _asks_for_cancellation(self) -> bool:
        with self._blocked():  # by a request
            return self._context.cancel_requested()

    def _kill(self) -> None:
        if self._incarnation == self.process.incarnation:
            self._world.kill(self.process)

    def _die(self) -> NoReturn:
        self._world.kill(self.process)
        raise DiedError


def unfinished(processes: Sequence[Process]) -> tuple[str, str] | None:
    """Return what is left at the end and should not be: a violation's name and text, or ``None``."""
    for process in processes:
        for coroutine in process.coroutines:
            if coroutine.is_lost():
                return "a coroutine ends", f"{coroutine} does not"
        used = {id(coroutine.loop) for coroutine in process.coroutines if not coroutine.finished}
        for loop in process.loops:
            if not loop.is_closed() and loop is not getattr(process.loop, "loop", None) and id(loop) not in used:
                return "a loop that was replaced ends with its last run", f"one of {process} does not"
    return None


__all__ = ["AsyncHandler", "GiveUpError", "simulated_event_loops", "unfinished"]
