"""Typed jobs as mypy and pyright see them (``typed_sample.py``)."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SAMPLE = Path(__file__).with_name("typed_sample.py")
LINES = SAMPLE.read_text().splitlines()

Told = dict[int, list[str]]
REVEALED = {line: found[1] for line, text in enumerate(LINES, 1) if (found := re.search(r"# reveal: (.*)$", text))}
ERRORS = {line for line, text in enumerate(LINES, 1) if text.endswith("# error")}


def mypy(cache: Path) -> tuple[Told, Told]:
    """Return what mypy reveals and refuses, by line."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--no-error-summary"]
    done = subprocess.run([*command, str(SAMPLE)], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert not done.stderr, done.stderr
    revealed, refused = Told(), Told()
    for file, line, kind, text in re.findall(r"^([^:\n]+):(\d+): (\w+): (.*)$", done.stdout, re.MULTILINE):
        assert Path(file).name == SAMPLE.name, done.stdout
        if kind == "error":
            refused.setdefault(int(line), []).append(text)
        elif found := re.fullmatch(r'Revealed type is "(.*)"', text):
            revealed.setdefault(int(line), []).append(found[1])
    return revealed, refused


def pyright(_: Path) -> tuple[Told, Told]:
    """Return what pyright reveals and refuses, by line."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, str(SAMPLE)], capture_output=True, text=True, cwd=PROJECT, check=False)
    revealed, refused = Told(), Told()
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        line, text = each["range"]["start"]["line"] + 1, each["message"]
        if each["severity"] == "error":
            refused.setdefault(line, []).append(text)
        elif found := re.fullmatch(r'Type of ".*" is "(.*)"', text):
            revealed.setdefault(line, []).append(found[1])
    return revealed, refused


@pytest.mark.long
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_type_checker_knows_payloads_and_return_values_and_refuses_others(checker, tmp_path: Path):  # type: ignore[no-untyped-def]
    revealed, refused = checker(tmp_path)

    # A name is told with or without its module, and a builtin with or without "builtins".
    told = {line: re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text) for line, (text,) in revealed.items()}
    assert told == REVEALED
    assert set(refused) == ERRORS, refused
    assert len(REVEALED) >= 14
    assert len(ERRORS) >= 8
