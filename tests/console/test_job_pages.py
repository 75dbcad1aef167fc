"""The console's page of jobs: what it says of each, and pausing and resuming by one person or two at once."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from kumofire_core import Jobs, MinuteCounts, OutcomeCounts
from kumofire_core.console.job_pages import job_rows
from kumofire_core.console.sparklines import BAR, HEIGHT, sparkline
from tests.builders import NOW, Aws, Clock, event
from tests.console.person import Person, hidden, undo_of, words

pytestmark = pytest.mark.usefixtures("counts_awaited")


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    """A deployment of which every third mail fails."""
    jobs = aws.jobs(clock=clock, concurrency=1, allow_unknown_jobs=True)

    @jobs.handler("email", max_attempts=1)
    def email(ctx: Any) -> None:
        if ctx.payload % 3 == 0:
            raise ValueError("no such address")

    return jobs


@pytest.fixture
def person(jobs: Jobs, clock: Clock) -> Person:
    return Person(jobs, clock)


def work(jobs: Jobs, clock: Clock, *payloads: int, name: str = "email") -> None:
    jobs.consume_batch(event(*(jobs.create(name, payload) for payload in payloads)))
    clock.advance(minutes=1)


def row_of(page: Any, name: str) -> str:
    """Return what the page's row of a job says."""
    rows = [words(row) for row in re.findall(r"<tr id=.*?</tr>", page.text, re.DOTALL)]
    [found] = [row for row in rows if row.split()[0] == name]
    return found


def paused(jobs: Jobs) -> list[tuple[str | None, str | None, datetime | None]]:
    return [(each.job_name, each.reason, each.until) for each in jobs.pauses()]


# What it says


def test_a_row_counts_what_waits_and_failed_and_how_fast_it_goes(jobs: Jobs, person: Person, clock: Clock):
    work(jobs, clock, 1, 2, 3)
    work(jobs, clock, 4, 5)
    jobs.create("email", 7, delay=timedelta(hours=1))
    jobs.create("email", 8)

    found = row_of(person.get("/jobs"), "email")

    # The error; scheduled, queued, running, failed; attempts a minute in 5 minutes and the hour; failures; mean time.
    assert found == "email ValueError \u00d7 1 1 1 0 1 1.0 0.1 20% <1ms Pause…"


def test_the_current_minute_is_not_over_and_lowers_no_rate(jobs: Jobs, person: Person, clock: Clock):
    for _ in range(5):
        work(jobs, clock, 1, 2)

    assert " 2.0 " in row_of(person.get("/jobs"), "email")


def test_the_mean_time_is_of_an_attempt_and_not_of_a_minute(jobs: Jobs):
    minutes = [
        MinuteCounts(NOW, {"email": OutcomeCounts(succeeded=3, retried=1, milliseconds=8_000)}),
        MinuteCounts(NOW, {"email": OutcomeCounts(failed=1, ignored=7, milliseconds=2_000)}),
        MinuteCounts(NOW, {"email": OutcomeCounts(succeeded=9, milliseconds=99_000)}),  # not over yet
    ]

    [row] = job_rows(replace(jobs.stats(), minutes=tuple(minutes)), ())

    assert (row.mean_seconds, row.rate, row.ended, row.failed) == (2.0, 2.5, 4, 1)


def test_numbers_lead_to_the_runs_that_they_count(aws: Aws, jobs: Jobs, person: Person, clock: Clock):
    work(jobs, clock, 3)

    page = html.unescape(person.get("/jobs").text)

    assert 'href="/runs?job=email&status=failed"' in page
    assert 'href="/runs?job=email&status=failed&error=ValueError"' in page


def test_a_job_of_any_name_has_a_row_and_a_form_of_its_own(jobs: Jobs, person: Person):
    names = ["<b>&\"'", "雲/../?x=1#y", "(other) not", "a" * 100]
    for name in names:
        jobs.create(name, 1)

    page = person.get("/jobs").text

    assert "<b>&" not in page
    assert len(set(re.findall(r'<tr id="([^"]*)"', page))) == len(names)
    for name in names:
        asked = hidden(person.get("/jobs/pause", params={"job": name}).text)
        person.press("/jobs/pause", **(asked | {"reason": "x", "until": ""}))
    assert sorted(each.job_name or "" for each in jobs.pauses()) == sorted(names)


def test_what_is_not_counted_by_name_is_last_says_what_it_is_and_cannot_be_paused(
    jobs: Jobs, person: Person, clock: Clock
):
    jobs.consume_batch(event("unknown-run"))
    jobs.create("zebra", 1)

    page = person.get("/jobs").text

    rows = re.findall(r"<tr id=.*?</tr>", page, re.DOTALL)
    assert [words(row).split()[0] for row in rows] == ["zebra", "(other)"]
    assert "Jobs beyond the hundredth" in rows[1]
    assert "Pause" not in words(rows[1])


def test_a_page_without_jobs_says_so(person: Person):
    assert "A job shows up here with its first run." in person.text("/jobs")


