"""Every transition of a run: one function each, which returns one conditional write.

A transition says which conditions must hold, what it changes, and by which token its own first copy is recognised: the
SDK repeats a request whose reply was lost, so a write can be refused by its own first copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kumofire_core.model.error_text import cut_to_bytes
from kumofire_core.model.run import NewRun, RunStatus
from kumofire_core.model.run_item import (
    CANCEL_REASON_BYTES,
    ERROR_TYPE_BYTES,
    HISTORY_BYTES,
    INCARNATION_LENGTH,
    LAST_ERROR_BYTES,
    StoredRun,
    history_text,
    is_apart,
)
from kumofire_core.model.write import LARGE_SCHEMA, NOTHING, SCHEMA, Sum, Value, Write, present, text_bytes
from kumofire_core.rules.listing import LISTED, PARKED, limit_shard, listed
from kumofire_core.rules.wake_ups import (
    LAST_RESEND_MS,
    SEND_GRACE_MS,
    resend_at,
    waiting_wake_at,
    wake_shard,
)

CLOCK_SKEW_MS = 1_000
"""How far two machines' clocks may be apart: a run may start this much before its time by the consumer's clock."""

LEASE_MARGIN_MS = 5_000
"""How long a lease outlasts its process's deadline: Lambda's kill is not to the millisecond, and clocks differ."""

_WAITING = (RunStatus.SCHEDULED, RunStatus.QUEUED)
_RUNNING = (RunStatus.RUNNING,)
_UNINDEXED = ("wake_shard", "wake_at")
_LEASE = ("lease_token", "lease_until")
_PUT_ASIDE = ("parked", *LISTED)
_LIMITED = ("limited", "awaits_slot", "reserved", "rate_since")


PARKED_LOOK_MS = 24 * 60 * 60_000
"""How long a run of a paused job is left alone. Resuming sends it; this is for what resuming did not find."""


FIRST_LIMIT_LOOK_MS = 2 * 60_000
LAST_LIMIT_LOOK_MS = 60 * 60_000
"""How soon a run that waits for a slot is looked at: each time after it has waited twice as long, within these bounds.
The run that frees a slot sends it; this is for what was lost."""


class Failure(NamedTuple):
    """What is stored of an attempt that ended without success."""

    last_error: str
    error_type: str
    attempts: str
    """The run's attempts with this one, in their stored form."""


class Transition(Write):
    """One step of a run: a conditional write that leads from one of some statuses to another (or the same) one."""

    __slots__ = ()
    target: RunStatus


def create(
    new_run: NewRun,
    *,
    create_token: str,
    max_attempts: int | None,
    timeout_ms: int | None,
    shards: int,
    created_by: str | None = None,
) -> dict[str, Value]:
    """Return the attributes of a new run: queued when it is due, scheduled otherwise.

    They are put on the condition that the id is new. ``create_token`` is the evidence: a put that finds it was its own.
    ``max_attempts`` is left out where the creator knows no handler; the consumer's registered job then decides.
    ``created_by`` is the creating process's name, where it has one.
    """
    due_ms, now_ms = new_run.due_ms, new_run.now_ms
    due_now = due_ms <= now_ms
    attributes: dict[str, Value | None] = {
        "schema": LARGE_SCHEMA if is_apart(new_run.payload) else SCHEMA,
        "status": RunStatus.QUEUED if due_now else RunStatus.SCHEDULED,
        "job_name": new_run.job_name,
        "payload": new_run.payload,
        "attempt": 0,
        "claims": 0,
        "max_attempts": max_attempts,
        "scheduled_for": due_ms,
        "created_at": now_ms,
        "updated_at": now_ms,
        "create_token": create_token,
        "wake_shard": wake_shard(new_run.id, shards),
        "wake_at": resend_at(now_ms, sends=1) if due_now else waiting_wake_at(due_ms, now_ms),
        "timeout_ms": timeout_ms,
        "schedule_id": new_run.schedule_id,
        "occurrence": new_run.occurrence_ms,
        "dedupe_key": new_run.dedupe_key,
        "dedupe_mode": new_run.dedupe_mode,
        "generation": new_run.generation,
        "traceparent": new_run.traceparent,
        "parent_id": new_run.parent_id,
        "created_by": created_by,
        "group": new_run.group,
        "after": new_run.callback_of,
    }
    if new_run.batch is not None:
        batch_id, index, total = new_run.batch
        attributes["batch"] = f"{batch_id} {index} {total}"
    return present(attributes)


