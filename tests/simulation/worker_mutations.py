"""Deliberate mistakes with leases that are renewed: what each replaces, and from which seed on it is caught soon."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from math import inf
from typing import Any

from kumofire_core.engine import consumer, renewal
from kumofire_core.engine.consumer import Consumer
from kumofire_core.engine.renewal import HeldAttempt
from kumofire_core.errors import AttemptTimeoutError
from kumofire_core.model.run import RunStatus
from kumofire_core.rules import run_writes

Mutant = Callable[..., Any]
Patch = tuple[Any, str, Callable[[Any], Any]]


def _renew(**changes: Callable[[Any], Any]) -> tuple[Patch, ...]:
    """Return a patch that changes the write of a renewal, field by field."""

    def mutate(original: Any) -> Mutant:
        def mutant(*given: Any, **named: Any) -> Any:
            write = copy(original(*given, **named))
            for field, change in changes.items():
                setattr(write, field, change(getattr(write, field)))
            return write

        return mutant

    return ((run_writes, "renew", mutate),)


def _without(*names: str) -> Callable[[Any], Any]:
    return lambda value: {key: each for key, each in value.items() if key not in names}


def _none(value: Any) -> Any:
    return type(value)()


def _any_status(value: Any) -> Any:
    return tuple(RunStatus)


def _never_over(original: Any) -> Mutant:
    def mutant(self: Any, *given: Any) -> None:
        original(self, *given)
        self._lease_ends, self._lease_ms_until = inf, 10**15
        self._next = renewal.time.monotonic() + self._renewal.period

    return mutant


def _count_interrupted(original: Any) -> Mutant:
    def mutant(self: Any, claimed: Any, cut: Any, steps: Any) -> BaseException:
        ending: BaseException = original(self, claimed, cut, steps)
        return AttemptTimeoutError("interrupted") if isinstance(ending, consumer.Suspension) else ending

    return mutant


MISTAKES: dict[str, tuple[Patch, ...]] = {
    "renew whatever lease there is": _renew(equals=_none),
    "renew whatever the run does": _renew(equals=_none, source=_any_status, at_most=_none),
    "renew the wake-up, and not the lease": _renew(sets=_without("lease_until")),
    "renew the lease, and not the wake-up": _renew(sets=_without("wake_at")),
    "let a late copy shorten a lease": _renew(at_most=_none),
    "renew no run that is to be canceled": _renew(not_exists=lambda value: (*value, "cancel_requested_at")),
    "renew a lease for ten times as long": (
        (
            run_writes,
            "renew",
            lambda original: lambda *given, lease_ms, **named: original(*given, lease_ms=10 * lease_ms, **named),
        ),
    ),
    "never renew a lease": ((HeldAttempt, "_try_to_renew", lambda original: lambda self: None),),
    "renew a lease when it is over": ((renewal, "RENEWALS_A_LEASE", lambda original: 1),),
    "go on when the lease can't be renewed": ((HeldAttempt, "__init__", _never_over),),
    "count an attempt that is interrupted": ((Consumer, "_interrupted", _count_interrupted),),
}
