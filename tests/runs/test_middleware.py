"""Middleware around handlers: its order, what it may do to an attempt, and where plain and ``async`` code runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import CallNext, ConfigurationError, JobContext, JobGroup, Jobs, Outcome, Run
from kumofire_core.handlers import event_loop
from tests.builders import Aws, LambdaContext, event, message

LONG = timedelta(seconds=20)
SHORT = timedelta(seconds=1)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets what waits for it end; set in any case when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


def consume_one(jobs: Jobs, aws: Aws, **fields: Any) -> Run:
    """Consume a run of ``email`` and return it as it is stored then."""
    run_id = aws.a_run(**fields)
    jobs.consume(message(run_id))
    found = jobs.get_status(run_id)
    assert found is not None
    return found


def plain(steps: list[str], name: str) -> Callable[..., Any]:
    def middleware(ctx: JobContext, call_next: CallNext) -> Any:
        steps.append(f"{name} in")
        value = call_next(ctx)
        steps.append(f"{name} out")
        return f"{name}({value})"

    return middleware


def asynchronous(steps: list[str], name: str) -> Callable[..., Any]:
    async def middleware(ctx: JobContext, call_next: CallNext) -> Any:
        steps.append(f"{name} in")
        value = await call_next(ctx)
        steps.append(f"{name} out")
        return f"{name}({value})"

    return middleware


def plain_handler(ctx: JobContext) -> str:
    return "sent"


async def async_handler(ctx: JobContext) -> str:
    await asyncio.sleep(0)
    return "sent"


@pytest.mark.parametrize("timeout", [None, LONG], ids=["in this thread", "in a thread of its own"])
@pytest.mark.parametrize("handler", [plain_handler, async_handler])
@pytest.mark.parametrize(
    "kinds",
    ["pp", "aa", "pa", "ap", "apa", "pap", "aap", "app"],
)
def test_plain_and_async_middleware_nest_around_every_handler(
    aws: Aws, kinds: str, handler: Callable[..., Any], timeout: timedelta | None
):
    steps: list[str] = []
    jobs = aws.jobs()
    names = [f"{kind}{index}" for index, kind in enumerate(kinds)]
    for name in names:
        jobs.middleware((plain if name[0] == "p" else asynchronous)(steps, name))
    jobs.handler("email", timeout=timeout)(handler)

    run = consume_one(jobs, aws)

    assert run.output == "".join(f"{name}(" for name in names) + "sent" + ")" * len(names)
    assert steps == [f"{name} in" for name in names] + [f"{name} out" for name in reversed(names)]


def test_middleware_is_around_handlers_that_were_registered_before_it(aws: Aws):
    jobs = aws.jobs(handlers={"email": plain_handler})
    jobs.middleware(plain([], "first"))
    jobs.middleware(plain([], "second"))

    assert consume_one(jobs, aws).output == "first(second(sent))"


def test_a_group_s_middleware_is_around_its_own_handlers_only_and_inside_that_of_all(aws: Aws):
    jobs, mail = aws.jobs(handlers={"other": plain_handler}), JobGroup()
    mail.handler("email")(plain_handler)
    mail.middleware(plain([], "group"))
    jobs.include(mail)
    jobs.middleware(plain([], "all"))

    assert consume_one(jobs, aws).output == "all(group(sent))"
    assert consume_one(jobs, aws, job_name="other").output == "all(sent)"


def test_a_group_s_middleware_counts_once_in_each_jobs_that_includes_it(aws: Aws):
    mail = JobGroup()
    mail.middleware(plain([], "group"))
    mail.handler("email")(plain_handler)
    both = aws.jobs(), aws.jobs()
    for jobs in both:
        jobs.include(mail)

    assert [consume_one(jobs, aws).output for jobs in both] == ["group(sent)"] * 2


def test_without_middleware_the_handler_itself_is_called(aws: Aws):
    jobs = aws.jobs(handlers={"email": plain_handler})

    job = jobs._registry.get("email")

    assert job is not None
    assert job.handler is plain_handler


def test_without_middleware_its_code_is_not_imported():
    code = "import sys, kumofire_core; kumofire_core.Jobs; print('kumofire_core.handlers.middleware' in sys.modules)"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("handler", [plain_handler, async_handler])
def test_a_middleware_that_does_not_call_next_replaces_the_handler(aws: Aws, handler: Callable[..., Any]):
    called = []
    jobs = aws.jobs()

    @jobs.middleware
    def skip(ctx: JobContext, call_next: CallNext) -> str:
        return f"skipped {ctx.run.job_name}"

    @jobs.handler("email")
    @functools.wraps(handler)
    def counted(ctx: JobContext) -> Any:
        called.append(ctx)
        return handler(ctx)

    assert consume_one(jobs, aws).output == "skipped email"
    assert called == []


@pytest.mark.parametrize("make", [plain, asynchronous])
def test_an_error_of_a_middleware_is_the_attempt_s(aws: Aws, make: Callable[..., Any]):
    jobs = aws.jobs(handlers={"email": plain_handler})
    jobs.middleware(make([], "outer"))

    @jobs.middleware
    def broken(ctx: JobContext, call_next: CallNext) -> Any:
        raise ValueError("no token")

    run = consume_one(jobs, aws, max_attempts=1)

    assert (run.status, run.failed_attempts, run.last_error) == ("failed", 1, "ValueError: no token")


@pytest.mark.parametrize("failing", ["plain", "async"])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_middleware_sees_the_handler_s_error_and_may_answer_it(aws: Aws, kind: str, failing: str):
    seen: list[str] = []
    jobs = aws.jobs()

    def plain_failing(ctx: JobContext) -> None:
        raise KeyError("to")

    async def async_failing(ctx: JobContext) -> None:
        raise KeyError("to")

    def catch(ctx: JobContext, call_next: CallNext) -> Any:
        try:
            return call_next(ctx)
        except KeyError as error:
            seen.append(str(error))
            return "no address"

    async def async_catch(ctx: JobContext, call_next: CallNext) -> Any:
        try:
            return await call_next(ctx)
        except KeyError as error:
            seen.append(str(error))
            return "no address"

    jobs.middleware(catch if kind == "plain" else async_catch)
    jobs.handler("email")(plain_failing if failing == "plain" else async_failing)

    run = consume_one(jobs, aws)

    assert (run.status, run.output, seen) == ("succeeded", "no address", ["'to'"])


def test_a_middleware_may_raise_in_place_of_a_value(aws: Aws):
    jobs = aws.jobs(handlers={"email": plain_handler})

    @jobs.middleware
    def strict(ctx: JobContext, call_next: CallNext) -> Any:
        if call_next(ctx) == "sent":
            raise PermissionError("not today")

    assert consume_one(jobs, aws, max_attempts=1).last_error == "PermissionError: not today"


def test_what_a_middleware_returns_that_is_not_json_fails_the_run(aws: Aws):
    jobs = aws.jobs(handlers={"email": plain_handler})
    jobs.middleware(lambda ctx, call_next: object())

    run = consume_one(jobs, aws)

    assert run.status == "failed"
    assert "the handler's return value" in (run.last_error or "")


def test_a_middleware_that_calls_next_twice_calls_the_handler_twice(aws: Aws):
    calls = []
    jobs = aws.jobs(handlers={"email": lambda ctx: calls.append(ctx)})

    @jobs.middleware
    async def again(ctx: JobContext, call_next: CallNext) -> int:
        await call_next(ctx)
        await call_next(ctx)
        return len(calls)

    assert consume_one(jobs, aws).output == 2


def test_the_next_step_gets_the_context_that_it_is_called_with(aws: Aws):
    class Wrapped:
        def __init__(self, ctx: JobContext) -> None:
            self.inner = ctx
            self.payload = "another"

    jobs = aws.jobs(handlers={"email": lambda ctx: ctx.payload})
    jobs.middleware(lambda ctx, call_next: call_next(Wrapped(ctx)))  # type: ignore[arg-type]

    assert consume_one(jobs, aws).output == "another"


def where() -> str:
    """Say whether the caller's thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "thread"
    return "loop"