def create_canceled(
    new_run: NewRun, *, create_token: str, reason: str, expires_at: int | None, created_by: str | None = None
) -> dict[str, Value]:
    """Return the attributes of a new run that is canceled from the beginning, so that it is seen that it is not run."""
    attributes = create(
        new_run,
        create_token=create_token,
        max_attempts=new_run.max_attempts,
        timeout_ms=None,
        shards=1,
        created_by=created_by,
    )
    for name in _UNINDEXED:
        del attributes[name]
    ended = _ended(new_run.now_ms, expires_at) | dict(listed(RunStatus.CANCELED, new_run.id, at_ms=new_run.now_ms))
    return attributes | ended | {"status": RunStatus.CANCELED, "cancel_reason": reason}


def claim(
    lease_token: str, *, now_ms: int, longest_ms: int, heeds_timeout: bool = True, log: str | None = None
) -> Transition:
    """Take a due run that nobody holds, and start its next attempt.

    A delivered message is permission enough, so a scheduled run is taken as well once it is due. The lease is as long
    as the process can live, ``longest_ms``, or as the job's timeout where the run carries one, and a margin: what it
    protects has surely ended when it ends. Without ``heeds_timeout`` it is the former in any case: PartiQL, in which
    claims are made together, can't choose between the two. ``log`` says where the attempt logs. Where that is not
    known, it is stored as empty, because the item may still say where an earlier attempt logged.
    """
    sets: dict[str, Value] = {"lease_token": lease_token, "started_at": now_ms, "updated_at": now_ms, "log": log or ""}
    computes = NOTHING
    if heeds_timeout:
        computes = {"lease_until": Sum(name="timeout_ms", otherwise=longest_ms, plus=now_ms + LEASE_MARGIN_MS)}
    else:
        sets["lease_until"] = now_ms + longest_ms + LEASE_MARGIN_MS
    return Transition(
        source=_WAITING,
        target=RunStatus.RUNNING,
        at_most={"scheduled_for": now_ms + CLOCK_SKEW_MS},
        sets=sets,
        computes=computes,
        increments=("claims",),
        write_token=("lease_token", lease_token),
    )


def rescue(
    expired: StoredRun, lease_token: str, *, now_ms: int, longest_ms: int, failure: Failure, log: str | None
) -> Transition:
    """Take a run whose lease has expired. The lost attempt counts, and this is the next one."""
    return Transition(
        source=_RUNNING,
        target=RunStatus.RUNNING,
        equals=_held_by(expired),
        at_most={"lease_until": now_ms},
        not_exists=("cancel_requested_at",),
        sets={
            "lease_token": lease_token,
            "lease_until": now_ms + longest_ms + LEASE_MARGIN_MS,
            "started_at": now_ms,
            "updated_at": now_ms,
            "log": log or "",
            **_decided(expired),
            **_failed_attempt(expired, failure),
        },
        increments=("claims",),
        write_token=("lease_token", lease_token),
    )


def renew(claimed: StoredRun, token: str, *, now_ms: int, lease_ms: int) -> Transition:
    """Let the lease of an attempt under way last for ``lease_ms`` and a margin from now on, and its wake-up with it.

    Fenced by the lease, like the end of its attempt. A lease only grows: a late copy of an earlier renewal must not
    shorten it. So a refusal that shows the lease still held, and a later end, is no loss of it. A request to cancel
    does not matter here: the handler goes on until it has seen it.
    """
    until = now_ms + lease_ms + LEASE_MARGIN_MS
    return Transition(
        source=_RUNNING,
        target=RunStatus.RUNNING,
        equals=_held_by(claimed),
        at_most={"lease_until": until},
        sets={"renewed_by": token, "lease_until": until, "wake_at": until},
        write_token=("renewed_by", token),
    )


def is_held(claimed: StoredRun, found: Mapping[str, Value] | None) -> bool:
    """Say whether an item, as a refusal returned it, is still leased to the claim that returned ``claimed``."""
    return found is not None and all(found.get(name) == value for name, value in _held_by(claimed).items())


def succeed(
    claimed: StoredRun, *, now_ms: int, output: str | None, expires_at: int | None, lists: bool = False
) -> Transition:
    """Record that the handler returned, and release the lease. ``lists`` puts the run into the listing index."""
    sets = _ended(now_ms, expires_at)
    if lists:
        sets |= listed(RunStatus.SUCCEEDED, claimed.id, at_ms=now_ms)
    if output is not None:
        sets |= _value("output", output)
    return _settle(claimed, RunStatus.SUCCEEDED, now_ms, sets, _UNINDEXED)


