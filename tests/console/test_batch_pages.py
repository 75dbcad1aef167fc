"""The console's pages of batches: how far one has come, which members failed, and canceling the rest."""

from __future__ import annotations

from typing import Any

import pytest

from kumofire_core import Jobs
from kumofire_core.model.batch import callback_run_id, member_run_id
from tests.builders import Aws, Clock, message
from tests.console.person import Person


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    """A deployment with a job that fails where it is told to."""
    jobs = aws.jobs(clock=clock, concurrency=1)

    @jobs.handler("part", max_attempts=1)
    def part(ctx: Any) -> None:
        if ctx.payload == "bad":
            raise ValueError("secret <b>address</b>")

    jobs.handler("gather")(lambda ctx: None)
    return jobs


@pytest.fixture
def person(jobs: Jobs, clock: Clock) -> Person:
    return Person(jobs, clock)


def a_batch(jobs: Jobs, *payloads: str, ended: int = 0, key: str | None = None) -> str:
    batch_id = jobs.create_batch([{"name": "part", "payload": each} for each in payloads], then="gather", key=key)
    for index in range(ended):
        jobs.consume(message(member_run_id(batch_id, index)))
    return batch_id


def test_a_batch_shows_how_far_it_is_and_which_members_failed(jobs: Jobs, person: Person) -> None:
    batch_id = a_batch(jobs, "bad", "b", "c", ended=2, key="night <i>")
    page = person.get(f"/batches/{batch_id}")

    assert "Ended 2 of 3" in person.text(f"/batches/{batch_id}")
    assert "Failed 1" in person.text(f"/batches/{batch_id}")
    assert f'href="/runs/{member_run_id(batch_id, 0)}"' in page.text
    assert "secret &lt;b&gt;address&lt;/b&gt;" in page.text
    assert "night &lt;i&gt;" in page.text
    assert 'hx-get="/batches/' in page.text
    assert "night" in person.text("/batches")


def test_who_may_see_no_payloads_sees_no_text_of_an_error(jobs: Jobs, clock: Clock) -> None:
    batch_id = a_batch(jobs, "bad", "b", ended=1)
    page = Person(jobs, clock, payloads=False).text(f"/batches/{batch_id}")

    assert "ValueError" in page
    assert "secret" not in page


def test_a_batch_that_is_done_links_to_its_callback_and_is_not_asked_for_again(jobs: Jobs, person: Person) -> None:
    batch_id = a_batch(jobs, "a", ended=1)
    page = person.get(f"/batches/{batch_id}").text

    assert f'href="/runs/{callback_run_id(batch_id)}"' in page
    assert "data-live hx-get" not in page
    assert "Cancel…" not in page


def test_a_member_and_a_callback_link_to_their_batch(jobs: Jobs, person: Person) -> None:
    batch_id = a_batch(jobs, "a", ended=1)
    for run_id in (member_run_id(batch_id, 0), callback_run_id(batch_id)):
        assert f'href="/batches/{batch_id}"' in person.get(f"/runs/{run_id}").text


def test_the_rest_of_a_batch_is_canceled(jobs: Jobs, person: Person) -> None:
    batch_id = a_batch(jobs, "a", "b", ended=1)
    assert person.press(f"/batches/{batch_id}/cancel").status_code == 200

    batch = jobs.get_batch(batch_id)
    assert batch is not None
    assert (batch.canceled, batch.succeeded, batch.state) == (1, 1, "done")
    assert person.press(f"/batches/{batch_id}/cancel").status_code == 409


def test_without_scripts_a_person_is_asked_first(jobs: Jobs, person: Person) -> None:
    batch_id = a_batch(jobs, "a")
    asked = person.post(f"/batches/{batch_id}/cancel")
    assert "Cancel all runs of this batch" in asked.text
    assert jobs.get_batch(batch_id).state == "running"

    person.post(f"/batches/{batch_id}/cancel", data={"sure": "yes"})
    assert jobs.get_batch(batch_id).state == "done"


def test_who_may_only_look_has_no_button_and_is_refused(jobs: Jobs, clock: Clock) -> None:
    batch_id = a_batch(jobs, "a")
    looker = Person(jobs, clock, act=False)

    assert "Cancel…" not in looker.get(f"/batches/{batch_id}").text
    assert looker.press(f"/batches/{batch_id}/cancel").status_code == 403
    assert jobs.get_batch(batch_id).state == "running"


def test_a_batch_that_is_not_there_is_said_to_be_missing(person: Person) -> None:
    assert person.get("/batches/unknown").status_code == 404
    assert person.press("/batches/unknown/cancel").status_code == 409
    assert "There are no batches" in person.text("/batches")


def test_older_batches_are_on_the_next_page(jobs: Jobs, person: Person, clock: Clock) -> None:
    for number in range(51):
        clock.advance(seconds=1)
        a_batch(jobs, key=f"key-{number}")
    first = person.get("/batches").text

    assert "key-50" in first
    assert "key-0<" not in first
    older = first.partition('class="button" href="')[2].partition('"')[0]
    assert "key-0<" in person.get(older.replace("&amp;", "&")).text