def test_plain_code_never_runs_in_the_loop_and_async_code_only_there(aws: Aws):
    places: list[str] = []
    loops: set[Any] = set()
    jobs = aws.jobs()

    def plain_one(ctx: JobContext, call_next: CallNext) -> Any:
        places.append(f"plain {where()}")
        return call_next(ctx)

    async def async_one(ctx: JobContext, call_next: CallNext) -> Any:
        places.append(f"async {where()}")
        loops.add(asyncio.get_running_loop())
        return await call_next(ctx)

    for each in (async_one, plain_one, async_one, plain_one):
        jobs.middleware(each)

    @jobs.handler("email", timeout=LONG)
    async def email(ctx: JobContext) -> None:
        places.append(f"async {where()}")
        loops.add(asyncio.get_running_loop())

    assert consume_one(jobs, aws).status == "succeeded"
    assert places == ["async loop", "plain thread", "async loop", "plain thread", "async loop"]
    assert len(loops) == 1  # all in the loop of the process, where a client that one run opens serves the next


def test_a_plain_handler_under_async_middleware_holds_up_no_other_run(aws: Aws):
    both_inside = threading.Barrier(2, timeout=30)
    jobs = aws.jobs(concurrency=2, handlers={"email": lambda ctx: both_inside.wait() >= 0})
    jobs.middleware(asynchronous([], "m"))
    run_ids = [aws.a_run(), aws.a_run()]

    jobs.consume_batch(event(*run_ids), LambdaContext())

    assert {jobs.get_status(run_id).output for run_id in run_ids} == {"m(True)"}


