"""Steps of ``async`` handlers: the same promises, side by side in one event loop, which no request blocks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import Cancel, DecryptionError, JobContext, Jobs
from kumofire_core.handlers.step_calls import MOST_FUNCTIONS
from tests.builders import NOW, Aws, Clock, message
from tests.runs.test_steps import kept
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


def test_a_step_that_has_not_ended_in_time_beside_a_wait_is_canceled_and_done_again(world: World):
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
    assert world.queue.due() == [run_id]
    deadline = world.clock() + timedelta(seconds=2)
    assert world.jobs.consume(message(run_id), deadline=deadline).reason == "waiting"
    assert world.jobs.get_status(run_id).failed_attempts == 0
    world.jobs.signal(run_id, "go", 1)
    world.deliver()

    assert world.jobs.get_status(run_id).output == ["slow", 1]
    assert begun == ["slow", "slow"]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
def test_a_run_is_suspended_when_the_steps_beside_have_ended_and_are_kept(world: World, plain: bool):
    waits, calls = threading.Event(), []

    def slow() -> str:
        calls.append("slow")
        assert waits.wait(20)
        return "slow"

    async def slow_too() -> str:
        calls.append("slow")
        while not waits.is_set():
            await asyncio.sleep(0.01)
        return "slow"

    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> list[Any]:
        async def wait() -> Any:
            try:
                return await ctx.aio.wait_for("go")
            finally:
                assert not calls or kept(world.aws, ctx.run.id).keys() >= {"step#slow", "step#go"}

        async def release() -> None:
            while "step#go" not in kept(world.aws, ctx.run.id):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            waits.set()

        async with asyncio.TaskGroup() as group:
            step = group.create_task(ctx.aio.step("slow", slow if plain else slow_too))
            done = group.create_task(wait())
            group.create_task(release())
        return [step.result(), done.result()]

    run_id = world.jobs.create("order")
    assert world.deliver()[0].reason == "waiting"
    assert world.jobs.signal(run_id, "go", 1)
    world.deliver()

    assert world.jobs.get_status(run_id).output == ["slow", 1]
    assert calls == ["slow"]


def test_two_waits_side_by_side_are_refused_with_what_to_do(world: World):
    """Only one of the two signals would wake the run, and only one of the two times would be heeded."""

    @world.jobs.handler("order", max_attempts=5)
    async def order(ctx: JobContext) -> Any:
        tasks = [
            asyncio.create_task(ctx.aio.wait_for("approve")),
            asyncio.create_task(ctx.aio.wait_for("reject", timeout=3600, default="late")),
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()

    run_id = world.jobs.create("order")

    assert world.deliver()[0].outcome == "failed"
    run = world.jobs.get_status(run_id)
    assert run.error_type == "WaitBesideError"
    assert "'reject' was called while this run already sleeps or waits in 'approve'" in run.last_error
    assert "wait for one signal whose payload says what happened" in run.last_error


def test_a_sleep_that_follows_a_step_beside_a_wait_is_refused(world: World):
    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> None:
        async def branch() -> None:
            await ctx.aio.step("slow", asyncio.sleep, 0.3)
            await ctx.aio.sleep(60, "a while")

        async with asyncio.TaskGroup() as group:
            group.create_task(branch())
            group.create_task(ctx.aio.wait_for("go"))

    run_id = world.jobs.create("order")

    assert world.deliver()[0].outcome == "failed"
    assert world.jobs.get_status(run_id).error_type == "WaitBesideError"


def test_steps_of_tasks_fit_whichever_begins_first_the_next_time(world: World):
    """In the first attempt the one that is kept begins and ends before the other one begins."""
    calls: list[str] = []

    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> str:
        async def branch(name: str, waits: bool) -> None:
            if waits:
                await asyncio.sleep(0.2)
            await ctx.aio.step(name, work, name)

        async with asyncio.TaskGroup() as group:
            group.create_task(branch("a", ctx.attempt == 2))
            group.create_task(branch("b", ctx.attempt == 1))
        return "done"

    async def work(name: str) -> str:
        calls.append(name)
        if calls == ["a", "b"]:
            raise ConnectionError
        return name

    run_id = world.jobs.create("order")
    assert world.deliver()[0].outcome == "retried"
    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.failed_attempts, calls) == ("succeeded", 1, ["a", "b", "b"])


def test_both_records_of_an_overlap_say_that_their_order_means_nothing(world: World):
    @world.jobs.handler("order")
    def order(ctx: JobContext) -> None:
        with ThreadPoolExecutor() as pool:
            ctx.step("first", lambda: pool.submit(ctx.step, "other", str).result())

    run_id = world.jobs.create("order")
    world.deliver()

    assert [item.get("beside") for item in kept(world.aws, run_id).values()] == [1, 1]


def test_a_sleep_in_a_task_of_its_own_needs_a_name(world: World):
    @world.jobs.handler("order", max_attempts=1)
    async def order(ctx: JobContext) -> None:
        await asyncio.create_task(ctx.aio.sleep(60))

    run_id = world.jobs.create("order")
    world.deliver()

    assert "a sleep in a task or a thread of its own needs a name" in world.jobs.get_status(run_id).last_error


def test_a_failure_beside_a_pending_wait_fails_the_attempt(world: World):
    """A background task has suspended the run; that must not hide why its handler has failed."""

    @world.jobs.handler("order", max_attempts=1)
    async def order(ctx: JobContext) -> None:
        waits = asyncio.create_task(ctx.aio.wait_for("go"))
        await asyncio.wait([waits])
        raise ValueError("really")

    run_id = world.jobs.create("order")

    assert world.deliver()[0].outcome == "failed"
    assert world.jobs.get_status(run_id).error_type == "ValueError"


def test_what_a_task_decides_about_the_run_stands_beside_a_suspension(world: World):
    @world.jobs.handler("order", max_attempts=5)
    async def order(ctx: JobContext) -> None:
        async def decide() -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                raise Cancel("no longer needed") from None

        async with asyncio.TaskGroup() as group:
            group.create_task(decide())
            group.create_task(ctx.aio.wait_for("go"))

    run_id = world.jobs.create("order")

    assert world.deliver()[0].outcome == "canceled"
    assert world.jobs.get_status(run_id).cancel_reason == "no longer needed"


@pytest.mark.parametrize("together", ["group", "gather"])
def test_a_step_that_fails_beside_others_is_retried_although_these_begin_no_more(world: World, together: str):
    calls: list[str] = []

    async def work(name: str) -> str:
        calls.append(name)
        if name == "bad" and calls.count("bad") == 1:
            raise ConnectionError
        if name == "first":
            while "bad" not in calls:
                await asyncio.sleep(0)
        return name

    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> None:
        async def branch() -> None:
            await ctx.aio.step("first", work, "first")
            await ctx.aio.step("second", work, "second")

        if together == "gather":
            await asyncio.gather(ctx.aio.step("bad", work, "bad"), branch())
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.aio.step("bad", work, "bad"))
                group.create_task(branch())

    run_id = world.jobs.create("order")
    assert world.deliver()[0].outcome == "retried"
    world.settle()

    run = world.jobs.get_status(run_id)
    assert (run.status, run.failed_attempts) == ("succeeded", 1)


def test_a_step_that_was_given_up_while_it_was_kept_is_not_executed_again(world: World):
    calls: list[str] = []
    going_on = threading.Event()

    class Slow:
        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def put_item(self, **parameters: Any) -> Any:
            assert "#step#" not in parameters["Item"]["sk"]["S"] or going_on.wait(20)
            return world.aws.dynamodb.put_item(**parameters)

    jobs = world.another(dynamodb=Slow())

    async def charge() -> str:
        calls.append("charge")
        return f"charge {len(calls)}"

    @jobs.handler("order")
    async def order(ctx: JobContext) -> Any:
        try:
            async with asyncio.timeout(0.1):
                await ctx.aio.step("charge", charge)
        except TimeoutError:
            asyncio.get_running_loop().call_later(0.1, going_on.set)
            return await ctx.aio.step("charge", charge)

    run_id = jobs.create("order")

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert (jobs.get_status(run_id).output, calls) == ("charge 1", ["charge"])


def test_nothing_is_decrypted_in_the_event_loop_and_a_key_out_of_reach_counts_no_attempt(aws: Aws, clock: Clock):
    inside: list[bool] = []

    class Key:
        is_away = False

        def encrypt(self, plaintext: bytes) -> bytes:
            return plaintext[::-1]

        def decrypt(self, ciphertext: bytes) -> bytes:
            inside.append(asyncio._get_running_loop() is not None)
            if self.is_away and b" step " in ciphertext[::-1]:
                raise ConnectionError
            return ciphertext[::-1]

    key = Key()
    jobs = aws.jobs(clock=clock, cipher=key)

    @jobs.handler("order", max_attempts=2)
    async def order(ctx: JobContext) -> list[int]:
        with contextlib.suppress(Exception):
            done = [await ctx.aio.step(f"step-{number}", double, number) for number in range(3)]
        if ctx.attempt == 1:
            raise ValueError
        return done

    run_id = jobs.create("order")
    jobs.consume(message(run_id))
    clock.advance(hours=1)
    key.is_away = True
    with pytest.raises(DecryptionError):
        jobs.consume(message(run_id))
    run = jobs.get_status(run_id)
    assert (run.status, run.failed_attempts) == ("queued", 1)
    key.is_away = False
    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).output == [0, 2, 4]
    assert inside
    assert not any(inside)


def test_many_steps_side_by_side_use_a_bounded_number_of_threads(world: World):
    most, now, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        return number

    @world.jobs.handler("order")
    async def order(ctx: JobContext) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.aio.step(f"step-{number}", work, number)) for number in range(200)]
        return sum(task.result() for task in tasks)

    run_id = world.jobs.create("order")
    world.deliver()

    assert world.jobs.get_status(run_id).output == sum(range(200))
    assert most <= MOST_FUNCTIONS


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
