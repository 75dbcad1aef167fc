"""The commands of the documentation: the programs take them as they are printed; and its JSON is JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from examples.deployment import PROJECT
from kumofire_core.cli.app import app
from tests.docs.snippets import PAGES
from tools.site.markdown import CODE, FENCE, blocks_of

MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BETWEEN_COMMANDS = {"&&", "||", "|", ";", "&", "(", ")"}
REDIRECTIONS = {">", ">>", "<"}

SAM_OPTIONS = {
    "build": {"--config-env"},
    "deploy": {"--config-env", "--guided", "--parameter-overrides", "--profile", "--stack-name"},
    "init": {"--location", "--name"},
}
"""The commands of the SAM CLI that the documentation has, with the options that it has of each."""


@dataclass(frozen=True)
class Command:
    """One command of a line in a page."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {shlex.join(self.words)}"


def commands_in(text: str) -> list[tuple[str, ...]]:
    """Return the commands of lines for a shell, without their variables, redirections and comments."""
    found: list[tuple[str, ...]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        parts = iter(lexer)
        for part in parts:
            if part.startswith("#"):
                break
            if part in BETWEEN_COMMANDS:
                found.append(tuple(words))
                words = []
            elif part in REDIRECTIONS:
                next(parts, None)
            elif words or not re.match(r"[A-Z_]+=", part):
                words.append(part)
        found.append(tuple(words))
    return [words for words in found if words]


def commands_of(program: str) -> list[Command]:
    """Return the commands of all pages that call a program; ``program`` is a regular expression."""
    return [
        Command(page, block.line, words)
        for page in PAGES
        for block in blocks_of((PROJECT / page).read_text(encoding="utf-8"))
        if block.language in ("sh", "bash", "console")
        for words in commands_in(block.text)
        if re.fullmatch(program, words[0].rpartition("/")[2])
    ]


def parse(words: tuple[str, ...]) -> None:
    """Let the program's own parser read the words after ``kumofire``; nothing is executed."""
    given: list[str] = []
    _, bound, *_ = app.meta.parse_args(list(words), exit_on_error=False, print_error=False)
    given += bound.arguments["tokens"]
    if given:
        app.parse_args(given, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", commands_of("kumofire"), ids=str)
def test_kumofire_takes_the_command(command: Command) -> None:
    parse(command.words[1:])


# docs/errors.md quotes messages, and some of these begin like a command.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/errors.md"])
def test_kumofire_has_what_the_text_names(page: str) -> None:
    text = FENCE.sub("", (PROJECT / page).read_text(encoding="utf-8"))
    for code in CODE.finditer(text):
        words = " ".join(code[0].strip("`").split())
        if not words.startswith("kumofire ") or "…" in words:
            continue
        for command in commands_in(words):
            try:
                parse(command[1:])
            except MissingArgumentError:
                pass  # the text names the command without what it acts on
            except CycloptsError as error:
                pytest.fail(f"{words}: {error}")


@pytest.mark.parametrize("command", commands_of("make"), ids=str)
def test_make_has_the_target_and_the_variables(command: Command) -> None:
    targets = [word for word in command.words[1:] if "=" not in word]
    variables = [word.partition("=")[0] for word in command.words[1:] if "=" in word]

    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), target
    for variable in variables:
        assert f"$({variable})" in MAKEFILE or f"$(foreach run,$({variable})" in MAKEFILE, variable


@pytest.mark.parametrize("command", commands_of("pip"), ids=str)
def test_pip_installs_extras_that_there_are(command: Command) -> None:
    for extras in re.findall(r"(?:kumofire-jobs|\.)\[([\w,]+)\]", " ".join(command.words)):
        assert set(extras.split(",")) <= PROJECT_TABLE["optional-dependencies"].keys()


@pytest.mark.parametrize("command", commands_of(r"python[\d.]*"), ids=str)
def test_python_has_the_module(command: Command) -> None:
    if command.words[1:2] == ("-m",):
        assert importlib.util.find_spec(command.words[2]) is not None


@pytest.mark.parametrize("command", commands_of("sam"), ids=str)
def test_sam_is_called_with_options_that_are_listed(command: Command) -> None:
    subcommand = command.words[1]

    assert {word for word in command.words if word.startswith("--")} <= SAM_OPTIONS[subcommand]


@pytest.mark.long
@pytest.mark.parametrize("subcommand", SAM_OPTIONS)
def test_the_sam_cli_has_the_options_that_are_listed(subcommand: str) -> None:
    help_page = subprocess.run(
        [os.environ["SAM"], subcommand, "--help"],
        env={**os.environ, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert all(option in help_page for option in SAM_OPTIONS[subcommand])


@pytest.mark.parametrize("page", PAGES)
def test_the_json_of_a_page_is_json(page: str) -> None:
    for block in blocks_of((PROJECT / page).read_text(encoding="utf-8")):
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("A=b kumofire runs list  # c", [("kumofire", "runs", "list")]),
        ("kumofire template > t.yaml && sam build", [("kumofire", "template"), ("sam", "build")]),
        ("make test \\\n  X='a b'", [("make", "test", "X=a b")]),
        ("# nothing", []),
    ],
)
def test_a_line_is_split_into_commands(line: str, commands: list[tuple[str, ...]]) -> None:
    assert commands_in(line) == commands


@pytest.mark.parametrize(
    "wrong",
    ["runs lst", "runs list --sttus failed", "runs list --limit many", "stats --watch=soon", "console --porrt 1"],
)
def test_what_kumofire_does_not_take_is_noticed(wrong: str) -> None:
    with pytest.raises(CycloptsError):
        parse(tuple(wrong.split()))


Check = Callable[[Command], None]


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        (test_make_has_the_target_and_the_variables, "make tset"),
        (test_make_has_the_target_and_the_variables, "make lock LOCK_ARG=x"),
        (test_pip_installs_extras_that_there_are, "pip install kumofire-jobs[clii]"),
        (test_python_has_the_module, "python -m tests.simulations"),
        (test_sam_is_called_with_options_that_are_listed, "sam deploy --guide"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_command_is_noticed(check: Check, wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(Command("a page", 1, tuple(wrong.split())))
