"""When a failed attempt is tried again: the default waits, jitter, and policies that users write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumofire_core import ConfigurationError, Jobs, RetryPolicy, Run, RunStatus
from tests.builders import NOW, NOW_MS, Aws, Clock, message, raises

SECOND = timedelta(seconds=1)


def a_run(**fields: Any) -> Run:
    return Run(
        **{
            "id": "r1",
            "job_name": "email",
            "payload": None,
            "status": RunStatus.RUNNING,
            "attempt": 0,
            "max_attempts": 3,
            "scheduled_for": NOW,
            "created_at": NOW,
            "updated_at": NOW,
            **fields,
        }
    )


def wait(policy: RetryPolicy, attempt: int, run: Run | None = None) -> timedelta:
    moment = policy.next_run_at(attempt=attempt, error=ValueError("x"), run=run or a_run(), now=NOW)
    assert moment is not None
    return moment - NOW


def test_the_default_waits_double_from_one_second_up_to_a_minute():
    waits = [wait(RetryPolicy(), attempt) / SECOND for attempt in range(1, 10)]

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_default_is_three_attempts():
    assert RetryPolicy().max_attempts == 3


@pytest.mark.parametrize("attempt", [64, 1_000, 1_000_000])
def test_the_wait_stays_at_its_cap_however_many_attempts_failed(attempt: int):
    assert wait(RetryPolicy(), attempt) == 60 * SECOND


def test_base_and_cap_are_options():
    policy = RetryPolicy(base=timedelta(minutes=1), cap=timedelta(minutes=3))

    assert [wait(policy, attempt) / timedelta(minutes=1) for attempt in (1, 2, 3)] == [1, 2, 3]


@given(st.integers(1, 100), st.text(), st.floats(0, 1))
def test_jitter_only_shortens_a_wait_and_by_no_more_than_its_part(attempt: int, run_id: str, jitter: float):
    full = wait(RetryPolicy(), attempt)
    spread = wait(RetryPolicy(jitter=jitter), attempt, a_run(id=run_id))

    assert full * (1 - jitter) - timedelta(milliseconds=1) <= spread <= full


def test_jitter_spreads_runs_and_attempts_apart():
    policy = RetryPolicy(jitter=1.0, base=timedelta(hours=1), cap=timedelta(hours=1))

    waits = {wait(policy, attempt, a_run(id=run_id)) for run_id in ("a", "b", "c") for attempt in (1, 2, 3)}

    assert len(waits) == 9


def test_jitter_is_pure_so_a_history_can_be_replayed():
    assert wait(RetryPolicy(jitter=1.0), 1) == wait(RetryPolicy(jitter=1.0), 1)


def test_without_jitter_all_runs_wait_the_same():
    assert wait(RetryPolicy(), 1, a_run(id="a")) == wait(RetryPolicy(), 1, a_run(id="b"))


def test_every_wrong_argument_of_a_policy_is_named_at_once():
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(0, "soon", base=timedelta(-1), cap=60, jitter=2)  # type: ignore[arg-type]

    assert [problem.split()[0] for problem in caught.value.problems] == [
        "max_attempts",
        "next_run_at",
        "base",
        "cap",
        "jitter",
    ]


@pytest.mark.parametrize("max_attempts", [0, -1, True, 1.5, "3", None])
def test_attempts_must_be_a_whole_number_of_at_least_one(max_attempts: Any):
    with pytest.raises(ConfigurationError, match="max_attempts"):
        RetryPolicy(max_attempts)


@pytest.mark.parametrize("jitter", [-0.1, 1.1, True, "half", float("nan")])
def test_jitter_must_be_a_number_from_0_to_1(jitter: Any):
    with pytest.raises(ConfigurationError, match="jitter"):
        RetryPolicy(jitter=jitter)


def test_a_user_s_rule_gets_the_failed_attempts_the_error_the_run_and_now(aws: Aws, clock: Clock):
    calls: list[dict[str, Any]] = []
    error = ValueError("boom")

    def rule(**arguments: Any) -> datetime:
        calls.append(arguments)
        return arguments["now"] + timedelta(seconds=7)

    jobs = aws.jobs(clock=clock, retry=RetryPolicy(5, rule), handlers={"email": raises(error)})
    run_id = jobs.create("email", {"to": "x"})

    jobs.consume(message(run_id))
    clock.advance(seconds=7)
    jobs.consume(message(run_id))

    assert [call["attempt"] for call in calls] == [1, 2]
    assert [call["now"] for call in calls] == [NOW, NOW + timedelta(seconds=7)]
    assert calls[0]["error"] is error
    assert (calls[0]["run"].id, calls[0]["run"].payload) == (run_id, {"to": "x"})
    assert jobs.get_status(run_id).scheduled_for == NOW + timedelta(seconds=14)


def test_a_rule_is_not_asked_after_the_last_attempt(aws: Aws):
    def rule(**arguments: Any) -> datetime:
        raise AssertionError("asked")

    jobs = aws.jobs(retry=RetryPolicy(1, rule), handlers={"email": raises(ValueError())})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "failed"


def test_a_rule_that_returns_none_gives_up_although_attempts_remain(aws: Aws):
    jobs = aws.jobs(retry=RetryPolicy(5, lambda **_: None), handlers={"email": raises(ValueError("boom"))})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "failed"
    status = jobs.get_status(run_id)
    assert (status.status, status.attempt, status.last_error) == ("failed", 1, "ValueError: boom")


@pytest.mark.parametrize(
    "rule",
    [
        raises(ZeroDivisionError()),
        lambda **_: 1 / 0,
        lambda **_: datetime(2026, 3, 14),
        lambda **_: "tomorrow",
        lambda **_: 5,
        lambda: NOW,
        lambda **_: datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    ],
    ids=["wrong arguments", "raises", "naive", "text", "number", "no arguments", "out of range"],
)
def test_a_rule_that_is_broken_is_logged_and_the_default_used(aws: Aws, rule: Any, caplog: pytest.LogCaptureFixture):
    jobs = aws.jobs(retry=RetryPolicy(3, rule), handlers={"email": raises(ValueError())})
    run_id = jobs.create("email")

    assert jobs.consume(message(run_id)).outcome == "retried"
    assert jobs.get_status(run_id).scheduled_for == NOW + SECOND
    assert "the retry policy of job 'email' failed" in caplog.text


def test_a_rule_that_names_the_past_means_now(aws: Aws):
    jobs = aws.jobs(
        retry=RetryPolicy(3, lambda **_: datetime(1999, 1, 1, tzinfo=UTC)), handlers={"email": raises(ValueError())}
    )
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    assert aws.item(run_id)["scheduled_for"] == NOW_MS


def test_a_job_s_own_policy_and_limit_override_those_of_the_jobs(aws: Aws):
    jobs = aws.jobs(retry=RetryPolicy(2))
    jobs.handler("own", retry=RetryPolicy(7, base=timedelta(seconds=9)))(raises(ValueError()))
    jobs.handler("limit", max_attempts=5)(raises(ValueError()))
    jobs.handler("both", retry=RetryPolicy(7), max_attempts=4)(raises(ValueError()))
    jobs.handler("plain")(raises(ValueError()))

    limits = {name: aws.item(jobs.create(name))["max_attempts"] for name in ("own", "limit", "both", "plain")}
    run_id = jobs.create("own")
    jobs.consume(message(run_id))

    assert limits == {"own": 7, "limit": 5, "both": 4, "plain": 2}
    assert jobs.get_status(run_id).scheduled_for == NOW + 9 * SECOND


def test_a_run_s_own_limit_overrides_its_job_s(jobs: Jobs, clock: Clock):
    jobs.handler("email", max_attempts=5)(raises(ValueError()))
    run_id = jobs.create("email", max_attempts=2)

    first = jobs.consume(message(run_id))
    clock.advance(seconds=1)
    second = jobs.consume(message(run_id))

    assert (first.outcome, second.outcome) == ("retried", "failed")
    assert jobs.get_status(run_id).attempt == 2


def test_a_rule_may_be_a_method_of_a_subclass():
    class Hourly(RetryPolicy):
        def next_run_at(self, *, attempt: int, error: BaseException, run: Run, now: datetime) -> datetime:
            return now + timedelta(hours=1)

    assert wait(Hourly(), 1) == timedelta(hours=1)


def test_a_rule_that_ends_the_process_is_taken_for_broken(aws: Aws):
    policy = RetryPolicy(3, raises_for_any(SystemExit(3)))
    jobs = aws.jobs(retry=policy, handlers={"email": raises(ValueError())})

    assert jobs.consume(message(aws.a_run())).outcome == "retried"


def raises_for_any(error: BaseException) -> Any:
    def rule(**arguments: Any) -> datetime:
        raise error

    return rule


def test_the_patient_policy_goes_on_for_about_a_day_and_spreads_its_attempts():
    policy = RetryPolicy.patient()
    ends = []
    for number in range(20):
        run, now = a_run(id=f"run-{number}"), NOW
        for attempt in range(1, policy.max_attempts):
            due = policy.next_run_at(attempt=attempt, error=ValueError(), run=run, now=now)
            assert due is not None
            assert timedelta(seconds=5) <= due - now <= timedelta(hours=1)
            now = due
        ends.append(now - NOW)

    assert timedelta(hours=16) <= min(ends) < max(ends) <= timedelta(hours=33)
    assert len(set(ends)) == len(ends)
