"""Limits: never more runs of a key at once than its limit, in order, with nothing lost and no attempt counted."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from kumofire_core import ConfigurationError, JobContext, Jobs, Limit, Snooze
from kumofire_core.engine.consumer import Consumer
from kumofire_core.engine.limits import Line, Slots
from kumofire_core.rules.limits import SLOTS_TOGETHER, WAITING_ROOM, place_of
from kumofire_core.rules.run_writes import FIRST_LIMIT_LOOK_MS, LAST_LIMIT_LOOK_MS
from tests.builders import NOW_MS, Aws, Clock, message
from tests.faults import Outage, Repeated

CUSTOMER = Limit(1, key=lambda payload: payload["customer"])


class Shop:
    """A job whose runs are of customers. While a handler executes, ``meanwhile`` is called with its run's id."""

    def __init__(self, aws: Aws, jobs: Jobs, limit: Any = CUSTOMER, *, name: str = "sync") -> None:
        self.aws = aws
        self.jobs = jobs
        self.name = name
        self.at_once = self.most = 0
        self.done: list[str] = []
        self.meanwhile: Callable[[str], object] = lambda run_id: None
        jobs.handler(name, concurrency=limit)(self._handle)

    def _handle(self, ctx: JobContext) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            self.meanwhile(ctx.run.id)
        finally:
            self.at_once -= 1
        self.done.append(ctx.run.id)

    def run(self, run_id: str, customer: str | None = "ann", **fields: Any) -> str:
        payload = json.dumps({"customer": customer})
        return self.aws.a_run(run_id, job_name=self.name, payload=payload, **fields)

    def consume(self, run_id: str) -> Any:
        return self.jobs.consume(message(run_id))

    def while_one_executes(self, action: Callable[[], object], *, holder: str = "holder") -> Any:
        """Do something while a run of the customer executes, and nothing while others do."""
        if self.aws.item(holder) is None:
            self.run(holder)
        self.meanwhile = lambda run_id: action() if run_id == holder else None
        return self.consume(holder)


@pytest.fixture
def shop(aws: Aws, jobs: Jobs) -> Shop:
    return Shop(aws, jobs)


def limit_items(aws: Aws) -> list[dict[str, Any]]:
    return [item for item in aws.items() if item["sk"] == "limit"]


def places(aws: Aws) -> list[str]:
    """The runs that have or await a slot, in the order of their tickets; each item's own count must agree."""
    found: list[tuple[int, str]] = []
    for item in limit_items(aws):
        tickets = [(value, name[2:]) for name, value in item.items() if name.startswith("t:")]
        assert item.get("n", 0) == len(tickets)
        assert len(tickets) == sum(name.startswith("l:") for name in item)
        found += tickets
    return [run_id for _, run_id in sorted(found)]


def sent(aws: Aws) -> list[str]:
    return [run_id for run_id, _ in aws.sent()]


# What a user sees.


def test_a_second_run_of_a_customer_waits_and_counts_no_attempt(shop: Shop, aws: Aws):
    shop.run("second", scheduled_for=NOW_MS - 5_000)
    seen: list[Any] = []

    def second() -> None:
        seen.append(shop.consume("second"))
        seen.append(shop.jobs.get_status("second"))

    shop.while_one_executes(second)

    result, run = seen
    assert (result.outcome, result.reason, result.attempt) == ("ignored", "limited", None)
    assert (run.status, run.waiting_for_limit, run.attempt) == ("scheduled", True, 0)
    assert aws.item("second")["scheduled_for"] == NOW_MS - 5_000
    assert shop.most == 1


def test_the_next_run_is_sent_at_once_when_a_slot_becomes_free_and_ends_as_usual(shop: Shop, aws: Aws):
    shop.run("second", group="ann")
    shop.while_one_executes(lambda: shop.consume("second"))

    assert sent(aws) == ["second"]
    assert aws.sqs.parameters("send_message")[-1]["MessageGroupId"] == "ann"
    assert not shop.jobs.get_status("second").waiting_for_limit
    assert shop.consume("second").outcome == "succeeded"
    assert places(aws) == []
    assert not {"limited", "awaits_slot", "list_at"} & aws.item("second").keys()


