"""The Lambda edge: an application makes its two functions with ``consumer_handler`` and ``dispatcher_handler``.

Needs aws-lambda-powertools. Importing this module costs nothing; what a function needs is imported by these two.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kumofire_core.jobs import Jobs

__all__ = ["consumer_handler", "dispatcher_handler"]

LambdaHandler = Callable[[Any, Any], dict[str, Any]]


def consumer_handler(jobs: Jobs | None = None) -> LambdaHandler:
    """Return the Lambda function behind the queue: it consumes batches of SQS records.

    The function answers with Lambda's partial batch response, so its event source mapping must have
    ``ReportBatchItemFailures``. ``jobs`` is the application's ``Jobs``. Left out, it is imported from where the
    variable ``KUMOFIRE_JOBS`` says (``module:attribute``, by default ``handler.jobs:jobs``): the cold
    start is then shorter.
    Raises ``ConfigurationError`` where that names no ``Jobs``; errors of the module itself leave as they are.
    """
    with _collector_paused():
        from kumofire_core.edge.consumer import make_handler

        return make_handler(jobs)


def dispatcher_handler(jobs: Jobs | None = None) -> LambdaHandler:
    """Return the Lambda function of the one-minute schedule: each invocation is one pass of the dispatcher.

    It does not read its event, and returns the counts of the pass. ``jobs`` and errors are as for ``consumer_handler``.
    """
    with _collector_paused():
        from kumofire_core.edge.dispatcher import make_handler

        return make_handler(jobs)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from running during a cold start, and tell it to leave alone what is there by then.

    A cold start makes some hundred thousand objects that all stay. Looking through them again and again takes a tenth
    of it.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()