def reschedule(claimed: StoredRun, *, now_ms: int, due_ms: int, failure: Failure) -> Transition:
    """Put a failed attempt's run back to wait until ``due_ms``.

    Refused where a person asked for the run's cancellation meanwhile: then ``cancel_attempt`` is what fits.
    """
    sets = _failed_attempt(claimed, failure) | {"scheduled_for": due_ms, "wake_at": waiting_wake_at(due_ms, now_ms)}
    return _settle(claimed, RunStatus.SCHEDULED, now_ms, sets, not_exists=("cancel_requested_at",))


def snooze(claimed: StoredRun, *, now_ms: int, due_ms: int, attempts: str) -> Transition:
    """Put a run back to wait until ``due_ms``, as its handler asked. The attempt is not counted.

    Refused, like ``reschedule``, where the run is to be canceled: then ``cancel_attempt`` is what fits.
    """
    sets: dict[str, Value] = {
        "attempts": attempts,
        "scheduled_for": due_ms,
        "wake_at": waiting_wake_at(due_ms, now_ms),
    }
    return _settle(claimed, RunStatus.SCHEDULED, now_ms, sets, not_exists=("cancel_requested_at",))


def suspend(
    claimed: StoredRun, *, now_ms: int, due_ms: int, waits_for: str | None = None, signals: int = 0
) -> Transition:
    """Put a run back to wait until ``due_ms`` that goes on behind its kept steps then. No attempt is counted.

    ``waits_for`` is the signal that it waits for. It is refused where a signal has come since there were ``signals``,
    because that one finds no run to wake. Refused, like ``reschedule``, where the run is to be canceled.
    """
    sets: dict[str, Value] = {"scheduled_for": due_ms, "wake_at": waiting_wake_at(due_ms, now_ms)}
    equals: dict[str, Value] = {}
    not_exists: tuple[str, ...] = ("cancel_requested_at",)
    if waits_for is not None:
        sets["waits_for"] = waits_for
        if signals:
            equals["signals"] = signals
        else:
            not_exists += ("signals",)
    return _settle(
        claimed,
        RunStatus.SCHEDULED,
        now_ms,
        sets,
        not_exists=not_exists,
        equals=equals,
        increments=("suspensions",),
    )


def cancel_suspended(claimed: StoredRun, *, now_ms: int, expires_at: int | None) -> Transition:
    """End a run that was to be suspended, because a person asked for its cancellation. No attempt is counted."""
    sets = _ended_unsuccessfully(claimed, RunStatus.CANCELED, now_ms, expires_at)
    return _settle(claimed, RunStatus.CANCELED, now_ms, sets, _UNINDEXED)


def wake(found: StoredRun, token: str, *, waits_for: str, now_ms: int) -> Transition:
    """Queue a run whose signal has come; whoever applied this then sends its message.

    Refused where the run starts over, or was deleted and created again, since it was read: that one has no signal.
    """
    equals, not_exists = _same_incarnation(found)
    return Transition(
        source=(RunStatus.SCHEDULED,),
        target=RunStatus.QUEUED,
        equals={"waits_for": waits_for, **equals},
        not_exists=not_exists,
        sets={
            "sent_by": token,
            "sends": 1,
            "scheduled_for": now_ms,
            "wake_at": resend_at(now_ms, sends=1),
            "updated_at": now_ms,
        },
        increments=("signals",),
        removes=("waits_for",),
        write_token=("sent_by", token),
    )


def note_signal(found: StoredRun, token: str) -> Transition:
    """Tell a run that does not wait for a signal that one has come; it finds it before it waits.

    Refused where the run was claimed or suspended since it was read: it may wait for this very signal now. And refused,
    like ``wake``, where it is another incarnation.
    """
    equals, not_exists = _same_incarnation(found)
    return Transition(
        source=(found.status,),
        equals={**equals, "claims": found.claims} if found.counts_claims else equals,
        not_exists=not_exists if found.counts_claims else (*not_exists, "claims"),
        sets={"signaled_by": token},
        increments=("signals",),
        write_token=("signaled_by", token),
    )


def fail(claimed: StoredRun, *, now_ms: int, failure: Failure, expires_at: int | None) -> Transition:
    """Record that the last attempt failed. Refused, like ``reschedule``, where the run is to be canceled."""
    sets = _failed_attempt(claimed, failure) | _ended_unsuccessfully(claimed, RunStatus.FAILED, now_ms, expires_at)
    return _settle(claimed, RunStatus.FAILED, now_ms, sets, _UNINDEXED, not_exists=("cancel_requested_at",))