def test_runs_of_other_customers_and_of_none_go_on(aws: Aws, jobs: Jobs):
    shop = Shop(aws, jobs)
    shop.run("other", "bob")
    shop.run("free", None)
    outcomes: list[str] = []

    shop.while_one_executes(lambda: outcomes.extend(shop.consume(each).outcome for each in ("other", "free")))

    assert outcomes == ["succeeded", "succeeded"]


def test_runs_go_on_in_the_order_in_which_they_came_also_beyond_the_room_of_the_item(
    shop: Shop, aws: Aws, clock: Clock
):
    names = [f"run-{number:02}" for number in range(WAITING_ROOM + 12)]

    def all_come() -> None:
        for name in names:
            clock.advance(milliseconds=1)
            shop.run(name)
            assert shop.consume(name).reason == "limited"

    shop.while_one_executes(all_come)
    while len(sent(aws)) < len(names):
        before = len(sent(aws))
        shop.consume(sent(aws)[-1])
        assert len(sent(aws)) == before + 1
    shop.consume(sent(aws)[-1])

    assert shop.done == ["holder", *names]
    assert (places(aws), shop.most) == ([], 1)


def test_a_new_run_does_not_overtake_those_that_wait_outside_of_the_item(shop: Shop, aws: Aws, clock: Clock):
    waiting = [shop.run(f"run-{number:02}") for number in range(WAITING_ROOM + 2)]

    def all_come() -> None:
        for name in waiting:
            clock.advance(milliseconds=1)
            shop.consume(name)

    shop.while_one_executes(all_come)
    shop.run("new")

    assert shop.consume("new").reason == "limited"
    assert "new" not in places(aws)
    assert aws.item("new")["list_shard"].startswith("limit#")


def test_once_nobody_waits_outside_any_more_new_runs_get_a_slot_at_once(shop: Shop, aws: Aws, clock: Clock):
    names = [shop.run(f"run-{number:02}") for number in range(WAITING_ROOM + 1)]
    shop.while_one_executes(lambda: [shop.consume(name) for name in names])
    for number in range(len(names)):
        clock.advance(minutes=1)
        shop.consume(sent(aws)[number])
    assert shop.consume(shop.run("new")).reason in ("limited", None)

    if aws.item("new")["status"] != "succeeded":
        shop.consume(sent(aws)[-1])
    assert "overflow" not in limit_items(aws)[0]
    assert shop.consume(shop.run("newer")).outcome == "succeeded"


def test_a_limit_without_a_key_is_for_the_job_and_one_with_a_name_for_all_jobs_of_that_name(aws: Aws, jobs: Jobs):
    first = Shop(aws, jobs, Limit(1, name="crm"), name="import")
    second = Shop(aws, jobs, Limit(1, name="crm"), name="export")
    third = Shop(aws, jobs, Limit(1), name="report")
    for shop, name in ((first, "holder"), (second, "waits"), (third, "own")):
        shop.run(name)
    seen: list[Any] = []

    first.while_one_executes(lambda: seen.extend([second.consume("waits").reason, third.consume("own").outcome]))

    assert seen == ["limited", "succeeded"]


