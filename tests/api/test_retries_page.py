"""The examples of docs/retries.md, executed as they are printed, and what its table promises."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any
from urllib.error import HTTPError

import pytest

from examples.deployment import PROJECT
from kumofire_core import JobContext, Jobs, RetryPolicy, Run
from tests.builders import NOW, Aws, Clock, message, raises

PAGE = (PROJECT / "docs/retries.md").read_text()
NAMES: dict[str, Any] = {
    "JobContext": JobContext,
    "Jobs": Jobs,
    "RetryPolicy": RetryPolicy,
    "Run": Run,
    "timedelta": timedelta,
}
NAMES |= {"datetime": datetime, "UTC": UTC}


def execute(example: str, **names: Any) -> dict[str, Any]:
    """Execute the example that has this text; return its names."""
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if example in block]
    namespace: dict[str, Any] = {**NAMES, **names}
    exec(compile(code, "docs/retries.md", "exec"), namespace)
    return namespace


def consumed(jobs: Jobs, name: str, payload: Any = None) -> Run:
    run_id = jobs.create(name, payload)
    jobs.consume(message(run_id))
    run = jobs.get_status(run_id)
    assert run is not None
    return run


def test_one_policy_is_for_all_jobs_and_another_for_one(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMOFIRE_TABLE", aws.table)
    monkeypatch.setenv("KUMOFIRE_QUEUE_URL", aws.queue_url)

    made = execute('jobs.handler("thumbnail"')["jobs"]

    assert made._registry.retry.max_attempts == 41
    assert made._registry.get("thumbnail").retry.max_attempts == 3
    assert made._registry.get("thumbnail").max_attempts == 2


def test_fail_on_and_retry_on_decide_by_the_type(aws: Aws) -> None:
    jobs = aws.jobs()
    execute('jobs.handler("charge"', jobs=jobs)
    job = jobs._registry.get("charge")
    assert job is not None
    statuses = []
    for number, error in enumerate((ConnectionError(), PermissionError(), ValueError())):
        jobs.handler(f"charge-{number}", retry_on=job.retry_on, fail_on=job.fail_on)(raises(error))
        statuses.append(consumed(jobs, f"charge-{number}").status)

    assert statuses == ["scheduled", "failed", "failed"]


def test_a_policy_s_own_time_is_taken(aws: Aws) -> None:
    jobs = aws.jobs()
    names = execute("unless_refused", jobs=jobs)
    policy = RetryPolicy(max_attempts=5, next_run_at=names["unless_refused"])
    jobs.handler("slow", retry=policy)(raises(ValueError()))
    jobs.handler("refused", retry=policy)(raises(PermissionError()))

    assert consumed(jobs, "slow").scheduled_for == NOW + timedelta(minutes=1)
    assert consumed(jobs, "refused").status == "failed"


@pytest.mark.parametrize(("code", "status", "wait"), [(429, "scheduled", 7), (404, "failed", 0), (500, "scheduled", 0)])
def test_an_answer_of_http_decides(aws: Aws, code: int, status: str, wait: int) -> None:
    jobs = aws.jobs()
    names = execute('jobs.handler("sync"', jobs=jobs)
    headers = Message()
    headers["Retry-After"] = "7"

    def refuse(url: str, timeout: float) -> None:
        raise HTTPError(url, code, "no", headers, None)

    names["urlopen"] = refuse
    names["sync"].__wrapped__.__globals__["urlopen"] = refuse

    run = consumed(jobs, "sync", {"url": "https://example.com"})

    assert run.status == status
    if wait:
        assert run.scheduled_for == NOW + timedelta(seconds=wait)


def test_a_run_that_is_too_late_is_canceled(aws: Aws) -> None:
    jobs = aws.jobs(clock=(clock := Clock()))
    execute('jobs.handler("price-alert"', jobs=jobs)
    run_id = jobs.create("price-alert")
    clock.advance(minutes=11)

    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.status == "canceled"
    assert (run.cancel_reason or "").startswith("expired: ")


def test_a_run_is_retried_with_another_payload(aws: Aws) -> None:
    seen: list[Any] = []
    jobs = aws.jobs(clock=lambda: datetime.now(UTC))

    @jobs.handler("email", max_attempts=1)
    def email(ctx: JobContext) -> None:
        seen.append(ctx.payload["to"])
        if len(seen) == 1:
            raise ValueError

    run = consumed(jobs, "email", {"to": "wrong@example.com"})
    assert run.status == "failed"

    execute("later =", jobs=jobs, run_id=run.id)
    jobs.consume(message(run.id))

    assert seen == ["wrong@example.com", "right@example.com"]
    ended = jobs.get_status(run.id)
    assert ended is not None
    assert (ended.status, ended.retries) == ("succeeded", 1)
    assert [past.status for past in ended.history] == ["failed"]


def test_many_are_retried_in_one_call(aws: Aws) -> None:
    jobs = aws.jobs(handlers={"email": raises(ConnectionError())}, retry=RetryPolicy(1))
    run = consumed(jobs, "email")

    execute("jobs.retry_many(", jobs=jobs, yesterday=NOW - timedelta(days=1))

    again = jobs.get_status(run.id)
    assert again is not None
    assert again.status in ("queued", "scheduled")


@pytest.mark.parametrize(
    ("handler", "error_type"),
    [
        (raises(ValueError()), "ValueError"),
        (raises(SystemExit(1)), "SystemExit"),
        (lambda ctx: object(), "InvalidJSONError"),
        (None, "missing handler"),
    ],
)
def test_the_table_of_outcomes_names_the_type(aws: Aws, handler: Any, error_type: str) -> None:
    jobs = aws.jobs(allow_unknown_jobs=True, retry=RetryPolicy(1))
    if handler is not None:
        jobs.handler("email")(handler)

    assert consumed(jobs, "email").error_type == error_type


def test_the_table_of_outcomes_has_the_texts_of_the_code() -> None:
    from kumofire_core.engine import consumer

    for text in (consumer.MISSING_HANDLER, consumer.UNFIT, consumer.UNREADABLE_PAYLOAD):
        assert f"| `{text}` |" in PAGE
