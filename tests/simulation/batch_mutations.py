"""Deliberate mistakes in what makes batches, for ``mutations.py``."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from kumofire_core.engine import batch_looks, batch_marks, batches, children, consumer
from kumofire_core.engine.batches import Batches
from kumofire_core.model.batch import Counts
from kumofire_core.model.run import FINAL, new_run_id
from kumofire_core.rules import batch_items

Patch = tuple[Any, str, Callable[[Any], Any]]


def _without_removes(original: Any) -> Any:
    def mutant(*given: Any, **named: Any) -> Any:
        write = copy(original(*given, **named))
        write.removes = ()
        return write

    return mutant


def _done_first(original: Any) -> Any:
    def mutant(store: Any, batch: Any, counts: Any) -> Any:
        batch_marks.finish(store, batch, counts)
        return original(store, batch, counts)

    return mutant


def _not_when_deleted(original: Any) -> Any:
    def mutant(store: Any, callback: Any) -> None:
        if callback.status not in FINAL:
            original(store, callback)

    return mutant


def _sealed_first(original: Any) -> Any:
    def mutant(self: Any, batch: Any, *given: Any) -> Any:
        self._seal(batch)
        return original(self, batch, *given)

    return mutant


def _without_wake_up(original: Any) -> Any:
    def mutant(*given: Any, **named: Any) -> Any:
        found = original(*given, **named)
        return {name: value for name, value in found.items() if name not in ("wake_shard", "wake_at")}

    return mutant


def _in_more_sets(original: Any) -> Any:
    return lambda *given, **named: original(*given, **named)._replace(out_of=())


def _put_fewer(original: Any) -> Any:
    return lambda self, batch, indexes, member: original(self, batch, indexes[:-1], member)


def _under_another_id(original: Any) -> Any:
    return lambda *given: new_run_id()


MISTAKES: dict[str, tuple[Patch, ...]] = {
    "delete a callback whose batch is not marked as done": ((batch_marks, "require_done", _not_when_deleted),),
    "call a batch back before all its members have ended": (
        (batch_marks, "is_full", lambda original: lambda *given, **named: True),
        (batch_marks, "count", lambda original: lambda buckets: Counts(100)),
    ),
    "give a callback another id each time": (
        (batch_marks, "_new_run", lambda original: lambda *given: original(*given)._replace(id=new_run_id())),
    ),
    "mark a batch as done before its callback is stored": ((batch_marks, "_put_followers", _done_first),),
    "forget the marks that are lost": ((batch_looks, "_count_lost", lambda original: lambda *given: 0),),
    "call a batch complete before its members are stored": ((Batches, "_put_members", _sealed_first),),
    "let an earlier end of a member replace a later one": (
        (
            batch_items,
            "member_mark",
            lambda original: lambda index, end, *, retries: original(index, end, retries=0),
        ),
    ),
    "count a retried member twice": (
        (
            batch_items,
            "member_mark",
            lambda original: lambda *given, **named: original(*given, **named)._replace(out_of=()),
        ),
    ),
    "leave a batch that is done in the index": ((batch_items, "finish", _without_removes),),
    "run a callback whose batch is not done": (
        (consumer.Consumer, "_require_batch_done", lambda original: lambda *given: None),
    ),
    "run a callback although not all have succeeded": (
        (
            batch_marks,
            "_put_followers",
            lambda original: lambda store, batch, counts: original(store, batch._replace(then_if="ended"), counts),
        ),
    ),
    "never look at a batch": ((batch_items, "create", _without_wake_up),),
    "look at a batch later and later": ((batch_items, "LONGEST_LOOK_MS", lambda original: 10**10),),
    "forget the last member of a batch": (
        (
            Batches,
            "_put_window",
            lambda original: lambda self, batch, indexes, member: original(self, batch, indexes[:-1], member),
        ),
    ),
    "make other members when a creation is repeated": (
        (batches, "member_run_id", lambda original: lambda *given: new_run_id()),
    ),
    "wait for a member that was deleted": (
        (
            batch_looks,
            "mark_member",
            lambda original: (
                lambda store, batch_id, index, total, end, *, retries: (
                    end != "missing" and original(store, batch_id, index, total, end, retries=retries)
                )
            ),
        ),
    ),
    "create the children of a call anew in each attempt": ((children, "children_batch_id", _under_another_id),),
    "do not tell a parent that its children have ended": (
        (batch_marks, "_give_signal", lambda original: lambda *given: True),
        (children, "ended", lambda original: lambda *given: None),
    ),
    "let a chain end after its second run": ((batch_marks, "_put_next_batch", lambda original: lambda *given: None),),
}


__all__ = ["MISTAKES"]