def fail_unattempted(
    claimed: StoredRun, *, now_ms: int, error: str, error_type: str, expires_at: int | None
) -> Transition:
    """Record that the run can't be attempted, for want of a handler or of attempts; none is counted.

    Refused, like ``fail``, where the run is to be canceled: then ``cancel_unattempted`` is what fits.
    """
    sets = _ended_unsuccessfully(claimed, RunStatus.FAILED, now_ms, expires_at)
    sets |= {"last_error": cut_to_bytes(error, LAST_ERROR_BYTES), "error_type": error_type}
    return _settle(claimed, RunStatus.FAILED, now_ms, sets, _UNINDEXED, not_exists=("cancel_requested_at",))


def cancel_attempt(
    claimed: StoredRun, *, now_ms: int, failure: Failure, expires_at: int | None, reason: str | None = None
) -> Transition:
    """End a run without another attempt, because a person asked for its cancellation, or its handler (``reason``).

    With a ``reason`` it is refused, like ``reschedule``, where a person asked: then the person's reason stays.
    """
    sets = _failed_attempt(claimed, failure)
    sets |= _ended_unsuccessfully(claimed, RunStatus.CANCELED, now_ms, expires_at)
    if reason is not None:
        sets["cancel_reason"] = cut_to_bytes(reason, CANCEL_REASON_BYTES)
    not_exists = () if reason is None else ("cancel_requested_at",)
    return _settle(claimed, RunStatus.CANCELED, now_ms, sets, _UNINDEXED, not_exists=not_exists)


def cancel_unattempted(
    claimed: StoredRun, *, now_ms: int, expires_at: int | None, reason: str | None = None
) -> Transition:
    """End a run before its handler was called: its cancellation was asked for, or it came too late (``reason``).

    With a ``reason`` it is refused, like ``reschedule``, where a person asked: then the person's reason stays.
    """
    sets = _ended_unsuccessfully(claimed, RunStatus.CANCELED, now_ms, expires_at)
    if reason is not None:
        sets["cancel_reason"] = reason
    not_exists = () if reason is None else ("cancel_requested_at",)
    return _settle(claimed, RunStatus.CANCELED, now_ms, sets, _UNINDEXED, not_exists=not_exists)


def await_handler(claimed: StoredRun, *, now_ms: int, due_ms: int, since_ms: int, error: str) -> Transition:
    """Put a run back to wait until ``due_ms`` that its consumer has no handler for; another one may have it.

    No attempt was made, so none is counted, and a limit that its job has yet to decide stays open. ``since_ms`` is when
    a handler was first missing. Refused, like ``release``, where the run is to be canceled.
    """
    sets: dict[str, Value] = {
        "scheduled_for": due_ms,
        "wake_at": waiting_wake_at(due_ms, now_ms),
        "last_error": error,
        "no_handler_since": since_ms,
    }
    return _settle(claimed, RunStatus.SCHEDULED, now_ms, sets, not_exists=("cancel_requested_at",), decides_limit=False)


def park(claimed: StoredRun, *, now_ms: int) -> Transition:
    """Put a run aside whose job is paused; no attempt is counted, and it keeps its time.

    It is listed with the other runs of paused jobs, by its time, so that they go on in that order. Refused, like
    ``release``, where the run is to be canceled.
    """
    sets: dict[str, Value] = {
        "parked": "pause",
        "wake_at": now_ms + PARKED_LOOK_MS,
        **listed(PARKED, claimed.id, at_ms=claimed.due_ms),
    }
    return _settle(claimed, RunStatus.SCHEDULED, now_ms, sets, not_exists=("cancel_requested_at",), decides_limit=False)


def unpark(token: str, *, due_ms: int, now_ms: int) -> Transition:
    """Queue a run that was put aside, and whose job was resumed; whoever applied this then sends its message.

    It is known by the index alone, which may be behind: ``due_ms`` is the time at which it is listed there.
    """
    return Transition(
        source=(RunStatus.SCHEDULED,),
        target=RunStatus.QUEUED,
        equals={"parked": "pause", "scheduled_for": due_ms},
        sets={"sent_by": token, "sends": 1, "wake_at": resend_at(now_ms, sends=1), "updated_at": now_ms},
        removes=_PUT_ASIDE,
        write_token=("sent_by", token),
    )


def await_slot(
    claimed: StoredRun, *, now_ms: int, item_id: str, limited: str, outside_since_ms: int | None
) -> Transition:
    """Put a run aside that has to wait for a slot of a limit; no attempt is counted, and it keeps its time.

    ``limited`` are the items in which it has a place, ``item_id`` the one that it waits in. Where that has no room, it
    is listed by the time since when it waits, ``outside_since_ms``. Refused, like ``release``, where the run is to be
    canceled.
    """
    sets: dict[str, Value] = {"limited": limited, "awaits_slot": item_id, "wake_at": now_ms + FIRST_LIMIT_LOOK_MS}
    if outside_since_ms is not None:
        sets |= {"list_shard": limit_shard(item_id), "list_at": outside_since_ms}
    return _settle(claimed, RunStatus.SCHEDULED, now_ms, sets, not_exists=("cancel_requested_at",), decides_limit=False)


