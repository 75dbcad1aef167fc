"""What ``ctx.step``, ``ctx.sleep`` and ``ctx.wait_for`` do, and the same for ``async`` handlers.

Imported where the first of them is called. Free of AWS: whoever keeps the steps is handed in.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from kumofire_core.errors import InvalidArgumentError, WaitTimeoutError
from kumofire_core.handlers.context import REQUIRED, Suspension
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.handlers.middleware import await_in_thread, is_async
from kumofire_core.model.batch import member_run_id
from kumofire_core.model.run_view import Run
from kumofire_core.model.steps import StepKind
from kumofire_core.model.times import from_ms

HIDDEN_IN_TRACEBACKS = True

LOOK_SECONDS = 0.02
"""How often a call that suspends the run looks whether the steps beside it have ended."""

MOST_REQUESTS = 32
MOST_FUNCTIONS = 64
"""How many threads one ``async`` handler uses at a time, for requests and for the plain functions of steps."""

P = ParamSpec("P")
T = TypeVar("T")


class ChildOptions(TypedDict, total=False):
    """What ``ctx.create_child`` takes of ``create``."""

    run_at: datetime | None
    delay: timedelta | float | None
    max_attempts: int | None
    group: str | None


class Call(NamedTuple):
    """One call of a handler for a step, a sleep or a wait."""

    kind: StepKind
    name: str
    position: int
    """1 for the handler's first call."""
    outer: tuple[str, ...] = ()
    """The steps whose functions have made it."""


class Kept(NamedTuple):
    """The result of a step."""

    value: Any


class Waited(NamedTuple):
    """What a wait came to."""

    value: Any
    timed_out_ms: int | None
    """Epoch milliseconds of when it was over without a signal."""


class KeepsSteps(Protocol):
    """Keeps the steps of one attempt; safe to call from many threads."""

    slots: dict[Any, Any]
    """The semaphores that bound the threads of an ``async`` handler."""

    @property
    def ending(self) -> BaseException | None:
        """As what the steps have ended the attempt, whatever its handler makes of that."""
        ...

    @property
    def pool(self) -> HandlerPool:
        """The threads for what must not block an event loop."""
        ...

    def begin_pass(self) -> None:
        """Let the handler's calls begin anew."""
        ...

    def begin(self, kind: StepKind, name: object, outer: tuple[str, ...] = ()) -> Call:
        """Take the next position. Makes no request; raises where the name is wrong or was used before.

        ``outer`` are the steps whose functions make this call.
        """
        ...

    def leave(self, call: Call, error: BaseException | None) -> None:
        """Say that a call has ended; one that has kept nothing may be made again under its name."""
        ...

    def give_way(self, outer: tuple[str, ...]) -> None:
        """Say that a call suspends the run, and with it the steps whose functions have made it."""
        ...

    def awaits_others(self, outer: tuple[str, ...]) -> bool:
        """Say whether the functions of other steps are executing, and there is time to wait for them."""
        ...

    def finds_at_once(self, call: Call) -> bool:
        """Say whether ``find`` makes no request and decrypts nothing."""
        ...

    def find(self, call: Call) -> Kept | None:
        """Return the result that an earlier attempt or invocation has kept."""
        ...

    def before_execution(self, call: Call) -> None:
        """Raise ``Suspension`` where the run is to go on in another invocation. Makes no request."""
        ...

    def keep(self, call: Call, value: object, *, seconds: float) -> Kept:
        """Keep a result, and return the one that is kept: another attempt's, where that was faster."""
        ...

    def create_children(self, call: Call, requests: Any, what: str) -> str:
        """Create the children of one call, or go on with that; return their batch's id."""
        ...

    def note_children(self, batch_id: str) -> None:
        """Let ``take_children`` return these too."""
        ...

    def take_children(self) -> dict[str, str]:
        """Return the batches of children that were not waited for, each with the name of its signal."""
        ...

    def read_children(self, batch_ids: Sequence[str]) -> list[Run]:
        """Return children as they are now."""
        ...

    def sleep(self, call: Call, delay: object) -> None:
        """Return where the sleep is over; raise ``Suspension`` otherwise."""
        ...

    def wait(self, call: Call, timeout: object) -> Waited:
        """Return the signal, or that its time is over; raise ``Suspension`` otherwise."""
        ...

    def wait_for_children(self, call: Call, batch_id: str, timeout: object) -> Waited:
        """Return that the children have ended, or that the time is over; raise ``Suspension`` otherwise."""
        ...

    def end(self) -> None:
        """Let nothing more be kept: the attempt has ended."""
        ...


inside: ContextVar[tuple[str, ...]] = ContextVar("kumofire_steps", default=())
"""The steps whose functions are executing here, the outermost first."""


