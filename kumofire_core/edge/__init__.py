"""The Lambda edge: an application makes its two functions with ``consumer_handler`` and ``dispatcher_handler``.

``cleaner_handler`` makes the third one, which a deployment with a bucket for large payloads has.

Needs aws-lambda-powertools. Importing this module costs nothing; what a function needs is imported by these two.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kumofire_core.jobs import Jobs

__all__ = ["cleaner_handler", "consumer_handler", "dispatcher_handler"]

DEFAULT_JOBS = "handler.jobs:jobs"

LambdaHandler = Callable[[Any, Any], dict[str, Any]]


def consumer_handler(jobs: Jobs | None = None) -> LambdaHandler:
    """Return the Lambda function behind the queue: it consumes batches of SQS records.

    The function answers with Lambda's partial batch response, so its event source mapping must have
    ``ReportBatchItemFailures``. ``jobs`` is the application's ``Jobs``. Left out, it is imported from where the
    variable ``KUMOFIRE_JOBS`` says (``module:attribute``, by default ``handler.jobs:jobs``), and the cold start is
    shorter. Raises ``ConfigurationError`` where that names no ``Jobs``; errors of the module itself leave as they are.
    """
    with collector_paused():
        from kumofire_core.edge.consumer import make_handler

        return make_handler(jobs)


def dispatcher_handler(jobs: Jobs | None = None) -> LambdaHandler:
    """Return the Lambda function of the one-minute schedule: each invocation is one pass of the dispatcher.

    It does not read its event, and returns the counts of the pass. ``jobs`` and errors are as for ``consumer_handler``.
    """
    with collector_paused():
        from kumofire_core.edge.dispatcher import make_handler

        return make_handler(jobs)


def cleaner_handler(jobs: Jobs | None = None) -> LambdaHandler:
    """Return the Lambda function that removes the objects of runs that are gone (docs/large-payloads.md).

    It takes records of the table's stream, or ``{"sweep": true}``. ``jobs`` is left out as a rule: the function needs
    table and bucket only, which the environment names. Raises ``ConfigurationError`` where it does not.
    """
    with collector_paused():
        from kumofire_core.edge.cleaner import make_handler

        return make_handler(jobs)


def load_jobs(jobs: Jobs | None, *, sends: bool) -> Jobs:
    """Return ``jobs``, or the application's, with its DynamoDB client made, and SQS's where the function ``sends``.

    A client that is made here is ready when the first message comes, and takes a tenth less time than in a thread of
    the first batch. Errors are those of ``find_jobs``, and botocore's where it can't make a client.
    """
    found = find_jobs() if jobs is None else jobs
    found.make_clients(sqs=sends)
    return found


def find_jobs() -> Jobs:
    """Import the application's ``Jobs`` from where ``KUMOFIRE_JOBS`` says: ``module:attribute``.

    Raises ``ConfigurationError`` where it says nothing usable; errors of the module itself leave as they are.
    """
    from kumofire_core.errors import ConfigurationError
    from kumofire_core.jobs import Jobs

    given = os.environ.get("KUMOFIRE_JOBS")
    place, names = given or DEFAULT_JOBS, "names" if given else "is not set, and its default names"
    module_name, _, attribute = place.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise ConfigurationError(
            [f"KUMOFIRE_JOBS is {place[:80]!r}; it must be 'module:attribute', as {DEFAULT_JOBS!r}"]
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ConfigurationError(
            [f"KUMOFIRE_JOBS {names} the module {module_name!r}, which is not in the package"]
        ) from None
    jobs = getattr(module, attribute, None)
    if not isinstance(jobs, Jobs):
        raise ConfigurationError([f"KUMOFIRE_JOBS names {place!r}, which is {type(jobs).__name__} and not a Jobs"])
    return jobs


@contextmanager
def collector_paused(*, freeze: bool = True) -> Iterator[None]:
    """Keep the garbage collector from running while a process starts, and tell it to leave alone what is there by then.

    A start makes some hundred thousand objects that all stay. Looking through them again and again takes a tenth of a
    cold start. ``freeze=False`` is for a process of somebody else's: what is frozen is never collected.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if freeze:
                gc.freeze()
            gc.enable()
