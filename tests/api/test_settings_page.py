"""docs/settings.md has every setting, with its argument and its default."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta

import pytest

from examples.deployment import PROJECT
from kumofire_core import Jobs, RetryPolicy
from kumofire_core.config import OPTIONAL, REQUIRED

PAGE = (PROJECT / "docs/settings.md").read_text()
ROWS = {
    cells[0].strip("`"): cells[1:]
    for cells in ([cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines())
    if len(cells) > 2
}
PARAMETERS = {name: each for name, each in inspect.signature(Jobs).parameters.items() if name != "self"}
ARGUMENTS = {name: argument for name, (argument, *_) in (REQUIRED | OPTIONAL).items()} | {
    "KUMOFIRE_MAX_ATTEMPTS": "retry"  # one number of a policy
}


@pytest.mark.parametrize("variable", [*REQUIRED, *OPTIONAL])
def test_a_variable_is_on_the_page_with_its_argument(variable: str) -> None:
    assert ROWS[variable][0] == f"`{ARGUMENTS[variable]}`"


@pytest.mark.parametrize("argument", PARAMETERS)
def test_an_argument_is_on_the_page(argument: str) -> None:
    named = {name for cells in ROWS.values() for name in re.findall(r"`(\w+)`", cells[0])}
    named |= {name for first in ROWS for name in re.findall(r"\w+", first) if not first.startswith("KUMOFIRE")}

    assert argument in named


@pytest.mark.parametrize("variable", OPTIONAL)
def test_a_default_is_that_of_the_code(variable: str) -> None:
    default = PARAMETERS[ARGUMENTS[variable]].default
    said = ROWS[variable][1].strip("`")
    if variable == "KUMOFIRE_MAX_ATTEMPTS":
        default = RetryPolicy().max_attempts
    if isinstance(default, timedelta):
        default = default.days or default.seconds
    if default is None:
        assert said.endswith("none")
    else:
        assert said == (str(default).lower() if isinstance(default, bool) else str(default))
