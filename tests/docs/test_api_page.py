"""docs/api.md has every public call with its arguments, as the code has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import kumofire_core
from examples.deployment import PROJECT
from kumofire_core import Attempt, Batch, JobContext, Jobs, Limit, Rate, RetryPolicy, Run
from tools.site.markdown import blocks_of

PAGE = (PROJECT / "docs/api.md").read_text(encoding="utf-8")
CALLS = "\n".join(block.text for block in blocks_of(PAGE) if block.language == "text")
FILTER = ["status", "job_name", "since", "until", "error_type", "text"]
"""What ``…`` stands for."""

SHOWN: dict[str, tuple[str, Any]] = {
    f"{owner.__name__}.{name}": (name, getattr(owner, name))
    for owner in (Jobs, JobContext)
    for name in vars(owner)
    if not name.startswith("_") and name != "read_payload"
} | {kind.__name__: (kind.__name__, kind) for kind in (Jobs, RetryPolicy, Limit, Rate)}


def shown(name: str) -> list[str]:
    """Return the arguments of a call as the page has them, and ``=`` behind those with a default."""
    (text,) = re.findall(rf"(?<!\w){name}\(((?:[^()]|\([^()]*\))*)\)", CALLS)
    words = [word.strip() for word in text.replace("\n", " ").split(",") if word.strip()]
    words = [each for word in words for each in ([f"{name}=" for name in FILTER] if word == "…" else [word])]
    return [re.sub(r"=.+$", "=", word) for word in words]


def real(call: Callable[..., Any]) -> list[str]:
    """Return the same of the code."""
    found: list[str] = []
    keyword_only = False
    for parameter in inspect.signature(call).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            found.append("*")
            keyword_only = True
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        found.append(stars + parameter.name + ("" if parameter.default is parameter.empty else "="))
    return found


@pytest.mark.parametrize("where", SHOWN)
def test_a_call_is_shown_with_its_arguments(where: str) -> None:
    name, call = SHOWN[where]
    if callable(call):
        assert shown(name) == real(call)
    else:  # a property
        assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize("kind", [Run, Attempt, Batch], ids=lambda kind: kind.__name__)
def test_a_result_is_shown_with_its_fields(kind: Any) -> None:
    names = [each.name for each in fields(kind)] if kind is not Attempt else list(Attempt._fields)
    (text,) = re.findall(rf"^`{kind.__name__}`: ((?:.+\n)+?)(?=\n|`[A-Z])", PAGE, re.MULTILINE)

    assert {name for name in names if name != "read_members"} <= set(re.findall(r"`(\w+)(?:\(\))?`", text))


def test_every_error_of_a_call_of_jobs_is_named() -> None:
    raised = set(re.findall(r"``(\w+Error)``", inspect.getsource(Jobs))) & set(kumofire_core.__all__)
    # A handler's errors: the library raises them inside an attempt.
    of_attempts = {"AttemptTimeoutError", "LeaseExpiredError"}
    of_consumers = {"UnsupportedMessageVersionError", "MalformedMessageError", "DeadlineTooCloseError"}
    rare = {"PartlyDispatchedError", "SupersededRunError", "DedupeKeyTakenError"}

    assert {name for name in raised - of_attempts - of_consumers - rare if name not in PAGE} == set()


def test_the_old_names_are_named() -> None:
    for old, new in kumofire_core._RENAMED.items():
        assert re.search(rf"`{old}`\s\(`{new}`\)", PAGE)


def test_it_stays_on_a_few_screens() -> None:
    assert PAGE.count("\n") < 200