def test_consuming_inside_an_async_handler_with_nested_middleware_does_not_wait_for_itself(aws: Aws):
    inner = aws.jobs(handlers={"email": async_handler})
    for make in (asynchronous, plain, asynchronous, plain):
        inner.middleware(make([], make.__name__[0]))
    outer = aws.jobs()
    run_ids: list[str] = []

    @outer.handler("email", timeout=LONG)
    async def consumes(ctx: JobContext) -> str:
        run_ids.append(aws.a_run())
        return inner.consume(message(run_ids[0])).outcome

    assert consume_one(outer, aws).output == "succeeded"
    assert inner.get_status(run_ids[0]).output == "a(p(a(p(sent))))"


@pytest.mark.parametrize("handler", [plain_handler, async_handler])
@pytest.mark.parametrize("kinds", ["p", "a", "pap"])
def test_context_variables_of_a_middleware_reach_the_handler(aws: Aws, kinds: str, handler: Callable[..., Any]):
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    jobs = aws.jobs()

    def set_plain(ctx: JobContext, call_next: CallNext) -> Any:
        variable.set(variable.get() + "p")
        return call_next(ctx)

    async def set_async(ctx: JobContext, call_next: CallNext) -> Any:
        variable.set(variable.get() + "a")
        return await call_next(ctx)

    async def read_async(ctx: JobContext) -> str:
        return variable.get()

    for kind in kinds:
        jobs.middleware(set_plain if kind == "p" else set_async)
    jobs.handler("email")(read_async if handler is async_handler else lambda ctx: variable.get())

    assert consume_one(jobs, aws).output == kinds


def test_what_a_middleware_takes_counts_in_the_attempt_s_time(aws: Aws, release: threading.Event):
    called = []
    jobs = aws.jobs()

    @jobs.middleware
    def slow(ctx: JobContext, call_next: CallNext) -> Any:
        release.wait(30)
        return call_next(ctx)

    jobs.handler("email", timeout=SHORT, max_attempts=1)(called.append)
    run = consume_one(jobs, aws)

    assert run.status == "scheduled"
    assert "overran its job's timeout" in (run.last_error or "")
    assert called == []


@pytest.mark.parametrize("kinds", ["p", "ap"])
def test_a_middleware_that_was_cut_does_not_start_the_handler_later(aws: Aws, release: threading.Event, kinds: str):
    called, refused = [], threading.Event()
    jobs = aws.jobs()

    def slow(ctx: JobContext, call_next: CallNext) -> Any:
        release.wait(30)
        try:
            return call_next(ctx)
        except TimeoutError:
            refused.set()
            raise

    if kinds == "ap":
        jobs.middleware(asynchronous([], "outer"))
    jobs.middleware(slow)
    jobs.handler("email", timeout=SHORT)(called.append)
    for _ in range(5):  # on a busy machine an attempt may be cut before it has come to this middleware
        release.clear()
        consume_one(jobs, aws)
        release.set()
        if refused.wait(6):
            break

    assert refused.is_set()
    assert called == []


def test_a_middleware_cut_in_a_blocked_loop_does_not_start_the_handler_later(aws: Aws, release: threading.Event):
    """The loop can't tell the middleware's thread that the attempt was cut, so the thread has to see it by itself."""
    called, ended = [], threading.Event()
    jobs = aws.jobs()

    @jobs.middleware
    async def blocks(ctx: JobContext, call_next: CallNext) -> Any:
        asyncio.get_running_loop().call_later(0.1, release.wait, 30)
        return await call_next(ctx)

    @jobs.middleware
    def slow(ctx: JobContext, call_next: CallNext) -> Any:
        in_thread.set()
        unblock.wait(30)
        try:
            return call_next(ctx)
        finally:
            ended.set()

    in_thread, unblock = threading.Event(), threading.Event()
    jobs.handler("email", timeout=SHORT)(called.append)
    run = consume_one(jobs, aws)
    assert "overran its job's timeout" in (run.last_error or "")
    assert in_thread.is_set()

    unblock.set()
    assert ended.wait(30)
    assert called == []


@pytest.mark.parametrize("handler", [plain_handler, async_handler])
def test_an_async_middleware_that_goes_on_after_its_cut_does_not_start_the_handler(
    aws: Aws, handler: Callable[..., Any]
):
    called, errors, ended = [], [], threading.Event()
    jobs = aws.jobs()

    @jobs.middleware
    async def stubborn(ctx: JobContext, call_next: CallNext) -> Any:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            try:
                return await call_next(ctx)
            except TimeoutError as error:
                errors.append(str(error))
            finally:
                ended.set()

    async def calls(ctx: JobContext) -> None:
        called.append(ctx)

    jobs.handler("email", timeout=SHORT)(calls if handler is async_handler else called.append)
    consume_one(jobs, aws)

    assert ended.wait(30)
    assert called == []
    assert errors == ["the attempt was cut before its middleware called call_next"]


