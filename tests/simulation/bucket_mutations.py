"""Deliberate mistakes with large values: what each replaces, and from which seed on it is caught soon."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from datetime import timedelta
from typing import Any

from kumofire_core.aws import dynamodb
from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine import cleaning, consumer, large
from kumofire_core.engine.cleaning import CleaningResult
from kumofire_core.engine.run_store import RunStore
from kumofire_core.errors import LargeValueError
from kumofire_core.model.run_item import is_apart
from tests.simulation.bucket import key_in
from tests.simulation.world import running

Mutant = Callable[..., Any]


class _Held:
    """A bucket that puts nothing yet."""

    held: dict[str, tuple[Any, bytes, str]] = {}  # noqa: RUF012  # of all processes

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    def put(self, key: str, body: bytes, *, digest: str) -> None:
        self.held[key] = self._bucket, body, digest


def _put_nothing_yet(original: Any) -> Mutant:
    def mutant(self: Any, run_id: str, what: str, stored: str) -> Any:
        other = copy(self)
        other.bucket = _Held(self.bucket)
        return original(other, run_id, what, stored)

    return mutant


def _then_put(original: Any) -> Mutant:
    def mutant(self: Any, key: Any, attributes: Any) -> Any:
        answer = original(self, key, attributes)
        named = key_in(attributes.get("payload"))
        if named in _Held.held:
            bucket, body, digest = _Held.held.pop(named)
            bucket.put(named, body, digest=digest)
        return answer

    return mutant


def _discard_what_was_found(original: Any) -> Mutant:
    def mutant(self: Any, new_run: Any) -> Any:
        answer = original(self, new_run)
        if answer.item is not None:
            self.discard(answer.item["payload"], certain=True)
        return answer

    return mutant


def _discard_a_known_output(original: Any) -> Mutant:
    def mutant(self: Any, run_id: str, transition: Any, *, read_back: bool = False) -> Any:
        answer = original(self, run_id, transition, read_back=read_back)
        if answer.item is not None and "output" in transition.sets:
            self.discard(transition.sets["output"], certain=True)
        return answer

    return mutant


def _lost_where_it_is_out_of_reach(original: Any) -> Mutant:
    def mutant(self: Any, claimed: Any, deadline: Any) -> Any:
        try:
            return original(self, claimed, deadline)
        except AWS_ERRORS as error:
            raise LargeValueError("the payload", "out of reach", permanent=True) from error

    return mutant


def _kept_where_it_is_out_of_reach(original: Any) -> Mutant:
    def mutant(self: Any, claimed: Any, error: Exception) -> Any:
        if is_apart(claimed.payload_text):
            raise error
        return original(self, claimed, error)

    return mutant


PATCHES: dict[str, tuple[tuple[Any, str, Callable[[Any], Any]], ...]] = {
    "store a run before its object": (
        (large.LargeValues, "put", _put_nothing_yet),
        (dynamodb.Table, "put_new", _then_put),
    ),
    "delete the object of a run that was stored": ((RunStore, "try_put", _discard_what_was_found),),
    "delete the output of a run that succeeded": ((RunStore, "apply", _discard_a_known_output),),
    "delete an object of which a late copy may make a run": (
        (
            dynamodb,
            "_refused",
            lambda original: lambda refusal, token: original(refusal, token)._replace(sent_once=True),
        ),
    ),
    "clean at once what was put a moment ago": ((cleaning, "LEFT_ALONE_MS", lambda original: -1),),
    "judge an object's age by when the stream tells of it": (
        (cleaning, "_deleted_ms", lambda original: lambda record: running().world.now),
    ),
    "keep the objects of a run that is gone": (
        (cleaning, "clean_removed", lambda original: lambda bucket, records: CleaningResult()),
    ),
    "sweep nothing": ((cleaning, "_orphans", lambda original: lambda store, found: []),),
    "sweep what is about to be named": ((cleaning, "SWEPT_AFTER", lambda original: timedelta(days=-1)),),
    "sweep what is named": ((cleaning, "large_in", lambda original: lambda stored: None),),
    "give a handler the place of its payload": (
        (RunStore, "_loaded", lambda original: lambda self, stored, **given: stored),
    ),
    "fail a run whose payload is out of reach": ((consumer.Consumer, "_load", _lost_where_it_is_out_of_reach),),
    "keep a run whose payload is out of reach": ((consumer.Consumer, "_release", _kept_where_it_is_out_of_reach),),
    "put a value over the one before": (
        (large, "new_key", lambda original: lambda table, run_id, what, token: original(table, run_id, what, "value")),
    ),
}
