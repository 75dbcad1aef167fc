"""What type checkers are to say of typed jobs, in a comment at the end of a line.

Read by ``test_type_checkers.py``, and not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from kumofire_core import CallNext, JobContext, JobFunction, JobGroup, Jobs, RunRequest

if TYPE_CHECKING:
    from typing import reveal_type

jobs = Jobs.from_env()
group = JobGroup()


@dataclass
class Email:
    to: str


@dataclass
class Receipt:
    message_id: str


@jobs.handler("email", max_attempts=5)
def send_email(ctx: JobContext[Email]) -> Receipt:
    reveal_type(ctx.payload)  # reveal: Email
    return Receipt(ctx.payload.too)  # error


@group.handler("async")
async def send_async(ctx: JobContext[Email]) -> Receipt:
    return Receipt(ctx.payload.to)


@jobs.handler("untyped")
def untyped(ctx: JobContext) -> int:
    reveal_type(ctx.payload)  # reveal: Any
    return len(ctx.payload)


@jobs.handler("nothing")
def nothing(ctx: JobContext[None]) -> None: ...


@jobs.handler("any")
def any_context(ctx: Any) -> None: ...


@jobs.handler("wrong")  # error
def wrong(number: int) -> None: ...


@jobs.middleware
def around(ctx: JobContext, call_next: CallNext) -> Any:
    return call_next(ctx)


reveal_type(send_email)  # reveal: JobFunction[Email, Receipt]
reveal_type(untyped)  # reveal: JobFunction[Any, int]
reveal_type(nothing)  # reveal: JobFunction[None, None]
reveal_type(any_context)  # reveal: JobFunction[Any, None]

reveal_type(send_email.create(Email("x"), delay=timedelta(hours=2), dedupe_key="k"))  # reveal: str
reveal_type(send_email.create_many([Email("x")], dedupe_key=lambda email: email.to))  # reveal: list[str]
request: RunRequest = send_email.request(Email("x"), delay=5)
jobs.create_batch([send_email.request(Email("x"))], then=nothing.request())
send_email.request()  # error
send_email.request({"to": "x"})  # error
nothing.request(Email("x"))  # error
send_email.create()  # error
send_email.create({"to": "x"})  # error
send_email.create(Email("x"), dealy=3)  # error
send_email.create_many([Receipt("x")])  # error
send_async.create(Email("x"))
nothing.create()
nothing.create(Email("x"))  # error
untyped.create()
untyped.create({"any": 1})

reveal_type(send_email(JobContext.for_test(Email("x"), attempt=2)))  # reveal: Receipt
reveal_type(nothing(JobContext.for_test()))  # reveal: None
reveal_type(JobContext.for_test(Email("x")).told)  # reveal: list[tuple[float, str | None]]
send_email(JobContext.for_test(Receipt("x")))  # error


async def awaited() -> None:
    reveal_type(await send_email.aio.create(Email("x"), delay=5))  # reveal: str
    reveal_type(await send_email.aio.create_many([Email("x")]))  # reveal: list[str]
    await send_email.aio.create({"to": "x"})  # error
    await nothing.aio.create()
    reveal_type(await jobs.aio.create("email", {"to": "x"}, dedupe_key="k"))  # reveal: str
    reveal_type(await jobs.aio.get_status("id", payloads=False))  # reveal: Run | None
    reveal_type(await jobs.aio.list_runs(status="failed"))  # reveal: RunPage
    await jobs.aio.create("email", dealy=5)  # error
    await jobs.aio.cancel(5)  # error
    await jobs.aio.update_schedule("s", enabled=False)
    await jobs.aio.update_schedule("s", enabeld=False)  # error
    reveal_type(await send_async(JobContext.for_test(Email("x"))))  # reveal: Receipt


class Mailer:
    def send(self, ctx: JobContext[Email]) -> str:
        return ctx.payload.to


def with_prefix(prefix: str, ctx: JobContext[Email]) -> str:
    return prefix + ctx.payload.to


reveal_type(jobs.handler("method")(Mailer().send))  # reveal: JobFunction[Email, str]
jobs.handler("partial")(partial(with_prefix, "to "))
handlers: dict[str, Callable[[JobContext], Any]] = {"a": send_email, "b": lambda ctx: ctx.payload}
kept: JobFunction[Email, Receipt] = send_email