def await_moment(claimed: StoredRun, *, now_ms: int, due_ms: int, reserved: str) -> Transition:
    """Put a run back to wait until ``due_ms``, shortly before the moment that it has reserved; no attempt is counted.

    Refused, like ``release``, where the run is to be canceled.
    """
    sets: dict[str, Value] = {
        "reserved": reserved,
        "rate_since": claimed.due_ms if claimed.rate_since is None else claimed.rate_since,
        "scheduled_for": due_ms,
        "wake_at": waiting_wake_at(due_ms, now_ms),
    }
    return _settle(claimed, RunStatus.SCHEDULED, now_ms, sets, not_exists=("cancel_requested_at",), decides_limit=False)


def look_at_limited(waiting: StoredRun, *, now_ms: int) -> int:
    """Return when the dispatcher looks again at a run that waits for a slot of a limit."""
    return now_ms + min(max(now_ms - waiting.updated_at, FIRST_LIMIT_LOOK_MS), LAST_LIMIT_LOOK_MS)


def admit(token: str, *, item_id: str, now_ms: int) -> Transition:
    """Queue a run that waited for a slot of a limit, and has it now; whoever applied this then sends its message."""
    return Transition(
        source=(RunStatus.SCHEDULED,),
        target=RunStatus.QUEUED,
        equals={"awaits_slot": item_id},
        sets={"sent_by": token, "sends": 1, "wake_at": resend_at(now_ms, sends=1), "updated_at": now_ms},
        removes=("awaits_slot", *LISTED),
        write_token=("sent_by", token),
    )


def release(claimed: StoredRun, *, now_ms: int) -> Transition:
    """Queue a run again that was claimed too late to call its handler: no attempt was made, so none is counted.

    Refused where a person asked for the run's cancellation meanwhile: then ``cancel_unattempted`` is what fits.
    """
    sends = claimed.sends + 1  # its message comes again, and where that does not help, less and less often
    sets: dict[str, Value] = {"wake_at": resend_at(now_ms, sends=sends), "sends": sends}
    return _settle(claimed, RunStatus.QUEUED, now_ms, sets, not_exists=("cancel_requested_at",))


def reschedule_expired(expired: StoredRun, token: str, *, now_ms: int, due_ms: int, failure: Failure) -> Transition:
    """Put back a run whose worker was lost; the lost attempt counts."""
    sets = _failed_attempt(expired, failure) | {"scheduled_for": due_ms, "wake_at": waiting_wake_at(due_ms, now_ms)}
    return _settle_expired(expired, token, RunStatus.SCHEDULED, now_ms, sets, not_exists=("cancel_requested_at",))


def fail_expired(
    expired: StoredRun, token: str, *, now_ms: int, failure: Failure, expires_at: int | None
) -> Transition:
    """Fail a run whose worker was lost in its last attempt."""
    sets = _failed_attempt(expired, failure) | _ended_unsuccessfully(expired, RunStatus.FAILED, now_ms, expires_at)
    return _settle_expired(
        expired, token, RunStatus.FAILED, now_ms, sets, _UNINDEXED, not_exists=("cancel_requested_at",)
    )


def cancel_expired(
    expired: StoredRun, token: str, *, now_ms: int, failure: Failure, expires_at: int | None
) -> Transition:
    """End a run whose worker was lost after its cancellation had been asked for."""
    sets = _failed_attempt(expired, failure) | _ended_unsuccessfully(expired, RunStatus.CANCELED, now_ms, expires_at)
    return _settle_expired(expired, token, RunStatus.CANCELED, now_ms, sets, _UNINDEXED)


def enqueue(token: str, *, now_ms: int, wake_at: int, due_ms: int) -> Transition:
    """Mark a scheduled run that is due as queued; whoever applied this then sends its message.

    Only a run that nobody has sent yet has its own time as its wake-up. With another wake-up, its message was sent with
    a delay before, and seems lost.
    """
    return Transition(
        source=(RunStatus.SCHEDULED,),
        target=RunStatus.QUEUED,
        equals={"scheduled_for": due_ms, "wake_at": wake_at},
        at_most={"scheduled_for": now_ms},
        sets={"sent_by": token, "sends": 1, "wake_at": resend_at(now_ms, sends=1), "updated_at": now_ms},
        write_token=("sent_by", token),
    )


