"""The first page: it never keeps a person waiting, its numbers are those that are stored, and it says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from starlette.testclient import TestClient

from kumofire_core import Fail, Jobs
from kumofire_core.console import Access, overview
from kumofire_core.console.app import build
from kumofire_core.console.overview import OTHER, by_trouble, hour_of, state_of
from kumofire_core.deployment.dead_letters import DeadLetters
from kumofire_core.deployment.discovery import deployment_of_jobs
from kumofire_core.engine import counts, stats
from tests.builders import NOW, NOW_MS, Aws, Clock, event
from tests.faults import Refused

Visitor = Callable[..., TestClient]


@pytest.fixture
def person(jobs: Jobs, clock: Clock) -> Visitor:
    """Return a function that makes a browser; all of them visit one console, whose clock is that of ``jobs``."""
    rights: dict[str, Access] = {}
    app = build(
        jobs,
        authorize=lambda request: rights[request.headers["user-agent"]],
        read_only=False,
        hosts=None,
        title="nightly",
        dead_letters_of=lambda: DeadLetters(deployment_of_jobs(jobs)),
        clock=clock,
    )

    def visit(*, scripts: bool = True, **access: bool) -> TestClient:
        name = f"person {len(rights)}"
        rights[name] = Access(**({"act": True, "payloads": True} | access))
        return TestClient(app, headers={"User-Agent": name, **({"HX-Request": "true"} if scripts else {})})

    return visit


def text(html: str) -> str:
    """Return what a person reads of a part of a page."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html))).strip()


def card(html: str, name: str) -> list[str]:
    """Return value and hint of a card."""
    found = re.search(rf'id="card-{name}".*?class="value[^"]*">(.*?)</div>\s*<div class="hint">(.*?)</div>', html, re.S)
    assert found is not None
    return [text(part) for part in found.groups()]


def verdicts(html: str) -> str:
    found = re.search(r'<section class="verdicts".*?</section>', html, re.S)
    assert found is not None
    return text(found[0])


