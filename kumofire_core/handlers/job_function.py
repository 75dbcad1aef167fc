"""What ``@jobs.handler`` returns: the decorated function, which also creates runs of its job, and requests for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar, overload

from kumofire_core.errors import ConfigurationError, InvalidArgumentError
from kumofire_core.handlers.context import JobContext

if TYPE_CHECKING:
    import typing_extensions

    Payload = typing_extensions.TypeVar("Payload", default=Any)
    Returned = typing_extensions.TypeVar("Returned", default=Any)
else:  # Python 3.11 has no defaults
    Payload = TypeVar("Payload")
    Returned = TypeVar("Returned")


Dedupe = Literal["kept", "unfinished", "debounce"] | timedelta
"""For how long a ``dedupe_key`` makes no other run; see ``Jobs.create``."""


class _RunRequest(TypedDict):
    name: str


class RunRequest(_RunRequest, total=False):
    """What ``create_many`` may be given for each run: what ``create`` takes."""

    payload: Any
    run_at: datetime | None
    delay: timedelta | float | None
    max_attempts: int | None
    dedupe_key: str | None
    dedupe: Dedupe | None
    group: str | None


class Creator(Protocol):
    """What makes the runs: a ``Jobs``."""

    @property
    def aio(self) -> Any:
        """The same calls as coroutines."""
        ...

    @property
    def create(self) -> Callable[..., str]:
        """Store a run and return its id."""
        ...

    @property
    def create_many(self) -> Callable[..., list[str]]:
        """Store many runs and return their ids in order."""
        ...


class JobFunction(Generic[Payload, Returned]):
    """A handler together with its job. Calling it calls the handler; ``create`` creates runs of the job.

    Everything else is the handler's: its name, its documentation, its signature, whether it is ``async``.
    """

    # No annotations in the class: ``__annotations__`` of an instance is to be the handler's.

    def __init__(self, job_name: str, function: Callable[..., Any], creators: list[Creator]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__module__ = getattr(function, "__module__", __name__)
        # Attributes of the instance, so that a decorator around this one, by functools.wraps, has them too.
        self.__dict__.update(job_name=job_name, _creators=creators)
        for name in ("create", "create_many", "request"):
            self.__dict__[name] = getattr(self, name)

    def __call__(self, ctx: JobContext[Payload], /) -> Returned:
        """Call the handler with a context, which ``JobContext.for_test`` makes."""
        returned: Returned = self.__wrapped__(ctx)
        return returned

    @property
    def job_name(self) -> str:
        """The name of its job."""
        return str(self.__dict__["job_name"])

    @overload
    def create(
        self: JobFunction[None, Any],
        payload: None = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> str: ...

    @overload
    def create(
        self,
        payload: Payload,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> str: ...

    def create(
        self,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> str:
        """Do what ``Jobs.create`` does, for this job.

        Raises ``ConfigurationError`` for a handler of a ``JobGroup`` that no ``Jobs`` has included, or more than one.
        """
        return self._jobs().create(
            self.job_name,
            payload,
            run_at=run_at,
            delay=delay,
            max_attempts=max_attempts,
            dedupe_key=dedupe_key,
            dedupe=dedupe,
            group=group,
        )

    def create_many(
        self,
        payloads: Iterable[Payload],
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: Callable[[Payload], str] | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> list[str]:
        """Do what ``Jobs.create_many`` does: a run of this job for each payload, all with these options.

        ``dedupe_key`` is called with each payload and returns the run's key. Raises as ``create`` does too.
        """
        jobs = self._jobs()
        if isinstance(payloads, str | bytes | Mapping) or not isinstance(payloads, Iterable):
            raise InvalidArgumentError(
                f"create_many takes a list (or another iterable) of payloads, not {type(payloads).__name__}"
            )
        if dedupe_key is not None and not callable(dedupe_key):
            raise InvalidArgumentError(
                "dedupe_key of create_many must be a function that returns the key of a payload, not "
                f"{type(dedupe_key).__name__}: all runs would have the same key"
            )
        options = {"run_at": run_at, "delay": delay, "max_attempts": max_attempts, "dedupe": dedupe, "group": group}
        return jobs.create_many(
            {
                "name": self.job_name,
                "payload": payload,
                "dedupe_key": None if dedupe_key is None else dedupe_key(payload),
                **options,
            }
            for payload in payloads
        )

    @overload
    def request(
        self: JobFunction[None, Any],
        payload: None = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> RunRequest: ...

    @overload
    def request(
        self,
        payload: Payload,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> RunRequest: ...

    def request(
        self,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> RunRequest:
        """Return a request for a run of this job; nothing is created.

        ``create_many``, ``create_batch`` (``then`` too), ``create_chain`` and ``ctx.create_children`` take such
        requests and check them. The arguments are those of ``create``.
        """
        request: RunRequest = {
            "name": self.job_name,
            "payload": payload,
            "run_at": run_at,
            "delay": delay,
            "max_attempts": max_attempts,
            "dedupe_key": dedupe_key,
            "dedupe": dedupe,
            "group": group,
        }
        return {name: value for name, value in request.items() if value is not None}  # type: ignore[return-value]

    @property
    def aio(self) -> AsyncJobFunction[Payload]:
        """``create`` and ``create_many``, to be awaited: ``await send_email.aio.create(payload)`` (docs/async.md)."""
        return AsyncJobFunction(self)

    def _jobs(self) -> Creator:
        creators: list[Creator] = self.__dict__["_creators"]
        if len(creators) == 1:
            return creators[0]
        name = self.job_name
        raise ConfigurationError(
            [
                f"job {name!r} is in a JobGroup that {len(creators)} Jobs have included; call create({name!r}, …) of "
                "the one that you mean"
                if creators
                else f"job {name!r} is in a JobGroup that no Jobs has included yet: call jobs.include(…) first, or "
                "import the module that does"
            ]
        )

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Let a handler that is a method be called as one."""
        return self if instance is None else self.__wrapped__.__get__(instance, owner)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # a copy is being made
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return f"<job {self.job_name!r}: {self.__wrapped__!r}>"

    def __reduce__(self) -> str:
        """Pickle it as a function is pickled: by its name."""
        name: str = self.__wrapped__.__qualname__
        return name


