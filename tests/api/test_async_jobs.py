"""``jobs.aio``: the calls of ``Jobs`` in an event loop that goes on, in threads, and in processes that fork."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import threading
from collections.abc import Coroutine
from typing import Any, get_overloads

import pytest

from kumofire_core import AsyncJobs, InvalidArgumentError, JobContext, JobFunction, JobGroup, Jobs, UnknownJobError
from kumofire_core.async_jobs import AT_ONCE
from kumofire_core.aws.clients import Clients
from kumofire_core.handlers.job_function import AsyncJobFunction
from tests.builders import Aws, message

NOT_AWAITED = {
    "from_env": "makes no request",
    "handler": "registers",
    "middleware": "registers",
    "on": "registers",
    "include": "registers",
    "next_occurrences": "makes no request",
    "create_in_transaction": "is used step by step",
    "batch_members": "is read step by step",
    "consume": "has a process of its own",
    "consume_batch": "has a process of its own",
    "run_batch": "has a process of its own",
    "dispatch": "has a process of its own",
    "clean_bucket": "is the dispatcher's",
    "sweep_bucket": "is the dispatcher's",
}
"""The calls of ``Jobs`` that ``jobs.aio`` does not have, and why."""


AWAITED = sorted(name for name in vars(AsyncJobs) if not name.startswith("_") and name != "in_thread")


def calls_of(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}


def test_every_call_that_a_web_server_makes_can_be_awaited():
    public = {name for name in dir(Jobs) if not name.startswith("_") and callable(getattr(Jobs, name))}

    assert set(AWAITED) == public - set(NOT_AWAITED)


@pytest.mark.parametrize("name", AWAITED)
def test_an_awaited_call_takes_what_the_call_itself_takes(aws: Aws, name: str):
    jobs = aws.jobs()
    found, call = getattr(jobs.aio, name), getattr(jobs, name)

    assert inspect.iscoroutinefunction(found)
    assert inspect.signature(found) == inspect.signature(call)
    assert (found.__name__, found.__doc__) == (name, call.__doc__)


def test_an_awaited_call_of_a_job_takes_what_the_call_itself_takes():
    of_create, of_many = (inspect.signature(getattr(JobFunction, name)) for name in ("create", "create_many"))

    assert inspect.signature(AsyncJobFunction.create_many) == of_many
    assert calls_of(AsyncJobFunction) == {"create", "create_many"}
    awaited, plain = (
        [inspect.signature(each).parameters.keys() for each in get_overloads(kind.create)]
        for kind in (AsyncJobFunction, JobFunction)
    )
    assert awaited == plain == [of_create.parameters.keys()] * 2


def test_runs_are_created_read_and_steered_from_an_event_loop(aws: Aws):
    jobs = aws.jobs()

    @jobs.handler("email")
    def send(ctx: JobContext[dict[str, Any]]) -> str:
        return str(ctx.payload["to"])

    async def main() -> None:
        run_id = await jobs.aio.create("email", {"to": "x"}, dedupe_key="k")
        others = await send.aio.create_many([{"to": "y"}, {"to": "z"}])
        other = await send.aio.create({"to": "x"}, dedupe_key="k")
        assert other == run_id
        assert set(await jobs.aio.get_many([run_id, *others])) == {run_id, *others}
        assert await jobs.aio.cancel(others[0], reason="no")
        assert await jobs.aio.retry(others[0])
        await asyncio.to_thread(jobs.consume, message(run_id))
        run = await jobs.aio.get_status(run_id)
        assert run is not None
        assert run.output == "x"

    asyncio.run(main())


def test_errors_are_those_of_the_call_itself(aws: Aws):
    jobs = aws.jobs(handlers={"email": print})

    async def main() -> None:
        with pytest.raises(UnknownJobError):
            await jobs.aio.create("another")
        with pytest.raises(InvalidArgumentError, match="give either run_at or delay"):
            await jobs.aio.create("email", run_at=jobs._clock(), delay=5)
        with pytest.raises(TypeError, match="dealy"):
            await jobs.aio.create("email", dealy=5)  # type: ignore[call-arg]

    asyncio.run(main())
    assert not aws.items()


def test_an_overridden_call_is_the_one_that_is_awaited(aws: Aws):
    class Mine(Jobs):
        def cancel(self, run_id: str, reason: str | None = None) -> bool:
            return reason == "mine"

    jobs = Mine(table="t", queue_url="q", dynamodb=aws.dynamodb, sqs=aws.sqs)  # type: ignore[arg-type]

    assert asyncio.run(jobs.aio.cancel("x", "mine"))


class Held:
    """A call that waits until it is let go, and notes what happens."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.ended = threading.Semaphore(0)
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.release()
        assert self.go.wait(10)
        with self._lock:
            self.now -= 1
        self.ended.release()
        return threading.get_ident()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_loop_goes_on_while_calls_wait_for_aws_and_only_so_many_run_at_once(aws: Aws):
    jobs, held = aws.jobs(), Held()

    async def main() -> None:
        calls = [asyncio.create_task(jobs.aio.in_thread(held)) for _ in range(AT_ONCE + 5)]
        await until(lambda: held.now == AT_ONCE)
        await asyncio.sleep(0.01)
        assert held.now == AT_ONCE  # the loop has gone on meanwhile, and nobody more has begun
        held.go.set()
        assert threading.get_ident() not in await asyncio.gather(*calls)

    asyncio.run(main())
    assert held.most == AT_ONCE


