"""The examples of the documentation: each is executed, or checked against the library's types, as it is printed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from starlette.applications import Starlette

import kumofire_core
from examples.deployment import PROJECT
from kumofire_core import JobContext, Jobs
from kumofire_core.aws.clients import Clients
from kumofire_core.testing import in_process
from tests.docs.snippets import (
    ELSEWHERE,
    GIVEN,
    IMPORTS,
    Snippet,
    all_snippets,
    imports_of,
    missing_of,
    preamble_of,
    program_of,
    unknown_of,
)

SNIPPETS = all_snippets()
VALUES = {"Starlette": Starlette}
"""What the expressions in GIVEN use."""

NOT_EXECUTED = {
    ("docs/encryption.md", "arn:aws:kms"): "the key is left out",
    ("docs/encryption.md", "load_keys"): "tests/api/test_encryption_page.py executes it",
    ("docs/from-kumofire-typescript.md", "runs.json"): "it reads a file of the reader's",
    ("docs/large-payloads.md", 'table="…"'): "the table's name is left out",
    ("docs/stages.md", "profile_name"): "tests/api/test_stages_page.py executes it",
    ("docs/stages.md", "PROD"): "tests/api/test_stages_page.py executes it",
    ("docs/testing.md", "kumofire"): "tests/docs/test_testing_page.py executes it",
    ("docs/transactions.md", "for attempt in range(3)"): "tests/runs/test_transactions.py executes it",
    ("docs/transactions.md", "with bill, mail"): "tests/runs/test_transactions.py executes it",
}
"""Examples that can't be executed by themselves, by page and a part of their text, with the reason."""

TOLERATED = {
    r'Item "None" of "Run \| None"': "examples leave out the check for an unknown id",
    r'incompatible type "\*\*dict\[str, object\]"': "arguments that are kept in a dict",
    r'Invalid index type "str" for "Mapping\[RunStatus': "a status is a str",
    r'"(TransactWriteItem|Put|Update)TypeDef"': "boto3-stubs knows an item by its declared type",
    r'"list\[dict\[str, Any\]\]"; expected "Iterable\[RunRequest\]"': "requests that were read as JSON",
    r'expected "MetricUnit"': "Powertools takes the unit's text, too",
    r": note: ": "explains an error",
}
"""What a type checker may say of an example, with the reason."""


def why_not_executed(snippet: Snippet) -> str | None:
    """Return why an example is not executed here, or ``None``."""
    if any(module.partition(".")[0] in ELSEWHERE for each in program_of(snippet) for module, _ in imports_of(each)):
        return "it imports what is not here"
    return next(
        (why for (page, part), why in NOT_EXECUTED.items() if page == snippet.page and part in snippet.text), None
    )


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_an_example_uses_only_names_that_its_reader_has(snippet: Snippet) -> None:
    assert unknown_of(snippet) == [], "define or import it in the page, or say in GIVEN that its reader has it"


def test_nothing_is_listed_that_no_example_needs() -> None:
    needed = {(each.page, name) for each in SNIPPETS for name in missing_of(each)}

    assert {(page, name) for page, names in GIVEN.items() for name in names} <= needed
    for page, part in NOT_EXECUTED:
        assert any(each.page == page and part in each.text for each in SNIPPETS), (page, part)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """A ``Jobs`` on an AWS in memory, on which also those are that an example makes."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("KUMOFIRE_TABLE", "kumofire-jobs")
    monkeypatch.setenv("KUMOFIRE_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/kumofire-jobs")
    with in_process(Jobs.from_env(allow_unknown_jobs=True)) as aws:
        monkeypatch.setattr(Clients, "_make", lambda self, service: getattr(aws, service))
        monkeypatch.setattr(boto3, "client", lambda service, **settings: getattr(aws, service))
        yield aws.jobs


@pytest.mark.parametrize("snippet", [each for each in SNIPPETS if why_not_executed(each) is None], ids=str)
def test_an_example_is_executed(snippet: Snippet, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("page_of_the_documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look for the types of fields
    page = vars(module)
    page["jobs"], page["run_id"] = jobs, jobs.create("email", {"to": "x"})
    page["ctx"] = JobContext.for_test(payload={"order": 7})
    given = GIVEN.get(snippet.page, {})
    for name in [*IMPORTS, *missing_of(snippet)]:
        if name in IMPORTS:
            exec(IMPORTS[name], page)
        elif name in given:
            page[name] = eval(given[name], {**page, **VALUES}) if given[name] else object()
        elif name in kumofire_core.__all__:
            page[name] = getattr(kumofire_core, name)

    for each in program_of(snippet):
        code = compile(each.text, str(each), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, page))
        else:
            exec(code, page)


def test_the_types_of_every_example_fit_the_library_s() -> None:
    """The cache is that of `make typecheck`, so that the library is not read again; it wants the files at one place."""
    loose = (
        "allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, allow-any-generics, allow-untyped-decorators, "
        'no-warn-return-any, allow-untyped-globals, disable-error-code="no-redef,empty-body,top-level-await"'
    )
    folder = Path("build/snippets")
    shutil.rmtree(PROJECT / folder, ignore_errors=True)
    (PROJECT / folder).mkdir(parents=True)
    written = {}
    for snippet in SNIPPETS:
        path = folder / f"{re.sub(r'[^a-z0-9]', '_', str(snippet).lower())}.py"
        program = [f"# {each}\n{each.text}" for each in program_of(snippet)]
        (PROJECT / path).write_text("\n".join([f"# mypy: {loose}", *preamble_of(snippet), *program]), encoding="utf-8")
        written[str(path)] = str(snippet)

    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-error-summary", *written]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert (done.stderr, done.returncode in (0, 1)) == ("", True)
    accepted = re.compile(
        "|".join([*TOLERATED, rf"(?:module named|Module|Skipping analyzing) \"(?:{'|'.join(ELSEWHERE)})\b"])
    )
    told = [line.split(":", 1) for line in done.stdout.splitlines() if not accepted.search(line)]
    # What it says of the library itself is for `make typecheck`.
    found = [f"{written[path]}, in its program, line {text}" for path, text in told if path in written]
    assert not found, "\n".join(found)
