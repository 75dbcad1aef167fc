"""What an attempt leaves in memory: nothing, without the help of the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import JobContext, Jobs
from kumofire_core.engine.create import BoundedPool
from kumofire_core.handlers.handler_pool import HandlerPool
from tests.builders import Aws, LambdaContext, event, message


class Large:
    """Stands for the megabytes that a handler holds in a local variable."""


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def plain(living: weakref.WeakSet[Large]) -> Any:
    def handler(ctx: JobContext) -> None:
        large = Large()
        living.add(large)
        raise ValueError("boom")

    return handler


def keeping_its_error(living: weakref.WeakSet[Large]) -> Any:
    def handler(ctx: JobContext) -> None:
        large = Large()
        living.add(large)
        try:
            raise KeyError("cause")
        except KeyError as error:
            kept = error
        raise ExceptionGroup("boom", [ValueError(), kept]) from kept

    return handler


def asynchronous(living: weakref.WeakSet[Large]) -> Any:
    async def handler(ctx: JobContext) -> None:
        large = Large()
        living.add(large)
        await asyncio.sleep(0)
        raise ValueError("boom")

    return handler


def a_task_group(living: weakref.WeakSet[Large]) -> Any:
    async def fail() -> None:
        large = Large()
        living.add(large)
        await asyncio.sleep(0)
        raise ValueError("boom")

    async def handler(ctx: JobContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    return handler


@pytest.mark.long
@pytest.mark.parametrize("way", ["direct", "with a timeout", "in a batch"])
@pytest.mark.parametrize("make", [plain, keeping_its_error, asynchronous, a_task_group])
def test_a_failed_attempt_keeps_nothing_of_its_handler_alive(jobs: Jobs, aws: Aws, make: Any, way: str):
    living: weakref.WeakSet[Large] = weakref.WeakSet()
    timeout = timedelta(seconds=20) if way == "with a timeout" else None
    jobs.handler("email", timeout=timeout)(make(living))

    for _ in range(5):
        run_id = aws.a_run()
        if way == "in a batch":
            jobs.consume_batch(event(run_id), LambdaContext())
        else:
            jobs.consume(message(run_id))
        assert jobs.get_status(run_id).status == "scheduled"

    assert len(living) == 0


def test_a_handler_that_was_cut_keeps_nothing_alive_once_it_has_ended(jobs: Jobs, aws: Aws):
    living: weakref.WeakSet[Large] = weakref.WeakSet()
    gate = threading.Event()

    @jobs.handler("email", timeout=timedelta(milliseconds=20))
    def email(ctx: JobContext) -> None:
        large = Large()
        living.add(large)
        gate.wait(20)
        raise ValueError("late")

    jobs.consume(message(aws.a_run()))
    assert len(living) == 1
    gate.set()

    assert jobs.run_batch({"Records": []}, LambdaContext()).stray_handlers == 0
    assert len(living) == 0


def test_a_call_whose_error_was_raised_keeps_no_frame_alive():
    living: weakref.WeakSet[Large] = weakref.WeakSet()

    def fail() -> None:
        large = Large()
        living.add(large)
        raise ValueError("boom")

    threads = HandlerPool()
    for _ in range(3):
        with pytest.raises(ValueError, match="boom"):
            threads.run(fail, seconds=20)
        bounded = BoundedPool(threads, 1)
        bounded.start(fail)
        with pytest.raises(ValueError, match="boom"):
            bounded.finish()

    assert len(living) == 0