class AsyncJobFunction(Generic[Payload]):
    """The creating calls of a ``JobFunction`` as coroutines: arguments, results and errors are the same."""

    __slots__ = ("_job",)

    def __init__(self, job: JobFunction[Payload, Any]) -> None:
        self._job = job

    @overload
    async def create(
        self: AsyncJobFunction[None],
        payload: None = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> str: ...

    @overload
    async def create(
        self,
        payload: Payload,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> str: ...

    async def create(self, payload: Any = None, **options: Any) -> str:
        """Do what ``JobFunction.create`` does, without blocking the event loop."""
        run_id: str = await self._job._jobs().aio.in_thread(partial(self._job.create, payload, **options))
        return run_id

    async def create_many(
        self,
        payloads: Iterable[Payload],
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: Callable[[Payload], str] | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
    ) -> list[str]:
        """Do what ``JobFunction.create_many`` does, without blocking the event loop."""
        many = partial(
            self._job.create_many,
            payloads,
            run_at=run_at,
            delay=delay,
            max_attempts=max_attempts,
            dedupe_key=dedupe_key,
            dedupe=dedupe,
            group=group,
        )
        run_ids: list[str] = await self._job._jobs().aio.in_thread(many)
        return run_ids


class HandlerDecorator(Protocol):
    """What ``Jobs.handler`` and ``JobGroup.handler`` return."""

    def __call__(self, function: Callable[[JobContext[Payload]], Returned], /) -> JobFunction[Payload, Returned]:
        """Register the function, and return it with its job."""
        ...


def plain_function(function: Any) -> Any:
    """Return the function itself where this is one that another decorator has returned."""
    return function.__wrapped__ if type(function) is JobFunction else function
