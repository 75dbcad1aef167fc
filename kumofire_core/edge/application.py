"""Where a Lambda function finds the application's ``Jobs``."""

from __future__ import annotations

import importlib
import os

from kumofire_core.errors import ConfigurationError
from kumofire_core.jobs import Jobs

DEFAULT_JOBS = "handler.jobs:jobs"


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
