"""Which writes the engine makes in the simulation, and what happened to each: so that none is without its faults.

A write is named by the rule or the method that makes it, and by the kind of item. Free of checks of what is stored.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import FrameType
from typing import Any
from unittest.mock import patch

from botocore.exceptions import BotoCoreError, ClientError

import kumofire_core.aws
import kumofire_core.rules
from kumofire_core.aws.dynamodb import Table
from kumofire_core.aws.limit_items import LimitItems
from kumofire_core.aws.rate_items import RateItems
from kumofire_core.model.write import Write
from tests.simulation.history import Choices
from tests.simulation.processes import play
from tests.simulation.world import DiedError, DynamoDB

MADE = "made"
REFUSED = "refused"
LOST = "reply lost for good"
"""It was made, and its sender was told of an error."""
REPEATED = "repeated"
"""It was made, its reply was lost, and the SDK made it again."""
LATE = "a late copy"
DIED_BEFORE = "its process dies before"
DIED_AFTER = "its process dies after"
OUTCOMES = (MADE, REFUSED, LOST, REPEATED, LATE, DIED_BEFORE, DIED_AFTER)

Seen = Counter[tuple[str, str]]
"""How often each write came to each outcome."""

WRITES = ("put_item", "update_item", "delete_item", "batch_execute_statement")
REQUESTS = re.compile(rf"self\._client\(\)\.(?:{'|'.join(WRITES)})\(|self\._(?:update|remove|move)\(")
RULES, AWS = (str(Path(package.__file__ or "").parent) for package in (kumofire_core.rules, kumofire_core.aws))
BY_STATEMENT = frozenset({"apply", "try_batch"})
"""The methods that make what a rule says."""


def writes_of_rules() -> set[str]:
    """Return the names of all rules that make a write to an item."""
    found = set()
    for info in iter_modules([RULES]):
        module = import_module(f"kumofire_core.rules.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            returns = str(function.__annotations__.get("return", ""))
            is_own = function.__module__ == module.__name__ and not name.startswith("_")
            if is_own and re.match(r"(?:Write|Transition)\b", returns):
                found.add(f"{info.name}.{name}")
    return found


def writes_of_tables() -> set[str]:
    """Return the names of all methods that make a write to an item, but for those that make what a rule says."""
    return {
        f"{kind.__name__}.{name}"
        for kind in (Table, LimitItems, RateItems)
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in BY_STATEMENT
        if REQUESTS.search(inspect.getsource(method))
    }


@contextmanager
def watched_writes(seen: Seen) -> Iterator[None]:
    """Count what the writes of all histories come to, within the simulated engine."""
    names_of: dict[int, tuple[Write, list[str]]] = {}
    initialize = Write.__init__

    def note(write: Write, **given: Any) -> None:
        initialize(write, **given)
        if len(names_of) > 10_000:
            names_of.clear()
        names_of[id(write)] = (write, list(_rules_of(sys._getframe(1))))

    def named(write: Write) -> list[str]:
        return names_of.get(id(write), (write, ["a write without a rule"]))[1]

    with ExitStack() as stack:
        stack.enter_context(patch.object(Write, "__init__", note))
        for operation in WRITES:
            stack.enter_context(patch.object(DynamoDB, operation, _watched(operation, seen, named)))
        yield


def _watched(operation: str, seen: Seen, named: Callable[[Write], list[str]]) -> Callable[..., Any]:
    def request(self: DynamoDB, **parameters: Any) -> Any:
        world, times = self.world, Counter[str]()
        names = _names_of_request(sys._getframe(1), parameters, named)
        target = world.statements.execute if operation == "batch_execute_statement" else getattr(world.table, operation)

        def call(**given: Any) -> Any:
            late = world.writer_incarnation == -1
            try:
                reply = target(**given)
            except ClientError as error:
                if late:
                    seen.update((name, LATE) for name in names)
                elif error.response["Error"]["Code"] == "ConditionalCheckFailedException":
                    times["refused"] += 1
                raise
            if late:
                seen.update((name, LATE) for name in names)
            else:
                times["made"] += 1
            return reply

        outcome = MADE
        try:
            return world.request(operation, call, parameters)
        except DiedError:
            outcome = DIED_AFTER if times["made"] else DIED_BEFORE
            raise
        except (ClientError, BotoCoreError):
            outcome = LOST if times["made"] else REFUSED if times["refused"] else ""
            raise
        finally:
            if times["made"] and times.total() > 1:
                seen.update((name, REPEATED) for name in names)
                outcome = outcome if outcome in (DIED_AFTER, LOST) else ""
            if outcome:
                seen.update((name, outcome) for name in names)

    return request


def _rules_of(frame: FrameType | None) -> Iterator[str]:
    """Yield the public functions of rules that are under way, from the innermost on."""
    while frame is not None and frame.f_code.co_filename.startswith(RULES):
        if not (name := frame.f_code.co_name).startswith("_"):
            yield f"{Path(frame.f_code.co_filename).stem}.{name}"
        frame = frame.f_back


def _names_of_request(
    frame: FrameType | None, parameters: Mapping[str, Any], named: Callable[[Write], list[str]]
) -> list[str]:
    """Return what makes a request: rules, or a method and the kind of item that it is about."""
    method, owner = "", ""
    while frame is not None and frame.f_code.co_filename.startswith(AWS):
        name, within = frame.f_code.co_name, frame.f_locals
        if name in BY_STATEMENT:
            writes = [within["write"]] if name == "apply" else [*within["writes"].values()]
            return [f"{name} {rule}" if name == "try_batch" else rule for write in writes for rule in named(write)]
        if not name.startswith("_") and name != "noting" and isinstance(within.get("self"), Table):
            method, owner = name, type(within["self"]).__name__
        frame = frame.f_back
    pk = (parameters.get("Key") or parameters["Item"])["pk"]["S"]
    sk = (parameters.get("Key") or parameters["Item"])["sk"]["S"]
    kind = pk.partition("#")[0]
    part = "" if sk == kind else f"/{sk.split('#')[2]}" if sk.startswith("steps#") else f"/{sk}"
    return [f"{owner}.{method} {kind}{part}"]


def seen_in(seeds: Sequence[int]) -> Seen:
    """Play histories in the simulated engine, and return what their writes came to."""
    seen = Seen()
    with watched_writes(seen):
        for seed in seeds:
            play(Choices(seed))
    return seen


NOT_SIMULATED = {
    "run_writes.make_room": "tests/input/test_item_size.py: an item of an earlier release that is too large",
    "Table.put": "tests/runs/test_stats.py: the latest statistics, which are counted again at any time",
}
"""Writes that the simulation does not make, and which tests make them instead."""


def names_of(seen: Seen) -> set[str]:
    """Return the rules and methods that were seen, without the kinds of items."""
    found = {name for name, _ in seen}
    return {name.split(" ")[0] for name in found} | {name.removeprefix("try_batch ") for name in found}


def covering(by_seed: Mapping[int, Seen]) -> list[int]:
    """Return few seeds whose histories have all writes with all outcomes that any of them has."""
    left = {pair for seen in by_seed.values() for pair in seen}
    chosen = []
    while left:
        best = max(by_seed, key=lambda seed: len(left & by_seed[seed].keys()))
        chosen.append(best)
        left -= by_seed[best].keys()
    return sorted(chosen)


def table_of(seen: Seen) -> list[str]:
    """Return the rows of a table: each write, and how often it came to each outcome."""
    return [
        f"| `{name}` | {' | '.join(f'{seen[name, outcome]:,}' for outcome in OUTCOMES)} |"
        for name in sorted({name for name, _ in seen})
    ]