def test_cutting_an_attempt_cancels_the_coroutines_of_all_its_steps(aws: Aws):
    canceled: list[str] = []
    ended = threading.Event()
    jobs = aws.jobs()

    async def outer(ctx: JobContext, call_next: CallNext) -> Any:
        try:
            return await call_next(ctx)
        except asyncio.CancelledError:
            canceled.append("outer")
            raise

    jobs.middleware(outer)
    jobs.middleware(plain([], "between"))

    @jobs.handler("email", timeout=SHORT)
    async def email(ctx: JobContext) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            canceled.append("handler")
            ended.set()
            raise

    jobs.handler("first")(async_handler)
    consume_one(jobs, aws, job_name="first")
    loop = event_loop._process.loop
    consume_one(jobs, aws)

    assert ended.wait(30)
    assert sorted(canceled) == ["handler", "outer"]
    assert event_loop._process.loop is loop is not None  # it answered, and was not taken for blocked


def test_a_plain_handler_that_goes_on_after_its_cut_is_counted_under_async_middleware(
    aws: Aws, release: threading.Event
):
    jobs = aws.jobs()
    jobs.middleware(asynchronous([], "outer"))
    jobs.handler("email", timeout=SHORT)(lambda ctx: release.wait(30))

    report = jobs.run_batch(event(aws.a_run()), LambdaContext())

    assert report.records[0].result is not None
    assert report.records[0].result.outcome is Outcome.RETRIED
    assert report.stray_handlers == 1


def test_the_places_of_an_error_show_the_middleware_and_not_the_engine(aws: Aws, caplog: pytest.LogCaptureFixture):
    jobs = aws.jobs()

    @jobs.middleware
    def outer(ctx: JobContext, call_next: CallNext) -> Any:
        return call_next(ctx)

    @jobs.middleware
    async def inner(ctx: JobContext, call_next: CallNext) -> Any:
        return await call_next(ctx)

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        raise ValueError

    with caplog.at_level(logging.WARNING, "kumofire_core"):
        consume_one(jobs, aws)

    places = next(record.error_at for record in caplog.records if hasattr(record, "error_at"))
    assert [place.rpartition(" in ")[2] for place in places] == ["outer", "inner", "email"]


def test_a_middleware_may_be_a_method_a_partial_or_an_object(aws: Aws):
    class Tenant:
        async def around(self, ctx: JobContext, call_next: CallNext) -> str:
            return f"method({await call_next(ctx)})"

        async def __call__(self, ctx: JobContext, call_next: CallNext) -> str:
            return f"object({await call_next(ctx)})"

    async def named(name: str, ctx: JobContext, call_next: CallNext) -> str:
        return f"{name}({await call_next(ctx)})"

    jobs = aws.jobs(handlers={"email": plain_handler})
    for each in (Tenant().around, Tenant(), functools.partial(named, "partial")):
        assert jobs.middleware(each) is each

    assert consume_one(jobs, aws).output == "method(object(partial(sent)))"


def yields(ctx: JobContext, call_next: CallNext) -> Iterator[Any]:
    yield call_next(ctx)


async def yields_too(ctx: JobContext, call_next: CallNext) -> Any:
    yield await call_next(ctx)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (None, "a middleware must be a function, not NoneType"),
        ("email", "a middleware must be a function, not str"),
        (JobGroup, "a middleware must be a function, not the class JobGroup"),
        (
            plain_handler,
            r"the middleware plain_handler must take \(ctx, call_next\), not \(ctx: 'JobContext'\) -> 'str'",
        ),
        (lambda: None, r"the middleware .*<lambda> must take \(ctx, call_next\), not \(\)"),
        (yields, "the middleware yields must return what call_next returns, and it yields"),
        (yields_too, "the middleware yields_too must return what call_next returns, and it yields"),
    ],
)
def test_what_can_not_be_middleware_is_refused_when_it_is_registered(aws: Aws, wrong: Any, text: str):
    jobs = aws.jobs(handlers={"email": plain_handler})

    for register in (jobs.middleware, JobGroup().middleware):
        with pytest.raises(ConfigurationError, match=text) as refusal:
            register(wrong)
        assert "write def m(ctx, call_next): return call_next(ctx)" in str(refusal.value)
    assert consume_one(jobs, aws).output == "sent"


def test_a_group_that_was_included_refuses_further_middleware(aws: Aws):
    mail = JobGroup()
    aws.jobs().include(mail)

    with pytest.raises(ConfigurationError, match=r"the group of middleware .* was included already"):
        mail.middleware(plain([], "late"))
