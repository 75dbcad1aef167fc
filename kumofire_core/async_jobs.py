"""``jobs.aio``: the calls of ``Jobs`` as coroutines, for web servers and ``async`` handlers. Imported on first use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial, update_wrapper
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload
from weakref import WeakKeyDictionary

from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.handlers.middleware import await_in_thread
from kumofire_core.jobs import Jobs

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 20
"""Calls of one event loop under way at once; further ones wait. A client keeps that many connections, at least."""


class AsyncCall(Generic[P, T]):
    """One call of ``Jobs`` as a coroutine function of ``AsyncJobs``, with the same arguments and the same result."""

    def __init__(self, method: Callable[Concatenate[Jobs, P], T]) -> None:
        self._method = method

    @overload
    def __get__(self, instance: None, owner: type[AsyncJobs]) -> Self: ...

    @overload
    def __get__(self, instance: AsyncJobs, owner: type[AsyncJobs]) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(
        self, instance: AsyncJobs | None, owner: type[AsyncJobs]
    ) -> AsyncCall[P, T] | Callable[P, Coroutine[Any, Any, T]]:
        if instance is None:
            return self
        method: Callable[P, T] = getattr(instance.jobs, self._method.__name__)

        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await instance.in_thread(partial(method, *args, **kwargs))

        return update_wrapper(call, MethodType(self._method, instance.jobs))


class AsyncJobs:
    """The calls of one ``Jobs`` that make requests, to be awaited: ``await jobs.aio.create("email", payload)``.

    Each runs in a thread, so that the event loop goes on; at most 20 of an event loop run at once, and others wait for
    their turn. Arguments, results and errors are those of the call of ``Jobs`` with this name. Where the awaiting task
    is canceled, a request that is under way goes on to its end: the run may be stored. Functions that are passed in
    (``on_progress``), and iterables of requests, are called and read in that thread. docs/async.md says what is not
    here, and what to do about it.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        """What makes the calls."""
        self._pool = HandlerPool()
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Make a call in one of the threads, in the caller's context; return or raise what it does."""
        loop = asyncio.get_running_loop()
        turns = self._turns.get(loop)
        if turns is None:
            turns = self._turns[loop] = asyncio.Semaphore(AT_ONCE)
        await turns.acquire()
        # Where the caller is canceled, its turn ends with the thread: canceled calls must not pile up threads.
        task = loop.create_task(self._take_turn(turns, call))
        task.add_done_callback(_look_at)
        return await asyncio.shield(task)

    async def _take_turn(self, turns: asyncio.Semaphore, call: Callable[[], T]) -> T:
        try:
            value: T = await await_in_thread(self._pool, call)
            return value
        finally:
            turns.release()

    create = AsyncCall(Jobs.create)
    create_many = AsyncCall(Jobs.create_many)
    create_batch = AsyncCall(Jobs.create_batch)
    create_chain = AsyncCall(Jobs.create_chain)
    get_batch = AsyncCall(Jobs.get_batch)
    list_batches = AsyncCall(Jobs.list_batches)
    cancel_batch = AsyncCall(Jobs.cancel_batch)
    get_status = AsyncCall(Jobs.get_status)
    find_run = AsyncCall(Jobs.find_run)
    get_many = AsyncCall(Jobs.get_many)
    list_runs = AsyncCall(Jobs.list_runs)
    stats = AsyncCall(Jobs.stats)
    steps = AsyncCall(Jobs.steps)
    cancel = AsyncCall(Jobs.cancel)
    run_now = AsyncCall(Jobs.run_now)
    reschedule = AsyncCall(Jobs.reschedule)
    update = AsyncCall(Jobs.update)
    delete = AsyncCall(Jobs.delete)
    signal = AsyncCall(Jobs.signal)
    retry = AsyncCall(Jobs.retry)
    cancel_tree = AsyncCall(Jobs.cancel_tree)
    cancel_many = AsyncCall(Jobs.cancel_many)
    retry_many = AsyncCall(Jobs.retry_many)
    delete_many = AsyncCall(Jobs.delete_many)
    get_bulk = AsyncCall(Jobs.get_bulk)
    resume_bulk = AsyncCall(Jobs.resume_bulk)
    abort_bulk = AsyncCall(Jobs.abort_bulk)
    get_limit = AsyncCall(Jobs.get_limit)
    pause = AsyncCall(Jobs.pause)
    resume = AsyncCall(Jobs.resume)
    pauses = AsyncCall(Jobs.pauses)
    create_schedule = AsyncCall(Jobs.create_schedule)
    get_schedule = AsyncCall(Jobs.get_schedule)
    get_schedule_by_key = AsyncCall(Jobs.get_schedule_by_key)
    update_schedule = AsyncCall(Jobs.update_schedule)
    update_schedule_by_key = AsyncCall(Jobs.update_schedule_by_key)
    upsert_schedule = AsyncCall(Jobs.upsert_schedule)
    disable_schedule = AsyncCall(Jobs.disable_schedule)
    disable_schedule_by_key = AsyncCall(Jobs.disable_schedule_by_key)
    delete_schedule = AsyncCall(Jobs.delete_schedule)
    list_schedules = AsyncCall(Jobs.list_schedules)
    trigger_schedule = AsyncCall(Jobs.trigger_schedule)
    wait_for_hooks = AsyncCall(Jobs.wait_for_hooks)
    make_clients = AsyncCall(Jobs.make_clients)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Look at an error that nobody awaits any more, which asyncio would log."""
    if not task.cancelled():
        task.exception()