class Turn:
    """What is around a call: one that suspends the run waits first until the steps beside it have ended and are kept.

    Otherwise what they do would be done again, and a thread of theirs would go on alone.
    """

    __slots__ = ("_steps",)

    def __init__(self, steps: KeepsSteps) -> None:
        self._steps = steps

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Suspension):
            outer = inside.get()
            self._steps.give_way(outer)
            while self._steps.awaits_others(outer):
                time.sleep(LOOK_SECONDS)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Suspension):
            import asyncio

            outer = inside.get()
            self._steps.give_way(outer)
            while self._steps.awaits_others(outer):
                await asyncio.sleep(LOOK_SECONDS)


class Under:
    """A call from its beginning to its end."""

    __slots__ = ("_call", "_kind", "_name", "_steps")

    def __init__(self, steps: KeepsSteps, kind: StepKind, name: object) -> None:
        self._steps = steps
        self._kind = kind
        self._name = name
        self._call: Call | None = None

    def __enter__(self) -> Call:
        self._call = self._steps.begin(self._kind, self._name, inside.get())
        return self._call

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        assert self._call is not None
        self._steps.leave(self._call, error)


def step(steps: KeepsSteps, name: str, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """Do what ``ctx.step`` does."""
    _require_no_loop("step")
    _require_callable("step", fn)
    if is_async(fn):
        raise InvalidArgumentError(
            f"ctx.step({name!r}, …) got a coroutine function; write await ctx.aio.step({name!r}, …) in an async handler"
        )
    with Turn(steps), Under(steps, StepKind.STEP, name) as call:
        found = steps.find(call)
        if found is None:
            steps.before_execution(call)
            began = time.monotonic()
            value = _execute(call, partial(fn, *args, **kwargs))
            if hasattr(value, "__await__"):
                if (close := getattr(value, "close", None)) is not None:
                    close()
                raise InvalidArgumentError(
                    f"the function of ctx.step({name!r}, …) returned an awaitable; write await ctx.aio.step(…)"
                )
            found = steps.keep(call, value, seconds=time.monotonic() - began)
        return found.value  # type: ignore[no-any-return]


def _execute(call: Call, function: Callable[[], Any]) -> Any:
    token = inside.set((*inside.get(), call.name))
    try:
        return function()
    finally:
        inside.reset(token)


def sleep(steps: KeepsSteps, delay: timedelta | float, name: str | None) -> None:
    """Do what ``ctx.sleep`` does."""
    _require_no_loop("sleep")
    with Turn(steps), Under(steps, StepKind.SLEEP, name) as call:
        steps.sleep(call, delay)


def wait_for(steps: KeepsSteps, name: str, timeout: timedelta | float | None, default: Any) -> Any:
    """Do what ``ctx.wait_for`` does."""
    _require_no_loop("wait_for")
    with Turn(steps), Under(steps, StepKind.WAIT, name) as call:
        waited = steps.wait(call, timeout)
    return _outcome(name, waited, default)


def create_children(steps: KeepsSteps, requests: Any, name: str | None, what: str) -> str:
    """Do what ``ctx.create_children`` does."""
    _require_no_loop(what)
    with Turn(steps), Under(steps, StepKind.CHILD, name) as call:
        return _create_children(steps, call, requests, what)


def _create_children(steps: KeepsSteps, call: Call, requests: Any, what: str) -> str:
    found = steps.find(call)
    if found is None:
        steps.before_execution(call)
        began = time.monotonic()
        batch_id = steps.create_children(call, requests, what)
        found = steps.keep(call, batch_id, seconds=time.monotonic() - began)
    steps.note_children(str(found.value))
    return str(found.value)


def wait_for_children(steps: KeepsSteps, timeout: timedelta | float | None) -> list[Run]:
    """Do what ``ctx.wait_for_children`` does."""
    _require_no_loop("wait_for_children")
    batches = steps.take_children()
    for batch_id, signal in batches.items():
        with Turn(steps), Under(steps, StepKind.WAIT, signal) as call:
            waited = steps.wait_for_children(call, batch_id, timeout)
        _outcome(signal, waited, REQUIRED)
    return steps.read_children(list(batches))


class AsyncStepCalls:
    """``ctx.aio``: steps of an ``async`` handler. Requests to the table run in a thread, and block no event loop."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Callable[[], KeepsSteps]) -> None:
        self._steps = steps

    @overload
    async def step(self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def step(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def step(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Do what ``ctx.step`` does. ``fn`` may be ``async``; a plain function runs in a thread."""
        _require_callable("aio.step", fn)
        steps = self._steps()
        async with Turn(steps):
            with Under(steps, StepKind.STEP, name) as call:
                find = partial(steps.find, call)
                found = find() if steps.finds_at_once(call) else await _request(steps, find)
                if found is None:
                    steps.before_execution(call)
                    began = time.monotonic()
                    value = await _await_execution(steps, call, partial(fn, *args, **kwargs), is_async=is_async(fn))
                    keep = partial(steps.keep, call, value, seconds=time.monotonic() - began)
                    found = await _request(steps, keep)
                return found.value

    async def sleep(self, delay: timedelta | float, name: str | None = None) -> None:
        """Do what ``ctx.sleep`` does."""
        steps = self._steps()
        async with Turn(steps):
            with Under(steps, StepKind.SLEEP, name) as call:
                await await_in_thread(steps.pool, partial(steps.sleep, call, delay))

    async def wait_for(self, name: str, timeout: timedelta | float | None = None, default: Any = REQUIRED) -> Any:
        """Do what ``ctx.wait_for`` does."""
        wait = partial(self._steps().wait, timeout=timeout)
        return _outcome(name, await self._wait(name, wait), default)

    async def _wait(self, name: str, wait: Callable[[Call], Waited]) -> Waited:
        steps = self._steps()
        async with Turn(steps):
            with Under(steps, StepKind.WAIT, name) as call:
                waited: Waited = await await_in_thread(steps.pool, partial(wait, call))
        return waited

    async def create_child(
        self, job: str, payload: Any = None, *, name: str | None = None, **options: Unpack[ChildOptions]
    ) -> str:
        """Do what ``ctx.create_child`` does."""
        return child_of(await self._create([child_request(job, payload, options)], name, "create_child"))

    async def create_children(self, requests: Iterable[Any], *, name: str | None = None) -> str:
        """Do what ``ctx.create_children`` does."""
        return await self._create(requests, name, "create_children")

    async def _create(self, requests: Iterable[Any], name: str | None, what: str) -> str:
        steps = self._steps()
        async with Turn(steps):
            with Under(steps, StepKind.CHILD, name) as call:
                made: str = await _request(steps, partial(_create_children, steps, call, requests, what))
        return made

    async def wait_for_children(self, timeout: timedelta | float | None = None) -> list[Run]:
        """Do what ``ctx.wait_for_children`` does."""
        steps = self._steps()
        batches = steps.take_children()
        for batch_id, signal in batches.items():
            wait = partial(steps.wait_for_children, batch_id=batch_id, timeout=timeout)
            _outcome(signal, await self._wait(signal, wait), REQUIRED)
        found: list[Run] = await _request(steps, partial(steps.read_children, list(batches)))
        return found


async def _await_execution(steps: KeepsSteps, call: Call, function: Callable[[], Any], *, is_async: bool) -> Any:
    """Await a step's function, which is ``async`` or makes an awaitable, or plain: then it is called in a thread."""
    token = inside.set((*inside.get(), call.name))
    try:
        value = function() if is_async else await _in_thread(steps, "functions", MOST_FUNCTIONS, function)
        return await value if hasattr(value, "__await__") else value
    finally:
        inside.reset(token)


async def _request(steps: KeepsSteps, request: Callable[[], Any]) -> Any:
    return await _in_thread(steps, "requests", MOST_REQUESTS, request)


async def _in_thread(steps: KeepsSteps, what: str, most: int, function: Callable[[], Any]) -> Any:
    """Await a function in one of a bounded number of threads: a process may have no more than its system allows."""
    import asyncio

    place = what, asyncio.get_running_loop()
    if (slots := steps.slots.get(place)) is None:
        slots = steps.slots.setdefault(place, asyncio.Semaphore(most))
    async with slots:
        return await await_in_thread(steps.pool, function)


def child_request(job: str, payload: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request of one child."""
    return {"name": job, "payload": payload, **options}


def child_of(batch_id: str) -> str:
    """Return the id of the only run that a call created."""
    return member_run_id(batch_id, 0)


def _outcome(name: str, waited: Waited, default: Any) -> Any:
    if waited.timed_out_ms is None:
        return waited.value
    if default is REQUIRED:
        raise WaitTimeoutError(name, from_ms(waited.timed_out_ms))
    return default


def _require_callable(call: str, fn: object) -> None:
    if not callable(fn):
        raise InvalidArgumentError(
            f"ctx.{call} takes a name and a function, not {type(fn).__name__}; give the function and its arguments, "
            f"and not its result: ctx.{call}('name', function, argument)"
        )


def _require_no_loop(call: str) -> None:
    """Raise ``InvalidArgumentError`` on an event loop's thread, which a request would block."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise InvalidArgumentError(f"ctx.{call} would block the event loop; write await ctx.aio.{call}(…)")
