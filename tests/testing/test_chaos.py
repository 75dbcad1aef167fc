"""``chaos=True``: what it does to runs, and that the engine gets every run through it."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import JobContext, Jobs, LeaseExpiredError, Limit, RetryPolicy
from kumofire_core.testing import in_process

SETTINGS: dict[str, Any] = {"table": "t", "queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/q"}
DIED = "its worker died after the handler had returned, and before that was recorded"


@pytest.fixture
def jobs() -> Jobs:
    return Jobs(**SETTINGS)


def test_each_run_is_attempted_again_after_its_effect(jobs: Jobs) -> None:
    effects = []

    @jobs.handler("charge")
    def charge(ctx: JobContext) -> str:
        effects.append(ctx.payload)
        return "done"

    with in_process(jobs, chaos=True, seed=1) as aws:
        ids = charge.create_many(range(5))
        before = aws.now
        drained = aws.drain()
        runs = [jobs.get_status(run_id) for run_id in ids]
        log = list(aws.chaos_log)
    assert sorted(effects) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [(run.status.value, run.output, run.failed_attempts) for run in runs if run] == [
        ("succeeded", "done", 1)
    ] * 5
    assert sum(DIED in line for line in log) == 5
    assert len(drained.ignored) >= 5, "a message of each run has come once more"
    assert timedelta(0) < aws.now - before < timedelta(minutes=15)


def test_a_run_without_another_attempt_is_spared(jobs: Jobs) -> None:
    @jobs.handler("once", max_attempts=1)
    def once(ctx: JobContext) -> None: ...

    @jobs.handler("not again", fail_on=LeaseExpiredError)
    def not_again(ctx: JobContext) -> None: ...

    for seed in range(5):
        with in_process(jobs, chaos=True, seed=seed) as aws:
            once.create()
            not_again.create()
            aws.drain()
            assert [(run.status, run.failed_attempts) for run in aws.runs()] == [("succeeded", 0)] * 2
            assert not [line for line in aws.chaos_log if "died" in line]


def test_a_step_is_repeated_whose_result_was_not_kept_and_no_other(jobs: Jobs) -> None:
    effects = Counter[str]()

    @jobs.handler("order", max_attempts=4)
    def order(ctx: JobContext) -> None:
        for name in ("reserve", "charge", "send"):
            ctx.step(name, lambda name=name: effects.update([name]))

    died = Counter[str]()
    for seed in range(20):
        effects.clear()
        with in_process(jobs, chaos=True, seed=seed) as aws:
            run = aws.drain_run(order.create())
            lost = Counter(
                line.partition("the step '")[2].partition("'")[0] for line in aws.chaos_log if "step" in line
            )
            assert run.status == "succeeded"
            assert effects == {name: 1 + lost[name] for name in ("reserve", "charge", "send")}
            died.update(lost)
    assert all(died[name] for name in ("reserve", "charge", "send"))


def test_a_seed_does_the_same_again_and_another_one_does_something_else(jobs: Jobs) -> None:
    @jobs.handler("work")
    def work(ctx: JobContext) -> None:
        ctx.step("a", lambda: None)

    def story(seed: int) -> list[str]:
        with in_process(jobs, chaos=True, seed=seed) as aws:
            names = {run_id: str(number) for number, run_id in enumerate(work.create_many(range(4)))}
            aws.drain()
            lines = []
            for line in aws.chaos_log:
                for run_id, name in names.items():
                    line = line.replace(run_id, name)
                lines.append(line)
            return sorted(lines)  # the dispatcher's threads log in any order

    assert story(1) == story(1) != []
    assert story(1) != story(2)


def test_drain_mends_what_it_broke_and_leaves_alone_what_is_far_ahead(jobs: Jobs) -> None:
    @jobs.handler("patient", retry=RetryPolicy(3, base=timedelta(hours=5), cap=timedelta(hours=5)))
    def patient(ctx: JobContext) -> None: ...

    with in_process(jobs, chaos=True, seed=4) as aws:
        first, later = patient.create(), patient.create(delay=timedelta(days=3))
        before = aws.now
        assert aws.drain().succeeded == 1
        assert timedelta(hours=5) < aws.now - before < timedelta(hours=6)
        statuses = {run.id: run.status.value for run in aws.runs()}
        assert statuses == {first: "succeeded", later: "scheduled"}


@pytest.mark.parametrize("seed", range(6))
def test_every_kind_of_run_gets_through(jobs: Jobs, seed: int) -> None:
    done = Counter[str]()

    @jobs.handler("leaf", concurrency=Limit(2), max_attempts=5)
    def leaf(ctx: JobContext) -> int:
        return int(ctx.payload)

    @jobs.handler("async", max_attempts=5)
    async def in_a_loop(ctx: JobContext) -> int:
        await asyncio.sleep(0)
        return await ctx.aio.step("three", lambda: 3)

    @jobs.handler("timed", timeout=timedelta(seconds=20), max_attempts=5)
    def timed(ctx: JobContext) -> int:
        return ctx.step("four", lambda: 4)

    @jobs.handler("parent", max_attempts=5)
    def parent(ctx: JobContext) -> int:
        ctx.create_children([{"name": "leaf", "payload": number} for number in range(4)])
        ctx.sleep(timedelta(hours=1))
        return sum(child.output for child in ctx.wait_for_children())

    @jobs.handler("gather", max_attempts=5)
    def gather(ctx: JobContext) -> int:
        assert ctx.batch is not None
        done["gathered"] += 1
        return ctx.batch.succeeded

    with in_process(jobs, chaos=True, seed=seed) as aws:
        run_id = parent.create()
        jobs.create_batch([{"name": "async"}, {"name": "timed"}], then="gather")
        jobs.create_schedule("leaf", 7, schedule_type="interval", schedule_expr=timedelta(minutes=30))
        run = aws.drain_run(run_id)
        aws.drain(until=timedelta(hours=2))
        assert (run.status, run.output) == ("succeeded", 6)
        assert [each.output for each in aws.runs("async")] == [3]
        assert [each.output for each in aws.runs("timed")] == [4]
        assert [each.output for each in aws.runs("gather")] == [2]
        assert all(each.status == "succeeded" for each in aws.runs() if each.scheduled_for < aws.now)
        assert len(aws.runs("leaf")) >= 8


def test_chaos_leaves_requests_of_the_test_itself_alone(jobs: Jobs) -> None:
    jobs.handler("work")(lambda ctx: None)
    with in_process(jobs, chaos=True, seed=1) as aws:
        ids = [jobs.create("work", delay=timedelta(days=1)) for _ in range(50)]
        assert all(jobs.cancel(run_id) for run_id in ids)
        assert not [line for line in aws.chaos_log if "reply" in line or "died" in line]