def test_a_canceled_call_keeps_its_turn_until_its_request_has_ended(aws: Aws):
    jobs, held = aws.jobs(), Held()

    async def main() -> None:
        calls = [asyncio.create_task(jobs.aio.in_thread(held)) for _ in range(AT_ONCE)]
        await until(lambda: held.now == AT_ONCE)
        for call in calls:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in ended} == {asyncio.CancelledError}
        waiting = asyncio.create_task(jobs.aio.in_thread(lambda: "mine"))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        held.go.set()
        assert await waiting == "mine"
        await until(lambda: held.now == 0)

    asyncio.run(main())


def test_a_canceled_create_is_stored_all_the_same(aws: Aws):
    jobs = aws.jobs()
    reached, go = threading.Event(), threading.Event()
    put = aws.dynamodb.client.put_item

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(aws.dynamodb, name)

        def put_item(self, **parameters: Any) -> Any:
            reached.set()
            assert go.wait(10)
            return put(**parameters)

    jobs = aws.jobs(dynamodb=Slow())

    async def main() -> None:
        call = asyncio.create_task(jobs.aio.create("email", dedupe_key="k"))
        await until(reached.is_set)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go.set()
        await until(aws.items)

    asyncio.run(main())
    assert jobs.find_run(dedupe_key="k") is not None


def test_a_call_sees_the_context_of_its_caller(aws: Aws):
    jobs, variable = aws.jobs(), contextvars.ContextVar("variable", default="unset")

    async def main() -> str:
        variable.set("mine")
        return await jobs.aio.in_thread(variable.get)

    assert asyncio.run(main()) == "mine"


def test_a_run_that_an_async_handler_creates_has_its_run_as_parent(aws: Aws):
    jobs = aws.jobs()

    @jobs.handler("parent")
    async def parent(ctx: JobContext) -> str:
        return await jobs.aio.create("child")

    jobs.handler("child")(print)
    run_id = parent.create()
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run is not None
    child = jobs.get_status(run.output)
    assert child is not None
    assert child.parent_id == run_id


def test_several_loops_in_several_threads_share_one_jobs(aws: Aws):
    jobs = aws.jobs()
    found: list[Any] = []

    async def main(number: int) -> None:
        ids = await asyncio.gather(*(jobs.aio.create("email", number, dedupe_key=f"{number}-{n}") for n in range(30)))
        found.extend(ids)

    threads = [threading.Thread(target=asyncio.run, args=(main(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(main(3))

    assert len(set(found)) == len(aws.items()) == 120


def test_a_group_s_job_is_awaited_once_it_is_included(aws: Aws):
    mail = JobGroup()

    @mail.handler("email")
    def send(ctx: JobContext[None]) -> None: ...

    call: Coroutine[Any, Any, str] = send.aio.create()
    with pytest.raises(Exception, match="no Jobs has included yet"):
        asyncio.run(call)
    jobs = aws.jobs()
    jobs.include(mail)
    assert asyncio.run(send.aio.create())


def in_child(check: Any) -> bytes:
    """Return what ``check`` returns in a forked process; empty where it failed or hung."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, str(check()).encode())
        finally:
            os._exit(0)
    os.close(writes)
    timer = threading.Timer(20, os.kill, (child, 9))
    timer.start()
    with os.fdopen(reads, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    timer.cancel()
    return told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
class TestForks:
    def test_a_forked_worker_makes_clients_of_its_own_and_keeps_those_that_were_given(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        given: Any = object()
        clients = Clients(dynamodb=None, sqs=given, connections=1)
        made = clients.dynamodb()
        clients._lock.acquire()  # as if another thread made one just now

        told = in_child(
            lambda: [
                clients.dynamodb() is made,
                clients.dynamodb() is clients.dynamodb(),
                clients.sqs() is given,
            ]
        )

        clients._lock.release()
        assert told == b"[False, True, True]"
        assert clients.dynamodb() is made

    def test_a_forked_worker_awaits_calls_although_its_parent_has_done_so_before(self, aws: Aws):
        jobs = aws.jobs()
        asyncio.run(jobs.aio.create("email"))
        jobs.create_many([{"name": "email"}] * 15)

        told = in_child(lambda: asyncio.run(jobs.aio.in_thread(lambda: "awaited")))

        assert told == b"awaited"
