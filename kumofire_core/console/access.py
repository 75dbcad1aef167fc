"""Who may see and do what in the console."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from kumofire_core.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What one person may do. Whoever has an ``Access`` may see runs, schedules, counts and dead letters."""

    act: bool = False
    """May change things: retry, cancel, pause and so on."""
    payloads: bool = False
    """May see payloads and outputs, and what may quote them: error texts, tracebacks, notes of progress."""
    user: str | None = None
    """Their name, for the log. It is shown to nobody else."""


FULL = Access(act=True, payloads=True)

Authorize: TypeAlias = Callable[[Request], "Access | bool | Awaitable[Access | bool | None] | None"]
"""Says what the person behind a request may do: an ``Access``; ``True`` for everything; ``None`` or ``False`` for
nothing. A plain function is called in a thread; an ``async`` one is awaited."""


async def access_of(request: Request, authorize: Authorize, *, read_only: bool) -> Access | None:
    """Return what the person behind a request may do, ``None`` for nothing.

    Raises ``ConfigurationError`` for an answer of ``authorize`` that is none of those it may give.
    """
    if inspect.iscoroutinefunction(authorize):
        answer = await authorize(request)
    else:
        answer = await run_in_threadpool(authorize, request)
        if inspect.isawaitable(answer):
            answer = await answer
    if answer is None or answer is False:
        return None
    found = FULL if answer is True else answer
    if not isinstance(found, Access):
        raise ConfigurationError(
            [f"authorize returned a {type(answer).__name__}; it must return an Access, True, False or None"]
        )
    return replace(found, act=False) if read_only else found
