"""The command lines of the project's own tools: whatever is typed is done, or refused as argparse refuses.

What they would do is replaced: it is tested elsewhere, and takes minutes.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import __main__ as bench
from benchmarks import growth
from tests.simulation import __main__ as simulation
from tools import artifact, audit

NUMBERS = ["0", "1", "-1", "1.5", "nan", "inf", "1e400", "9" * 5_000, "٣", "1_0"]
PLACES = ["", "none", "docs", "file", "file/below", "x" * 300, "a\0b", "\ud800", "../x"]
OTHERS = [
    "-", "--", "-h", "--help=1", "@file", "%s", "%(prog)s", "{}", "\n", "true", "consume", "all", "dynamodb sqs",
    "python3.13", "python3.x", "python3.9999", "arm64",
]  # fmt: skip
WORDS = st.one_of(*map(st.sampled_from, (NUMBERS, PLACES, OTHERS)), st.text(st.characters(exclude_characters="/")))


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool, its options, what of it is replaced by a note of its arguments, and which of these make sense."""

    main: Callable[[list[str]], object]
    options: tuple[str, ...]
    replaced: tuple[tuple[Any, str, object], ...]
    sensible: Callable[..., bool]


def sensible_simulation(*arguments: Any, **_: Any) -> bool:
    if len(arguments) == 3:  # the histories to play
        _, runs, seconds = arguments
        return bool(runs >= 1 if seconds is None else 0 < seconds < math.inf)
    # Every mistake; or one seed, with the time to shrink its history; or by how many processes histories are played.
    return all(0 <= number < math.inf for number in arguments[1:])


def sensible_build(target: Path, *arguments: Any) -> bool:
    if len(arguments) == 3:  # the check of what was built
        return target.is_dir() and all(arguments)
    lock, _, _, services, cache, packages = arguments
    names = all(package.isidentifier() for package in packages)
    return target.is_dir() and cache.is_dir() and lock.is_file() and len(services) > 0 and names


TOOLS = {
    "simulation": Tool(
        main=simulation.main,
        options=("--seed", "--runs", "--seconds", "--workers", "--shrink", "--keep-going", "--mutations"),
        replaced=(
            (simulation, "_replay", 0),
            (simulation, "chunks_of", ()),
            (simulation, "play_all", ()),
            (simulation, "_catch_all", 0),
        ),
        sensible=sensible_simulation,
    ),
    "benchmarks": Tool(
        main=bench.main,
        options=("--quick", "--docs"),
        replaced=((bench, "run", []), (bench.report, "write", None)),
        sensible=lambda first, *_, **__: first in bench.BENCHMARKS or (first / "benchmarks.md").is_file(),
    ),
    "growth": Tool(
        main=growth.main,
        options=("--docs",),
        replaced=((growth, "tables", ""), (growth, "plots", {})),
        sensible=lambda prices: True,
    ),
    "artifact": Tool(
        main=artifact.main,
        options=(
            "--runtime",
            "--architecture",
            "--services",
            "--encryption",
            "--jobs",
            "--packages",
            "--check-jobs",
            "--cache",
        ),
        replaced=((artifact, "build", None), (artifact, "check", None)),
        sensible=sensible_build,
    ),
    "audit": Tool(
        main=audit.main,
        options=("--pip-audit", "--where-reachable"),
        replaced=((audit, "audit", []),),
        sensible=lambda program, locks: len(locks) > 0 and all(lock.is_file() for lock in locks),
    ),
}


@pytest.fixture
def tool(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tool, list[tuple[Any, ...]]]:
    """A tool in a folder of its own, and what was asked of it."""
    tool, calls = TOOLS[request.param], []

    def note(answer: object) -> Callable[..., object]:
        def noted(*arguments: Any, **named: Any) -> object:
            calls.append((arguments, named))
            return answer

        return noted

    for owner, name, answer in tool.replaced:
        monkeypatch.setattr(owner, name, note(answer))
    work = tmp_path / "work" / "here"
    (work / "docs").mkdir(parents=True)
    for page, marks in (("growth.md", growth.BEGIN + growth.END), ("benchmarks.md", "")):
        (work / "docs" / page).write_text(marks)
    (work / "file").write_text("")
    monkeypatch.chdir(work)
    return tool, calls