def send_ahead(token: str, *, due_ms: int, now_ms: int) -> Transition:
    """Take it upon oneself to send the message of a run that will be due soon, with a delay.

    It stays scheduled. Only a run that nobody has sent yet has its own time as its wake-up.
    """
    return Transition(
        source=(RunStatus.SCHEDULED,),
        target=RunStatus.SCHEDULED,
        equals={"scheduled_for": due_ms, "wake_at": due_ms},
        sets={"sent_by": token, "wake_at": due_ms + SEND_GRACE_MS, "updated_at": now_ms},
        write_token=("sent_by", token),
    )


def resend(lost: StoredRun, token: str, *, now_ms: int, rarely: bool = False) -> Transition:
    """Take it upon oneself to send a queued run's message again; the next time comes later, ``rarely`` in an hour.

    ``updated_at`` is when a queued run's message was last sent, by which consumers are later known to be past it.
    """
    again_at = now_ms + LAST_RESEND_MS if rarely else resend_at(now_ms, sends=lost.sends + 1)
    return Transition(
        source=(RunStatus.QUEUED,),
        target=RunStatus.QUEUED,
        equals={"wake_at": _wake_up(lost)},
        sets={"sent_by": token, "sends": lost.sends + 1, "wake_at": again_at, "updated_at": now_ms},
        write_token=("sent_by", token),
    )


def wait_longer(waiting: StoredRun, token: str, *, look_at: int) -> Transition:
    """Leave a run's message alone until ``look_at``: it may wait in the queue, and is not known to be lost."""
    return Transition(
        source=(waiting.status,),
        target=waiting.status,
        equals={"wake_at": _wake_up(waiting)},
        sets={"sent_by": token, "wake_at": look_at},
        write_token=("sent_by", token),
    )


def look_again(running: StoredRun, token: str) -> Transition:
    """Push the wake-up of a run that is executing to the end of its lease."""
    return Transition(
        source=_RUNNING,
        target=RunStatus.RUNNING,
        equals=_held_by(running),
        sets={"sent_by": token, "wake_at": running.lease_until or 0},
        write_token=("sent_by", token),
    )


def cancel(
    run_id: str,
    token: str,
    *,
    now_ms: int,
    reason: str | None,
    expires_at: int | None,
    equals: Mapping[str, Value] = NOTHING,
    bulk: str | None = None,
) -> Transition:
    """Cancel a run that waits. ``bulk`` is the operation over many runs that this belongs to."""
    return Transition(
        source=_WAITING,
        target=RunStatus.CANCELED,
        equals=equals,
        sets=present(
            {
                "canceled_by": token,
                "cancel_reason": reason,
                "bulk": bulk,
                "updated_at": now_ms,
                **_ended(now_ms, expires_at),
                **listed(RunStatus.CANCELED, run_id, at_ms=now_ms),
            }
        ),
        removes=(*_UNINDEXED, "parked", "awaits_slot"),
        write_token=("canceled_by", token),
    )


def request_cancel(
    token: str, *, now_ms: int, reason: str | None, equals: Mapping[str, Value] = NOTHING, bulk: str | None = None
) -> Transition:
    """Ask for the cancellation of a run that is executing: its handler can see it, and no attempt follows."""
    return Transition(
        source=_RUNNING,
        target=RunStatus.RUNNING,
        equals=equals,
        not_exists=("cancel_requested_at",),
        sets=present({"canceled_by": token, "cancel_reason": reason, "cancel_requested_at": now_ms, "bulk": bulk}),
        write_token=("canceled_by", token),
    )


def retry(
    ended: StoredRun,
    token: str,
    *,
    due_ms: int,
    now_ms: int,
    shards: int,
    history: str,
    bulk: str | None = None,
    from_start: bool = False,
) -> Transition:
    """Queue a failed or canceled run again, as a person asked, or let it wait until ``due_ms``.

    Attempts start again; ``history`` keeps what was. ``bulk`` is the operation over many runs that this belongs to.
    It goes on behind its kept steps, unless ``from_start``: then it keeps them under another name from now on.
    """
    due_now = due_ms <= now_ms
    return Transition(
        source=(RunStatus.FAILED, RunStatus.CANCELED),
        target=RunStatus.QUEUED if due_now else RunStatus.SCHEDULED,
        equals={"updated_at": ended.updated_at},
        sets={
            "retried_by": token,
            "history": history,
            "attempt": 0,
            "scheduled_for": max(due_ms, now_ms),
            "updated_at": now_ms,
            "sends": 1,
            "wake_shard": wake_shard(ended.id, shards),
            "wake_at": resend_at(now_ms, sends=1) if due_now else waiting_wake_at(due_ms, now_ms),
            **({} if bulk is None else {"bulk": bulk}),
            **({"steps_id": token[-INCARNATION_LENGTH:]} if from_start else {}),
        },
        increments=("retries",),
        removes=(
            "finished_at",
            "expires_at",
            "cancel_requested_at",
            "cancel_reason",
            "no_handler_since",
            # Also where there is none: a late copy may find the run as later attempts have left it.
            "waits_for",
            "suspensions",
            *LISTED,
            *_LIMITED,
            *(("steps", "signals") if from_start else ()),
        ),
        write_token=("retried_by", token),
    )


