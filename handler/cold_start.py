"""The cold start of a function: finding the application's ``Jobs`` and making ready what the first invocation needs.

Each function imports this first, because it pauses the garbage collector: imports make some hundred thousand objects
that all stay, and a collector that goes through them again and again takes a tenth of a cold start to find nothing.
``load_jobs`` lets it go on; where something before that fails, the function can't start and its process ends.
"""

from __future__ import annotations

import gc
import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kumofire_core import Jobs

gc.disable()

DEFAULT_JOBS = "handler.jobs:jobs"


def load_jobs(*, sends: bool) -> Jobs:
    """Return the application's ``Jobs``, with its DynamoDB client made, and SQS's where the function always ``sends``.

    Made here and not by the first batch, a client is ready when the first message comes; and it takes a tenth less than
    in a thread of that batch. Then the collector goes on, and is told to leave alone what is there by now.
    Errors are those of ``_application``, and botocore's where it can't make a client.
    """
    try:
        jobs = _application()
        jobs.make_clients(sqs=sends)
        return jobs
    finally:
        gc.freeze()
        gc.enable()


def _application() -> Jobs:
    """Import the application's ``Jobs`` from where ``KUMOFIRE_JOBS`` says: ``module:attribute``.

    Raises ``ConfigurationError`` where it says nothing usable; errors of the module itself leave as they are.
    """
    from kumofire_core import ConfigurationError, Jobs

    place = os.environ.get("KUMOFIRE_JOBS") or DEFAULT_JOBS
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
            [f"KUMOFIRE_JOBS names the module {module_name!r}, which is not in the package"]
        ) from None
    jobs = getattr(module, attribute, None)
    if not isinstance(jobs, Jobs):
        raise ConfigurationError([f"KUMOFIRE_JOBS names {place!r}, which is {type(jobs).__name__} and not a Jobs"])
    return jobs