def table(html: str, name: str) -> list[list[str]]:
    """Return the rows of a table, by the id of its panel's heading."""
    found = re.search(rf'<table aria-labelledby="{name}">.*?<tbody>(.*?)</tbody>', html, re.S)
    assert found is not None
    return [
        [text(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
        for row in re.findall(r"<tr.*?</tr>", found[1], re.S)
    ]


def a_failed_run(aws: Aws, number: int = 0, **fields: Any) -> str:
    given = {
        "status": "failed",
        "finished_at": NOW_MS,
        "list_shard": f"failed#{number % 8}",
        "list_at": NOW_MS - number,
    }
    return aws.a_run(without=("wake_shard", "wake_at"), **(given | fields))


def executed(aws: Aws, jobs: Jobs, job: str, times: int) -> None:
    """Let a batch with some runs of a job be consumed."""
    jobs.consume_batch(event(*(aws.a_run(job_name=job) for _ in range(times))))


# ---- Nobody waits for it


def test_the_first_answer_asks_aws_for_nothing_and_its_live_part_is_loaded_at_once(aws: Aws, person: Visitor) -> None:
    a_failed_run(aws)
    someone = person(scripts=False)

    answer = someone.get("/")

    assert answer.status_code == 200
    assert (aws.dynamodb.requests, aws.sqs.requests) == ([], [])
    assert card(answer.text, "failed") == ["\N{EN DASH}", ""]
    assert re.search(r'data-pending hx-get="/overview" hx-trigger="load, every 5s', answer.text)


def test_the_next_visitor_sees_at_once_what_was_known_last_and_of_when_it_is(
    aws: Aws, person: Visitor, clock: Clock
) -> None:
    a_failed_run(aws)
    person().get("/overview")
    aws.dynamodb.requests.clear()
    clock.advance(minutes=5)

    shown = person(scripts=False).get("/").text

    assert aws.dynamodb.requests == []
    assert card(shown, "failed")[0] == "1"
    assert "As of 12:00:00 UTC, which is 5m ago" in text(shown)
    assert 'hx-trigger="load, every' in shown


def test_what_is_some_seconds_old_is_not_asked_for_again_at_once(person: Visitor, clock: Clock) -> None:
    person().get("/overview")
    clock.advance(seconds=4)

    shown = person(scripts=False).get("/").text

    assert 'hx-trigger="every 5s' in shown
    assert "data-pending" not in shown


def test_a_browser_without_scripts_is_led_to_the_page_that_waits(aws: Aws, person: Visitor) -> None:
    a_failed_run(aws)
    someone = person(scripts=False)

    [address] = re.findall(r'<noscript>.*?href="(.*?)"', someone.get("/").text)

    assert card(someone.get(address).text, "failed")[0] == "1"


def test_a_second_look_within_five_seconds_makes_no_request(aws: Aws, person: Visitor, clock: Clock) -> None:
    person().get("/overview")
    aws.dynamodb.requests.clear()
    aws.sqs.requests.clear()
    clock.advance(seconds=4)

    assert person().get("/overview").status_code == 200

    assert (aws.dynamodb.requests, aws.sqs.requests) == ([], [])


def test_the_live_part_makes_as_many_requests_with_many_runs_as_with_few(
    aws: Aws, person: Visitor, clock: Clock
) -> None:
    looked = []
    for more in (1, 59):
        for number in range(more):
            a_failed_run(aws, number)
            aws.a_run(scheduled_for=NOW_MS + 60_000)
        aws.dynamodb.requests.clear()
        clock.advance(seconds=10)
        person().get("/overview")
        looked.append(len(aws.dynamodb.requests))

    assert looked[0] == looked[1] < 60


def test_while_aws_does_not_answer_the_page_keeps_what_it_shows(aws: Aws, person: Visitor, clock: Clock) -> None:
    a_failed_run(aws)
    person().get("/overview")
    clock.advance(minutes=2)
    client, aws.dynamodb.client = aws.dynamodb.client, Refused("ProvisionedThroughputExceededException")
    try:
        answer, shown = person().get("/overview"), person(scripts=False).get("/")
    finally:
        aws.dynamodb.client = client

    assert (answer.status_code, answer.headers["HX-Retarget"]) == (503, "#trouble")
    assert card(shown.text, "failed")[0] == "1"


# ---- Its numbers


def test_the_cards_have_the_numbers_that_are_stored(aws: Aws, person: Visitor) -> None:
    for number in range(3):
        a_failed_run(aws, number)
    a_failed_run(aws, status="canceled", list_shard="canceled#0")
    aws.a_run(status="scheduled", scheduled_for=NOW_MS + 60_000)
    aws.a_run(scheduled_for=NOW_MS + 60_000)
    aws.a_running_run()
    aws.sqs.send_message(QueueUrl=aws.queue_url, MessageBody="a")
    aws.sqs.send_message(QueueUrl=aws.queue_url, MessageBody="b", DelaySeconds=60)

    shown = person().get("/overview").text

    assert card(shown, "failed")[0] == "3"
    assert card(shown, "canceled")[0] == "1"
    assert card(shown, "unfinished") == ["3", "1 scheduled · 1 queued · 1 running"]
    assert card(shown, "messages") == ["1", "0 in flight · 1 delayed"]
    assert card(shown, "due") == ["none", "nothing that is due waits"]
    assert re.search(r'id="card-failed" href="/runs\?status=failed"', shown)


def test_a_count_that_is_not_all_there_are_has_a_plus(
    aws: Aws, person: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "MOST_LISTED", 8)
    for number in range(24):
        a_failed_run(aws, number, error_type="ValueError")

    shown = person().get("/overview").text

    assert card(shown, "failed")[0] == "8+"
    assert "8+ failed runs are 1 error" in text(shown)
    assert table(shown, "trouble-title")[0][3] == "8+"


def test_of_unfinished_runs_the_card_says_of_how_many_the_status_is_known(
    aws: Aws, person: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "MOST_EXAMINED", 2)
    for _ in range(5):
        aws.a_run(scheduled_for=NOW_MS + 60_000)

    shown = person().get("/overview").text

    assert card(shown, "unfinished") == ["5", "0 scheduled · 2 queued · 0 running, of 2 looked at"]


def test_what_these_credentials_may_not_ask_is_not_known_instead_of_nothing(aws: Aws, person: Visitor) -> None:
    client, aws.sqs.client = aws.sqs.client, Refused("AccessDenied")
    try:
        shown = person().get("/overview").text
    finally:
        aws.sqs.client = client

    assert card(shown, "messages")[0] == card(shown, "dead-letters")[0] == "not known"
    assert "dead letters" not in verdicts(shown)


def test_the_run_that_is_due_for_longest_is_named_and_linked(aws: Aws, person: Visitor) -> None:
    aws.a_run(scheduled_for=NOW_MS - 5_000)
    aws.a_run("the-oldest", job_name="invoice", scheduled_for=NOW_MS - 240_000)

    shown = person().get("/overview").text

    assert card(shown, "due") == ["4m late", "invoice"]
    assert 'id="card-due" href="/runs/the-oldest"' in shown


# ---- What needs a person


def test_a_quiet_system_says_so(aws: Aws, person: Visitor) -> None:
    shown = verdicts(person().get("/overview").text)

    assert shown.startswith("Runs start on time. Nothing is paused")
    assert "No run failed in the last 60 minutes" in shown


def test_what_is_due_while_nothing_moves_is_told_with_the_first_thing_to_do(
    aws: Aws, jobs: Jobs, person: Visitor, clock: Clock
) -> None:
    aws.a_run()
    clock.advance(minutes=4, seconds=30)

    shown = verdicts(person().get("/overview").text)

    assert shown.startswith("Nothing moves. A run has been due for 4m, and consumers have done nothing for minutes.")
    assert "First: kumofire doctor" in shown


@pytest.mark.usefixtures("counts_awaited")
def test_a_backlog_of_consumers_that_work_is_not_called_a_standstill(
    aws: Aws, jobs: Jobs, person: Visitor, clock: Clock
) -> None:
    jobs.handler("email")(lambda ctx: None)
    aws.a_run()
    clock.advance(minutes=12)
    executed(aws, jobs, "email", 1)

    shown = verdicts(person().get("/overview").text)

    assert shown.startswith("Runs start late. The oldest has been due for 12m. Consumers work")


def test_runs_that_wait_for_a_busy_consumer_are_told_apart_from_a_stopped_one(
    aws: Aws, person: Visitor, clock: Clock
) -> None:
    aws.a_run()
    aws.a_running_run(lease_until=NOW_MS + 600_000)
    clock.advance(minutes=5)

    assert "1 run started earlier and did not end" in verdicts(person().get("/overview").text)


@pytest.mark.parametrize(
    ("waited", "is_still"), [(timedelta(minutes=2, seconds=59), False), (timedelta(minutes=3), True)]
)
def test_a_standstill_is_told_after_three_minutes(
    aws: Aws, jobs: Jobs, clock: Clock, waited: Any, is_still: bool
) -> None:
    aws.a_run()
    clock.now += waited

    assert state_of(jobs.stats(minutes=60)).is_still is is_still


def test_consumers_that_moved_a_moment_ago_do_not_stand_still(aws: Aws, jobs: Jobs, clock: Clock) -> None:
    jobs.handler("email")(lambda ctx: None)
    clock.advance(minutes=9)
    silent = aws.jobs(clock=clock, concurrency=1, counts=False)
    silent.handler("email")(lambda ctx: None)
    batch = event(aws.a_run())
    batch["Records"][0]["attributes"]["SentTimestamp"] = str(NOW_MS)
    silent.consume_batch(batch)
    aws.a_run()

    found = state_of(jobs.stats(minutes=60))
    clock.advance(minutes=4)
    later = state_of(jobs.stats(minutes=60))

    assert (found.late, found.is_still) == (timedelta(minutes=9), False)
    assert later.is_still


def test_while_all_jobs_are_paused_the_page_says_that_and_calls_it_no_standstill(
    aws: Aws, jobs: Jobs, person: Visitor, clock: Clock
) -> None:
    jobs.pause(reason="the database moves", until=NOW + timedelta(hours=2))
    aws.a_run()
    clock.advance(minutes=10)

    shown = verdicts(person().get("/overview").text)

    assert shown.startswith(
        "All jobs are paused since 12:00:00 UTC until 14:00:00 UTC: the database moves Nothing starts, and runs wait."
    )
    assert "late" not in shown


def test_what_waits_for_its_paused_job_is_not_called_late(aws: Aws, jobs: Jobs, person: Visitor, clock: Clock) -> None:
    jobs.handler("email")(lambda ctx: None)
    jobs.pause("email")
    aws.a_run()
    clock.advance(minutes=20)

    shown = verdicts(person().get("/overview").text)

    assert shown.startswith("1 job is paused: email")


def test_paused_jobs_are_named(jobs: Jobs, person: Visitor) -> None:
    for name in ("a", "b", "c", "d"):
        jobs.handler(name)(lambda ctx: None)
        jobs.pause(name)

    assert "4 jobs are paused: a , b , c and 1 more." in verdicts(person().get("/overview").text)


def test_why_a_job_is_paused_is_for_those_who_may_see_payloads(jobs: Jobs, person: Visitor) -> None:
    jobs.handler("email")(lambda ctx: None)
    jobs.pause("email", reason="anna@example.com complains")

    assert "anna@" in person().get("/overview").text
    hidden = person(payloads=False).get("/overview").text
    assert "anna@" not in hidden
    assert "1 job is paused: email" in verdicts(hidden)


@pytest.mark.moto
def test_dead_letters_are_told_with_where_to_look(aws: Aws, person: Visitor) -> None:
    url = aws.sqs.create_queue(QueueName="dead")["QueueUrl"]
    policy = '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead", "maxReceiveCount": 5}'
    aws.sqs.set_queue_attributes(QueueUrl=aws.queue_url, Attributes={"RedrivePolicy": policy})
    for _ in range(2):
        aws.sqs.send_message(QueueUrl=url, MessageBody="x")

    shown = person().get("/overview").text

    assert verdicts(shown).startswith("2 messages are on the dead-letter queue: no consumer could take them.")
    assert card(shown, "dead-letters")[0] == "2"


# ---- The hour


@pytest.fixture
def an_hour(aws: Aws, jobs: Jobs, clock: Clock, counts_awaited: None) -> None:
    """Let one job do well, one fail now and then, and one fail always but seldom."""

    def sometimes(ctx: Any) -> None:
        if ctx.run.id.endswith(("1", "3")):
            raise Fail("no such address")

    def always(ctx: Any) -> None:
        raise Fail("broken")

    jobs.handler("fine")(lambda ctx: None)
    jobs.handler("sometimes")(sometimes)
    jobs.handler("always", max_attempts=1)(always)
    jobs.consume_batch(event(*(aws.a_run(f"s{number}", job_name="sometimes") for number in range(50))))
    clock.advance(minutes=10)
    executed(aws, jobs, "fine", 9)
    clock.advance(minutes=10)
    executed(aws, jobs, "always", 1)
    clock.advance(seconds=40)


@pytest.mark.usefixtures("an_hour")
def test_the_bars_of_the_hour_have_the_heights_of_what_consumers_counted(person: Visitor) -> None:
    shown = person().get("/overview").text

    def bar(chart: str, time: str) -> list[tuple[str, str]]:
        found = re.search(rf'<g id="{chart}-{time}".*?</g>', shown, re.S)
        assert found is not None
        return re.findall(r'<rect class="(\w+)" [^>]*? height="([\d.]+)"/>', found[0])[1:]

    # 50 is the most in a minute, so 60 is the highest tick, which is 140 pixels high.
    assert bar("throughput", "1200") == [("failed", "23.33"), ("succeeded", "93.33")]
    assert bar("throughput", "1210") == [("succeeded", "21.0")]
    assert bar("throughput", "1220") == [("failed", "2.33")]
    assert bar("failures", "1200") == [("failed", "140.0")]
    assert bar("failures", "1220") == [("failed", "14.0")]
    assert bar("throughput", "1215") == []
    assert "49 succeeded, 0 retried, 11 failed" in text(shown)
    assert "11 failed, 18% of those that ended." in text(shown)


@pytest.mark.usefixtures("an_hour")
def test_every_number_of_the_charts_is_in_a_table_too(person: Visitor) -> None:
    shown = person().get("/overview").text

    found = re.search(r'<tr id="minute-1200">(.*?)</tr>', shown, re.S)

    assert found is not None
    assert text(found[1]).startswith("12:00 40 0 10")
    assert len(re.findall(r'<tr id="minute-', shown)) == 60


@pytest.mark.usefixtures("an_hour")
def test_jobs_are_ranked_by_the_share_that_failed_where_few_runs_weigh_less(person: Visitor) -> None:
    rows = table(person().get("/overview").text, "trouble-title")

    assert [row[:4] for row in rows] == [
        ["sometimes", "20%", "10", "10"],
        ["always", "100%", "1", "1"],
        ["fine", "0%", "0", "0"],
    ]
    assert rows[0][4] == "0.8"


@pytest.mark.parametrize(("second", "partial"), [(9, ["1159", "1200"]), (10, ["1200"])])
def test_minutes_that_consumers_may_still_add_to_are_marked(
    person: Visitor, clock: Clock, second: int, partial: list[str]
) -> None:
    clock.advance(seconds=second)

    shown = person().get("/overview").text

    assert re.findall(r'<g id="failures-(\d+)" class="partial"', shown) == partial


@pytest.mark.usefixtures("counts_awaited")
def test_jobs_in_equal_trouble_come_by_failed_runs_the_oldest_due_and_pauses(aws: Aws, jobs: Jobs) -> None:
    for name in ("a-fine-one", "paused"):
        jobs.handler(name)(lambda ctx: None)
    executed(aws, jobs, "a-fine-one", 1)
    a_failed_run(aws, job_name="listed-one")
    for number in range(2):
        a_failed_run(aws, number, job_name="listed-two")
    aws.a_run(job_name="waiting")
    jobs.pause("paused")

    found = by_trouble(jobs.stats(minutes=60))

    assert [row.name for row in found] == ["listed-two", "listed-one", "waiting", "paused", "a-fine-one"]


@pytest.mark.usefixtures("counts_awaited")
def test_messages_of_runs_that_are_not_there_are_not_a_job_in_trouble(aws: Aws, jobs: Jobs) -> None:
    jobs.consume_batch(event("of-a-deleted-run"))

    found = jobs.stats(minutes=60)

    assert found.minutes[-1].by_job[OTHER].ignored == 1
    assert by_trouble(found) == []


def test_the_page_and_the_counts_call_the_other_jobs_the_same() -> None:
    assert OTHER == counts.OTHER


def test_the_mean_is_that_of_the_attempts_and_not_of_the_messages() -> None:
    from kumofire_core.engine.stats import OutcomeCounts

    found = overview._sum([OutcomeCounts(succeeded=3, failed=1, ignored=96, milliseconds=8_000)])

    assert (found.mean_seconds, found.share) == (2.0, 0.25)


def test_an_hour_without_anything_has_no_mean_and_no_share(jobs: Jobs) -> None:
    found = hour_of(jobs.stats(minutes=60))

    assert (found.mean_seconds, found.share, found.attempts) == (None, None, 0)


# ---- What fails


def test_two_thousand_failures_are_shown_as_the_few_errors_they_are(aws: Aws, person: Visitor) -> None:
    mails = {a_failed_run(aws, number, job_name="send email", error_type="SMTPError") for number in range(4)}
    a_failed_run(aws, 5, job_name="invoice", error_type="KeyError")
    a_failed_run(aws, 6, job_name="invoice")
    a_failed_run(aws, 7, job_name="send email", error_type="KeyError")

    someone = person(scripts=False)
    shown = someone.get("/", params={"wait": 1}).text

    assert "7 failed runs are 4 errors" in text(shown)
    assert table(shown, "errors-title") == [
        ["SMTPError", "send email", "4"],
        ["not known", "invoice", "1"],
        ["KeyError", "invoice", "1"],
        ["KeyError", "send email", "1"],
    ]
    [address] = re.findall(r'href="(/runs\?status=failed&amp;job=send[^"]*SMTPError)"', shown)
    listed = someone.get(unescape(address)).text
    assert set(re.findall(r'href="/runs/([\w-]+)', listed)) == mails


def test_names_of_jobs_and_errors_are_shown_as_text(aws: Aws, person: Visitor) -> None:
    evil = "<img src=x onerror=alert(1)>\u202e"
    a_failed_run(aws, job_name=evil, error_type=evil)
    aws.a_run(job_name=evil, scheduled_for=NOW_MS - 1_000)

    shown = person().get("/overview").text

    assert "<img" not in shown
    assert "\u202e" not in shown
    assert card(shown, "due")[1] == "<img src=x onerror=alert(1)>\\u202e"
    assert re.search(r'<tr id="job-[\w%.~-]+" data-row>', shown)
