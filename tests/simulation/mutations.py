"""Deliberate mistakes in the engine, one at a time: the simulation has to catch each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from kumofire_core import Jobs
from kumofire_core.aws import dynamodb
from kumofire_core.aws.expressions import marshal, typed, typed_key
from kumofire_core.aws.limit_items import LimitItems
from kumofire_core.aws.rate_items import RateItems
from kumofire_core.aws.sqs import Queue
from kumofire_core.engine import (
    attempt_progress,
    batch_writes,
    consumer,
    create,
    dedupe,
    dispatcher,
    pauses,
    queries,
    resuming,
    run_control,
    schedule_firing,
    schedules,
    signals,
    sqs_batch,
    transactions,
)
from kumofire_core.engine.attempt_progress import AttemptProgress
from kumofire_core.engine.limits import Line, Slots
from kumofire_core.engine.pause_reader import PauseReader
from kumofire_core.engine.rates import Moments
from kumofire_core.engine.resuming import Released, Resuming
from kumofire_core.engine.run_store import RunStore, new_token, run_key
from kumofire_core.engine.steps import Steps
from kumofire_core.engine.transactions import PendingRun
from kumofire_core.errors import DecryptionError, DedupeKeyConflictError
from kumofire_core.handlers import event_loop
from kumofire_core.handlers.event_loop import HandlerLoop, LoopCall
from kumofire_core.handlers.handler_pool import HandlerPool
from kumofire_core.model import attempts, run_item
from kumofire_core.model.pauses import PAUSES
from kumofire_core.model.run import FINAL, AttemptEnding, Outcome, RunStatus, new_run_id
from kumofire_core.model.times import to_ms
from kumofire_core.rules import decisions, limits, occurrences, recurrence, run_writes, schedule_writes, wake_ups
from tests.simulation import batch_mutations, bucket_mutations, bulk_mutations, typed_mutations, worker_mutations
from tests.simulation.history import LIMITS_FROM, WORKERS_FROM
from tests.simulation.seeds import SEEDS

Mutant = Callable[..., Any]
Patch = tuple[Any, str, Callable[[Any], Any]]


@dataclass(frozen=True)
class Mutation:
    """A mistake: what is replaced by what, and from which seed on it is caught soon."""

    patches: tuple[Patch, ...]
    seed: int

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the mistake for a while."""
        with ExitStack() as stack:
            for owner, attribute, mutant in self.patches:
                stack.enter_context(patch.object(owner, attribute, mutant(getattr(owner, attribute))))
            yield


MUTATIONS: dict[str, Mutation] = {}


def _mutation(what: str, *patches: Patch) -> None:
    MUTATIONS[what] = Mutation(patches, SEEDS.get(what, 0))


def _changed(owner: Any, function: str, **changes: Callable[[Any], Any]) -> Patch:
    """Return a patch that changes the write which a function returns, field by field."""

    def mutate(original: Any) -> Mutant:
        def mutant(*given: Any, **named: Any) -> Any:
            write = original(*given, **named)
            return _with(write, **{field: change(getattr(write, field)) for field, change in changes.items()})

        return mutant

    return owner, function, mutate


def _with(original: Any, **changes: Any) -> Any:
    changed = copy(original)
    for field, value in changes.items():
        setattr(changed, field, value)
    return changed


def _transition(what: str, *functions: str, **changes: Callable[[Any], Any]) -> None:
    _mutation(what, *(_changed(run_writes, function, **changes) for function in functions))


