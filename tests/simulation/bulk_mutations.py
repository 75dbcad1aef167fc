"""Deliberate mistakes in operations over many runs, and where dispatchers share the work, for ``mutations.py``."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from kumofire_core.engine import bulk, dispatcher, run_control
from kumofire_core.engine.bulk import BulkOperations
from kumofire_core.rules import bulk_writes

Patch = tuple[Any, str, Callable[[Any], Any]]


def _without_conditions(original: Any) -> Any:
    def mutant(*given: Any, **named: Any) -> Any:
        write = copy(original(*given, **named))
        write.equals, write.not_exists = {}, ()
        return write

    return mutant


def _two_pages_on(original: Any) -> Any:
    def mutant(self: Any, state: Any) -> Any:
        found, following = original(self, state)
        if following is not None and state.operation.run_ids is not None:
            following = following._replace(position=following.position + bulk.PAGE_LIMIT)
        return found, following

    return mutant


def _without_message(original: Any) -> Any:
    return lambda self, *given: (original(self, *given)[0], None)


def _all_as_meant(original: Any) -> Any:
    return lambda stored, statuses, **given: stored.status in statuses


def _at_its_beginning(original: Any) -> Any:
    def mutant(self: Any, state: Any) -> Any:
        return original(self, state._replace(cursor=state.cursor._replace(position=0, place=None)))

    return mutant


def _not_aborted(original: Any) -> Any:
    def mutant(bulk_id: str, item: Any) -> Any:
        return original(bulk_id, {name: value for name, value in item.items() if name != "aborted_at"})

    return mutant


def _twice_as_late(original: Any) -> Any:
    return lambda *given, spread_ms: original(*given, spread_ms=spread_ms) + 2 * spread_ms


def _only_unskipped(original: Any) -> Any:
    def mutant(self: Any, state: Any, tally: Any, following: Any) -> Any:
        tally.counts = {**tally.counts, "changed": 0}
        return original(self, state, tally, following)

    return mutant


def _nothing_of_others(original: Any) -> Any:
    return lambda self, partitions, tally: original(self, None, tally) if partitions is None else ()


MISTAKES: dict[str, tuple[Patch, ...]] = {
    "record a page that another process has recorded": ((bulk_writes, "save", _without_conditions),),
    "abort an operation that is done": ((bulk_writes, "abort", _without_conditions),),
    "go on with an operation that is aborted": ((bulk, "_read", _not_aborted),),
    "leave out a page of an operation": ((BulkOperations, "_page", _two_pages_on),),
    "begin every page of an operation at its beginning": ((BulkOperations, "_page", _at_its_beginning),),
    "forget the messages of an operation": ((BulkOperations, "_retry", _without_message),),
    "retry and delete what has ended since an operation began": ((bulk_writes, "is_meant", _all_as_meant),),
    "spread retries over more than their time": ((bulk_writes, "spread_delay_ms", _twice_as_late),),
    "free the keys of deleted runs": ((BulkOperations, "_keeps_key", lambda original: lambda *given: False),),
    "do not count what an operation has changed": ((BulkOperations, "_save", _only_unskipped),),
    "retry a run of many without the operation's mark": (
        (
            run_control,
            "retry_unsent",
            lambda original: lambda *given, bulk=None, **named: original(*given, **named),
        ),
    ),
    "let nobody do the work that was handed over": ((dispatcher.Dispatcher, "_chosen", _nothing_of_others),),
}