def test_a_look_within_five_seconds_costs_only_the_read_of_the_pauses(aws: Aws, jobs: Jobs, person: Person):
    jobs.create("email", 1)
    person.get("/jobs")
    aws.dynamodb.requests.clear()
    aws.sqs.requests.clear()

    person.get("/jobs", headers={"HX-Request": "true"})

    assert aws.dynamodb.count() == {"get_item": 1}
    assert aws.sqs.count() == {}


@pytest.mark.parametrize(
    ("values", "failed", "good", "bad"),
    [
        ([], [], [], []),
        ([0, 0], [0, 0], [], []),
        ([4, 2], [0, 0], [24, 12], []),
        ([4, 4], [1, 4], [18], [6, 24]),
        ([1000, 1], [0, 1], [24], [1.5]),
    ],
    ids=["nothing", "zeros", "in proportion", "the failed part", "what is little stays visible"],
)
def test_a_sparkline_is_as_high_as_its_values_say(
    values: list[int], failed: list[int], good: list[float], bad: list[float]
):
    drawn = sparkline(values, failed, label='"<of>"')

    def heights(kind: str) -> list[float]:
        [path] = re.findall(rf'<path class="{kind}" d="([^"]*)"', drawn)
        return [float(each) for each in re.findall(rf"h{BAR}v([0-9.]+)", path)]

    assert (heights("good"), heights("failed")) == (good, bad)
    assert max([*good, *bad, 0]) <= HEIGHT
    assert 'aria-label="&#34;&lt;of&gt;&#34;"' in drawn


# Pausing


def pausing(person: Person, job: str = "email", **form: str) -> Any:
    """Open the form of a pause, fill it in and send it."""
    asked = hidden(person.get("/jobs/pause", params={"job": job}).text)
    return person.press("/jobs/pause", **(asked | form))


def test_a_job_is_paused_with_a_reason_and_until_a_time_and_its_row_says_so_at_once(
    jobs: Jobs, person: Person, clock: Clock
):
    jobs.create("email", 1)
    person.get("/jobs")  # the counts are shared for some seconds

    answer = pausing(person, reason="sends twice", until="2h")

    assert "email is paused, and it ends in 2h." in words(answer.text)
    assert paused(jobs) == [("email", "sends twice", NOW + timedelta(hours=2))]
    assert "email paused now, ends in 2h sends twice" in row_of(person.get("/jobs"), "email")


def test_a_time_of_a_pause_without_an_offset_is_in_utc(jobs: Jobs, person: Person):
    pausing(person, until="2026-03-15T09:30")

    assert paused(jobs) == [("email", None, datetime.fromisoformat("2026-03-15T09:30Z"))]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"until": "soon"}, "the end is 'soon'"),
        ({"until": "2026-03-14T11:59"}, "which is over"),
        ({"reason": "x" * 1001}, "reason may have 1000 characters, and has 1001"),
    ],
)
def test_what_a_pause_cannot_have_is_said_in_its_form_which_keeps_what_was_typed(
    jobs: Jobs, person: Person, form: dict[str, str], said: str
):
    answer = pausing(person, **({"reason": "because"} | form))

    assert answer.status_code == 422
    assert said in words(answer.text)
    assert ({"reason": "because"} | form).items() <= hidden(answer.text).items()
    assert jobs.pauses() == ()


def test_a_pause_can_be_undone(jobs: Jobs, person: Person):
    answer = pausing(person, reason="oops")

    undone = person.press(undo_of(answer), **hidden(answer.text))

    assert "email goes on" in words(undone.text)
    assert jobs.pauses() == ()


def test_undoing_a_resume_pauses_again_with_the_former_reason_and_end(jobs: Jobs, person: Person):
    jobs.create("email", 1)
    pausing(person, reason="a window", until="2h")
    [button] = [
        form for form in re.findall(r"<form.*?</form>", person.get("/jobs").text, re.DOTALL) if "Resume" in form
    ]

    answer = person.press("/jobs/resume", **hidden(button))

    assert jobs.pauses() == ()
    person.press(undo_of(answer), **hidden(answer.text))
    assert paused(jobs) == [("email", "a window", NOW + timedelta(hours=2))]


def test_undoing_a_changed_pause_brings_the_former_one(jobs: Jobs, person: Person):
    jobs.pause("email", reason="first")

    answer = pausing(person, reason="second", until="1h")

    assert paused(jobs) == [("email", "second", NOW + timedelta(hours=1))]
    person.press(undo_of(answer), **hidden(answer.text))
    assert paused(jobs) == [("email", "first", None)]


def test_all_jobs_are_paused_and_resumed_together(jobs: Jobs, person: Person):
    answer = pausing(person, "", reason="the database moves")

    assert "All jobs are paused. Within a minute nothing of them starts any more." in words(answer.text)
    assert paused(jobs) == [(None, "the database moves", None)]
    page = person.get("/jobs").text
    assert "All jobs are paused now. the database moves" in words(page)
    [button] = [form for form in re.findall(r"<form.*?</form>", page, re.DOTALL) if "Resume all" in form]
    assert "All jobs go on" in words(person.press("/jobs/resume", **hidden(button)).text)
    assert jobs.pauses() == ()


