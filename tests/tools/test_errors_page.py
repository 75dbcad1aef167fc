"""docs/errors.md has every error, every text by which a run ends, and every warning that the code can print.

The texts are read from the source. A variable part is an ellipsis, in the source's text as on the page.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kumofire_core
from examples.deployment import PROJECT
from kumofire_core import errors
from kumofire_core.aws import error_notes
from kumofire_core.cli.exits import Exit

PAGE = PROJECT / "docs/errors.md"
SOURCE = PROJECT / "kumofire_core"

SELF_EXPLAINING = {"InvalidArgumentError", "InvalidScheduleError", "UsageError"}
"""Their texts name the argument, its value and what it must be; the page explains their form."""

OTHERS = {
    *("DiscoveryError", "DeadLetterError", "PartlyDispatchedError", "CommandError", "NotDoneError"),
    *("ImportError", "ModuleNotFoundError", "RuntimeError"),
}
"""Errors that are not in errors.py, and whose texts a person sees."""

LEVELS = {"warning", "error", "exception", "critical"}
FORMAT = re.compile(r"%[-+ #0]*[\d.*]*[sdrgf]")


@cache
def trees() -> dict[Path, ast.Module]:
    """Return the parsed source, without the templates that ``kumofire init`` writes."""
    return {
        path: ast.parse(path.read_text(), str(path))
        for path in sorted(SOURCE.rglob("*.py"))
        if "project_template" not in path.parts
    }


def text_of(node: ast.expr) -> str:
    """Return a text as the page has it, an ellipsis for each variable part; nothing for what is no literal."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return joined("".join(map(text_of, node.values)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return joined(text_of(node.left) + text_of(node.right))
    return "…"


def joined(text: str) -> str:
    return re.sub("…+", "…", text)


def is_told(text: str) -> bool:
    """Say whether a text has enough words of its own to be looked up by."""
    return len(re.findall(r"[A-Za-z]{2,}", text)) >= 2


def named_calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        raised = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(raised, ast.Call) and isinstance(raised.func, ast.Name) and raised.func.id in names:
            yield raised


def error_names() -> set[str]:
    """Return the names of this package's errors whose texts the page has to have."""
    own = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    return (own | OTHERS) - SELF_EXPLAINING