def _without(*names: str) -> Callable[[Any], Any]:
    """Return a change that takes attributes out of a mapping or tuple."""

    def change(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(each for each in value if each not in names)
        return {key: each for key, each in value.items() if key not in names}

    return change


def _none(value: Any) -> Any:
    return type(value)()


def _any_status(value: Any) -> Any:
    return tuple(RunStatus)


"""From which seed on each is caught at once, where that is not 0; ``--mutations`` finds them anew."""

# Progress

_transition("tell progress whatever lease there is", "tell_progress", equals=_none)
_transition("tell progress of a run that has ended", "tell_progress", source=_any_status, equals=_none)
_transition("tell progress, and go on with the lease", "tell_progress", sets=lambda sets: {**sets, "wake_at": 10**15})
_mutation("write progress as often as it is told", (attempt_progress, "WRITE_SECONDS", lambda original: 0.0))


def _of_the_first_claim(original: Any) -> Mutant:
    def mutant(self: Any, *told: Any) -> str:
        claims, *rest = json.loads(original(self, *told))
        return json.dumps([1, *rest] if claims > 1 else [claims, *rest])

    return mutant


_mutation("tell progress as that of the first claim", (AttemptProgress, "_stored", _of_the_first_claim))

# Claims and leases

_transition("claim a run before its time", "claim", at_most=_without("scheduled_for"))
_transition("claim a run that another holds", "claim", source=lambda of: (*of, "running"))
_transition("claim a run that has ended", "claim", source=_any_status)
_transition("forget to raise the fencing number", "claim", increments=_none)
_transition("take over a run that is to be canceled", "rescue", not_exists=_none)
_transition("do not count a lost attempt", "rescue", sets=_without("attempt"))
_transition("keep the lease of a failed run", "fail", removes=_without("lease_token"))


def _take_every_lease_for_expired(original: Any) -> Mutant:
    def mutant(self: Any, run_id: str, deadline: Any, token: str) -> Any:
        came_to = original(self, run_id, deadline, token)
        found = self._store.find(run_id) if getattr(came_to, "reason", None) == "leased" else None
        if found is None or found.lease_token is None:
            return came_to
        now_ms, longest_ms = self._store.now_ms(), self._longest_ms(deadline)
        return self._rescue(found, token, now_ms=now_ms, longest_ms=longest_ms, logged=None)

    return mutant


_mutation(
    "take over from a living worker",
    (consumer.Consumer, "_claim", _take_every_lease_for_expired),
    _changed(run_writes, "rescue", at_most=_without("lease_until")),
)
_mutation(
    "put back a living worker's run",
    (
        dispatcher.Dispatcher,
        "_look_at_running",
        lambda original: lambda self, found, *given: original(self, _with(found, lease_until=0), *given),
    ),
    _changed(run_writes, "_settle_expired", at_most=_without("lease_until")),
)
_mutation(
    "start a handler under a lease that is over",
    (
        consumer.Consumer,
        "_call",
        lambda original: (
            lambda self, job, claimed, deadline: original(
                self, job, _with(claimed, lease_until=claimed.lease_until + 10**9), deadline
            )
        ),
    ),
)
_mutation(
    "call a handler without a claim",
    (
        dynamodb.Table,
        "apply",
        lambda original: (
            lambda self, key, write, *, read_back=False: (
                dynamodb.Answer(True, self.get(key))
                if write.write_token[0] == "lease_token"
                else original(self, key, write, read_back=read_back)
            )
        ),
    ),
)

# How attempts end


def _retry_for_ever(claimed: Any, error: Any, told: Any, job: Any, *, now_ms: int, expires_at: Any) -> Any:
    failure = decisions._failure(claimed, AttemptEnding.RAISED, told, now_ms)
    write = run_writes.reschedule(claimed, now_ms=now_ms, due_ms=now_ms + 1000, failure=failure)
    return decisions.AttemptEnd(write, Outcome.RETRIED, told, now_ms + 1000)


def _put_back_for_ever(original: Any) -> Mutant:
    def mutant(expired: Any, token: str, job: Any, *, now_ms: int, expires_at: Any) -> Any:
        end = original(expired, token, job, now_ms=now_ms, expires_at=expires_at)
        if end.outcome is not Outcome.FAILED:
            return end
        failure = decisions._failure(expired, AttemptEnding.WORKER_LOST, end.told, now_ms)
        write = run_writes.reschedule_expired(expired, token, now_ms=now_ms, due_ms=now_ms, failure=failure)
        return decisions.AttemptEnd(write, Outcome.RETRIED, end.told, now_ms)

    return mutant


_transition("let a late consumer succeed", "succeed", equals=_without("lease_token", "claims"))
_transition("let a late consumer reschedule", "reschedule", equals=_without("lease_token", "claims"))
_transition("let a late consumer fail the run", "fail", equals=_without("lease_token", "claims"))
_transition("reschedule although its cancellation is asked for", "reschedule", not_exists=_none)
_transition("fail although its cancellation is asked for", "fail", not_exists=_none)
_transition("fail for want of a handler although its cancellation is asked for", "fail_unattempted", not_exists=_none)
_transition("give back although its cancellation is asked for", "release", not_exists=_none)
_transition("do not count a failed attempt", "reschedule", sets=_without("attempt"))
_transition("do not count an attempt the dispatcher finds lost", "reschedule_expired", sets=_without("attempt"))
_transition("count an attempt for want of a handler", "await_handler", sets=lambda of: {**of, "attempt": 1})
_transition("wait for a handler although its cancellation is asked for", "await_handler", not_exists=_none)
_transition("leave a finished run in the index", "succeed", removes=_without("wake_at"))
_mutation(
    "give back an attempt that was made",
    (consumer.Consumer, "_failed", lambda original: lambda self, claimed, *given: self._release(claimed, 0.0)),
)
_mutation(
    "never give up",
    (decisions, "after_failure", lambda original: _retry_for_ever),
)
_mutation(
    "repeat an attempt whose return value can't be stored",
    (
        decisions,
        "after_unusable_output",
        lambda original: lambda claimed, told, **named: _retry_for_ever(claimed, None, told, None, **named),
    ),
)
_mutation(
    "never give up in the dispatcher",
    (dispatcher.decisions, "after_lost_worker", _put_back_for_ever),
)

# The dispatcher

_transition("queue a run before its time", "enqueue", at_most=_without("scheduled_for"), equals=_none)
_transition("queue a run that has ended", "enqueue", source=_any_status)
_transition("send again what is not queued", "resend", source=_any_status)
_mutation(
    "wake a queued run next year", (run_writes, "resend_at", lambda original: lambda now_ms, **named: now_ms + 10**11)
)
_mutation(
    "hide a record for milliseconds",
    (
        Queue,
        "try_hide",
        lambda original: lambda self, hidden: original(self, {key: value * 1000 for key, value in hidden.items()}),
    ),
)
_mutation(
    "send in milliseconds",
    (
        Queue,
        "try_send",
        lambda original: (
            lambda self, run_id, *, delay_seconds=0, **named: original(
                self, run_id, delay_seconds=delay_seconds * 1000, **named
            )
        ),
    ),
)

_mutation(
    "never send a lost message again",
    (wake_ups, "is_lost", lambda original: lambda sent_ms, **named: False),
    (wake_ups, "is_overdue_untold", lambda original: lambda sent_ms, **named: False),
    (wake_ups, "may_probe", lambda original: lambda progress, now_ms: False),
)

_mutation("take every waiting message for lost", (wake_ups, "is_lost", lambda original: lambda sent_ms, **named: True))

# Persons

_transition("cancel a run that has ended", "cancel", source=_any_status)
_transition("cancel a run that is executing", "cancel", source=lambda of: ("scheduled", "queued", "running"))
_transition("ask for a cancellation after the end", "request_cancel", source=_any_status)
_transition("retry a run that has succeeded since", "retry", source=_any_status, equals=_none)
_transition("keep the attempts of a retried run", "retry", sets=_without("attempt"))
_transition("forget the wake-up of a retried run", "retry", sets=_without("wake_at"))

# RunCreator

_mutation(
    "forget the wake-up of a new run",
    (
        run_writes,
        "create",
        lambda original: lambda *given, **named: _without("wake_at")(original(*given, **named)),
    ),
)
_mutation(
    "put a run over the one that is there",
    (
        dynamodb.Table,
        "put_new",
        lambda original: (
            lambda self, key, attributes: (
                self._client().put_item(TableName=self.name, Item=typed_key(key) | marshal(attributes)),
                dynamodb.Answer(True, None),
            )[1]
        ),
    ),
)


def _silent_put(original: Any) -> Mutant:
    def mutant(self: Any, new_run: Any) -> bool:
        try:
            return bool(original(self, new_run))
        except DedupeKeyConflictError:
            return False

    return mutant


_mutation("give another job's run for a key", (RunStore, "put", _silent_put))
_mutation("make a run for each use of a key", (create, "derived_run_id", lambda original: lambda *parts: new_run_id()))
_mutation(
    "forget to raise the number of partitions",
    (RunStore, "_store_shards", lambda original: lambda self: True),
)
_mutation(
    "read one's own number of partitions only",
    (RunStore, "shards_to_read", lambda original: lambda self: self.wake_shards),
)
_mutation(
    "lower the number of partitions",
    (
        dynamodb.Table,
        "put_larger",
        lambda original: (
            lambda self, key, name, value: self._client().put_item(
                TableName=self.name, Item=typed_key(key) | marshal({name: value})
            )
        ),
    ),
)
_mutation(
    "send before the run is put",
    (
        create.RunCreator,
        "create",
        lambda original: (
            lambda self, new_run: (
                self.store.send_waiting(new_run.id, due_ms=new_run.due_ms, now_ms=new_run.now_ms, group=new_run.group),
                self._put(new_run).run_id,
            )[1]
        ),
    ),
)
_mutation(
    "forget the message of a new run",
    (create.RunCreator, "create", lambda original: lambda self, new_run: self._put(new_run).run_id),
)


def _forget_the_first(original: Any) -> Mutant:
    def mutant(self: Any, start: int, new_runs: Any, run_ids: list[str | None], failures: Any) -> None:
        run_ids[start] = new_runs[0].id
        original(self, start + 1, new_runs[1:], run_ids, failures)

    return mutant


_mutation("forget a run of many", (create.RunCreator, "_put_and_send", _forget_the_first))
_mutation(
    "forget a message of many",
    (
        Queue,
        "try_send_many",
        lambda original: lambda self, delays: original(self, dict([*delays.items()][1:])),
    ),
)
_mutation(
    "store no group",
    (run_writes, "create", lambda original: lambda new_run, **named: original(new_run._replace(group=None), **named)),
)
_mutation("dispatch a run without its group", (dispatcher, "group_of", lambda original: lambda item: None))
_mutation("resume a run without its group", (resuming, "group_of", lambda original: lambda item: None))
_mutation(
    "put back a run's message without its group",
    (
        RunStore,
        "send_waiting",
        lambda original: (
            lambda self, run_id, *, due_ms, now_ms, group: original(
                self, run_id, due_ms=due_ms, now_ms=now_ms, group=None
            )
        ),
    ),
)
_mutation(
    "keep the group of a debounced run",
    _changed(run_writes, "debounce", sets=_without("group"), removes=_without("group")),
)
_mutation(
    "store another payload",
    (run_writes, "create", lambda original: lambda *given, **named: {**original(*given, **named), "payload": "{}"}),
)

# Payloads, outputs, keys

_transition("forget the output", "succeed", sets=_without("output"))
_mutation(
    "call a handler with a sealed payload",
    (RunStore, "decrypted", lambda original: lambda self, stored, **named: stored),
)
_mutation(
    "count an attempt that had no key",
    (
        consumer.Consumer,
        "_release",
        lambda original: (
            lambda self, claimed, error: (
                self._failed(claimed, self._store.registry.get(claimed.run.job_name), error, timedelta(), None)
                if isinstance(error, DecryptionError)
                else original(self, claimed, error)
            )
        ),
    ),
)
_mutation(
    "keep a run that had no key",
    (consumer, "DecryptionError", lambda original: type("Another", (Exception,), {})),
)
_mutation(
    "fail a run that had no key",
    (
        consumer.Consumer,
        "_release",
        lambda original: (
            lambda self, claimed, error: (
                self._refuse(claimed, str(error), "sealed")
                if isinstance(error, DecryptionError)
                else original(self, claimed, error)
            )
        ),
    ),
)

# Direct calls

_mutation("forget the deadline of a direct call", (Jobs, "_deadline", lambda original: lambda self, ends: None))
_mutation(
    "say of a success that it was recorded",
    (
        RunStore,
        "apply",
        lambda original: (
            lambda self, run_id, transition, *, read_back=False: (
                dynamodb.Answer(True, None)
                if transition.target is RunStatus.SUCCEEDED
                else original(self, run_id, transition, read_back=read_back)
            )
        ),
    ),
)

# Repeated requests

_mutation(
    "ignore the evidence of a first copy",
    (dynamodb, "_refused", lambda original: lambda refusal, write_token: original(refusal, ("pk", "nobody's"))),
)
_mutation(
    "believe a batch without its evidence",
    (
        dynamodb.Table,
        "try_batch",
        lambda original: (
            lambda self, writes, **given: original(
                self,
                {key: _with(write, write_token=("pk", f"{key.kind}#{key.id}")) for key, write in writes.items()},
                **given,
            )
        ),
    ),
)
_mutation(
    "take an end for recorded that nobody has confirmed",
    (batch_writes.BatchWriter, "try_ends", lambda original: lambda self, ends: {*original(self, ends), *ends}),
)
_mutation(
    "claim again under another token",
    (
        batch_writes.BatchWriter,
        "try_claims",
        lambda original: (
            lambda self, run_ids, **given: {
                run_id: early._replace(token=new_token()) for run_id, early in original(self, run_ids, **given).items()
            }
        ),
    ),
)

# Schedules

_mutation(
    "make two runs of an occurrence",
    (schedule_firing, "occurrence_run_id", lambda original: lambda schedule_id, occurrence: new_run_id()),
)


def _advance_first(original: Any) -> Mutant:
    def mutant(self: Any, stored: Any, next_run_at: Any, now: Any, look_ahead: Any, delays: Any) -> Any:
        due, upcoming = schedule_firing._due(stored, next_run_at, now, look_ahead)
        firing = schedule_firing._firing(stored, upcoming, now + look_ahead, fired=due[-1] if due else None)
        self.advance(firing)
        self._put_runs(stored, due, now, delays)
        return firing

    return mutant


_mutation("advance before the runs are put", (schedule_firing.ScheduleFiring, "_fire_some", _advance_first))
_mutation(
    "decide about many occurrences of runs that must not overlap",
    (schedule_firing.ScheduleFiring, "_fire_one", lambda original: schedule_firing.ScheduleFiring._fire_some),
)
_mutation(
    "begin an occurrence that another decided about",
    _changed(schedule_writes, "intend", equals=_none, not_exists=_none),
)
_mutation(
    "advance a schedule that another advanced", _changed(schedule_writes, "advance", equals=_none, not_exists=_none)
)
_mutation(
    "take a run that is still to be put for ended",
    (schedule_firing, "PUT_ENDS", lambda original: timedelta(0)),
)
_mutation(
    "end an attempt of another run under its id",
    (run_writes, "_held_by", lambda original: lambda run: _without("create_token")(original(run))),
)
_mutation(
    "take a run for the deleted one that had its id",
    (run_item.StoredRun, "created_as", lambda original: property(lambda self: {})),
)
_mutation(
    "take an unfinished run for ended", (schedule_firing, "FINAL", lambda original: frozenset({*FINAL, "running"}))
)

_mutation(
    "make up for every missed occurrence",
    (
        schedule_firing,
        "due_occurrences",
        lambda original: lambda timing, **named: original(timing, **{**named, "missed": "all"}),
    ),
)
_mutation(
    "overlook an occurrence",
    *(
        (
            owner,
            "next_occurrence",
            lambda original: lambda timing, after: original(timing, original(timing, after) or after),
        )
        for owner in (schedule_firing, recurrence, occurrences)
    ),
)
_mutation(
    "delete a schedule by disabling it",
    (
        dynamodb.Table,
        "delete",
        lambda original: (
            lambda self, key: (
                self._client().update_item(
                    TableName=self.name,
                    Key=typed_key(key),
                    UpdateExpression="SET enabled = :no",
                    ExpressionAttributeValues={":no": typed(0)},
                ),
                True,
            )[1]
        ),
    ),
)
_mutation(
    "count an unchanged interval from now",
    (
        schedules,
        "_changed_timing",
        lambda original: (
            lambda stored, changes, now: (
                replace(found, anchor=now) if (found := original(stored, changes, now)).anchor else found
            )
        ),
    ),
)
_mutation(
    "write although an upsert changes nothing",
    (
        schedules.Schedules,
        "_differences",
        lambda original: lambda self, stored, *given: original(self, stored, *given) or {"enabled": 1},
    ),
)

# The batch

_mutation(
    "let a malformed record stop the batch",
    (sqs_batch, "MalformedMessageError", lambda original: type("Another", (Exception,), {})),
)

# What goes wrong for a while, or for all at once


def _throttled_as(answer: Callable[[], Any]) -> Callable[[Any], Any]:
    """Return a change that takes a write which a throttled table did not make for something else."""

    def mutate(original: Any) -> Mutant:
        def mutant(refusal: Any, write_token: Any) -> Any:
            throttled = refusal.response["Error"]["Code"] == "ProvisionedThroughputExceededException"
            return answer() if throttled else original(refusal, write_token)

        return mutant

    return mutate


_mutation(
    "take a throttled write for a refused one",
    (dynamodb, "_refused", _throttled_as(lambda: dynamodb.Answer(False, None))),
)
_mutation(
    "take a throttled write for made",
    (dynamodb, "_refused", _throttled_as(lambda: dynamodb.Answer(True, None))),
)


def _raise_for_a_missing_queue(original: Any) -> Mutant:
    def mutant(self: Any, error: Any, **given: Any) -> Any:
        if isinstance(error, Exception) and "NonExistentQueue" in str(error):
            raise error
        return original(self, error, **given)

    return mutant


_mutation("let a queue that is missing fail a batch", (Queue, "_told_as_permanent", _raise_for_a_missing_queue))


def _leave_queued(original: Any) -> Mutant:
    def mutant(self: Any, wake_up: Any, *given: Any) -> Any:
        item = self._store.table.get(wake_up.key)
        return None if item and item["status"] == "queued" else original(self, wake_up, *given)

    return mutant


_mutation("take a message that was sent for one that arrives", (dispatcher.Dispatcher, "_look_at_run", _leave_queued))


def _raise_for_a_missing_run(original: Any) -> Mutant:
    def mutant(run_id: str, reason: str, *given: Any) -> Any:
        if reason == "no such run":
            raise LookupError(run_id)
        return original(run_id, reason, *given)

    return mutant


_mutation("ask for another delivery of a run that is gone", (consumer, "_ignored", _raise_for_a_missing_run))
_mutation(
    "let a finished run expire at once",
    (RunStore, "expires_at", lambda original: lambda self, now_ms: now_ms // 1000 + 1),
)
_mutation("let a retried run expire", _changed(run_writes, "retry", removes=_without("expires_at")))


def _refuse_what_is_damaged(original: Any) -> Mutant:
    def mutant(self: Any, claimed: Any, error: Any) -> Any:
        return (
            self._refuse(claimed, str(error), "damaged") if "damaged" in str(error) else original(self, claimed, error)
        )

    return mutant


_mutation("fail a run of which the key has changed", (consumer.Consumer, "_release", _refuse_what_is_damaged))

# Coroutines and their event loop

_mutation(
    "do not cancel a coroutine that is cut",
    (LoopCall, "_cancel", lambda original: lambda self, answered: answered.set()),
)


def _wait_for_canceled(original: Any) -> Mutant:
    def mutant(self: Any, call: Any) -> bool:
        return original(self, call) and (call.cancel is None or not call.wait(1.0))

    return mutant


_mutation("record what a canceled coroutine returns", (HandlerPool, "abandon", _wait_for_canceled))


def _runs_in(loop: Any) -> list[Any]:
    return sorted(loop.calls, key=lambda call: str(event_loop.attempt_fields(call.context)))


def _cancel_first(original: Any) -> Mutant:
    return lambda self, answered: original(next(iter(_runs_in(self._owner)), self), answered)


_mutation("cancel another coroutine than the one that is cut", (LoopCall, "_cancel", _cancel_first))


async def _run_whatever_exits(self: Any) -> None:
    try:
        self._value = await self._awaitable
    except (SystemExit, KeyboardInterrupt):
        return
    except BaseException as error:
        self._error = error


_mutation("take a coroutine that exits for one that returned", (LoopCall, "_run", lambda original: _run_whatever_exits))


def _start_in_one_context(original: Any) -> Mutant:
    contexts: dict[Any, Any] = {}

    def mutant(self: Any, awaitable: Any) -> Any:
        return LoopCall(self, awaitable, contexts.setdefault(self, event_loop.copy_context()))

    return mutant


_mutation("run all coroutines in one context", (HandlerLoop, "start", _start_in_one_context))
_mutation(
    "stop a replaced loop before its runs have ended",
    (HandlerLoop, "stop_if_idle", lambda original: lambda self: self.loop.stop() if self.retired else None),
)
_mutation(
    "keep a replaced loop for ever",
    (HandlerLoop, "stop_if_idle", lambda original: lambda self: None),
)


def _retire_and_keep(original: Any) -> Mutant:
    def mutant(self: Any) -> None:
        original(self)
        event_loop._process.loop = self

    return mutant


_mutation("start runs in a loop that is blocked", (HandlerLoop, "retire", _retire_and_keep))


def _blame_first(original: Any) -> Mutant:
    return lambda self: next((event_loop.attempt_fields(call.context) for call in _runs_in(self)), {})


_mutation("blame another run for blocking the loop", (HandlerLoop, "_blocking_attempt", _blame_first))

# Attempts that are kept, and lists

_LISTED = ("list_shard", "list_at")
_ANOTHER = type("Another", (Exception,), {})


def _another_type(original: Any) -> Any:
    return _ANOTHER


_transition("keep a retried run in the list", "retry", removes=_without(*_LISTED))
_transition("leave a run out of the list that is canceled while it waits", "cancel", sets=_without(*_LISTED))
_transition("leave a failed run out of the list", "fail", sets=_without(*_LISTED))
_transition("leave a run out of the list that is canceled after its attempt", "cancel_attempt", sets=_without(*_LISTED))
_transition("leave a run out of the list whose last worker was lost", "fail_expired", sets=_without(*_LISTED))
_mutation(
    "list a run by another clock",
    (
        run_writes,
        "listed",
        lambda original: lambda status, run_id, *, at_ms: original(status, run_id, at_ms=at_ms + 1),
    ),
)
_mutation(
    "list every run that succeeds",
    (run_writes, "succeed", lambda original: lambda *given, **named: original(*given, **{**named, "lists": True})),
)
_mutation(
    "list no run that succeeds",
    (run_writes, "succeed", lambda original: lambda *given, **named: original(*given, **{**named, "lists": False})),
)
_mutation("leave a partition out of the list", (queries, "list_shards", lambda original: lambda of: original(of)[1:]))
_mutation(
    "list one partition after the other",
    (queries, "heapq", lambda original: SimpleNamespace(merge=lambda *streams, reverse: chain(*streams))),
)
_transition("forget an attempt whose run another takes over", "rescue", sets=_without("attempts"))
_transition("forget an attempt that the dispatcher finds lost", "reschedule_expired", sets=_without("attempts"))
_transition("forget the last attempt", "fail", sets=_without("attempts"))
_mutation(
    "tell of the last attempt only",
    (run_item, "attempts_with", lambda original: lambda records, new, **named: original([], new, **named)),
)
_mutation("tell whole errors", (run_writes, "cut_to_bytes", lambda original: lambda text, most: text))
_mutation("tell of more attempts than there is room for", (run_item, "ATTEMPTS_BYTES", lambda original: 10**6))
_mutation(
    "tell of each time that a run was snoozed",
    (
        run_item,
        "attempts_with",
        lambda original: (
            lambda records, new, **named: (
                f"[{','.join(attempts._record_text(each) for each in [*records, new][-attempts.MOST_ATTEMPTS :])}]"
            )
        ),
    ),
)
_mutation("tell of an attempt that timed out as one that raised", (decisions, "AttemptTimeoutError", _another_type))
_mutation(
    "tell that an attempt logged where an earlier one did",
    _changed(run_writes, "claim", sets=_without("log")),
)

# Handlers that decide, and rules of jobs


def _count_snoozed(original: Any) -> Mutant:
    def mutant(claimed: Any, **named: Any) -> Any:
        write = original(claimed, **named)
        return _with(write, sets={**write.sets, "attempt": claimed.attempt + 1})

    return mutant


_mutation("count a snoozed attempt", (run_writes, "snooze", _count_snoozed))
_transition("snooze although its cancellation is asked for", "snooze", not_exists=_none)
_mutation("retry a run that its handler fails", (decisions, "Fail", _another_type))
_mutation("take a handler that cancels for one that fails", (decisions, "Cancel", _another_type))
_mutation("take a handler that snoozes for one that fails", (decisions, "Snooze", _another_type))
_mutation("retry when the policy says, and not when the handler does", (decisions, "RetryAfter", _another_type))
_mutation("retry after every error", (decisions, "is_retried", lambda original: lambda error, **rules: True))
_mutation(
    "retry what a job does not retry",
    (decisions, "is_retried", lambda original: lambda error, **rules: original(error, **{**rules, "retry_on": None})),
)
_mutation(
    "retry a lost worker although its job fails then",
    (
        decisions,
        "after_lost_worker",
        lambda original: (
            lambda expired, token, job, **named: original(expired, token, job._replace(fail_on=()), **named)
        ),
    ),
)
_mutation(
    "call a handler too late for its run",
    (decisions, "expired_reason", lambda original: lambda claimed, expires_after_ms, **named: None),
)


def _expired_without_attempts(original: Any) -> Mutant:
    def mutant(claimed: Any, expires_after_ms: int | None, *, now_ms: int) -> str | None:
        late = expires_after_ms is not None and now_ms > claimed.due_ms + expires_after_ms
        return "expired" if late and not claimed.attempt else None

    return mutant


_mutation("let a run expire that its handler has snoozed", (decisions, "expired_reason", _expired_without_attempts))


def _expired_since_creation(original: Any) -> Mutant:
    def mutant(claimed: Any, expires_after_ms: int | None, *, now_ms: int) -> str | None:
        late = expires_after_ms is not None and now_ms > to_ms(claimed.run.created_at) + expires_after_ms
        return "expired" if late else original(claimed, expires_after_ms, now_ms=now_ms)

    return mutant


_mutation(
    "judge by its first time whether a retried run has expired", (decisions, "expired_reason", _expired_since_creation)
)

# Persons who change runs


def _started_late(write: Any, waiting: Any) -> Any:
    return _with(write, sets={**write.sets, "scheduled_for": max(write.sets["scheduled_for"], waiting.updated_at)})


_transition("forget to count a retry", "retry", increments=_none)
_mutation(
    "retry at once although later was asked for",
    (
        run_control,
        "retry_found",
        lambda original: lambda store, found, *, delay_ms=0, **given: original(store, found, **given),
    ),
)
_transition("give a run another time whatever it does", "move", source=_any_status, equals=_none)
_transition("give a run another time that another has changed", "move", equals=_none)
_transition("change the payload of a run whatever it does", "change_payload", source=_any_status, equals=_none)


def _changed_at_once(original: Any) -> Mutant:
    return lambda waiting, token, **given: original(waiting, token, **{**given, "changed_ms": waiting.updated_at})


_mutation(
    "change a run at the time of the last change",
    (run_writes, "move", _changed_at_once),
    (run_writes, "change_payload", _changed_at_once),
)
_mutation(
    "start a run now by the clock of its creator",
    (
        run_writes,
        "move",
        lambda original: lambda waiting, token, **given: _started_late(original(waiting, token, **given), waiting),
    ),
)
_mutation(
    "say of an update that it was made",
    (run_control, "_change", lambda original: lambda store, *given: original(store, *given) or store.now_ms()),
)
_mutation(
    "delete a run whatever it does",
    (
        dynamodb.Table,
        "delete_unchanged",
        lambda original: lambda self, key, *, equals: self.delete(key),
    ),
)
_mutation(
    "say of a run that it was deleted",
    (dynamodb.Table, "delete_unchanged", lambda original: lambda *given, **named: True),
)

# Pauses


def _keep_aside(original: Any) -> Mutant:
    def mutant(*given: Any, **named: Any) -> Any:
        write = original(*given, **named)
        return _with(write, removes=_without("parked", *_LISTED)(write.removes))

    return mutant


_mutation("start what is paused", (PauseReader, "is_paused", lambda original: lambda self, name: False))
_mutation(
    "read once only what is paused",
    (PauseReader, "_is_older_than", lambda original: lambda self, limit_ms: self._read_ms is None),
)
_mutation("put aside what is not paused", (PauseReader, "is_paused", lambda original: lambda self, name: True))
_mutation(
    "put aside what is due, by the time of the pause",
    (
        run_writes,
        "park",
        lambda original: (
            lambda claimed, *, now_ms: _with(
                (write := original(claimed, now_ms=now_ms)), sets={**write.sets, "list_at": now_ms}
            )
        ),
    ),
)
_mutation(
    "count an attempt of a run that is put aside",
    (
        run_writes,
        "park",
        lambda original: (
            lambda claimed, *, now_ms: _with(
                (write := original(claimed, now_ms=now_ms)), sets={**write.sets, "attempt": claimed.attempt + 1}
            )
        ),
    ),
)
_mutation("leave aside what is resumed", (Resuming, "release", lambda original: lambda self, **given: Released()))
_mutation("send what goes on, and leave it aside", (run_writes, "unpark", _keep_aside))
_mutation("start now what is aside, and leave it aside", (run_writes, "move", _keep_aside))
_transition("leave aside what is canceled", "cancel", removes=_without("parked"))
_mutation("leave aside what has ended", (run_writes, "_no_longer_aside", lambda original: lambda run, sets: ()))
_mutation(
    "forget a pause where another writes at the same time",
    (
        pauses,
        "write",
        lambda original: (
            lambda store, found, changed, token: (
                store.table._client().put_item(
                    TableName=store.table.name,
                    Item=typed_key(PAUSES) | marshal({"schema": 1, **changed.attributes(token)}),
                ),
                (True, None),
            )[1]
        ),
    ),
)

# Keys that make another run


def _later_than_its_run(original: Any) -> Mutant:
    return lambda self, key, name, value: key.kind == "dedupe" or original(self, key, name, value)


_mutation("make another run of a key at any time", (dedupe, "_still", lambda original: lambda asked, found: None))
_mutation(
    "put a later run of a key before its number",
    (dynamodb.Table, "put_larger", _later_than_its_run),
)
_mutation("retry an earlier run of a key", (dedupe, "require_latest", lambda original: lambda store, found: None))
_mutation("make another run where one is to be debounced", (dedupe, "_debounce", lambda original: lambda *given: None))
_mutation(
    "keep the payload of a debounced run",
    _changed(run_writes, "debounce", sets=_without("payload")),
)
_mutation(
    "debounce a run whatever it does",
    _changed(run_writes, "debounce", source=_any_status, equals=_none, not_exists=_none),
)
_mutation(
    "count a key's time from the latest call",
    (
        dedupe,
        "_still",
        lambda original: lambda asked, found: original(asked._replace(now_ms=asked.now_ms + 10_000), found),
    ),
)

# Runs of an application's own transactions


def _put_at_once(original: Any) -> Mutant:
    def mutant(store: Any, new_run: Any) -> Any:
        pending = original(store, new_run)
        store.table.put_new(run_key(pending.run_id), pending._attributes)
        return pending

    return mutant


def _unconditional(original: Any) -> Mutant:
    def mutant(*given: Any, **named: Any) -> Any:
        entry = original(*given, **named)
        del entry["Put"]["ConditionExpression"]
        return entry

    return mutant


def _sent_first(original: Any) -> Mutant:
    def mutant(self: Any) -> Any:
        self.send()
        return original(self)

    return mutant


_mutation("store a run before its transaction", (transactions, "pending_run", _put_at_once))
_mutation("commit a run over the one that is there", (transactions, "put_new_entry", _unconditional))
_mutation("send the message before the commit", (PendingRun, "__enter__", _sent_first))
_mutation("forget the message of a committed run", (PendingRun, "send", lambda original: lambda self: None))
_mutation(
    "send a committed run without its group",
    (
        PendingRun,
        "send",
        lambda original: (
            lambda self: (
                setattr(self, "_new_run", self._new_run._replace(group=None if self._new_run.group else "another")),
                original(self),
            )[1]
        ),
    ),
)
_mutation(
    "take a repeated transaction for refused", (PendingRun, "_is_own", lambda original: lambda self, found: False)
)
_mutation(
    "take another's run of the key for one's own", (PendingRun, "_is_own", lambda original: lambda self, found: True)
)
_mutation(
    "take every canceled transaction for committed",
    (
        transactions,
        "found_instead",
        lambda original: lambda error, key: original(error, key) or (_Anything() if error is not None else None),
    ),
    (
        PendingRun,
        "_is_own",
        lambda original: lambda self, found: isinstance(found, _Anything) or original(self, found),
    ),
)


class _Anything(dict[str, Any]):
    """What is found where nothing was."""


# Batches

for _what, _patches in (batch_mutations.MISTAKES | typed_mutations.MISTAKES).items():
    _mutation(_what, *_patches)

# Large values

for _what, _patches in bucket_mutations.PATCHES.items():
    _mutation(_what, *_patches)

# Steps

_mutation(
    "keep nothing of a step",
    (Steps, "_put", lambda original: lambda self, key, attributes: None),
)


def _put_over(original: Any) -> Mutant:
    def mutant(self: Any, key: Any, attributes: Any) -> Any:
        self._store.table.put(key, attributes)

    return mutant


_mutation("keep the latest result of a step", (Steps, "_put", _put_over))
_mutation(
    "go on with one's own result where another was faster",
    (Steps, "_put", lambda original: lambda self, key, attributes: original(self, key, attributes) and None),
)
_mutation(
    "read no step that an earlier attempt has kept",
    (Steps, "_load", lambda original: lambda self: setattr(self, "_is_loaded", True)),
)
_mutation(
    "keep steps for a run that is created again under its key",
    (run_item.StoredRun, "incarnation", lambda original: property(lambda self: "0" * 12)),
)
_mutation(
    "forget the steps of a run that a person retries",
    (run_writes, "retry", lambda original: lambda *given, **named: original(*given, **{**named, "from_start": True})),
)
_mutation("count a suspended attempt", _changed(run_writes, "suspend", increments=lambda names: (*names, "attempt")))
_mutation(
    "suspend a run although its cancellation is asked for",
    _changed(run_writes, "suspend", not_exists=_without("cancel_requested_at")),
)
_mutation(
    "wait although a signal has come meanwhile",
    _changed(run_writes, "suspend", not_exists=_without("signals"), equals=_without("signals")),
    (Steps, "_read_signal", lambda original: lambda self, name: None),
)
_mutation(
    "tell no run of a signal that it does not wait for yet",
    (run_writes, "note_signal", lambda original: lambda *given: _with(original(*given), increments=())),
)
_mutation(
    "tell a run of a signal whatever it does meanwhile",
    _changed(run_writes, "note_signal", source=_any_status, equals=_none, not_exists=_none),
)
_mutation(
    "wake no run that waits for its signal",
    (
        run_writes,
        "wake",
        lambda original: (
            lambda found, token, *, waits_for, now_ms: run_writes.Transition(
                source=(RunStatus.SCHEDULED,),
                equals={"waits_for": waits_for},
                sets={"sent_by": token},
                write_token=("sent_by", token),
            )
        ),
    ),
)
_mutation(
    "say of every signal that it was taken",
    (signals, "signal", lambda original: lambda *given: original(*given) or True),
)


def _over_the_one_there(original: Any) -> Mutant:
    def mutant(self: Any, key: Any, attributes: Any) -> Any:
        if "#signal#" not in key.part:
            return original(self, key, attributes)
        self.put(key, attributes)
        return dynamodb.Answer(True, None)

    return mutant


_mutation("let the latest signal win", (dynamodb.Table, "put_new", _over_the_one_there))
_mutation(
    "give up whatever signal has come",
    (Steps, "_read_signal", lambda original: lambda self, name: None),
    (
        Steps,
        "_give_up",
        lambda original: lambda self, name: original(self, name)._replace(value=None),
    ),
)
_mutation(
    "count a sleep from each call",
    (Steps, "_record", lambda original: lambda self, call: None if call.kind == "sleep" else original(self, call)),
    (Steps, "_put", _put_over),
)
_mutation(
    "sleep for half as long",
    (Steps, "_until", lambda original: lambda self, length_ms: original(self, length_ms // 2)),
)
_mutation("delete a run and leave its steps", (signals, "delete_incarnation", lambda original: lambda *given: None))


# Limits


def _any_condition(what: str, instead: str = "") -> Callable[[Any], Mutant]:
    """Return a change of the requests to limits' items that leaves out a part of their condition."""

    def mutate(original: Any) -> Mutant:
        def mutant(self: Any, item_id: str, update: str, condition: str, *given: Any) -> Any:
            return original(self, item_id, update, condition.replace(what, instead), *given)

        return mutant

    return mutate


def _limit_mutation(what: str, *patches: Patch) -> None:
    MUTATIONS[what] = Mutation(patches, SEEDS.get(what, LIMITS_FROM))


_limit_mutation("give a slot to whoever asks", (Slots, "_turn", lambda original: lambda *given: None))
_limit_mutation(
    "take a place that the run has",
    (LimitItems, "_update", _any_condition("attribute_not_exists(#ticket) AND ")),
)
_limit_mutation(
    "free the slot of a later attempt",
    (
        LimitItems,
        "leave",
        lambda original: lambda self, *given, latest, now_ms: original(self, *given, latest=10**30, now_ms=now_ms),
    ),
)
_limit_mutation(
    "free a slot whose lease has ended, without a look at its run",
    (Line, "_is_needed", lambda original: lambda self, item_id, entry: entry.waits),
)
_limit_mutation(
    "let an earlier attempt hold a place",
    (LimitItems, "renew", lambda original: lambda self, *given, hold, **named: original(self, *given, hold=1, **named)),
    (LimitItems, "_update", _any_condition("#hold < :hold", "#hold <> :hold")),
)
_limit_mutation(
    "forget to send the run that has a slot now", (Line, "after_leaving", lambda original: lambda *given: None)
)
_limit_mutation(
    "forget the runs that wait outside",
    (Line, "refill", lambda original: lambda self, item_id, slots, state: (state, False)),
)
_limit_mutation("forget a canceled run that had its turn", (Line, "collect", lambda original: lambda *given: None))
_limit_mutation(
    "put a run aside without another look",
    (Slots, "waits", lambda original: lambda self, turn: setattr(self, "_waiting", True)),
)
_limit_mutation(
    "send a run before its turn",
    (
        Line,
        "after_leaving",
        lambda original: lambda self, item_id, slots, state: original(self, item_id, slots + 1, state),
    ),
)
_limit_mutation(
    "let a new run overtake those that wait outside",
    (
        LimitItems,
        "enter",
        lambda original: (
            lambda self, *given, past_overflow, **named: original(self, *given, past_overflow=True, **named)
        ),
    ),
)
_limit_mutation("free a slot while its run waits for another", (Slots, "waits", lambda original: lambda *given: None))
_limit_mutation("keep a slot after the attempt", (Slots, "leave", lambda original: lambda self: None))
_limit_mutation(
    "count an attempt of a run that waits for a slot",
    (
        run_writes,
        "await_slot",
        lambda original: (
            lambda claimed, **given: _with(
                (write := original(claimed, **given)), sets={**write.sets, "attempt": claimed.attempt + 1}
            )
        ),
    ),
)
_limit_mutation(
    "give another time to a run that waits for a slot",
    (
        run_writes,
        "await_slot",
        lambda original: (
            lambda claimed, *, now_ms, **given: _with(
                (write := original(claimed, now_ms=now_ms, **given)), sets={**write.sets, "scheduled_for": now_ms}
            )
        ),
    ),
)
_limit_mutation("admit a run that waits for nothing", _changed(run_writes, "admit", equals=_none))
_limit_mutation(
    "look at a run that waits only after a day", (run_writes, "FIRST_LIMIT_LOOK_MS", lambda original: 86_400_000)
)
_limit_mutation(
    "let a run wait on that is given another time",
    _changed(run_writes, "move", removes=_without("limited", "awaits_slot")),
)
_limit_mutation(
    "start before the moment that was reserved",
    (Moments, "microseconds_left", lambda original: lambda self: original(self) * 0),
)
_limit_mutation(
    "start too late for the moment that was reserved",
    (limits, "beat_of", lambda original: lambda *given: (beat := original(*given)) and beat._replace(slack_us=10**12)),
)
_limit_mutation(
    "reserve a moment at once although others are before",
    (RateItems, "_move", _any_condition("(attribute_not_exists(#next) OR #next < :now)", "#schema <> :now")),
)
_limit_mutation(
    "reserve moments that are too close",
    (
        limits,
        "beat_of",
        lambda original: (
            lambda *given: (beat := original(*given)) and beat._replace(interval_us=beat.interval_us * 2 // 3)
        ),
    ),
)
_limit_mutation(
    "count an attempt of a run that waits for its moment",
    (
        run_writes,
        "await_moment",
        lambda original: (
            lambda claimed, **given: _with(
                (write := original(claimed, **given)), sets={**write.sets, "attempt": claimed.attempt + 1}
            )
        ),
    ),
)
_limit_mutation(
    "put a run back until after its moment",
    (
        run_writes,
        "await_moment",
        lambda original: lambda claimed, *, due_ms, **given: original(claimed, due_ms=due_ms + 3_000, **given),
    ),
)

# Operations over many runs, and dispatchers that share the work

for _what, _patches in bulk_mutations.MISTAKES.items():
    _mutation(_what, *_patches)

# Workers

for _what, _patches in worker_mutations.MISTAKES.items():
    MUTATIONS[_what] = Mutation(_patches, SEEDS.get(_what, WORKERS_FROM))