def move(waiting: StoredRun, token: str, *, due_ms: int, now_ms: int, changed_ms: int) -> Transition:
    """Give a run that waits another time, as a person asked; whoever applied this then sends its message.

    A run of a paused job is no longer put aside: its message finds the job paused again, or resumed. ``changed_ms`` is
    later than the run's latest change, so that a late copy of this write is refused. The wait for a consumer that has
    its handler begins anew.
    """
    due_now = due_ms <= now_ms
    return Transition(
        source=_WAITING,
        target=RunStatus.QUEUED if due_now else RunStatus.SCHEDULED,
        equals={"status": waiting.status, "updated_at": waiting.updated_at},
        sets={
            "changed_by": token,
            "scheduled_for": max(due_ms, now_ms),
            "updated_at": changed_ms,
            "sends": 1,
            "wake_at": resend_at(now_ms, sends=1) if due_now else waiting_wake_at(due_ms, now_ms),
        },
        removes=(*_PUT_ASIDE, *_LIMITED, "no_handler_since"),
        write_token=("changed_by", token),
    )


def change_payload(waiting: StoredRun, token: str, *, payload: str, changed_ms: int) -> Transition:
    """Replace the payload of a run that waits; ``changed_ms`` as for ``move``."""
    return Transition(
        source=_WAITING,
        target=waiting.status,
        equals={"status": waiting.status, "updated_at": waiting.updated_at},
        sets={"changed_by": token, **_value("payload", payload), "updated_at": changed_ms},
        write_token=("changed_by", token),
    )


def debounce(
    waiting: StoredRun,
    token: str,
    *,
    payload: str,
    due_ms: int,
    now_ms: int,
    changed_ms: int,
    group: str | None = None,
) -> Transition:
    """Replace payload, time and group of a run that has not started, as a later call for its key asked.

    Refused where its handler was called meanwhile. ``changed_ms`` as for ``move``: a late copy of an earlier call is
    refused as well.
    """
    moved = move(waiting, token, due_ms=due_ms, now_ms=now_ms, changed_ms=changed_ms)
    regrouped: dict[str, Value] = {} if group is None or group == waiting.group else {"group": group}
    ungrouped = ("group",) if group is None and waiting.group is not None else ()
    return Transition(
        source=moved.source,
        target=moved.target,
        equals={**moved.equals, "attempt": 0},
        not_exists=("attempts", "history", "suspensions"),
        sets={**moved.sets, **_value("payload", payload), **regrouped},
        removes=(*moved.removes, *ungrouped),
        write_token=moved.write_token,
    )


def tell_progress(claimed: StoredRun, token: str, *, progress: str) -> Transition:
    """Store what a handler tells of its progress. Fenced by the lease, like the end of its attempt."""
    return Transition(
        source=_RUNNING,
        equals=_held_by(claimed),
        sets={"progress": progress, "told_by": token},
        write_token=("told_by", token),
    )


def make_room(large: StoredRun, token: str) -> Transition | None:
    """Cut what an earlier release stored in more bytes than there are for it; ``None`` where there is no such thing."""
    kept = {"history": large.history_text, "last_error": large.last_error}
    sets: dict[str, Value] = {"trimmed_by": token}
    if large.history_text is not None and text_bytes(large.history_text) > HISTORY_BYTES:
        sets["history"] = history_text(large.history)
    if large.last_error is not None and text_bytes(large.last_error) > LAST_ERROR_BYTES:
        sets["last_error"] = cut_to_bytes(large.last_error, LAST_ERROR_BYTES)
    if len(sets) == 1:
        return None
    return Transition(equals=present(kept), sets=sets, write_token=("trimmed_by", token))