def test_a_job_that_is_resumed_while_all_are_paused_waits_and_the_answer_says_so(jobs: Jobs, person: Person):
    jobs.pause("email")
    jobs.pause()

    answer = person.press("/jobs/resume", job="email")

    assert "email goes on as soon as all jobs are resumed, too." in words(answer.text)


def test_a_pause_that_another_person_made_meanwhile_is_not_replaced(jobs: Jobs, person: Person):
    asked = hidden(person.get("/jobs/pause", params={"job": "email"}).text)
    jobs.pause("email", reason="theirs")

    answer = person.press("/jobs/pause", **(asked | {"reason": "mine"}))

    assert answer.status_code == 409
    assert "email: somebody has paused it meanwhile, until somebody resumes it (theirs); nothing was changed." in words(
        answer.text
    )
    assert paused(jobs) == [("email", "theirs", None)]


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_a_pause_that_another_person_ended_meanwhile_stays_ended(jobs: Jobs, person: Person, what: str):
    jobs.pause("email", reason="first")
    asked = hidden(person.get("/jobs/pause", params={"job": "email"}).text)
    jobs.resume("email")

    answer = person.press(f"/jobs/{what}", **(asked | {"reason": "second"}))

    assert answer.status_code == 409
    assert "email: somebody has resumed it meanwhile; nothing was changed." in words(answer.text)
    assert jobs.pauses() == ()


def test_a_pause_that_another_person_changed_meanwhile_is_not_ended(jobs: Jobs, person: Person):
    jobs.pause("email", reason="first")
    asked = hidden(person.get("/jobs/pause", params={"job": "email"}).text)
    jobs.pause("email", reason="longer", until=NOW + timedelta(days=1))

    answer = person.press("/jobs/resume", **asked)

    assert answer.status_code == 409
    assert "somebody has changed the pause meanwhile, and it ends in 24h (longer)" in words(answer.text)
    assert paused(jobs) == [("email", "longer", NOW + timedelta(days=1))]


def test_resuming_what_is_not_paused_says_so(person: Person):
    answer = person.press("/jobs/resume", job="email")

    assert (answer.status_code, "email is not paused" in words(answer.text)) == (409, True)


def test_a_person_who_may_only_look_can_neither_pause_nor_resume(jobs: Jobs, clock: Clock):
    jobs.create("email", 1)
    jobs.pause("email")
    person = Person(jobs, clock, act=False)

    page = person.get("/jobs").text
    assert not {"Pause", "Resume"} & set(words(page.split("<main")[1]).replace("…", "").split())
    assert person.press("/jobs/resume", job="email").status_code == 403
    assert person.press("/jobs/pause", job="other").status_code == 403
    assert [name for name, *_ in paused(jobs)] == ["email"]


def test_without_scripts_the_form_and_its_answer_are_pages(jobs: Jobs, person: Person):
    page = person.get("/jobs/pause", params={"job": "email"})
    assert "<h1>Pause email</h1>" in page.text

    answer = person.post("/jobs/pause", data=hidden(page.text) | {"reason": "by hand"})

    assert "<html" in answer.text
    assert paused(jobs) == [("email", "by hand", None)]


def test_the_reason_of_a_pause_is_not_shown_to_whoever_may_not_see_texts(jobs: Jobs, clock: Clock):
    jobs.create("email", 1)
    jobs.pause("email", reason="secret-one")
    jobs.pause(reason="secret-all")
    person = Person(jobs, clock, payloads=False)
    stale = {"job": "email", "seen": "none"}

    shown = [
        person.get("/jobs"),
        person.get("/jobs/pause", params={"job": "email"}),
        person.press("/jobs/pause", **stale),
        person.press("/jobs/resume", **stale),
        person.press("/jobs/pause", job="email", until="2h"),
        person.press("/jobs/resume", job="email"),
        person.press("/jobs/resume", job=""),
    ]

    assert [answer.status_code for answer in shown] == [200, 200, 409, 409, 200, 200, 200]
    for answer in shown:
        assert "secret" not in answer.text
    assert "hx-post" not in shown[-1].text, "an undo would pause all jobs without the reason that they had"


def test_a_pause_that_is_changed_without_seeing_its_reason_keeps_it(jobs: Jobs, clock: Clock):
    jobs.pause("email", reason="secret")
    person = Person(jobs, clock, payloads=False)
    page = person.get("/jobs/pause", params={"job": "email"}).text
    assert "It stays, unless you write another" in words(page)

    longer = person.press("/jobs/pause", **(hidden(page) | {"until": "2h"}))
    assert paused(jobs) == [("email", "secret", NOW + timedelta(hours=2))]

    person.press(undo_of(longer), **hidden(longer.text))
    assert paused(jobs) == [("email", "secret", None)]

    other = person.press("/jobs/pause", job="email", reason="mine")
    assert paused(jobs) == [("email", "mine", None)]
    assert "hx-post" not in other.text, "an undo could not bring the hidden reason back"


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_a_form_that_names_no_job_does_not_mean_all_of_them(jobs: Jobs, person: Person, what: str):
    jobs.pause(reason="of all")

    assert person.press(f"/jobs/{what}").status_code == 422
    assert paused(jobs) == [(None, "of all", None)]
