"""Groups of handlers: a module collects its handlers, and a ``Jobs`` that includes the group registers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from kumofire_core.errors import ConfigurationError
from kumofire_core.handlers.job_function import Creator, HandlerDecorator, JobFunction, plain_function
from kumofire_core.handlers.registry import ErrorTypes, Handler, Registry
from kumofire_core.rules.retry import RetryPolicy
from kumofire_core.rules.validation import name_problem

if TYPE_CHECKING:
    from kumofire_core.handlers.middleware import Middleware
    from kumofire_core.rules.limits import Limit, Rate
else:  # so that annotations can be resolved at run time, and nobody pays for the import who has no limits
    Limit = Rate = Any

AnyMiddleware = TypeVar("AnyMiddleware", bound=Callable[..., Any])


class _Collected(NamedTuple):
    name: str
    handler: Handler
    options: dict[str, Any]
    """What ``Registry.register`` takes beside name and handler."""


class JobGroup:
    """Handlers of one module, collected without a ``Jobs``.

    ::

        # handler/mail.py
        mail = JobGroup()

        @mail.handler("email", max_attempts=5)
        def send_email(ctx: JobContext) -> None: ...

        # handler/jobs.py
        from handler.mail import mail

        jobs = Jobs.from_env()
        jobs.include(mail)

    The module with the handlers does not import the module with the ``Jobs``, which avoids a circular import. Several
    ``Jobs`` may include a group. An included group refuses further handlers, because no ``Jobs`` would register them.
    """

    def __init__(self) -> None:
        self._collected: list[_Collected] = []
        self._middleware: list[Middleware] = []
        self._included = False
        self._creators: list[Creator] = []

    def handler(
        self,
        name: str,
        *,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        retry_on: ErrorTypes | None = None,
        fail_on: ErrorTypes | None = None,
        expires_after: timedelta | None = None,
        concurrency: Limit | Sequence[Limit] | None = None,
        rate: Rate | None = None,
    ) -> HandlerDecorator:
        """Collect the decorated function as the handler of the job ``name``; takes the arguments of ``Jobs.handler``.

        Raises ``ConfigurationError`` if ``name`` is not a string, or a ``Jobs`` has included the group already.
        ``Jobs.include`` checks the other arguments. What the decorator returns can create runs from then on.
        """
        if not isinstance(name, str):  # most likely the function itself: the decorator without its parentheses
            raise ConfigurationError([f"{name_problem(name)}; write @group.handler('a name')"])
        if self._included:
            raise ConfigurationError(
                [f"the group of job {name!r} was included already; include it after its last handler is defined"]
            )

        options = {
            "max_attempts": max_attempts,
            "retry": retry,
            "timeout": timeout,
            "retry_on": retry_on,
            "fail_on": fail_on,
            "expires_after": expires_after,
            "concurrency": concurrency,
            "rate": rate,
        }

        def collect(function: Any) -> JobFunction[Any, Any]:
            function = plain_function(function)
            self._collected.append(_Collected(name, function, options))
            return JobFunction(name, function, self._creators)

        return collect

    def middleware(self, function: AnyMiddleware) -> AnyMiddleware:
        """Put the decorated function around the handlers of this group, and inside what ``Jobs.middleware`` registers.

        It applies to every handler of the group, in whichever order they are defined. Raises ``ConfigurationError`` as
        ``Jobs.middleware`` does, and if a ``Jobs`` has included the group already.
        """
        from kumofire_core.handlers.middleware import require_middleware

        require_middleware(function)
        if self._included:
            name = getattr(function, "__qualname__", type(function).__name__)
            raise ConfigurationError(
                [f"the group of middleware {name} was included already; include it after its last middleware"]
            )
        self._middleware.append(function)
        return function

    def register_in(self, registry: Registry, creator: Creator) -> None:
        """Register all handlers, or none: ``ConfigurationError`` names every problem. ``creator`` makes their runs."""
        names = [each.name for each in self._collected]
        problems = [
            f"job {name!r} has {names.count(name)} handlers in one group; give each another name"
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        ]
        for each in self._collected:
            problems += registry.problems(each.name, each.handler, **each.options)
        if problems:
            raise ConfigurationError(problems)
        for each in self._collected:
            registry.register(each.name, each.handler, **each.options)
        for middleware in self._middleware:
            registry.add_middleware(middleware, names)
        self._included = True
        self._creators.append(creator)