def _settle(
    claimed: StoredRun,
    target: RunStatus,
    now_ms: int,
    sets: dict[str, Value],
    removes: tuple[str, ...] = (),
    *,
    not_exists: tuple[str, ...] = (),
    decides_limit: bool = True,
    equals: Mapping[str, Value] = NOTHING,
    increments: tuple[str, ...] = (),
) -> Transition:
    """End an attempt. Fenced by the lease: a consumer that outlived its lease must not undo its successor's work."""
    held = _held_by(claimed)
    token = held["lease_token"]
    if claimed.no_handler_since is not None and "no_handler_since" not in sets:
        removes += ("no_handler_since",)
    if claimed.waits_for is not None and "waits_for" not in sets:
        removes += ("waits_for",)
    removes += _no_longer_aside(claimed, sets)
    kept: dict[str, Value] = {} if claimed.kept_steps is None else {"steps": claimed.kept_steps}
    return Transition(
        source=_RUNNING,
        target=target,
        equals={**held, **equals},
        not_exists=not_exists,
        sets={
            "settled_by": token,
            "updated_at": now_ms,
            **(_decided(claimed) if decides_limit else {}),
            **kept,
            **sets,
        },
        increments=increments,
        removes=_LEASE + removes,
        write_token=("settled_by", token),
    )


def _settle_expired(
    expired: StoredRun,
    token: str,
    target: RunStatus,
    now_ms: int,
    sets: dict[str, Value],
    removes: tuple[str, ...] = (),
    *,
    not_exists: tuple[str, ...] = (),
) -> Transition:
    """End an attempt in place of its lost worker: only once the lease is over, and only if it is still that lease."""
    if expired.no_handler_since is not None:
        removes += ("no_handler_since",)
    if expired.waits_for is not None:
        removes += ("waits_for",)
    removes += _no_longer_aside(expired, sets)
    return Transition(
        source=_RUNNING,
        target=target,
        equals=_held_by(expired),
        at_most={"lease_until": now_ms},
        not_exists=not_exists,
        sets={"settled_by": token, "updated_at": now_ms, **_decided(expired), **sets},
        removes=_LEASE + removes,
        write_token=("settled_by", token),
    )


def _held_by(run: StoredRun) -> dict[str, Value]:
    """Return the condition that a lease is still the one that was seen.

    The counter tells a claim from its own copy: one that arrives after the attempt has ended can take the run again,
    with the same token and for nobody, and a late copy of that attempt's end must not end this lease as well. Such a
    copy can also take another run, which was created under the id once this one was deleted, and by the same number.
    """
    if run.lease_token is None:
        raise ValueError(f"run {run.id} is not leased")
    held: dict[str, Value] = {"lease_token": run.lease_token, **run.created_as}
    if run.claims:
        held["claims"] = run.claims
    return held


def _same_incarnation(found: StoredRun) -> tuple[dict[str, Value], tuple[str, ...]]:
    """Return what must equal, and what must not exist, in a run that keeps its steps where it did when it was read."""
    tokens = found.incarnation_tokens
    return {**tokens}, () if "steps_id" in tokens else ("steps_id",)


def _value(name: str, stored: str) -> dict[str, Value]:
    """Return what stores a payload or an output. An earlier release must leave a run alone whose value is in S3."""
    return {name: stored, "schema": LARGE_SCHEMA} if is_apart(stored) else {name: stored}


def _wake_up(run: StoredRun) -> int:
    if run.wake_at is None:
        raise ValueError(f"run {run.id} has no wake-up")
    return run.wake_at


def _decided(run: StoredRun) -> dict[str, Value]:
    """Write down the limit that the registered job decided, so that every later reader sees the same."""
    return {"max_attempts": run.max_attempts} if run.inherits_max_attempts else {}


def _failed_attempt(run: StoredRun, failure: Failure) -> dict[str, Value]:
    return {
        "attempt": run.attempt + 1,
        "last_error": cut_to_bytes(failure.last_error, LAST_ERROR_BYTES),
        "error_type": cut_to_bytes(failure.error_type, ERROR_TYPE_BYTES),
        "attempts": failure.attempts,
    }


def _ended(now_ms: int, expires_at: int | None) -> dict[str, Value]:
    return {"finished_at": now_ms} if expires_at is None else {"finished_at": now_ms, "expires_at": expires_at}


def _ended_unsuccessfully(run: StoredRun, status: RunStatus, now_ms: int, expires_at: int | None) -> dict[str, Value]:
    return _ended(now_ms, expires_at) | dict(listed(status, run.id, at_ms=now_ms))


def _no_longer_aside(run: StoredRun, sets: dict[str, Value]) -> tuple[str, ...]:
    """Return what a write removes of a run that was put aside once, and was claimed since.

    A release without the listing index leaves a run in it as well, when a person retries it there.
    """
    aside = (("parked",) if run.is_parked else ()) + (LISTED if run.list_shard is not None else ())
    aside += run.limit_attributes
    return tuple(name for name in aside if name not in sets)
