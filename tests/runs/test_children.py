"""A handler's children are created once over all attempts, wake it once, and are canceled with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from kumofire_core import InvalidArgumentError, JobContext, Jobs, UnknownJobError, WaitTimeoutError
from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine import batch_marks
from tests.builders import Aws, Clock, message
from tests.faults import Outage


def consume_all(jobs: Jobs, aws: Aws, most: int = 50) -> None:
    """Consume the messages that are sent and due, until there are none."""
    for done in range(most):
        sent = [run_id for run_id, delay in all_sent(aws) if delay == 0][done:]
        if not sent:
            return
        jobs.consume(message(sent[0]))


def all_sent(aws: Aws) -> list[tuple[str, int]]:
    found = []
    for name, parameters in aws.sqs.requests:
        entries = [parameters] if name == "send_message" else parameters.get("Entries", [])
        for entry in entries:
            if "MessageBody" in entry:
                found.append((json.loads(entry["MessageBody"])["kumofireJobRunId"], entry.get("DelaySeconds", 0)))
    return found


@pytest.fixture
def family(jobs: Jobs) -> Jobs:
    """Jobs of a parent that waits for its children, and of these."""

    @jobs.handler("parent", max_attempts=3)
    def parent(ctx: JobContext) -> Any:
        first = ctx.create_child("child", "a")
        ctx.create_children([{"name": "child", "payload": each} for each in ctx.payload])
        children = ctx.wait_for_children()
        assert children[0].id == first
        return [[child.payload, child.status.value, child.output] for child in children]

    @jobs.handler("child", max_attempts=1)
    def child(ctx: JobContext) -> str:
        if ctx.payload == "bad":
            raise ValueError("bad")
        return f"did {ctx.payload}"

    return jobs


def test_a_parent_waits_for_its_children_and_gets_their_outputs(family: Jobs, aws: Aws) -> None:
    parent_id = family.create("parent", ["b", "bad"])
    consume_all(family, aws)

    parent = family.get_status(parent_id)
    assert parent.output == [["a", "succeeded", "did a"], ["b", "succeeded", "did b"], ["bad", "failed", None]]
    assert (parent.failed_attempts, parent.attempts[:-1]) == (0, ())
    children = [family.get_status(run_id) for run_id, _ in all_sent(aws) if run_id != parent_id]
    assert {child.parent_id for child in children} == {parent_id}
    assert family.list_batches().batches == ()


def test_while_it_waits_a_parent_is_scheduled_and_the_last_child_wakes_it(family: Jobs, aws: Aws) -> None:
    parent_id = family.create("parent", ["b"])
    family.consume(message(parent_id))
    children = [run_id for run_id, _ in all_sent(aws)[1:]]
    assert len(children) == 2
    assert family.get_status(parent_id).status == "scheduled"

    family.consume(message(children[1]))
    assert family.get_status(parent_id).status == "scheduled"
    family.consume(message(children[0]))
    assert family.get_status(parent_id).status == "queued"


@pytest.mark.long
@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("at", range(1, 19))
def test_wherever_the_parent_s_process_is_cut_off_each_child_is_created_once(
    aws: Aws, clock: Clock, at: int, applied: bool
) -> None:
    outage = Outage(at, applied=applied, lasting=True)
    first = aws.jobs(clock=clock, dynamodb=outage.wrap(aws.dynamodb), concurrency=1)
    second = aws.jobs(clock=clock, concurrency=1)
    calls: list[Any] = []
    for jobs in (first, second):

        @jobs.handler("parent", max_attempts=5)
        def parent(ctx: JobContext) -> Any:
            ctx.create_children([{"name": "child", "payload": each} for each in "ab"])
            ctx.create_child("child", "c")
            return [child.output for child in ctx.wait_for_children()]

        @jobs.handler("child")
        def child(ctx: JobContext) -> str:
            calls.append(ctx.payload)
            return f"did {ctx.payload}"

    parent_id = second.create("parent")
    with contextlib.suppress(*AWS_ERRORS):
        first.consume(message(parent_id))
    for _ in range(12):
        clock.advance(minutes=3)
        second.dispatch()
        consume_all(second, aws)
        for item in aws.items():
            if item["pk"].startswith("run#") and item["sk"] == "run" and item["status"] in ("queued", "scheduled"):
                second.consume(message(item["pk"][4:]))

    assert second.get_status(parent_id).output == ["did a", "did b", "did c"]
    assert sorted(calls) == ["a", "b", "c"]


def test_a_lost_signal_is_given_by_the_dispatcher(
    family: Jobs, aws: Aws, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent_id = family.create("parent", [])

    def killed(*given: Any) -> None:
        raise ConnectionError("as if the process had died")

    family.consume(message(parent_id))
    with monkeypatch.context() as patch:
        patch.setattr(batch_marks, "_give_signal", killed)
        family.consume(message(all_sent(aws)[1][0]))
    assert family.get_status(parent_id).status == "scheduled"
    clock.advance(minutes=3)
    family.dispatch()
    family.consume(message(parent_id))

    assert family.get_status(parent_id).status == "succeeded"


def test_a_parent_that_had_ended_when_its_children_did_goes_on_when_it_is_retried(family: Jobs, aws: Aws) -> None:
    parent_id = family.create("parent", [])
    family.consume(message(parent_id))
    family.cancel(parent_id)
    family.consume(message(all_sent(aws)[1][0]))
    family.retry(parent_id)
    family.consume(message(parent_id))

    assert family.get_status(parent_id).output == [["a", "succeeded", "did a"]]


def test_a_second_wait_is_for_later_children(jobs: Jobs, aws: Aws) -> None:
    @jobs.handler("parent")
    def parent(ctx: JobContext) -> Any:
        ctx.create_child("child", 1)
        first = [child.payload for child in ctx.wait_for_children()]
        ctx.create_child("child", 2, name="later")
        second = [child.payload for child in ctx.wait_for_children()]
        return [first, second, ctx.wait_for_children()]

    jobs.handler("child")(lambda ctx: None)
    parent_id = jobs.create("parent")
    consume_all(jobs, aws)

    assert jobs.get_status(parent_id).output == [[1], [2], []]
    kinds = [(step.name, step.kind.value) for step in jobs.steps(parent_id)]
    assert [kind for _, kind in kinds] == ["child", "wait", "child", "wait"]
    assert kinds[0][0] == "child-1"


def test_an_async_handler_waits_for_its_children(jobs: Jobs, aws: Aws) -> None:
    @jobs.handler("parent")
    async def parent(ctx: JobContext) -> Any:
        child_id = await ctx.aio.create_child("child", "a")
        await ctx.aio.create_children([{"name": "child", "payload": "b"}])
        children = await ctx.aio.wait_for_children()
        assert children[0].id == child_id
        with pytest.raises(InvalidArgumentError, match=r"ctx\.aio"):
            ctx.create_child("child", "c")
        await asyncio.sleep(0)
        return [child.output for child in children]

    jobs.handler("child")(lambda ctx: f"did {ctx.payload}")
    parent_id = jobs.create("parent")
    consume_all(jobs, aws)

    assert jobs.get_status(parent_id).output == ["did a", "did b"]


def test_a_wait_for_children_may_time_out(jobs: Jobs, clock: Clock, aws: Aws) -> None:
    @jobs.handler("parent")
    def parent(ctx: JobContext) -> str:
        ctx.create_child("child", delay=3600)
        try:
            ctx.wait_for_children(timeout=60)
        except WaitTimeoutError:
            return "too late"
        raise AssertionError("it must not come here")

    jobs.handler("child")(lambda ctx: None)
    parent_id = jobs.create("parent")
    jobs.consume(message(parent_id))
    clock.advance(minutes=2)
    jobs.consume(message(parent_id))

    assert jobs.get_status(parent_id).output == "too late"


def test_a_tree_is_canceled_from_the_top_down_also_below_what_has_ended(jobs: Jobs, aws: Aws) -> None:
    @jobs.handler("middle")
    def middle(ctx: JobContext) -> str:
        return ctx.create_child("leaf")

    @jobs.handler("top")
    def top(ctx: JobContext) -> Any:
        ctx.create_children([{"name": "middle"}, {"name": "leaf"}])
        return ctx.wait_for_children()

    jobs.handler("leaf")(lambda ctx: None)
    top_id = jobs.create("top")
    jobs.consume(message(top_id))
    middle_id, leaf_id = (run_id for run_id, _ in all_sent(aws)[1:3])
    jobs.consume(message(middle_id))
    deep_id = jobs.get_status(middle_id).output

    assert jobs.cancel_tree(top_id, "why") == 3

    statuses = {run_id: jobs.get_status(run_id).status for run_id in (top_id, middle_id, leaf_id, deep_id)}
    assert list(statuses.values()) == ["canceled", "succeeded", "canceled", "canceled"]
    assert jobs.get_status(deep_id).cancel_reason == "why"
    assert jobs.cancel_tree(top_id) == 0
    assert jobs.cancel_tree("unknown") == 0


def test_a_parent_that_starts_over_has_other_children(jobs: Jobs, aws: Aws) -> None:
    made = []

    @jobs.handler("parent", max_attempts=1)
    def parent(ctx: JobContext) -> None:
        made.append(ctx.create_child("child"))
        raise ValueError("boom")

    jobs.handler("child")(lambda ctx: None)
    parent_id = jobs.create("parent")
    for from_start in (False, True):
        jobs.consume(message(parent_id))
        assert jobs.retry(parent_id, from_start=from_start)
    jobs.consume(message(parent_id))

    assert made[0] == made[1] != made[2]


def test_what_children_are_encrypted_with_does_not_show(aws: Aws, clock: Clock) -> None:
    class Turned:
        def encrypt(self, plaintext: bytes) -> bytes:
            return plaintext[::-1]

        def decrypt(self, ciphertext: bytes) -> bytes:
            return ciphertext[::-1]

    jobs = aws.jobs(clock=clock, cipher=Turned(), concurrency=1)

    @jobs.handler("parent")
    def parent(ctx: JobContext) -> Any:
        ctx.create_child("child", "secret in")
        return [child.output for child in ctx.wait_for_children()]

    jobs.handler("child")(lambda ctx: "secret out")
    parent_id = jobs.create("parent")
    consume_all(jobs, aws)

    assert jobs.get_status(parent_id).output == ["secret out"]
    assert "secret" not in str(aws.items())


@pytest.mark.parametrize(
    ("call", "error", "saying"),
    [
        (lambda ctx: ctx.create_child("other"), UnknownJobError, "run 0 of create_child: no handler"),
        (lambda ctx: ctx.create_child("parent", max_attempts=0), InvalidArgumentError, "max_attempts"),
        (lambda ctx: ctx.create_children("parent"), InvalidArgumentError, "create_children takes a list"),
        (lambda ctx: ctx.create_children([{"name": "parent", "dedupe_key": "k"}]), InvalidArgumentError, "made once"),
        (lambda ctx: ctx.create_child("parent", name=""), InvalidArgumentError, "name of a step"),
        (lambda ctx: ctx.wait_for_children(timeout=-1), InvalidArgumentError, "timeout"),
    ],
)
def test_what_can_t_be_meant_is_refused_and_nothing_is_created(
    jobs: Jobs, aws: Aws, call: Callable[[JobContext], object], error: type[Exception], saying: str
) -> None:
    @jobs.handler("parent")
    def parent(ctx: JobContext) -> None:
        if "timeout" in saying:
            ctx.create_child("parent")
        with pytest.raises(error, match=saying):
            call(ctx)

    run_id = jobs.create("parent")
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert len(all_sent(aws)) == (2 if "timeout" in saying else 1)
