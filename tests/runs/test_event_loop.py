"""The event loop of ``async`` handlers: one for all runs of a process, which no handler can take from the others."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import ConsumeResult, JobContext, Jobs
from kumofire_core.handlers import event_loop
from kumofire_core.handlers.context import AttemptLogFilter
from kumofire_core.handlers.handler_pool import HandlerPool
from tests.builders import Aws, LambdaContext, event, message

LONG_SECONDS = 20.0
SHORT = timedelta(milliseconds=30)


@pytest.fixture
def jobs(aws: Aws) -> Jobs:
    return aws.jobs(concurrency=4)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets handlers that wait for it end; set in any case when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


def consume_twice(jobs: Jobs, aws: Aws) -> list[Any]:
    """Consume two runs of ``email``, one after the other, and return their outputs."""
    run_ids = [aws.a_run(), aws.a_run()]
    for run_id in run_ids:
        jobs.consume(message(run_id))
    return [(run.output, run.last_error) for run_id in run_ids if (run := jobs.get_status(run_id)) is not None]


def test_what_one_run_binds_to_the_loop_serves_the_next_one(jobs: Jobs, aws: Aws):
    kept: dict[str, Any] = {}

    @jobs.handler("email", timeout=timedelta(seconds=LONG_SECONDS))
    async def email(ctx: JobContext) -> int:
        if not kept:
            kept.update(queue=asyncio.Queue(), lock=asyncio.Lock(), event=asyncio.Event())
            for name in ("queue", "event"):
                kept[name, "task"] = asyncio.create_task(
                    kept["queue"].get() if name == "queue" else kept["event"].wait()
                )
            await kept["lock"].acquire()
            return 1
        waiting = asyncio.create_task(kept["lock"].acquire())
        await asyncio.sleep(0)
        kept["lock"].release()
        kept["event"].set()
        kept["queue"].put_nowait("item")
        return len([await waiting, await kept["queue", "task"], await kept["event", "task"]])

    assert consume_twice(jobs, aws) == [(1, None), (3, None)]


def test_a_connection_that_is_kept_between_runs_stays_usable(jobs: Jobs, aws: Aws):
    kept: list[Any] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    @jobs.handler("email")
    async def email(ctx: JobContext) -> str:
        if not kept:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            kept.extend([server, *await asyncio.open_connection(*server.sockets[0].getsockname())])
        server, reader, writer = kept
        writer.write(f"attempt of {ctx.run.job_name}\n".encode())
        answer = (await reader.readline()).decode().strip()
        if ctx.payload == "last":
            writer.close()
            server.close()
        return str(answer)

    assert consume_twice(jobs, aws) == [("attempt of email", None)] * 2
    assert jobs.consume(message(aws.a_run(payload='"last"'))).outcome == "succeeded"


def test_runs_are_concurrent_in_one_loop(jobs: Jobs, aws: Aws):
    loops, arrived = [], asyncio.Event()

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        loops.append(asyncio.get_running_loop())
        if len(loops) == 4:
            arrived.set()
        await arrived.wait()  # for ever, if they came one after the other

    run_ids = [aws.a_run() for _ in range(4)]
    jobs.consume_batch(event(*run_ids), LambdaContext())

    assert {jobs.get_status(run_id).status for run_id in run_ids} == {"succeeded"}
    assert len(set(loops)) == 1


def test_context_variables_and_log_fields_are_apart_in_concurrent_runs(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture
):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    seen, all_here, here = [], asyncio.Event(), []

    async def inner() -> None:
        logging.getLogger("of.a.library").warning(variable.get())

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        seen.append(variable.get())
        variable.set(ctx.run.id)
        here.append(ctx)
        if len(here) == 3:
            all_here.set()
        await all_here.wait()
        await asyncio.create_task(inner())

    caplog.handler.addFilter(log_filter := AttemptLogFilter())
    run_ids = [aws.a_run() for _ in range(3)]
    jobs.consume_batch(event(*run_ids), LambdaContext())
    caplog.handler.removeFilter(log_filter)

    lines = [(record.getMessage(), record.job_run_id) for record in caplog.records if record.name == "of.a.library"]
    assert sorted(lines) == sorted(zip(run_ids, run_ids, strict=True))
    assert seen == ["nothing"] * 3


def test_a_handler_that_is_cut_leaves_the_loop_to_the_others(jobs: Jobs, aws: Aws):
    loops = []

    @jobs.handler("slow", timeout=SHORT)
    async def slow(ctx: JobContext) -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(LONG_SECONDS)

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        loops.append(asyncio.get_running_loop())

    assert jobs.consume(message(aws.a_run(job_name="slow"))).outcome == "retried"
    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"
    assert len(set(loops)) == 1
    assert jobs.run_batch({"Records": []}, LambdaContext()).stray_handlers == 0


@pytest.mark.long
@pytest.mark.parametrize("by", ["the handler", "a task of it"])
def test_a_handler_that_blocks_the_loop_is_told_and_counted_and_holds_up_no_later_run(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, release: threading.Event, by: str
):
    async def block() -> None:
        release.wait(LONG_SECONDS)

    @jobs.handler("blocking", timeout=SHORT)
    async def blocking(ctx: JobContext) -> None:
        await (block() if by == "the handler" else asyncio.create_task(block()))

    @jobs.handler("email")
    async def email(ctx: JobContext) -> str:
        await asyncio.sleep(0)
        return "done"

    blocked = aws.a_run(job_name="blocking")
    report = jobs.run_batch(event(blocked), LambdaContext())
    later = jobs.run_batch(event(aws.a_run()), LambdaContext())

    assert [str(each.result.outcome) for each in (*report.records, *later.records)] == ["retried", "succeeded"]
    assert (report.stray_handlers, later.stray_handlers) == (1, 1)
    [told] = [record for record in caplog.records if "blocks the event loop" in record.getMessage()]
    assert told.levelno == logging.ERROR
    assert any("test_event_loop.py" in place and place.endswith(" in block") for place in told.blocked_at)
    if by == "the handler" or sys.version_info >= (3, 12):
        assert (told.job_name, told.job_run_id) == ("blocking", blocked)
    release.set()
    assert jobs.run_batch({"Records": []}, LambdaContext()).stray_handlers == 0


def test_a_loop_that_was_blocked_ends_when_its_handlers_have(jobs: Jobs, aws: Aws, release: threading.Event):
    threads: list[threading.Thread] = []

    @jobs.handler("email", timeout=SHORT)
    async def email(ctx: JobContext) -> None:
        threads.append(threading.current_thread())
        release.wait(LONG_SECONDS)

    jobs.consume(message(aws.a_run()))
    release.set()
    threads[0].join(LONG_SECONDS)

    assert not threads[0].is_alive()


def test_a_call_that_got_its_loop_just_before_the_loop_was_replaced_is_made_in_it():
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    pool = HandlerPool()
    loop = event_loop.handler_loop()
    loop.retire()
    call = loop.start(work())

    assert pool.run(call.result, seconds=LONG_SECONDS) == "done"
    assert event_loop._process.loop is not loop
    loop.close(patience_seconds=LONG_SECONDS)


def test_runs_leave_one_thread_for_all_loops(jobs: Jobs, aws: Aws):
    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        await asyncio.sleep(0)

    threads = set()
    for _ in range(10):
        jobs.consume(message(aws.a_run()))
        threads |= {thread for thread in threading.enumerate() if thread.name == "kumofire-event-loop"}

    assert len([thread for thread in threads if thread.is_alive()]) == 1


@pytest.mark.parametrize("where", ["the handler", "a task of it"])
def test_a_handler_that_exits_fails_its_attempt_and_not_the_loop(jobs: Jobs, aws: Aws, where: str):
    async def leave() -> None:
        sys.exit("enough")

    @jobs.handler("leaving")
    async def leaving(ctx: JobContext) -> None:
        await (leave() if where == "the handler" else asyncio.create_task(leave()))

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None: ...

    run_id = aws.a_run(job_name="leaving")

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert jobs.get_status(run_id).last_error == "SystemExit: enough"
    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"


def test_an_async_generator_that_is_left_half_way_is_closed(jobs: Jobs, aws: Aws):
    closed = threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.set()

    @jobs.handler("email")
    async def email(ctx: JobContext) -> int:
        async for number in numbers():
            return number
        return 0

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"
    gc.collect()
    assert closed.wait(LONG_SECONDS)


def test_a_run_leaves_nothing_in_the_loop(jobs: Jobs, aws: Aws):
    class Large:
        pass

    living: weakref.WeakSet[Large] = weakref.WeakSet()

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        large = Large()
        living.add(large)
        await asyncio.sleep(0)

    for _ in range(3):
        jobs.consume(message(aws.a_run()))

    loop = event_loop._process.loop
    assert loop is not None
    assert (loop.calls, loop.unended) == (set(), 0)
    assert len(living) == 0


@pytest.mark.parametrize("timeout", [None, timedelta(seconds=LONG_SECONDS)], ids=["unlimited", "limited"])
def test_an_async_handler_may_itself_consume_a_run_of_an_async_job(jobs: Jobs, aws: Aws, timeout: timedelta | None):
    @jobs.handler("inner", timeout=timeout)
    async def inner(ctx: JobContext) -> str:
        await asyncio.sleep(0)
        return "inner"

    @jobs.handler("email", timeout=timedelta(seconds=LONG_SECONDS))
    async def email(ctx: JobContext) -> str:
        return str(jobs.consume(message(ctx.payload)).outcome)

    run_id = aws.a_run(payload=f'"{aws.a_run(job_name="inner")}"')

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.get_status(run_id).output == "succeeded"


def test_consuming_in_async_code_uses_the_same_loop(jobs: Jobs, aws: Aws):
    loops = []

    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> ConsumeResult:
        return jobs.consume(message(aws.a_run()))

    assert asyncio.run(main()).outcome == "succeeded"
    assert asyncio.run(main()).outcome == "succeeded"
    assert len(set(loops)) == 1


# Processes


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    """Execute ``code`` in a process of its own, with what it needs to call handlers."""
    prelude = """
        import os, signal, sys, threading
        from kumofire_core.handlers.handler_pool import HandlerPool, HandlerTimeoutError, call_handler
        pool = HandlerPool()
    """
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_asyncio_is_not_imported_for_plain_handlers():
    done = in_a_process("""
        assert pool.run(lambda: call_handler(lambda ctx: 5, None), seconds=10) == 5
        print("asyncio" in sys.modules, "kumofire_core.handlers.event_loop" in sys.modules)
    """)

    assert (done.stdout, done.stderr) == ("False False\n", "")


def test_a_child_process_has_a_loop_of_its_own_and_leaves_the_parent_s_alone():
    done = in_a_process("""
        import asyncio

        async def handler(ctx):
            await asyncio.sleep(0.01)
            return id(asyncio.get_running_loop())

        first = call_handler(handler, None)
        child = os.fork()
        if not child:
            os._exit(0 if pool.run(lambda: call_handler(handler, None), seconds=10) != first else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), call_handler(handler, None) == first)
    """)

    assert (done.stdout, done.stderr) == ("0 True\n", "")


@pytest.mark.parametrize("left", ["a task", "a blocked loop", "nothing"])
def test_a_process_ends_whatever_its_handlers_left_behind(left: str):
    done = in_a_process(f"""
        import asyncio, time
        kept = []

        async def forever():
            try:
                await asyncio.sleep(1000)
            finally:
                print("cleaned up", flush=True)

        async def handler(ctx):
            if {left!r} == "a task":
                kept.append(asyncio.create_task(forever()))
                await asyncio.sleep(0)
            elif {left!r} == "a blocked loop":
                time.sleep(1000)

        try:
            pool.run(lambda: call_handler(handler, None), seconds=0.2)
        except HandlerTimeoutError:
            print("cut", flush=True)
    """)

    assert done.returncode == 0
    assert done.stdout == {"a task": "cleaned up\n", "a blocked loop": "cut\n", "nothing": ""}[left]
    assert "Task was destroyed" not in done.stderr


def test_an_interrupt_by_a_person_cancels_the_coroutine_that_is_waited_for():
    done = in_a_process("""
        import asyncio

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts with & ignore it

        async def handler(ctx):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                await asyncio.sleep(1000)
            finally:
                print("cleaned up", flush=True)

        try:
            call_handler(handler, None)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)

    assert (done.stdout, done.stderr) == ("cleaned up\ninterrupted\n", "")
