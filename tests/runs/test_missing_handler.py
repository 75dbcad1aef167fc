"""A run that meets a consumer without its handler: during a rolling deployment it may wait for one that has it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import Jobs
from kumofire_core.errors import ConfigurationError
from tests.builders import NOW, NOW_MS, Aws, Clock, message, raises


@pytest.fixture
def old(aws: Aws, clock: Clock) -> Jobs:
    """A consumer of the old release, which does not know the job ``email``."""
    return aws.jobs(clock=clock, missing_handler="retry", allow_unknown_jobs=True)


def test_a_run_of_a_new_job_waits_until_a_consumer_that_has_it_comes(old: Jobs, aws: Aws, clock: Clock):
    run_id = old.create("email")

    result = old.consume(message(run_id))

    assert (result.outcome, result.attempt, result.reason) == ("retried", None, "missing handler")
    run = old.get_status(run_id)
    assert (run.status, run.attempt, run.scheduled_for) == ("scheduled", 0, NOW + timedelta(seconds=1))
    assert run.last_error == 'Missing handler for job "email"'
    assert aws.sent() == [(run_id, 0), (run_id, 1)]
    clock.advance(seconds=1)
    new = aws.jobs(clock=clock, handlers={"email": lambda ctx: ctx.attempt})
    assert new.consume(message(run_id)).outcome == "succeeded"
    assert new.get_status(run_id).output == 1
    assert "no_handler_since" not in aws.item(run_id)


def test_the_waits_grow_and_end_after_a_day(old: Jobs, aws: Aws, clock: Clock):
    run_id = old.create("email")

    def waits(most: int) -> list[float]:
        found: list[float] = []
        while len(found) < most and old.consume(message(run_id)).outcome == "retried":
            due = old.get_status(run_id).scheduled_for
            found.append((due - clock.now).total_seconds())
            clock.now = due
        return found

    assert waits(12) == [1, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    clock.now = NOW + timedelta(hours=23, minutes=55)
    assert waits(100) == [60] * 5
    run = old.get_status(run_id)
    assert (run.status, run.attempt, run.last_error) == ("failed", 0, 'Missing handler for job "email"')
    assert timedelta(days=1) <= run.finished_at - NOW < timedelta(days=1, minutes=1)


def test_a_person_s_retry_lets_it_wait_for_another_day(old: Jobs, aws: Aws, clock: Clock):
    run_id = aws.a_run(no_handler_since=NOW_MS - 86_400_000)
    canceled = aws.a_run(no_handler_since=NOW_MS - 86_400_000)

    assert old.consume(message(run_id)).outcome == "failed"
    assert old.cancel(canceled)
    assert old.retry(run_id)
    assert old.retry(canceled)
    assert old.consume(message(canceled)).outcome == "retried"
    assert old.consume(message(run_id)).outcome == "retried"


def test_an_attempt_in_between_begins_the_day_again(old: Jobs, aws: Aws, clock: Clock):
    run_id = aws.a_run(no_handler_since=NOW_MS - 86_000_000)
    aws.jobs(clock=clock, handlers={"email": raises(ValueError())}).consume(message(run_id))
    clock.advance(days=1)

    assert old.consume(message(run_id)).outcome == "retried"


def test_the_limit_of_attempts_is_left_to_the_consumer_that_has_the_job(old: Jobs, aws: Aws, clock: Clock):
    run_id = aws.a_run(without=("max_attempts",))

    old.consume(message(run_id))

    assert "max_attempts" not in aws.item(run_id)
    clock.advance(seconds=1)
    new = aws.jobs(clock=clock)
    new.handler("email", max_attempts=7)(raises(ValueError()))
    new.consume(message(run_id))
    assert aws.item(run_id)["max_attempts"] == 7


def test_a_run_that_is_canceled_meanwhile_does_not_wait(aws: Aws, clock: Clock):
    class CancelsFirst:
        """Asks for the cancellation between the claim and what follows it."""

        def update_item(self, **parameters: Any) -> Any:
            answer = aws.dynamodb.update_item(**parameters)
            if not self.asked:
                self.asked = True
                assert aws.jobs(clock=clock).cancel(run_id)
            return answer

        asked = False

    old = aws.jobs(clock=clock, missing_handler="retry", dynamodb=CancelsFirst())
    run_id = aws.a_run()

    assert old.consume(message(run_id)).outcome == "canceled"
    assert aws.item(run_id)["status"] == "canceled"


def test_a_run_that_waits_for_a_handler_can_be_canceled(old: Jobs):
    run_id = old.create("email")
    old.consume(message(run_id))

    assert old.cancel(run_id)
    assert old.get_status(run_id).status == "canceled"


def test_by_default_a_run_of_an_unknown_job_has_failed(aws: Aws):
    run_id = aws.a_run()

    assert aws.jobs().consume(message(run_id)).outcome == "failed"


@pytest.mark.parametrize("wrong", ["wait", "", None, True, []], ids=repr)
def test_what_a_missing_handler_means_is_checked(aws: Aws, wrong: Any):
    with pytest.raises(ConfigurationError, match="missing_handler must be 'fail' or 'retry'"):
        aws.jobs(missing_handler=wrong)


def test_a_wrong_variable_is_named():
    environment = {"KUMOFIRE_TABLE": "t", "KUMOFIRE_QUEUE_URL": "https://queue", "KUMOFIRE_MISSING_HANDLER": "wait"}

    with pytest.raises(ConfigurationError, match="KUMOFIRE_MISSING_HANDLER is 'wait'; it must be fail or retry"):
        Jobs.from_env(environment)
