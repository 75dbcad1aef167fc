"""What the Lambda functions share at a cold start: finding the application's ``Jobs``. Free of any one function."""

from __future__ import annotations

import importlib
import os

from kumofire_core import ConfigurationError, Jobs

DEFAULT_JOBS = "handler.jobs:jobs"


def load_jobs() -> Jobs:
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
