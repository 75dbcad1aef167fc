"""What ``ctx.step``, ``ctx.sleep`` and ``ctx.wait_for`` do, and the same for ``async`` handlers.

Imported where the first of them is called. Free of AWS: whoever keeps the steps is handed in.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from kumofire_core.errors import InvalidArgumentError, WaitTimeoutError
from kumofire_core.handlers.context import REQUIRED, Suspension
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.handlers.middleware import await_in_thread, is_async
from kumofire_core.model.batch import member_run_id
from kumofire_core.model.run import Run
from kumofire_core.model.steps import StepKind
from kumofire_core.model.times import from_ms

HIDDEN_IN_TRACEBACKS = True

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
    beside: bool
    """Whether it began while another was under way."""


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

    suspension: Suspension | None
    """Why the handler was suspended, if it was."""

    @property
    def pool(self) -> HandlerPool:
        """The threads for what must not block an event loop."""
        ...

    @property
    def is_loaded(self) -> bool:
        """Whether ``find`` makes no request."""
        ...

    def begin(self, kind: StepKind, name: object) -> Call:
        """Take the next position. Makes no request; raises where the name is wrong or was used before."""
        ...

    def leave(self, call: Call, *, kept: bool) -> None:
        """Say that a call has ended; one that has kept nothing may be made again under its name."""
        ...

    def find(self, call: Call) -> Kept | None:
        """Return the result that an earlier attempt or invocation has kept."""
        ...

    def before_execution(self) -> None:
        """Raise ``Suspension`` where the run is to go on in another invocation."""
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

    def end(self) -> None:
        """Let nothing more be kept: the attempt has ended."""
        ...


def step(steps: KeepsSteps, name: str, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """Do what ``ctx.step`` does."""
    _require_no_loop("step")
    _require_callable("step", fn)
    if is_async(fn):
        raise InvalidArgumentError(
            f"ctx.step({name!r}, …) got a coroutine function; write await ctx.aio.step({name!r}, …) in an async handler"
        )
    call, kept = steps.begin(StepKind.STEP, name), False
    try:
        found = steps.find(call)
        if found is None:
            steps.before_execution()
            began = time.monotonic()
            value = fn(*args, **kwargs)
            if hasattr(value, "__await__"):
                if (close := getattr(value, "close", None)) is not None:
                    close()
                raise InvalidArgumentError(
                    f"the function of ctx.step({name!r}, …) returned an awaitable; write await ctx.aio.step(…)"
                )
            found = steps.keep(call, value, seconds=time.monotonic() - began)
        kept = True
        return found.value  # type: ignore[no-any-return]
    finally:
        steps.leave(call, kept=kept)


def sleep(steps: KeepsSteps, delay: timedelta | float, name: str | None) -> None:
    """Do what ``ctx.sleep`` does."""
    _require_no_loop("sleep")
    call, kept = steps.begin(StepKind.SLEEP, name), False
    try:
        steps.sleep(call, delay)
        kept = True
    finally:
        steps.leave(call, kept=kept)


def wait_for(steps: KeepsSteps, name: str, timeout: timedelta | float | None, default: Any) -> Any:
    """Do what ``ctx.wait_for`` does."""
    _require_no_loop("wait_for")
    call, kept = steps.begin(StepKind.WAIT, name), False
    try:
        waited = steps.wait(call, timeout)
        kept = True
    finally:
        steps.leave(call, kept=kept)
    return _outcome(name, waited, default)


def create_children(steps: KeepsSteps, requests: Any, name: str | None, what: str) -> str:
    """Do what ``ctx.create_children`` does."""
    _require_no_loop(what)
    return _create_children(steps, requests, name, what)


def _create_children(steps: KeepsSteps, requests: Any, name: str | None, what: str) -> str:
    call, kept = steps.begin(StepKind.CHILD, name), False
    try:
        found = steps.find(call)
        if found is None:
            steps.before_execution()
            began = time.monotonic()
            batch_id = steps.create_children(call, requests, what)
            found = steps.keep(call, batch_id, seconds=time.monotonic() - began)
        kept = True
        steps.note_children(str(found.value))
        return str(found.value)
    finally:
        steps.leave(call, kept=kept)


def wait_for_children(steps: KeepsSteps, timeout: timedelta | float | None) -> list[Run]:
    """Do what ``ctx.wait_for_children`` does."""
    _require_no_loop("wait_for_children")
    return _wait_for_children(steps, timeout)


def _wait_for_children(steps: KeepsSteps, timeout: timedelta | float | None) -> list[Run]:
    batches = steps.take_children()
    for signal in batches.values():
        call, kept = steps.begin(StepKind.WAIT, signal), False
        try:
            waited = steps.wait(call, timeout)
            kept = True
        finally:
            steps.leave(call, kept=kept)
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
        call, kept = steps.begin(StepKind.STEP, name), False
        try:
            found = (
                steps.find(call) if steps.is_loaded else await await_in_thread(steps.pool, partial(steps.find, call))
            )
            if found is None:
                steps.before_execution()
                began = time.monotonic()
                bound = partial(fn, *args, **kwargs)
                value = bound() if is_async(fn) else await await_in_thread(steps.pool, bound)
                if hasattr(value, "__await__"):
                    value = await value
                keep = partial(steps.keep, call, value, seconds=time.monotonic() - began)
                found = await await_in_thread(steps.pool, keep)
            kept = True
            return found.value
        finally:
            steps.leave(call, kept=kept)

    async def sleep(self, delay: timedelta | float, name: str | None = None) -> None:
        """Do what ``ctx.sleep`` does."""
        steps = self._steps()
        call, kept = steps.begin(StepKind.SLEEP, name), False
        try:
            await await_in_thread(steps.pool, partial(steps.sleep, call, delay))
            kept = True
        finally:
            steps.leave(call, kept=kept)

    async def wait_for(self, name: str, timeout: timedelta | float | None = None, default: Any = REQUIRED) -> Any:
        """Do what ``ctx.wait_for`` does."""
        steps = self._steps()
        call, kept = steps.begin(StepKind.WAIT, name), False
        try:
            waited = await await_in_thread(steps.pool, partial(steps.wait, call, timeout))
            kept = True
        finally:
            steps.leave(call, kept=kept)
        return _outcome(name, waited, default)

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
        made: str = await await_in_thread(steps.pool, partial(_create_children, steps, requests, name, what))
        return made

    async def wait_for_children(self, timeout: timedelta | float | None = None) -> list[Run]:
        """Do what ``ctx.wait_for_children`` does."""
        steps = self._steps()
        found: list[Run] = await await_in_thread(steps.pool, partial(_wait_for_children, steps, timeout))
        return found


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
