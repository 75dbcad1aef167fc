"""Puts other clients, another clock and an empty memory into an application's ``Jobs``, in place, and takes them back.

In place, because the application's modules have imported it: handlers, web views, ``jobs.aio`` and the functions that
``@jobs.handler`` returned all hold this one object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from kumofire_core.engine.pause_reader import PauseReader
from kumofire_core.errors import InvalidArgumentError
from kumofire_core.jobs import Jobs
from kumofire_core.testing.errors import InProcessError

_MADE_LATER = {name for name, value in vars(Jobs).items() if isinstance(value, cached_property)}
_MADE_LATER |= {"_aio", "_stats_reader"}

_lock = threading.Lock()


class _FreshPauses(PauseReader):
    """Reads what is paused each time: the clock of a test stands still."""

    def _is_older_than(self, limit_ms: int) -> bool:
        return True


class Swapped:
    """The ``Jobs`` of an application while a test has them."""

    def __init__(self, all_jobs: Sequence[Jobs], owner: object, **settings: Any) -> None:
        self._owner = owner
        self._swapped: list[tuple[Jobs, dict[str, Any], _Registered]] = []
        for jobs in all_jobs:
            if not isinstance(jobs, Jobs):
                raise InvalidArgumentError(f"in_process takes a Jobs, not {type(jobs).__name__}")
        try:
            for jobs in all_jobs:
                self._swap(jobs, settings)
        except BaseException:
            self.put_back()
            raise

    def _swap(self, jobs: Jobs, settings: dict[str, Any]) -> None:
        with _lock:
            if "_in_process" in jobs.__dict__:
                raise InProcessError(
                    f"the Jobs of table {jobs.table_name!r} is in a test's AWS already: in_process and the fixture "
                    "kumofire can't be nested, nor used for one Jobs by two threads at once"
                )
            before = dict(jobs.__dict__)
            without = {"s3"} if jobs.bucket is None else set[str]()
            state = jobs._state_with(**{name: value for name, value in settings.items() if name not in without})
            kept = {name: value for name, value in before.items() if name not in state and name not in _MADE_LATER}
            jobs.__dict__.clear()
            jobs.__dict__.update(kept | state, _in_process=self._owner)
            self._swapped.append((jobs, before, _Registered(jobs)))
        consumer = jobs._consumer
        consumer._pauses = _FreshPauses(jobs._store)
        consumer.sleeps_for_rates = False

    def put_back(self) -> None:
        """Let each ``Jobs`` be what it was; what a test has registered by functions of its own is forgotten."""
        while self._swapped:
            jobs, before, registered = self._swapped.pop()
            registered.forget()
            hooks = jobs._store.hooks
            with _lock:
                jobs.__dict__.clear()
                jobs.__dict__.update(before)
            if hooks is not None and jobs._store.hooks is None:  # of a module that was first imported in the test
                jobs._store.hooks = hooks.anew()


class _Registered:
    """What is registered before a test."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        registry = jobs._registry
        self._names = set(registry.names())
        self._middleware = len(registry._around_all)
        self._hooks = {} if jobs._store.hooks is None else dict(jobs._store.hooks._hooks)

    def forget(self) -> None:
        """Forget what was registered since by functions that are inside others, as those of a test are."""
        registry, hooks = self._jobs._registry, self._jobs._store.hooks
        for name in set(registry.names()) - self._names:
            if _is_local(registry._handlers[name]):
                for known in (registry._jobs, registry._handlers, registry._around):
                    known.pop(name, None)
        added = registry._around_all[self._middleware :]
        if any(map(_is_local, added)):
            registry._around_all[self._middleware :] = [each for each in added if not _is_local(each)]
            for name in registry.names():
                registry._jobs[name] = registry._jobs[name]._replace(handler=registry._handlers[name])
                registry._wrap(name)
        if hooks is not None:
            for event, listed in list(hooks._hooks.items()):
                before = self._hooks.get(event, [])
                kept = [each for each in listed if each in before or not _is_local(each.function)]
                if kept:
                    hooks._hooks[event] = kept
                else:
                    del hooks._hooks[event]


def _is_local(function: Callable[..., Any]) -> bool:
    return "<locals>" in getattr(function, "__qualname__", "")
