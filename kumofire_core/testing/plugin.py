"""The pytest plugin: the fixtures ``kumofire`` and ``kumofire_jobs``, a marker, two options (docs/testing.md).

pytest loads it in every session where the package is installed. So it imports pytest and the standard library alone
until a test asks for a fixture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from kumofire_core.testing.environment import TABLE, prepare_environment

if TYPE_CHECKING:
    from kumofire_core import Jobs
    from kumofire_core.testing.world import InProcessAWS

DEFAULT_JOBS = "handler.jobs:jobs"
SETTING = "KUMOFIRE_JOBS"
MARKER = "kumofire"
OPTIONS = ("chaos", "now", "seed")

_table_before = pytest.StashKey[str | None]()
_in_use = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``kumofire_jobs`` to the settings and ``--kumofire-seed`` to the command line."""
    parser.addini("kumofire_jobs", f"where your Jobs is, as module:attribute (default: ${SETTING}, or {DEFAULT_JOBS})")
    parser.getgroup("kumofire").addoption(
        "--kumofire-seed",
        metavar="SEED",
        help="decides what goes wrong in tests with chaos=True (default: each test's own id)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Set what modules of the application read when they are imported, before the first conftest.py imports one."""
    early_config.stash[_table_before] = os.environ.get("KUMOFIRE_TABLE")
    prepare_environment()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(chaos=False, now=None, seed=None): how the fixture kumofire begins: whether workers die and "
        "messages come twice, at which time, and by which seed",
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which table a test without the fixture would reach, where the environment named one."""
    table = config.stash.get(_table_before, None)
    if table is None or table == TABLE or not config.getini("kumofire_jobs"):
        return None
    return f"kumofire: KUMOFIRE_TABLE is {table}; a test without the fixture kumofire reaches that table"


@pytest.fixture
def kumofire_jobs(pytestconfig: pytest.Config) -> Any:
    """The application's ``Jobs``, by the setting ``kumofire_jobs``; override it to return another one, or several."""
    named = pytestconfig.getini("kumofire_jobs") or os.environ.get(SETTING) or DEFAULT_JOBS
    module_name, _, attribute = str(named).partition(":")
    how = 'write kumofire_jobs = "module:attribute" into the settings of pytest, or override the fixture kumofire_jobs'
    if not module_name or not attribute:
        raise pytest.UsageError(f"kumofire_jobs is {named!r}; {how}")
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise pytest.UsageError(f"there is no module {error.name!r} for kumofire_jobs = {named!r}; {how}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise pytest.UsageError(f"{module_name} has no {attribute!r}, as kumofire_jobs = {named!r} says; {how}")
        found = getattr(found, name)
    return found


@pytest.fixture
def kumofire(request: pytest.FixtureRequest, kumofire_jobs: Jobs | tuple[Jobs, ...]) -> Iterator[InProcessAWS]:
    """The application's ``Jobs`` on an AWS in memory, with a clock that the test moves (``InProcessAWS``)."""
    from kumofire_core.testing.world import in_process, seed_of

    given: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(MARKER))):  # the closest last
        if marker.args or marker.kwargs.keys() - set(OPTIONS):
            unknown = ", ".join([*map(repr, marker.args), *sorted(marker.kwargs.keys() - set(OPTIONS))])
            raise pytest.UsageError(f"@pytest.mark.kumofire takes {', '.join(OPTIONS)} by name, and not {unknown}")
        given |= marker.kwargs
    if given.get("seed") is None:
        given["seed"] = request.config.getoption("--kumofire-seed") or seed_of(request.node.nodeid)
    several = kumofire_jobs if isinstance(kumofire_jobs, list | tuple) else (kumofire_jobs,)
    with in_process(*several, **given) as aws:
        if given.get("chaos"):
            request.node.stash[_in_use] = aws
        yield aws


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Tell of a failed test with chaos what was done to its runs, and how to repeat it."""
    report = yield
    aws = item.stash.get(_in_use, None)
    if aws is not None and report.when == "call" and report.failed:
        lines = [f"repeat with --kumofire-seed={aws.seed}", *aws.chaos_log]
        report.sections.append(("kumofire chaos", "\n".join(lines)))
    return report