def raised_texts() -> set[str]:
    found = set()
    for tree in trees().values():
        for call in named_calls(tree, error_names()):
            for argument in call.args:
                listed = argument.elts if isinstance(argument, ast.List) else [argument]
                found |= {text_of(each) for each in listed}
    for node in ast.walk(trees()[SOURCE / "errors.py"]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            found |= {text_of(each) for each in node.args}
    return set(filter(is_told, found))


def logged_texts() -> set[str]:
    found = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            name = node.func.attr
            if name in LEVELS and "log" in ast.unparse(node.func.value).lower():
                found.add(node.args[0])
            elif name == "log" and ast.unparse(node.func.value) in ("log", "logger"):
                found.add(node.args[1])
            elif name == "_warn":
                found.add(node.args[0])
    return set(filter(is_told, (joined(FORMAT.sub("…", text_of(each))) for each in found)))


def kinds_of_end() -> set[str]:
    """Return the values of ``error_type`` that are no name of an exception: how runs end without an attempt."""
    consumer = trees()[SOURCE / "engine/consumer.py"]
    constants = {
        node.targets[0].id: node.value.value
        for node in consumer.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    found = set()
    for node in ast.walk(consumer):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            last = [node.args[2]] if node.func.attr == "_refuse" and len(node.args) == 3 else []
            last += [each.value for each in node.keywords if each.arg == "error_type"]
            found |= {constants[each.id] for each in last if isinstance(each, ast.Name) and each.id in constants}
    for text, reason in ends_without_attempt():
        assert text
        found.add(reason)
    return found


def ends_without_attempt() -> list[tuple[str, str]]:
    """Return the texts and the kinds that ``not_attemptable`` decides."""
    decisions = trees()[SOURCE / "rules/decisions.py"]
    (function,) = [
        node for node in decisions.body if isinstance(node, ast.FunctionDef) and node.name == "not_attemptable"
    ]
    return [
        (text_of(node.value.elts[0]), text_of(node.value.elts[1]))
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
    ]


def stored_texts() -> set[str]:
    """Return what ``last_error`` and ``cancel_reason`` say of a run that ended without its handler's doing."""
    found = {text for text, _ in ends_without_attempt()}
    for name in ("engine/consumer.py", "rules/decisions.py", "engine/batch_marks.py", "model/error_text.py"):
        for node in ast.walk(trees()[SOURCE / name]):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "LeaseExpiredError":
                found.add(text_of(node.args[0]))
            if isinstance(node, ast.FunctionDef) and node.name in ("expired_reason", "_cut_text"):
                found |= {text_of(each.value) for each in ast.walk(node) if isinstance(each, ast.Return) and each.value}
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("error", "reason"):
                found.add(text_of(node.value))
    return set(filter(is_told, found))


def advices() -> set[str]:
    """Return what the notes on errors of AWS say."""
    return {
        *error_notes._PERMANENT.values(),
        *error_notes._PASSING.values(),
        error_notes._NO_INDEX,
        error_notes.advice_for("no such code"),
    }


def spans(text: str) -> list[str]:
    """Return what a text of the page has as code, on one line each."""
    return [" ".join(found[1].split()) for found in re.findall(r"(`+)(.+?)\1(?!`)", text, re.DOTALL)]


def missing(texts: set[str]) -> list[str]:
    found = set(spans(PAGE.read_text()))
    return sorted(text for text in texts if " ".join(text.split()) not in found)


def printable_texts() -> set[str]:
    """Return every text of the source that is longer than a word, a form of ``%`` and ``{}`` as an ellipsis."""
    found = set(advices())
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr | ast.BinOp) or (isinstance(node, ast.Constant) and node.value):
                found.add(joined(FORMAT.sub("…", text_of(node))))
    return {" ".join(text.split()) for text in found if is_told(text)}


def test_the_page_has_every_type_of_error() -> None:
    types = {
        name
        for name in kumofire_core.__all__
        if isinstance(value := getattr(kumofire_core, name), type)
        and issubclass(value, errors.KumofireError)
        and value.__name__ == name
    }
    assert len(types) > 30
    assert not missing(types)


def test_the_page_has_the_text_of_every_error_that_can_be_raised() -> None:
    texts = raised_texts()
    assert len(texts) > 100
    assert not missing(texts)


def test_the_page_has_every_warning_and_error_that_can_be_logged() -> None:
    texts = logged_texts()
    assert len(texts) > 60
    assert not missing(texts)


def test_the_page_has_every_way_in_which_a_run_ends_without_its_handler() -> None:
    assert kinds_of_end() >= {"missing handler", "expired", "payload does not fit"}
    assert not missing(kinds_of_end() | stored_texts())


def test_the_page_has_the_advice_for_every_error_of_aws() -> None:
    assert len(advices()) > 20
    assert not missing(advices())


def test_the_page_has_every_exit_code() -> None:
    (codes,) = re.findall(r"\n\| code \|.*?\n\n", PAGE.read_text(), re.DOTALL)
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", codes, re.MULTILINE)] == sorted(Exit)


def test_the_page_has_no_text_that_the_code_can_no_longer_print() -> None:
    known = printable_texts()
    patterns = [re.compile(".*".join(map(re.escape, text.split("…")))) for text in known if "…" in text]
    stale = []
    for row in re.findall(r"^\| ([^|]*`[^|]*?) \|", PAGE.read_text(), re.MULTILINE):
        for span in spans(row):
            if span in known or len(span.split()) < 4:
                continue
            filled = re.compile(".*".join(map(re.escape, span.split("…"))))
            if not any(filled.search(text) for text in known) and not any(each.fullmatch(span) for each in patterns):
                stale.append(span)
    assert not stale