def ended(tool: Tool, arguments: list[str]) -> tuple[object, str]:
    """Return a tool's exit status and what it said; any exception but an exit leaves this."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            return tool.main(arguments), said.getvalue()
        except SystemExit as exit:
            return exit.code, said.getvalue()


@pytest.mark.long
@pytest.mark.parametrize("tool", TOOLS, indirect=True)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_whatever_is_typed_is_done_or_refused_with_the_usage(
    tool: tuple[Tool, list[tuple[Any, ...]]], data: st.DataObject
) -> None:
    what, calls = tool
    calls.clear()
    option = st.sampled_from(what.options)
    # argparse of Python 3.11 takes the value out of --option=-- and hands on an empty list, unseen by any type.
    joined = st.builds("{}={}".format, option, WORDS.filter(lambda value: value != "--"))
    typed = st.lists(joined, min_size=1, max_size=2) | st.lists(st.one_of(WORDS, option, joined), max_size=6)
    begun = st.sampled_from([[], *(good for name, good in GOOD.items() if TOOLS[name] is what)])

    status, said = ended(what, [*data.draw(begun), *data.draw(typed)])

    if status == 2:
        assert "usage:" in said
        assert calls == []
    else:
        assert status in (0, None)
        assert "usage:" in said or calls == [] or all(what.sensible(*given, **named) for given, named in calls)


GOOD = {
    "simulation": ["--runs", "5"],
    "benchmarks": ["consume", "--docs", "docs"],
    "growth": ["--docs", "docs"],
    "artifact": ["out", "--runtime", "python3.13", "--architecture", "arm64", "--services", "sqs"],
    "audit": ["file"],
}


@pytest.mark.parametrize(("tool", "arguments"), GOOD.items(), indirect=["tool"])
def test_what_makes_sense_is_done(tool: tuple[Tool, list[tuple[Any, ...]]], arguments: list[str]) -> None:
    what, calls = tool

    status, _ = ended(what, arguments)

    assert status in (0, None)
    assert calls
    assert all(what.sensible(*given, **named) for given, named in calls)


BAD = [
    *(
        ("simulation", [option, value])
        for option in ("--runs", "--seconds")
        for value in ("0", "-5", "nan", "inf", "x")
    ),
    ("simulation", ["--seed", "9" * 5_000]),
    ("benchmarks", ["sleep"]),
    *((name, ["--docs", folder]) for name in ("benchmarks", "growth") for folder in ("", "none", "file", "x" * 300)),
    *(("artifact", [*GOOD["artifact"], "--services", services]) for services in ("", " ", "../s3", "S3")),
    *(("artifact", [*GOOD["artifact"], "--runtime", runtime]) for runtime in ("python3.", "python3.٣", "python3.999")),
    *(("artifact", [*GOOD["artifact"], "--jobs", jobs]) for jobs in ("", "jobs", ":jobs", ".jobs:jobs", "a/b:jobs")),
    *(("artifact", [*GOOD["artifact"], "--packages", packages]) for packages in ("a.b", "../a", "a,b", "/etc")),
    *(("artifact", [*GOOD["artifact"], "--cache", cache]) for cache in ("file", "file/below", "x" * 300, "a\0b")),
    *(("audit", locks) for locks in ([], ["none"], ["docs"], ["x" * 300], ["a\0b"])),
]


@pytest.mark.parametrize(("tool", "arguments"), BAD, indirect=["tool"])
def test_what_makes_no_sense_is_refused_with_the_usage(
    tool: tuple[Tool, list[tuple[Any, ...]]], arguments: list[str]
) -> None:
    what, calls = tool

    status, said = ended(what, arguments)

    assert status == 2
    assert "usage:" in said
    assert calls == []
