"""Steps of ``async`` handlers: the same promises, side by side in one event loop, which no request blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import JobContext, Jobs
from tests.builders import NOW, Aws, Clock, message
from tests.worlds import World, a_world


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


async def double(number: int, *, times: int = 1) -> int:
    await asyncio.sleep(0)
    return number * 2**times


def test_an_async_handler_keeps_the_results_of_async_and_plain_functions(world: World):
    calls: list[str] = []

    def plain(name: str) -> str:
        calls.append(name)
        assert threading.current_thread().name == "kumofire-handler"
        return name

    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> list[Any]:
        numbers = await ctx.aio.step("numbers", double, 4, times=2)
        text = await ctx.aio.step("text", plain, "text")
        both = await ctx.aio.step("both", lambda: double(1))
        await ctx.aio.sleep(60)
        return [numbers, text, both, await ctx.aio.wait_for("go", timeout=60, default="over")]

    run_id = world.jobs.create("order")
    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.output, run.failed_attempts) == ("succeeded", [16, "text", 2, "over"], 0)
    assert calls == ["text"]


def test_an_async_handler_is_woken_by_its_signal(world: World):
    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> Any:
        return await ctx.aio.wait_for("go")

    run_id = world.jobs.create("order")
    assert world.deliver()[0].reason == "waiting"
    assert world.jobs.signal(run_id, "go", 7)
    world.deliver()

    assert world.jobs.get_status(run_id).output == 7


def test_no_request_and_no_plain_function_is_made_in_the_event_loop(aws: Aws, clock: Clock):
    loops: list[str] = []

    class Telling:
        def __getattr__(self, operation: str) -> Any:
            try:
                asyncio.get_running_loop()
                loops.append(operation)
            except RuntimeError:
                pass
            return getattr(aws.dynamodb, operation)

    jobs = aws.jobs(clock=clock, dynamodb=Telling())

    def plain() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    @jobs.handler("order")
    async def order(ctx: JobContext) -> None:
        await ctx.aio.step("a", plain)
        await ctx.aio.step("b", double, 1)
        if ctx.attempt == 1:
            raise ConnectionError
        await ctx.aio.sleep(5)

    run_id = jobs.create("order")
    for _ in range(3):
        jobs.consume(message(run_id))
        clock.advance(hours=1)

    assert jobs.get_status(run_id).status == "succeeded"
    assert loops == []


def test_tasks_of_a_group_take_their_steps_side_by_side_and_in_any_order(jobs: Jobs, clock: Clock):
    done: list[str] = []

    async def work(name: str, first: asyncio.Event | None, then: asyncio.Event | None) -> str:
        if first is not None:
            await first.wait()
        done.append(name)
        if then is not None:
            then.set()
        return name

    @jobs.handler("order")
    async def order(ctx: JobContext) -> list[str]:
        a_done, b_done = asyncio.Event(), asyncio.Event()
        waits = (None, a_done) if ctx.attempt == 1 else (b_done, None)

        async def branch(name: str, first: asyncio.Event | None, then: asyncio.Event | None) -> str:
            return await ctx.aio.step(f"{name}-1", work, name, first, then) + await ctx.aio.step(
                f"{name}-2", work, name, None, None
            )

        async with asyncio.TaskGroup() as group:
            a = group.create_task(branch("a", waits[0], a_done))
            b = group.create_task(branch("b", a_done if ctx.attempt == 1 else None, b_done))
        await ctx.aio.step("last", work, "last", None, None)
        if ctx.attempt == 1:
            raise ConnectionError
        return [a.result(), b.result()]

    run_id = jobs.create("order")
    jobs.consume(message(run_id))
    clock.advance(hours=1)
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert (run.status, run.output) == ("succeeded", ["aa", "bb"])
    assert sorted(done) == ["a", "a", "b", "b", "last"]


def test_a_task_that_suspends_the_run_cancels_the_others_and_what_they_had_not_kept_is_done_again(world: World):
    begun: list[str] = []

    async def slow() -> str:
        begun.append("slow")
        if len(begun) == 1:
            await asyncio.sleep(3600)
        return "slow"

    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            step = group.create_task(ctx.aio.step("slow", slow))
            await asyncio.sleep(0)
            wait = group.create_task(ctx.aio.wait_for("go"))
        return [step.result(), wait.result()]

    run_id = world.jobs.create("order")
    assert world.deliver()[0].reason == "waiting"
    assert world.jobs.get_status(run_id).failed_attempts == 0
    world.jobs.signal(run_id, "go", 1)
    world.deliver()

    assert world.jobs.get_status(run_id).output == ["slow", 1]
    assert begun == ["slow", "slow"]


def test_a_task_that_fails_while_another_waits_fails_the_attempt(world: World):
    @world.jobs.handler("order", max_attempts=1)
    async def order(ctx: JobContext) -> None:
        async def stubborn() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise ValueError("beside") from None

        async with asyncio.TaskGroup() as group:
            group.create_task(stubborn())
            await asyncio.sleep(0)
            group.create_task(ctx.aio.wait_for("go"))

    run_id = world.jobs.create("order")

    assert world.deliver()[0].outcome == "failed"
    assert "beside" in world.jobs.get_status(run_id).attempts[0].message


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda ctx: ctx.step("a", double, 1), "got a coroutine function; write await ctx.aio.step('a', …)"),
        (lambda ctx: ctx.step("a", lambda: double(1)), "returned an awaitable; write await ctx.aio.step(…)"),
    ],
)
def test_a_plain_handler_that_calls_a_coroutine_function_is_told_of_aio(jobs: Jobs, call: Any, text: str):
    jobs.handler("order", max_attempts=1)(call)
    run_id = jobs.create("order")
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run.error_type == "InvalidArgumentError"
    assert text in run.last_error


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("step", lambda ctx: ctx.step("a", str)),
        ("sleep", lambda ctx: ctx.sleep(5)),
        ("wait_for", lambda ctx: ctx.wait_for("a")),
    ],
)
def test_a_plain_call_in_an_event_loop_is_told_of_aio(jobs: Jobs, name: str, call: Any):
    @jobs.handler("order", max_attempts=1)
    async def order(ctx: JobContext) -> None:
        call(ctx)

    run_id = jobs.create("order")
    jobs.consume(message(run_id))

    assert f"ctx.{name} would block the event loop; write await ctx.aio.{name}(…)" in jobs.get_status(run_id).last_error
    assert jobs.steps(run_id) == ()


def test_an_async_wait_that_is_over_raises(world: World):
    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.aio.wait_for("go", timeout=timedelta(hours=1)))

    run_id = world.jobs.create("order")
    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.failed_attempts, run.finished_at) == ("failed", 1, NOW + timedelta(hours=1))
