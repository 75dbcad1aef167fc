"""The program ``kumofire``, run in this process on a table and a queue in moto."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from kumofire_core.cli import main
from kumofire_core.cli.invocation import Invocation
from tests.builders import NOW, Aws, Clock


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def form(self) -> Any:
        """The object that ``--json`` printed."""
        return json.loads(self.out)


Kumofire = Callable[..., Ended]


@pytest.fixture
def clock() -> Clock:
    """The clock of the program and of ``jobs``."""
    return Clock(NOW)


@pytest.fixture
def kumofire(
    aws: Aws, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Kumofire]:
    """Return a function that runs a command line, given as its words, on the table and the queue of ``aws``.

    ``typed`` is what standard input holds, and ``terminal`` says whether a person types it.
    """
    before = os.environ.copy()
    for name in list(os.environ):
        if name.startswith(("KUMOFIRE_", "AWS_REGION", "AWS_PROFILE", "NO_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("KUMOFIRE_TABLE", aws.table)
    monkeypatch.setenv("KUMOFIRE_QUEUE_URL", aws.queue_url)
    monkeypatch.setattr(Invocation, "now", lambda self: clock())

    def run(*words: str, typed: str | bytes = "", terminal: bool = False) -> Ended:
        data = typed.encode() if isinstance(typed, str) else typed
        stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
        stdin.isatty = lambda: terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stdin)
        code = main(list(words))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    yield run
    os.environ.clear()  # the program sets variables for its clients
    os.environ.update(before)
