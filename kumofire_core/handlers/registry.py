"""The jobs of one process: their names, handlers and options. Free of AWS and of the engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core.errors import ConfigurationError, UnknownJobError, short_repr
from kumofire_core.handlers.context import JobContext
from kumofire_core.handlers.job_function import plain_function
from kumofire_core.model.run_item import MAX_PAYLOAD_BYTES
from kumofire_core.model.times import duration_ms
from kumofire_core.rules.retry import RetryPolicy, is_attempt_count
from kumofire_core.rules.validation import name_problem, payload_text

if TYPE_CHECKING:
    from kumofire_core.handlers.middleware import Middleware
    from kumofire_core.handlers.payload_types import PayloadType
    from kumofire_core.rules.limits import Limit, Rate

    Concurrency = Limit | Sequence[Limit]

Handler = Callable[[JobContext], Any] | Callable[[JobContext], Awaitable[Any]]


ErrorTypes = type[BaseException] | tuple[type[BaseException], ...]


class Job(NamedTuple):
    """A job: a name, its handler and its options."""

    name: str
    handler: Handler
    """What an attempt calls: the handler, or the middleware around it (``HandlerChain``)."""
    retry: RetryPolicy
    max_attempts: int
    timeout_ms: int | None = None
    """How long one attempt may take; ``None``: until its process's deadline."""
    retry_on: tuple[type[BaseException], ...] | None = None
    """The only errors after which there is another attempt; ``None``: all."""
    fail_on: tuple[type[BaseException], ...] = ()
    """The errors after which there is no other attempt."""
    expires_after_ms: int | None = None
    """How long after its time a run is of use that has not started; ``None``: for ever."""
    payload_type: PayloadType | None = None
    """What its payloads have to be; ``None``: any JSON."""
    concurrency: tuple[Limit, ...] = ()
    """How many of its runs may execute at the same time."""
    rate: Rate | None = None
    """How many of its runs may start within a time."""


