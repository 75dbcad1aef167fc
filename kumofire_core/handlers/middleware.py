"""Middleware: functions around a handler. Imported where the first of them is registered.

Plain code runs in a thread and ``async`` code in the event loop of the handlers, in whichever order they are nested. So
a plain middleware gets an ``async`` handler's value, and not its coroutine, and an ``async`` middleware awaits a plain
handler that blocks, and holds up nobody.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kumofire_core.errors import AttemptTimeoutError, ConfigurationError
from kumofire_core.handlers.context import JobContext
from kumofire_core.handlers.handler_pool import HandlerPool, call_handler, calling_pool, is_given_up

HIDDEN_IN_TRACEBACKS = True

CallNext = Callable[[JobContext], Any]
"""What a middleware calls to go on. A plain one gets the handler's value, an ``async`` one an awaitable of it."""

Middleware = Callable[[JobContext, CallNext], Any]


def require_middleware(function: object) -> None:
    """Raise ``ConfigurationError`` unless ``function`` can be called as ``function(ctx, call_next)``."""
    if problem := _problem(function):
        raise ConfigurationError([problem])


def _problem(function: object) -> str | None:
    how = "write def m(ctx, call_next): return call_next(ctx)"
    if not callable(function) or inspect.isclass(function):
        kind = f"the class {function.__name__}" if inspect.isclass(function) else type(function).__name__
        return f"a middleware must be a function, not {kind}; {how}"
    name = getattr(function, "__qualname__", type(function).__name__)
    if any(ask(_code_of(function)) for ask in (inspect.isgeneratorfunction, inspect.isasyncgenfunction)):
        return f"the middleware {name} must return what call_next returns, and it yields; {how}"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none to look at
        return None
    try:
        signature.bind(None, None)
    except TypeError:
        return f"the middleware {name} must take (ctx, call_next), not {signature}; {how}"
    return None


class HandlerChain:
    """A handler with the middleware around it, the outermost first: the engine calls it in place of the handler."""

    __slots__ = ("_is_async", "_steps")

    def __init__(self, middleware: Sequence[Middleware], handler: Callable[[JobContext], Any]) -> None:
        self._steps: tuple[Callable[..., Any], ...] = (*middleware, handler)
        self._is_async = tuple(map(is_async, self._steps))

    def __call__(self, ctx: JobContext) -> Any:
        """Call the outermost middleware, and return its value or, where it is ``async``, its coroutine."""
        return self._step(0, calling_pool())(ctx)

    def _step(self, index: int, pool: HandlerPool | None) -> Callable[[JobContext], Any]:
        """Return a step as a function of the context alone."""
        step = self._steps[index]
        if index == len(self._steps) - 1:
            return partial(_call_anew, step)
        return partial(_call_middleware, step, self._next(index + 1, pool, awaited=self._is_async[index]))

    def _next(self, index: int, pool: HandlerPool | None, *, awaited: bool) -> CallNext:
        """Return what a middleware calls to go on with the step at ``index``."""
        begin = partial(_begin, self._step(index, pool))
        if not awaited:
            return partial(call_handler, begin)
        if self._is_async[index]:
            return begin
        return partial(_await_in_thread, pool or _threads, begin)


def _call_middleware(middleware: Middleware, call_next: CallNext, ctx: JobContext) -> Any:
    return middleware(ctx, call_next)


def _call_anew(handler: Callable[[JobContext], Any], ctx: JobContext) -> Any:
    """Call the handler, perhaps once more in the same attempt: then its steps are gone through from the first one."""
    if (steps := getattr(ctx, "_steps", None)) is not None:
        steps.begin_pass()
    return handler(ctx)


def _begin(step: Callable[[JobContext], Any], ctx: JobContext) -> Any:
    """Call a step. An attempt that was cut goes no further: its run may be another's by now."""
    if is_given_up():
        raise AttemptTimeoutError("the attempt was cut before its middleware called call_next")
    return step(ctx)


_threads = HandlerPool()
"""For attempts without a time limit, which nobody cuts. Otherwise the pool that cuts the attempt counts its threads."""


async def _await_in_thread(pool: HandlerPool, step: Callable[[JobContext], Any], ctx: JobContext) -> Any:
    """Await a plain step in a thread. Where the attempt is cut meanwhile, the thread is left to itself and counted."""
    return await await_in_thread(pool, partial(call_handler, step, ctx))


async def await_in_thread(pool: HandlerPool, function: Callable[[], Any]) -> Any:
    """Await a plain function in a thread. Where the caller is canceled, the thread is left to itself and counted."""
    import asyncio

    from kumofire_core.handlers import event_loop

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ended.done():
            ended.set_result(None)

    def run() -> Any:
        event_loop.leave()
        try:
            return function()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(tell)

    call = pool.start(run, is_part=True)
    try:
        await ended
    except BaseException:
        pool.abandon(call)
        raise
    call.wait()
    return call.result()


def is_async(step: Callable[..., Any]) -> bool:
    """Say whether calling a step only makes a coroutine, so that the call itself blocks nobody."""
    return inspect.iscoroutinefunction(step) or inspect.iscoroutinefunction(_code_of(step))


def _code_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that a call executes: that of a ``partial``, or an object's ``__call__``."""
    while isinstance(function, partial):
        function = function.func
    if inspect.isfunction(function) or inspect.ismethod(function) or inspect.isbuiltin(function):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004 - it is called, and not asked whether it can be
