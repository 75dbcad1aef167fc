"""The examples of the documentation as programs: what each block needs from its page, from the library, and from you.

A block stands for itself or goes on with what earlier blocks of its page define. Names that nothing defines are public
names of the library, a few usual ones, or those that the page's reader has: ``GIVEN`` lists these by page.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import kumofire_core
from examples.deployment import PROJECT
from tools.site.markdown import blocks_of
from tools.site.pages import places

PAGES = [page for page in places() if page.endswith(".md") and page not in ("CHANGELOG.md", "SECURITY.md")]

IMPORTS = {
    "Any": "from typing import Any",
    "ConnectionClosedError": "from botocore.exceptions import ConnectionClosedError",
    "ReadTimeoutError": "from botocore.exceptions import ReadTimeoutError",
    "Request": "from urllib.request import Request",
    "UTC": "from datetime import UTC",
    "TestClient": "from starlette.testclient import TestClient",
    "ZoneInfo": "from zoneinfo import ZoneInfo",
    "asyncio": "import asyncio",
    "boto3": "import boto3",
    "dataclass": "from dataclasses import dataclass",
    "datetime": "from datetime import datetime",
    "json": "import json",
    "os": "import os",
    "pytest": "import pytest",
    "single_metric": "from aws_lambda_powertools.metrics import single_metric",
    "timedelta": "from datetime import timedelta",
    "timezone": "from datetime import timezone",
    "unittest": "import unittest",
    "urlopen": "from urllib.request import urlopen",
}
"""What an example may use without importing it, besides the public names of the library."""

USUAL = {"jobs": "jobs: Jobs", "ctx": "ctx: JobContext[Any]", "run_id": "run_id: str"}
"""What every page calls by these names."""

PROVIDED = frozenset((*kumofire_core.__all__, *IMPORTS, *USUAL))

GIVEN: dict[str, dict[str, str]] = {
    "docs/async.md": {"Email": ""},
    "docs/batches.md": {"url": "'https://example.com/7'"},
    "docs/bulk.md": {"bulk_id": "'a-bulk'"},
    "docs/children.md": {"find_suppliers": ""},
    "docs/console.md": {"app": "Starlette()", "get_asgi_application": "Starlette"},
    "docs/creating.md": {"users": "[]"},
    "docs/dedupe.md": {"doc_id": "7", "order": "{'id': 42}", "order_id": "42", "text": "'a text'"},
    "docs/encryption.md": {"load_keys": ""},
    "docs/fairness.md": {"pages": "[1, 2]", "payload": "{'page': 1}"},
    "docs/handlers.md": {"download": "", "import_page": ""},
    "docs/idempotent-handlers.md": dict.fromkeys(
        ("export_rows", "payments", "render_slowly", "send_email", "send_receipt"), ""
    ),
    "docs/large-payloads.md": {"pixels": "'00' * 100"},
    "docs/observe.md": {"database": "", "sentry_sdk": ""},
    "docs/retries.md": {"yesterday": "datetime.now(UTC) - timedelta(days=1)"},
    "docs/runs.md": {"CardRefusedError": "KeyError"},
    "docs/stages.md": {"PROD": "'p'", "TEST": "'t'", "app": "Starlette()", "authorize": "bool"},
    "docs/steps.md": {
        **dict.fromkeys(
            ("CardDeclined", "charge_card", "check_stock", "fetch_sales", "fetch_users", "import_from"), ""
        ),
        "check_stock": "bool",
        **dict.fromkeys(("print_label", "refund", "release_stock", "send_mail", "store"), ""),
    },
    "docs/testing.md": dict.fromkeys(
        ("app", "kumofire", "orders", "payments", "place_order", "remind", "web", "worker"), ""
    ),
    "docs/transactions.md": {"confirmation": "", "order": "", "order_id": "'42'"},
    "docs/typed-jobs.md": {"deliver": ""},
    "docs/worker.md": dict.fromkeys(("handle", "pages", "read_place", "train_epoch", "write_place"), ""),
}
"""By page, the names that its reader has, each with an expression for it; empty where executing the page needs none."""

ELSEWHERE = ("handler", "my_app", "psycopg")
"""Packages that examples import and that are not here: those of the reader's application, and what is not installed."""


@dataclass(frozen=True)
class Snippet:
    """One block of Python in a page."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def snippets_of(page: str) -> tuple[Snippet, ...]:
    """Return the blocks of Python of a page, in order."""
    blocks = blocks_of((PROJECT / page).read_text(encoding="utf-8"))
    return tuple(Snippet(page, block.line, block.text) for block in blocks if block.language == "python")


def all_snippets() -> list[Snippet]:
    """Return the blocks of Python of all pages."""
    return [snippet for page in PAGES for snippet in snippets_of(page)]


def snippet(page: str, part: str) -> Snippet:
    """Return the only block of a page that has this text in it."""
    (found,) = [each for each in snippets_of(page) if part in each.text]
    return found


@cache
def names_of(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that a block defines, and those that it uses without defining them."""
    whole = symtable.symtable(f"async def block():\n{textwrap.indent(text, ' ')}\n pass\n", "block", "exec")
    (block,) = whole.get_children()
    defined = {symbol.get_name() for symbol in block.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used = {symbol.get_name() for table in _tables(block) for symbol in table.get_symbols() if symbol.is_global()}
    return frozenset(defined), frozenset(used - set(dir(builtins)))


def program_of(snippet: Snippet) -> list[Snippet]:
    """Return the blocks that make a program of this one: those that first define what it uses, and itself.

    What every example is provided with is not looked for in the page.
    """
    found: list[Snippet] = []

    def add(each: Snippet) -> None:
        if each in found:
            return
        for name in sorted(names_of(each.text)[1] - PROVIDED):
            defining = [other for other in snippets_of(each.page) if name in names_of(other.text)[0]]
            if defining and defining[0].line < each.line:
                add(defining[0])
        found.append(each)

    add(snippet)
    return sorted(found, key=lambda each: each.line)


def missing_of(snippet: Snippet) -> list[str]:
    """Return the names that a block's program needs and does not define, in order."""
    program = program_of(snippet)
    defined: set[str] = set()
    missing: set[str] = set()
    for each in program:
        here, used = names_of(each.text)
        missing |= used - defined
        defined |= here
    return sorted(missing)


def unknown_of(snippet: Snippet) -> list[str]:
    """Return the names that a block uses and nobody defines."""
    known = {*PROVIDED, *GIVEN.get(snippet.page, ())}
    return [name for name in missing_of(snippet) if name not in known]


def preamble_of(snippet: Snippet) -> list[str]:
    """Return the lines that declare what a block's program is given, for a type checker."""
    given = GIVEN.get(snippet.page, {})
    lines = ["from typing import Any", "from kumofire_core import JobContext, Jobs"]
    for name in missing_of(snippet):
        if name in given:
            lines.append(f"{name}: Any = None")
        elif name in USUAL:
            lines.append(USUAL[name])
        elif name in IMPORTS:
            lines.append(IMPORTS[name])
        elif name in kumofire_core.__all__:
            lines.append(f"from kumofire_core import {name}")
    return lines


def imports_of(snippet: Snippet) -> list[tuple[str, str | None]]:
    """Return what a block imports: modules, and names from modules."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(
        compile(snippet.text, str(snippet), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    ):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [(node.module, alias.name) for alias in node.names]
    return found


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)
