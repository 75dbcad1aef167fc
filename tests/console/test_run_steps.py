"""The steps on a run's page, and the signal that a person gives there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kumofire_core import JobContext, Jobs
from kumofire_core.console.guard import HEADER
from tests.builders import Aws, Clock, message
from tests.console.person import Person, hidden


@pytest.fixture
def run_id(jobs: Jobs) -> str:
    """A run that has made a step and waits for the signal ``approved``."""

    @jobs.handler("order", max_attempts=1)
    def order(ctx: JobContext) -> None:
        ctx.step("charge", lambda: {"card": "of-a-secret-card"})
        ctx.wait_for("approved", timeout=timedelta(hours=2), default=None)
        ctx.sleep(60)

    made = jobs.create("order")
    jobs.consume(message(made))
    return made


def test_the_page_shows_what_a_run_has_kept_and_what_it_waits_for(jobs: Jobs, clock: Clock, run_id: str):
    person = Person(jobs, clock)

    text = person.text(f"/runs/{run_id}")
    assert "It waits for the signal approved." in text
    assert "Step charge took" in text
    assert "of-a-secret-card" not in text
    assert "Wait approved, until 2026-03-14" in text
    assert "Signal…" in text

    clock.advance(hours=3)
    jobs.consume(message(run_id))
    text = person.text(f"/runs/{run_id}/live")
    assert "Wait approved, no signal came in time" in text
    assert "Sleep sleep-1, until" in text
    assert "Signal…" not in text


def test_the_page_reads_no_results(jobs: Jobs, aws: Aws, clock: Clock, run_id: str):
    aws.dynamodb.requests.clear()
    Person(jobs, clock).text(f"/runs/{run_id}")

    [query] = aws.dynamodb.parameters("query")
    assert "value" not in query["ExpressionAttributeNames"].values()


def test_a_person_signals_a_run_with_a_payload(jobs: Jobs, clock: Clock, run_id: str):
    person = Person(jobs, clock)
    form = hidden(person.get(f"/runs/{run_id}/signal").text)
    assert form["name"] == "approved"

    refused = person.press(f"/runs/{run_id}/signal", **(form | {"payload": "{"}))
    assert refused.status_code == 422
    assert "the payload is not JSON" in refused.text
    assert jobs.get_status(run_id).waiting_for == "approved"

    assert (
        "The run has got the signal."
        in person.press(f"/runs/{run_id}/signal", **(form | {"payload": '{"by": "Ann"}'})).text
    )
    assert [step.result for step in jobs.steps(run_id) if step.name == "approved"] == [{"by": "Ann"}]
    assert "signaled" in person.text(f"/runs/{run_id}")

    again = person.press(f"/runs/{run_id}/signal", **form)
    assert "The run has this signal already, or its wait for it is over." in again.text


def test_a_run_that_has_ended_meanwhile_gets_no_signal(jobs: Jobs, clock: Clock, run_id: str):
    person = Person(jobs, clock)
    form = hidden(person.get(f"/runs/{run_id}/signal").text)
    jobs.cancel(run_id)

    assert "was canceled meanwhile" in person.press(f"/runs/{run_id}/signal", **form).text


def test_who_may_only_look_gives_no_signal(jobs: Jobs, clock: Clock, run_id: str):
    person = Person(jobs, clock, act=False)

    assert "Signal…" not in person.text(f"/runs/{run_id}")
    assert person.press(f"/runs/{run_id}/signal", name="approved", payload="1").status_code == 403
    assert jobs.get_status(run_id).waiting_for == "approved"


def test_a_signal_without_the_token_of_the_page_is_refused(jobs: Jobs, clock: Clock, run_id: str):
    person = Person(jobs, clock)
    del person.headers[HEADER]

    answer = person.post(f"/runs/{run_id}/signal", data={"name": "approved", "payload": "1", "seen": ""})

    assert answer.status_code == 403
    assert jobs.get_status(run_id).waiting_for == "approved"


def test_the_page_of_a_run_without_steps_asks_for_none(jobs: Jobs, aws: Aws, clock: Clock):
    run_id = jobs.create("email")
    aws.dynamodb.requests.clear()

    assert "Steps" not in Person(jobs, clock).text(f"/runs/{run_id}")

    assert "query" not in [operation for operation, _ in aws.dynamodb.requests]