class Registry:
    """The jobs that have a handler in this process. ``retry`` is the policy of jobs without their own."""

    def __init__(self, retry: RetryPolicy) -> None:
        self.retry = retry
        self._jobs: dict[str, Job] = {}
        self._unknown = Job("", _no_handler, retry, retry.max_attempts)
        self._handlers: dict[str, Handler] = {}
        """The handlers by the names of their jobs, without the middleware around them."""
        self._around_all: list[Middleware] = []
        self._around: dict[str, list[Middleware]] = {}

    def register(
        self,
        name: str,
        handler: Handler,
        *,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        retry_on: ErrorTypes | None = None,
        fail_on: ErrorTypes | None = None,
        expires_after: timedelta | None = None,
        concurrency: Concurrency | None = None,
        rate: Rate | None = None,
    ) -> None:
        """Add a job; raises ``ConfigurationError``, which names every problem, for example a name that is taken."""
        if problems := self.problems(
            name,
            handler,
            max_attempts=max_attempts,
            retry=retry,
            timeout=timeout,
            retry_on=retry_on,
            fail_on=fail_on,
            expires_after=expires_after,
            concurrency=concurrency,
            rate=rate,
        ):
            raise ConfigurationError(problems)
        policy = retry or self.retry
        self._jobs[name] = Job(
            name=name,
            handler=handler,
            retry=policy,
            max_attempts=policy.max_attempts if max_attempts is None else max_attempts,
            timeout_ms=None if timeout is None else duration_ms(timeout),
            retry_on=None if retry_on is None else _types(retry_on),
            fail_on=() if fail_on is None else _types(fail_on),
            expires_after_ms=None if expires_after is None else duration_ms(expires_after),
            payload_type=_payload_type(name, handler),
            concurrency=() if concurrency is None else _as_tuple(concurrency),
            rate=rate,
        )
        self._handlers[name] = handler
        self._wrap(name)

    def add_middleware(self, middleware: Middleware, names: Iterable[str] | None = None) -> None:
        """Put a middleware around the handlers of these jobs, or around all, those that are registered later too.

        It is the innermost of its kind, and one for all jobs is outside those for some.
        """
        if names is None:
            self._around_all.append(middleware)
            names = list(self._jobs)
        else:
            names = list(names)
            for name in names:
                self._around.setdefault(name, []).append(middleware)
        for name in names:
            self._wrap(name)

    def _wrap(self, name: str) -> None:
        middleware = [*self._around_all, *self._around.get(name, ())]
        if middleware:
            from kumofire_core.handlers.middleware import HandlerChain

            self._jobs[name] = self._jobs[name]._replace(handler=HandlerChain(middleware, self._handlers[name]))

    def problems(
        self,
        name: str,
        handler: Handler,
        *,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        retry_on: ErrorTypes | None = None,
        fail_on: ErrorTypes | None = None,
        expires_after: timedelta | None = None,
        concurrency: Concurrency | None = None,
        rate: Rate | None = None,
    ) -> list[str]:
        """Return one sentence for each reason why this job can't be added."""
        problems = [] if (problem := name_problem(name)) is None else [problem]
        if not callable(handler):
            problems.append(f"the handler of job {name!r} must be callable, not {type(handler).__name__}")
        if max_attempts is not None and not is_attempt_count(max_attempts):
            problems.append(
                f"max_attempts of job {name!r} must be a whole number of at least 1, not {short_repr(max_attempts)}"
            )
        if retry is not None and not isinstance(retry, RetryPolicy):
            problems.append(f"retry of job {name!r} must be a RetryPolicy, not {type(retry).__name__}")
        if timeout is not None and (not isinstance(timeout, timedelta) or duration_ms(timeout) < 1):
            problems.append(f"timeout of job {name!r} must be a timedelta of at least 1 ms, not {short_repr(timeout)}")
        for option, types in (("retry_on", retry_on), ("fail_on", fail_on)):
            if types is not None and not _are_types(types):
                problems.append(
                    f"{option} of job {name!r} must be an exception type or a tuple of them, not {short_repr(types)}"
                )
        if expires_after is not None and (not isinstance(expires_after, timedelta) or duration_ms(expires_after) < 1):
            problems.append(
                f"expires_after of job {name!r} must be a timedelta of at least 1 ms, not {short_repr(expires_after)}"
            )
        if concurrency is not None:
            problems += self._limit_problems(name, concurrency)
        if rate is not None:
            from kumofire_core.rules.limits import rate_problems

            problems += rate_problems(name, rate)
        if isinstance(name, str) and name in self._jobs:
            problems.append(f"job {name!r} has a handler already; give the second one another name")
        if not problems:
            try:
                _payload_type(name, handler)
            except ConfigurationError as error:
                problems += error.problems
        return problems

    def _limit_problems(self, name: str, concurrency: object) -> list[str]:
        from kumofire_core.rules.limits import Limit, differing, option_problems

        problems = option_problems("concurrency", name, concurrency, Limit)
        return problems or differing(name, concurrency, {job.name: job.concurrency for job in self._jobs.values()})

    def register_all(self, handlers: Mapping[str, Handler] | None) -> list[str]:
        """Add jobs without options; return the problems of the jobs that could not be added."""
        if handlers is not None and not isinstance(handlers, Mapping):
            return [f"handlers must be a mapping of names to callables, not {type(handlers).__name__}"]
        problems: list[str] = []
        for name, handler in (handlers or {}).items():
            try:
                self.register(name, plain_function(handler))
            except ConfigurationError as error:
                problems += error.problems
        return problems

    def get(self, name: str) -> Job | None:
        """Return the job of this name, or ``None``."""
        return self._jobs.get(name)

    def require_known(self, name: str) -> None:
        """Raise ``UnknownJobError`` if handlers are registered, but none has this name."""
        if self._jobs and name not in self._jobs:
            raise UnknownJobError(name, list(self._jobs))

    def names(self) -> list[str]:
        """Return the names of the jobs in the order of registration."""
        return list(self._jobs)

    def has_timeouts_within(self, milliseconds: int) -> bool:
        """Return whether any job has a timeout, and all timeouts are shorter than ``milliseconds``."""
        timeouts = [job.timeout_ms for job in self._jobs.values() if job.timeout_ms is not None]
        return bool(timeouts) and max(timeouts) < milliseconds

    def payload_text(self, name: str, payload: object, most_bytes: int = MAX_PAYLOAD_BYTES) -> str:
        """Return the JSON text of a payload for a job's run, checked against its type where it has one here.

        Raises ``InvalidPayloadError`` or ``InvalidJSONError``.
        """
        job = self._jobs.get(name)
        if job is None or job.payload_type is None:
            return payload_text(payload, most_bytes)
        return job.payload_type.text(payload, most_bytes)

    def untyped_text(self, payload: object, most_bytes: int) -> str:
        """Return the JSON text of a payload for a run whose job is not known yet; see ``require_fit``."""
        if any(job.payload_type is not None for job in self._jobs.values()):
            from kumofire_core.handlers.payload_types import json_value

            payload = json_value(payload)
        return payload_text(payload, most_bytes)

    def require_fit(self, name: str, payload: object) -> None:
        """Raise ``InvalidPayloadError`` where a job has a type here and a payload, a JSON value, does not fit it."""
        job = self._jobs.get(name)
        if job is not None and job.payload_type is not None:
            job.payload_type.read(payload)

    def typed_output(self, name: str, value: object) -> object:
        """Return what a handler returned as JSON, where it declares a type; else ``value`` as it is."""
        from kumofire_core.handlers.payload_types import declares_return, json_value

        handler = self._handlers.get(name)
        return json_value(value) if handler is not None and declares_return(handler) else value

    def rules(self, name: str) -> Job:
        """Return what a job says of its failures; the default policy if the job does not have a handler here."""
        job = self._jobs.get(name)
        return self._unknown if job is None else job

    def max_attempts(self, name: str) -> int:
        """Return the ``max_attempts`` of a job's runs that were created without it."""
        job = self._jobs.get(name)
        return self.retry.max_attempts if job is None else job.max_attempts


_UNTYPED = ("JobContext", "kumofire_core.JobContext", "Any", "typing.Any", "object")


def _payload_type(name: str, handler: Handler) -> PayloadType | None:
    """Return the type of a job's payloads. Only a handler that may name one pays for looking closer."""
    function: Any = handler
    while isinstance(function, partial):
        function = function.func
    if not hasattr(function, "__annotations__"):
        function = getattr(type(function), "__call__", function)  # noqa: B004 - it is called
    try:
        annotations = getattr(function, "__annotations__", None) or {}
    except NameError:  # Python 3.14 evaluates them here
        annotations = {"ctx": None}
    first = next((annotation for of, annotation in annotations.items() if of != "return"), JobContext)
    if first is JobContext or first is Any or (isinstance(first, str) and first.strip("'\"") in _UNTYPED):
        return None
    from kumofire_core.handlers.payload_types import payload_type_of

    return payload_type_of(name, handler)


def _no_handler(ctx: JobContext) -> None:
    raise NotImplementedError


def _as_tuple(limits: Any) -> tuple[Any, ...]:
    return tuple(limits) if isinstance(limits, list | tuple) else (limits,)


def _are_types(types: object) -> bool:
    found = types if isinstance(types, tuple) else (types,)
    return bool(found) and all(isinstance(each, type) and issubclass(each, BaseException) for each in found)


def _types(types: ErrorTypes) -> tuple[type[BaseException], ...]:
    return types if isinstance(types, tuple) else (types,)
