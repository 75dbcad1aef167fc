"""The console: web pages by which a person sees and steers a deployment. Described in docs/console.md.

The extra ``console`` installs what it needs. It is no part of what runs in Lambda, and nothing else in this package
imports it but the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from kumofire_core.errors import ConfigurationError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from kumofire_core.console.access import Access, Authorize
    from kumofire_core.deployment.dead_letters import DeadLetters
    from kumofire_core.jobs import Jobs

__all__ = ["Access", "console"]


def console(
    jobs: Jobs,
    *,
    authorize: Authorize,
    read_only: bool = False,
    hosts: Collection[str] | None = None,
    title: str | None = None,
    dead_letters: Callable[[], DeadLetters] | None = None,
) -> ASGIApp:
    """Return the console of a deployment as an ASGI application, to be mounted in one's own.

    ``authorize`` gets each Starlette ``Request`` and says what its person may do: it returns an ``Access``, ``True``
    for everything, or ``None`` for nothing. There is no default: whoever reaches the console can steer the jobs.
    With ``read_only`` nobody changes anything. ``hosts`` are the ``Host`` headers that are answered, with their port
    where it is not the scheme's own; without it, the application around must check them. ``title`` names the
    deployment on the pages; by default that is the table's name. ``dead_letters`` makes the dead-letter queue's reader,
    where it is not the one of the jobs' own queue.

    Raises ``ConfigurationError`` where the extra ``console`` is not installed, or an argument is wrong.
    """
    from kumofire_core.deployment.dead_letters import DeadLetters
    from kumofire_core.deployment.discovery import deployment_of_jobs
    from kumofire_core.jobs import Jobs

    if not isinstance(jobs, Jobs):
        raise ConfigurationError([f"jobs must be a Jobs, not a {type(jobs).__name__}"])
    if not callable(authorize):
        raise ConfigurationError(["authorize must be a function that says what the person behind a request may do"])
    if isinstance(hosts, str):
        raise ConfigurationError([f"hosts must be a collection of names, not one text; write [{hosts!r}]"])
    try:
        from kumofire_core.console.app import build
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "kumofire_core":
            raise
        raise ConfigurationError(
            [
                f"the console needs {missing.name}, which is not installed; "
                "install it with: pip install 'kumofire-jobs[console]'"
            ]
        ) from None
    return build(
        jobs,
        authorize=authorize,
        read_only=read_only,
        hosts=hosts,
        title=title or jobs.table_name,
        dead_letters_of=dead_letters or (lambda: DeadLetters(deployment_of_jobs(jobs))),
    )


def __getattr__(name: str) -> Any:
    """Import ``Access`` when it is first used: it needs Starlette."""
    if name != "Access":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kumofire_core.console.access import Access

    return Access