def test_a_run_needs_a_slot_of_each_limit_and_takes_that_of_its_key_first(aws: Aws, jobs: Jobs):
    shop = Shop(aws, jobs, [Limit(2), Limit(1, key=lambda payload: payload["customer"])])
    for name, customer in (("same", "ann"), ("bob", "bob"), ("cat", "cat")):
        shop.run(name, customer)
    reasons: list[Any] = []

    def meanwhile(run_id: str) -> None:
        if run_id == "holder":
            reasons.append(shop.consume("same").reason)
            shop.consume("bob")
        if run_id == "bob":
            reasons.append(shop.consume("cat").reason)

    shop.meanwhile = meanwhile
    shop.consume(shop.run("holder"))
    for name in sent(aws):
        shop.consume(name)

    assert reasons == ["limited", "limited"]
    assert sorted(shop.done) == ["bob", "cat", "holder", "same"]
    assert (places(aws), shop.most) == ([], 2)


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 3, SLOTS_TOGETHER + 1, 3 * SLOTS_TOGETHER + 7])
def test_no_more_runs_execute_at_once_than_the_limit_says(aws: Aws, jobs: Jobs, count: int):
    shop = Shop(aws, jobs, Limit(count))
    names = [f"run-{number:03}" for number in range(3 * count)]

    def next_one(run_id: str) -> None:
        number = int(run_id[4:]) + 1
        if number < len(names):
            shop.run(names[number])
            shop.consume(names[number])

    shop.meanwhile = next_one
    sys.setrecursionlimit(10_000)
    shop.consume(shop.run(names[0]))

    assert shop.most <= count
    assert shop.most >= 0.7 * count
    assert sum(place_of(Limit(count), "sync", None).slots(part) for part in range(-(-count // SLOTS_TOGETHER))) == count


@pytest.mark.parametrize("ends", ["raises", "snoozes", "returns no JSON"])
def test_however_an_attempt_ends_its_slot_is_free(aws: Aws, jobs: Jobs, ends: str):
    shop = Shop(aws, jobs)

    @jobs.handler("other", concurrency=Limit(1, name="crm"))
    def other(ctx: JobContext) -> Any:
        if ends == "returns no JSON":
            return object()
        raise Snooze(timedelta(hours=1)) if ends == "snoozes" else RuntimeError("boom")

    run_id = aws.a_run(job_name="other")
    jobs.consume(message(run_id))

    assert places(aws) == []
    assert shop.consume(shop.run("next")).outcome == "succeeded"


def test_a_key_that_raises_fails_the_attempt_and_one_of_another_type_too(aws: Aws, jobs: Jobs):
    shop = Shop(aws, jobs, Limit(1, key=lambda payload: payload["tenant"]))
    other = Shop(aws, jobs, Limit(1, key=lambda payload: 1.5), name="other")  # type: ignore[arg-type,return-value]
    shop.run("first")
    other.run("second")

    assert (shop.consume("first").outcome, shop.consume("second").outcome) == ("retried", "retried")
    assert "KeyError: 'tenant'" in jobs.get_status("first").last_error
    assert "must return a text" in jobs.get_status("second").last_error
    assert (shop.done, places(aws)) == ([], [])


# What it costs.


def test_a_run_that_finds_a_slot_costs_two_requests_more_and_a_job_without_limits_none(aws: Aws, jobs: Jobs):
    shop = Shop(aws, jobs)
    jobs.handler("plain")(lambda ctx: None)
    jobs.consume(message(aws.a_run(job_name="plain")))  # reads what is paused
    counts = []
    for run_id in (aws.a_run(job_name="plain"), shop.run("limited")):
        before = len(aws.dynamodb.requests)
        jobs.consume(message(run_id))
        counts.append(len(aws.dynamodb.requests) - before)

    assert counts == [2, 4]


def test_a_process_without_limits_does_not_import_what_they_need(aws: Aws):
    code = """
import sys, kumofire_core
from kumofire_core.edge import consumer
jobs = kumofire_core.Jobs(table="t", queue_url="https://q")
jobs.handler("a")(print)
print([name for name in sys.modules if "limit" in name and name.startswith("kumofire_core")])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# What can go wrong.


def test_a_lost_worker_s_slot_comes_back_when_its_lease_ends(shop: Shop, aws: Aws, clock: Clock):
    died = shop.run("died")

    _die(shop, died)
    assert shop.consume(shop.run("second")).reason == "limited"

    clock.advance(minutes=20)
    assert shop.consume(shop.run("third")).reason == "limited"
    assert sent(aws) == ["second"]
    assert shop.consume("second").outcome == "succeeded"


class Killed(BaseException):
    """Stands for the end of a process."""


def _die(shop: Shop, run_id: str) -> None:
    """Let a consumer die within the handler: it holds lease and slot, and does nothing more."""

    def dies(*given: Any, **named: Any) -> Any:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        shop.meanwhile = lambda _: (patch.setattr(Slots, "leave", dies), patch.setattr(Consumer, "_succeeded", dies))
        with pytest.raises(Killed):
            shop.consume(run_id)
    shop.meanwhile = lambda _: None
    assert shop.aws.item(run_id)["status"] == "running"


def test_a_late_worker_does_not_free_the_slot_of_its_successor(shop: Shop, aws: Aws, clock: Clock):
    shop.run("late")
    seen: list[list[str]] = []

    def outlives_its_lease(run_id: str) -> None:
        if run_id == "late" and not seen:
            seen.append(places(aws))
            clock.advance(minutes=20)  # its lease is over
            shop.meanwhile = lambda _: None
            shop.consume(shop.run("waits"))
            shop.meanwhile = another
            shop.consume("late")  # another consumer takes it over

    def another(run_id: str) -> None:
        seen.append(places(aws))

    shop.meanwhile = outlives_its_lease
    assert shop.consume("late").reason == "lost its lease"
    assert places(aws) == []
    assert seen[-1] == ["late"]


@pytest.mark.long
@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("applied", [True, False])
def test_whatever_request_breaks_every_run_goes_on_and_no_slot_is_lost(aws: Aws, clock: Clock, at: int, applied: bool):
    outage = Outage(at, applied=applied)
    broken = Aws(dynamodb=aws.dynamodb, sqs=aws.sqs, table=aws.table, queue_url=aws.queue_url).jobs(
        clock=clock, dynamodb=outage.wrap(aws.dynamodb), sqs=outage.wrap(aws.sqs)
    )
    shop, other = Shop(aws, broken), Shop(aws, aws.jobs(clock=clock))
    for name in ("holder", "second", "third"):
        shop.run(name)

    def others_come() -> None:
        for name in ("second", "third"):
            _quietly(shop.consume, name)

    other.while_one_executes(others_come)
    for _ in range(12):
        clock.advance(minutes=30)
        other.jobs.dispatch()
        for name in dict.fromkeys(_sent_by_all(aws)):
            other.consume(name)

    assert {aws.item(name)["status"] for name in ("holder", "second", "third")} == {"succeeded"}
    assert places(aws) == []
    assert max(shop.most, other.most) == 1


def _quietly(action: Callable[[str], object], name: str) -> None:
    with contextlib.suppress(ClientError, BotoCoreError):
        action(name)


def _sent_by_all(aws: Aws) -> list[str]:
    entries = [
        json.loads(entry["MessageBody"])["kumofireJobRunId"]
        for request in aws.sqs.parameters("send_message_batch")
        for entry in request["Entries"]
    ]
    return entries + sent(aws)


def test_a_request_that_is_repeated_takes_and_frees_a_slot_once(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, dynamodb=Repeated(aws.dynamodb))
    shop = Shop(aws, jobs)
    shop.run("second")

    shop.while_one_executes(lambda: shop.consume("second"))

    assert places(aws) == ["second"]
    assert sent(aws) == ["second"]
    assert shop.consume("second").outcome == "succeeded"
    assert places(aws) == []


def test_the_dispatcher_sends_a_run_whose_slot_became_free_and_nobody_said_so(shop: Shop, aws: Aws, clock: Clock):
    shop.run("second")
    with pytest.MonkeyPatch.context() as patch:
        shop.while_one_executes(lambda: (shop.consume("second"), patch.setattr(Line, "after_leaving", print)))
    assert sent(aws) == []

    clock.advance(milliseconds=FIRST_LIMIT_LOOK_MS + 1)
    assert shop.jobs.dispatch().dispatched == 1
    assert sent(aws) == ["second"]
    assert shop.consume("second").outcome == "succeeded"


def test_the_dispatcher_looks_less_and_less_often_at_a_run_that_waits(shop: Shop, aws: Aws, clock: Clock):
    shop.run("second")
    looks: list[int] = []

    def waits() -> None:
        shop.consume("second")
        for _ in range(9):
            clock.advance(milliseconds=aws.item("second")["wake_at"] - int(clock().timestamp() * 1000) + 1)
            assert aws.item("holder")["status"] == "running"
            aws.change("holder", lease_until=int(clock().timestamp() * 1000) + 10**9)
            shop.jobs.dispatch()
            looks.append(aws.item("second")["wake_at"] - int(clock().timestamp() * 1000))
        assert shop.jobs.get_status("second").waiting_for_limit

    aws.a_run("holder", job_name="sync", payload='{"customer": "ann"}')
    shop.while_one_executes(waits)

    assert looks[0] == pytest.approx(FIRST_LIMIT_LOOK_MS, abs=1)
    assert looks == sorted(looks)
    assert looks[-1] == LAST_LIMIT_LOOK_MS


def test_a_run_that_is_put_aside_just_after_all_others_have_ended_goes_on_at_once(
    shop: Shop, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    names = [shop.run(f"run-{number:02}") for number in range(WAITING_ROOM + 1)]
    shop.while_one_executes(lambda: [shop.consume(name) for name in names])
    apply = shop.jobs._store.apply

    def others_end_first(run_id: str, write: Any, **options: Any) -> Any:
        if run_id == "last" and "awaits_slot" in write.sets:
            for number in range(len(names)):
                assert shop.consume(sent(aws)[number]).outcome == "succeeded"
        return apply(run_id, write, **options)

    monkeypatch.setattr(shop.jobs._store, "apply", others_end_first)
    shop.run("last")

    assert shop.consume("last").reason == "limited"

    assert sent(aws)[-1] == "last"
    assert shop.consume("last").outcome == "succeeded"


# Persons.


def test_a_canceled_run_that_waited_gives_its_turn_to_the_next(shop: Shop, aws: Aws):
    shop.run("second")
    shop.run("third")

    def both_come() -> None:
        shop.consume("second")
        shop.consume("third")
        assert shop.jobs.cancel("second")

    shop.while_one_executes(both_come)

    assert sent(aws) == ["third"]
    assert shop.consume("third").outcome == "succeeded"
    assert places(aws) == []
    assert not shop.jobs.get_status("second").waiting_for_limit


def test_a_run_that_is_canceled_when_it_is_its_turn_gives_it_to_the_next(shop: Shop, aws: Aws):
    shop.run("second")
    shop.run("third")
    shop.while_one_executes(lambda: (shop.consume("second"), shop.consume("third")))
    assert sent(aws) == ["second"]
    assert shop.jobs.cancel("second")

    assert shop.consume("second").reason == "canceled"

    assert sent(aws) == ["second", "third"]
    assert shop.consume("third").outcome == "succeeded"
    assert places(aws) == []


def test_a_canceled_run_also_gives_up_the_slot_that_it_held_while_it_waited_for_another(aws: Aws, jobs: Jobs):
    shop = Shop(aws, jobs, [Limit(1, key=lambda payload: payload["customer"]), Limit(1)])
    shop.run("holder", "bob")
    for name in ("first", "second"):
        shop.run(name, "ann")

    def both_come() -> None:
        shop.consume("first")  # has the slot of its customer, and waits for the job's
        shop.consume("second")  # waits for the slot of its customer
        assert jobs.cancel("first")
        assert sent(aws) == ["second"]

    shop.while_one_executes(both_come)

    assert shop.consume("second").outcome == "succeeded"
    assert places(aws) == []


def test_a_run_that_is_rescheduled_while_it_waits_gives_its_turn_to_the_next(shop: Shop, aws: Aws, clock: Clock):
    shop.run("second")
    shop.run("third")

    def both_come() -> None:
        shop.consume("second")
        shop.consume("third")
        assert shop.jobs.reschedule("second", clock() + timedelta(hours=1))

    shop.while_one_executes(both_come)

    assert sent(aws)[-1] == "third"
    assert shop.consume("third").outcome == "succeeded"
    assert places(aws) == []
    assert not shop.jobs.get_status("second").waiting_for_limit


def test_a_run_that_is_to_start_now_does_not_pass_its_limit_and_keeps_its_place(shop: Shop, aws: Aws):
    shop.run("second")
    shop.run("third")

    def both_come() -> None:
        shop.consume("second")
        shop.consume("third")
        assert shop.jobs.run_now("second")
        assert shop.consume("second").reason == "limited"

    shop.while_one_executes(both_come)

    assert sent(aws)[-1] == "second"
    assert places(aws) == ["second", "third"]


def test_a_run_whose_customer_is_changed_waits_in_the_line_of_the_new_one(shop: Shop, aws: Aws):
    shop.run("second")
    shop.run("third")
    outcomes: list[Any] = []

    def both_come() -> None:
        shop.consume("second")
        shop.consume("third")
        assert shop.jobs.update("second", payload={"customer": "bob"})
        assert shop.jobs.run_now("second")
        outcomes.append(shop.consume("second").outcome)

    shop.while_one_executes(both_come)

    assert outcomes == ["succeeded"]
    assert sent(aws)[-1] == "third"
    assert shop.consume("third").outcome == "succeeded"
    assert places(aws) == []


def test_a_paused_job_s_run_holds_no_slot_of_a_limit_that_others_share(aws: Aws, jobs: Jobs, clock: Clock):
    first = Shop(aws, jobs, Limit(1, name="crm"), name="import")
    second = Shop(aws, jobs, Limit(1, name="crm"), name="export")
    first.run("holder")
    first.run("paused")
    first.while_one_executes(lambda: first.consume("paused"))
    jobs.pause("import")
    clock.advance(minutes=1)

    assert first.consume("paused").reason == "paused"

    assert places(aws) == []
    assert second.consume(second.run("other")).outcome == "succeeded"


def test_a_run_that_is_deleted_while_its_place_is_kept_gives_its_turn_to_the_next(shop: Shop, aws: Aws):
    shop.run("second")
    shop.run("third")

    def both_come() -> None:
        shop.consume("second")
        shop.consume("third")
        assert shop.jobs.cancel("second")
        assert shop.jobs.delete("second")

    shop.while_one_executes(both_come)

    assert sent(aws) == ["third"]


def test_a_run_that_waits_expires_when_its_turn_comes_too_late(aws: Aws, jobs: Jobs, clock: Clock):
    shop = Shop(aws, jobs, Limit(1, name="crm"))
    jobs.handler("brief", expires_after=timedelta(minutes=1), concurrency=Limit(1, name="crm"))(lambda ctx: None)
    brief = aws.a_run(job_name="brief")
    shop.while_one_executes(lambda: (jobs.consume(message(brief)), clock.advance(minutes=2)))

    assert jobs.consume(message(brief)).outcome == "canceled"
    assert places(aws) == []


# What is said of it, and what is refused.


@pytest.mark.parametrize(
    "arguments",
    [{"count": count} for count in (0, -1, 1.5, True, "3", None, 10_001)]
    + [{"count": 1, "key": key} for key in (5, "customer", ["x"])]
    + [{"count": 1, "name": name} for name in (5, "", b"x", "x" * 256)],
)
def test_a_limit_that_makes_no_sense_is_refused(arguments: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="of a Limit must be"):
        Limit(**arguments)


def test_limits_that_can_not_be_told_apart_or_contradict_each_other_are_refused(jobs: Jobs):
    with pytest.raises(ConfigurationError, match="one by their names"):
        jobs.handler("a", concurrency=[Limit(1), Limit(2)])(print)
    with pytest.raises(ConfigurationError, match="4 are the most"):
        jobs.handler("a", concurrency=[Limit(1, name=str(number)) for number in range(5)])(print)
    jobs.handler("b", concurrency=Limit(5, name="crm"))(print)
    with pytest.raises(ConfigurationError, match="is 3 in job 'a' and 5 in job 'b'"):
        jobs.handler("a", concurrency=Limit(3, name="crm"))(print)
