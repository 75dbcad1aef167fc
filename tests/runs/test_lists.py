"""Lists of runs: what is in them, in which order, page by page, and what a page costs."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from kumofire_core import NOT_READ, Cancel, CorruptItemError, InvalidArgumentError, Jobs, Run
from kumofire_core.engine import queries
from kumofire_core.rules.listing import list_shard
from tests.builders import NOW, NOW_MS, Aws, Clock, event, message, raises


def ended(aws: Aws, status: str = "failed", *, at_ms: int = NOW_MS, run_id: str | None = None, **fields: Any) -> str:
    """Store a run that has ended and is listed, as a consumer leaves it."""
    run_id = aws.a_run(run_id, status=status, finished_at=at_ms, without=("wake_shard", "wake_at"), **fields)
    aws.change(run_id, list_shard=list_shard(status, run_id), list_at=at_ms)
    return run_id


def pages(jobs: Jobs, **wanted: Any) -> list[list[str]]:
    """Return the ids of all pages."""
    found, page = [], None
    while True:
        got = jobs.list_runs(page=page, **wanted)
        found.append([run.id for run in got.runs])
        page = got.next_page
        if page is None:
            return found
        assert len(found) < 200


def listed(jobs: Jobs, **wanted: Any) -> list[str]:
    return [run_id for page in pages(jobs, **wanted) for run_id in page]


def test_runs_that_failed_are_listed_newest_first(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, handlers={"email": raises(ValueError("no"))})
    run_ids = []
    for _ in range(5):
        clock.advance(seconds=1)
        run_ids.append(jobs.create("email", max_attempts=1))
        jobs.consume(message(run_ids[-1]))

    page = jobs.list_runs(status="failed")

    assert [run.id for run in page.runs] == run_ids[::-1]
    assert page.next_page is None
    assert {(run.status, run.error_type, run.last_error) for run in page.runs} == {
        ("failed", "ValueError", "ValueError: no")
    }
    assert page.runs[0].attempts[0].message == "no"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda jobs, run_id: jobs.cancel(run_id), "canceled"),
        (lambda jobs, run_id: jobs.consume(message(run_id)), "canceled"),
    ],
)
def test_runs_that_were_canceled_are_listed(aws: Aws, end: Any, status: str):
    jobs = aws.jobs(handlers={"email": raises(Cancel("x"))})
    run_id = jobs.create("email")

    end(jobs, run_id)

    assert listed(jobs, status=status) == [run_id]
    assert listed(jobs, status="failed") == []


@pytest.mark.parametrize("fails", [{"attempt": 2}, {"cancel_requested_at": NOW_MS}])
def test_runs_whose_last_worker_was_lost_are_listed(aws: Aws, fails: dict[str, Any]):
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    found = aws.a_running_run(lease_until=NOW_MS - 1, wake_at=NOW_MS - 1, **fails)
    taken = aws.a_running_run(lease_until=NOW_MS - 1, **fails)

    jobs.dispatch()
    jobs.consume(message(taken))

    status = jobs.get_status(found).status
    assert sorted(listed(jobs, status=status)) == sorted([found, taken])


def test_a_missing_handler_lists_the_run_under_that_reason(aws: Aws):
    jobs = aws.jobs(allow_unknown_jobs=True, handlers={"other": lambda ctx: None})
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    assert listed(jobs, error_type="missing handler") == [run_id]


def test_a_run_that_a_person_retried_is_listed_where_it_is_now(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(ValueError("no"))})
    run_id = jobs.create("email", max_attempts=1)
    jobs.consume(message(run_id))

    jobs.retry(run_id)

    assert listed(jobs, status="failed") == []
    assert listed(jobs, status="queued") == [run_id]
    assert "list_shard" not in aws.item(run_id)


def test_a_run_can_be_read_without_its_payload_and_output(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: "sent"})
    run_id = jobs.create("email", {"to": "x"})
    jobs.consume(message(run_id))
    whole = jobs.get_status(run_id)
    aws.dynamodb.requests.clear()

    run = jobs.get_status(run_id, payloads=False)

    assert whole is not None
    assert run is not None
    assert (run.payload, run.output) == (NOT_READ, NOT_READ)
    assert replace(run, payload=whole.payload, output=whole.output) == whole, "all else is as ever"
    ((operation, asked),) = aws.dynamodb.requests
    assert (operation, asked["ConsistentRead"]) == ("get_item", True)
    assert not {"payload", "output"} & set(asked["ExpressionAttributeNames"].values()), "they are not fetched"
    assert jobs.get_status("nobody", payloads=False) is None


def test_a_run_whose_payload_is_not_json_can_be_read_without_it(jobs: Jobs, aws: Aws):
    run_id = aws.a_run(payload="{")

    with pytest.raises(CorruptItemError):
        jobs.get_status(run_id)
    run = jobs.get_status(run_id, payloads=False)

    assert run is not None
    assert run.status == "queued"


def test_succeeded_runs_are_listed_only_by_choice(aws: Aws):
    for chosen in (False, True):
        jobs = aws.jobs(handlers={"email": lambda ctx: None}, list_succeeded=chosen)
        run_id = jobs.create("email")
        jobs.consume(message(run_id))
        assert listed(jobs, status="succeeded") == ([run_id] if chosen else [])
        assert ("list_shard" in aws.item(run_id)) is chosen


UNFINISHED = {
    "queued": {"status": "queued"},
    "scheduled": {"status": "scheduled", "wake_at": NOW_MS + 10**9, "scheduled_for": NOW_MS + 10**9},
    "running": {"status": "running", "lease_token": "l", "lease_until": NOW_MS + 9, "claims": 1},
}


def test_unfinished_runs_are_listed_by_their_status(jobs: Jobs, aws: Aws):
    run_ids = {status: aws.a_run(**fields) for status, fields in UNFINISHED.items()}
    run_ids["failed"] = ended(aws)

    for status, run_id in run_ids.items():
        assert listed(jobs, status=status) == [run_id]
    assert sorted(listed(jobs)) == sorted(run_ids.values())
    assert listed(jobs)[-1] == run_ids["failed"]


@pytest.mark.long
@pytest.mark.parametrize("limit", [2, 7, 30, 100])
def test_the_pages_have_every_run_once_and_in_order_also_where_many_have_the_same_time(
    jobs: Jobs, aws: Aws, limit: int
):
    chance = random.Random(limit)
    times = {ended(aws, at_ms=NOW_MS + chance.randrange(5)): None for _ in range(50)}
    times = {run_id: aws.item(run_id)["list_at"] for run_id in times}

    found = pages(jobs, status="failed", limit=limit)

    flat = [run_id for page in found for run_id in page]
    assert flat == sorted(times, key=lambda run_id: (times[run_id], run_id), reverse=True)
    assert all(len(page) == limit for page in found[:-1])


def test_the_filters_hold_together(jobs: Jobs, aws: Aws, clock: Clock):
    expected = []
    for number in range(24):
        run_id = ended(
            aws,
            at_ms=NOW_MS + number * 1000,
            job_name="email" if number % 2 else "sms",
            error_type="ValueError" if number % 3 else "KeyError",
        )
        if number % 2 and number % 3 and 6 <= number <= 18:
            expected.append(run_id)

    found = listed(
        jobs,
        status="failed",
        job_name="email",
        error_type="ValueError",
        since=NOW + timedelta(seconds=6),
        until=NOW + timedelta(seconds=18),
        limit=2,
    )

    assert found == expected[::-1]
    assert len(expected) == 4


def test_unfinished_runs_are_filtered_by_when_they_are_due(jobs: Jobs, aws: Aws):
    run_ids = [
        aws.a_run(scheduled_for=NOW_MS + number * 60_000, wake_at=NOW_MS + number * 60_000 + 120_000)
        for number in range(5)
    ]

    assert listed(jobs, since=NOW + timedelta(minutes=1), until=NOW + timedelta(minutes=3)) == run_ids[3:0:-1]
    assert listed(jobs, until=NOW) == run_ids[:1]


def test_runs_are_found_by_a_part_of_their_id_or_of_their_dedupe_key(jobs: Jobs, aws: Aws):
    keyed = jobs.create("email", dedupe_key="order-7/mail", delay=3600)
    waiting = aws.a_run("abc-order-7")
    over = ended(aws, run_id="order-7-xyz", at_ms=NOW_MS - 1)
    ended(aws, run_id="other", dedupe_key="order-8", at_ms=NOW_MS - 2)
    ended(aws, run_id="shouted", dedupe_key="ORDER-7", at_ms=NOW_MS - 3)

    assert listed(jobs, text="order-7") == [keyed, waiting, over]
    assert listed(jobs, text="order-7", status="failed") == [over]
    assert listed(jobs, text="7/m") == [keyed]
    assert listed(jobs, text=keyed) == [keyed]
    assert listed(jobs, text="order-9") == []


def test_a_text_that_hardly_any_run_has_ends_a_page_early_and_the_pages_go_on(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(queries, "MOST_READ", 10)
    oldest = ended(aws, run_id="needle", at_ms=NOW_MS - 1)
    for _ in range(30):
        ended(aws)
    aws.dynamodb.requests.clear()

    first = jobs.list_runs(status="failed", text="needle", limit=5)

    assert first.runs == ()
    assert first.next_page is not None
    read = [len(request["RequestItems"][aws.table]["Keys"]) for request in aws.dynamodb.parameters("batch_get_item")]
    assert sum(read) <= 30
    assert listed(jobs, status="failed", text="needle", limit=5) == [oldest]


def test_the_entries_for_a_text_are_asked_for_in_large_steps(jobs: Jobs, aws: Aws):
    """Nearly none of them fits, so small steps would make many requests of half a unit each."""
    for _ in range(100):
        ended(aws)
    aws.dynamodb.requests.clear()

    jobs.list_runs(status="failed", text="needle", limit=1)

    assert aws.dynamodb.count() == {"query": 8, "batch_get_item": 5}


def test_a_filter_that_fits_hardly_any_run_ends_a_page_early_and_the_pages_go_on(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(queries, "MOST_EXAMINED", 20)
    monkeypatch.setattr(queries.RunQueries, "_page_size", lambda self, *arguments: 2)
    chance = random.Random(0)
    times = [NOW_MS + chance.randrange(100_000) for _ in range(100)]
    rare = [ended(aws, at_ms=at, job_name="rare" if at % 20 == 0 else "email") for at in times]
    expected = sorted(
        (run_id for run_id, at in zip(rare, times, strict=True) if at % 20 == 0),
        key=lambda run_id: (aws.item(run_id)["list_at"], run_id),
        reverse=True,
    )

    found = pages(jobs, status="failed", job_name="rare")

    assert [run_id for page in found for run_id in page] == expected
    assert len(found) > 5
    assert expected


def test_one_call_reads_a_bounded_number_of_runs(jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queries, "MOST_READ", 10)
    for _ in range(40):
        aws.a_run()
    running = aws.a_run(wake_at=NOW_MS, **UNFINISHED["running"])

    found = pages(jobs, status="running", limit=5)

    assert [run_id for page in found for run_id in page] == [running]
    assert len(found) == 3, "five runs, and twenty-five more, and the rest"


def test_a_stale_index_entry_lists_no_run_that_is_something_else_by_now(jobs: Jobs, aws: Aws):
    run_id = ended(aws)
    aws.change(run_id, status="queued")
    gone = ended(aws, run_id="gone")
    aws.dynamodb.client.delete_item(TableName=aws.table, Key={"pk": {"S": f"run#{gone}"}, "sk": {"S": "run"}})

    assert listed(jobs, status="failed") == []


def test_a_run_that_an_earlier_release_retried_leaves_the_list_of_failed_runs_with_its_end(aws: Aws):
    """That release does not know the index, so its retry leaves the run there."""
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    run_ids = [aws.a_run(list_shard=list_shard("failed", "run"), list_at=NOW_MS) for _ in range(2)]

    jobs.run_batch(event(*run_ids))

    assert [aws.item(run_id)["status"] for run_id in run_ids] == ["succeeded"] * 2
    assert listed(jobs) == []


def test_a_run_that_can_not_be_read_is_left_out_and_told(jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture):
    ended(aws, run_id="corrupt", attempt=-0, job_name="")
    fine = ended(aws, at_ms=NOW_MS - 1)

    assert listed(jobs, status="failed") == [fine]
    assert "a run is left out of the list" in caplog.text


def test_payloads_are_read_only_when_asked_for(jobs: Jobs, aws: Aws):
    ended(aws, "succeeded", payload='{"n":1}', output="2")

    [run] = jobs.list_runs(status="succeeded").runs
    assert (run.payload, run.output) == (NOT_READ, NOT_READ)
    assert repr(run.payload) == "NOT_READ"
    [run] = jobs.list_runs(status="succeeded", payloads=True).runs
    assert (run.payload, run.output) == ({"n": 1}, 2)


def test_a_page_costs_a_query_a_partition_and_one_read_whatever_the_table_holds(jobs: Jobs, aws: Aws):
    for number in range(120):
        ended(aws, at_ms=NOW_MS + number)
    aws.dynamodb.requests.clear()

    page = jobs.list_runs(status="failed", limit=20)

    assert len(page.runs) == 20
    assert aws.dynamodb.count()["batch_get_item"] == 1
    assert sum(request["Limit"] for request in aws.dynamodb.parameters("query")) <= 16 * 5
    [request] = aws.dynamodb.parameters("batch_get_item")
    assert len(request["RequestItems"][aws.table]["Keys"]) == 20


def test_a_run_is_found_by_its_dedupe_key(jobs: Jobs):
    run_id = jobs.create("email", dedupe_key="order-7")

    assert jobs.find_run(dedupe_key="order-7").id == run_id
    assert jobs.find_run(dedupe_key="order-8") is None
    assert jobs.find_run(dedupe_key="x" * 5000) is None


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"status": "faild"}, "status must be one of scheduled, queued, running, succeeded, failed, canceled"),
        ({"since": NOW, "until": NOW - timedelta(1)}, "since .* is after until"),
        ({"page": "bm9uZQ=="}, "page must be the next_page of an earlier page"),
        ({"since": datetime(2026, 1, 1)}, "since is 2026-01-01T00:00:00, which has no time zone"),
    ],
)
def test_a_wrong_filter_is_refused_before_anything_is_read(jobs: Jobs, aws: Aws, wanted: dict[str, Any], text: str):
    with pytest.raises(InvalidArgumentError, match=text):
        jobs.list_runs(**wanted)
    assert aws.dynamodb.requests == []


def test_a_page_of_a_list_goes_on_although_newer_runs_came(jobs: Jobs, aws: Aws):
    old = [ended(aws, at_ms=NOW_MS + number) for number in range(6)]
    first = jobs.list_runs(status="failed", limit=3)
    ended(aws, at_ms=NOW_MS + 100)

    second = jobs.list_runs(status="failed", limit=3, page=first.next_page)

    assert [run.id for run in (*first.runs, *second.runs)] == old[::-1]


def test_a_run_s_repr_does_not_show_its_attempts_texts(aws: Aws):
    jobs = aws.jobs(handlers={"email": raises(ValueError("secret"))})
    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert isinstance(run, Run)
    assert "secret" not in repr(run)


def test_a_run_that_is_in_both_indexes_for_a_moment_is_listed_once(jobs: Jobs, aws: Aws):
    """Each index is behind the table by another moment, and one request may not ask for the same item twice."""
    run_id = ended(aws)
    aws.change(run_id, wake_shard=0, wake_at=NOW_MS)

    assert listed(jobs) == [run_id]


def test_runs_of_the_same_time_are_listed_also_where_one_call_may_not_look_at_all_of_them(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(queries, "MOST_EXAMINED", 20)
    monkeypatch.setattr(queries.RunQueries, "_page_size", lambda self, *arguments: 2)
    midnight = {"status": "scheduled", "scheduled_for": NOW_MS + 10_000, "wake_at": NOW_MS + 10_000}
    run_ids = [aws.a_run(**midnight, wake_shard=number % 4) for number in range(60)]
    earlier = aws.a_run(status="scheduled", wake_at=NOW_MS)

    found = pages(jobs, status="scheduled", limit=25)

    assert [run_id for page in found for run_id in page] == [*sorted(run_ids, reverse=True), earlier]


def test_many_runs_are_read_in_one_request_without_their_payloads(jobs: Jobs, aws: Aws):
    ids = [aws.a_run(payload='{"secret": 1}') for _ in range(100)]
    aws.dynamodb.requests.clear()

    found = jobs.get_many([*ids[:99], ids[0], "unknown"])

    assert sorted(found) == sorted(ids[:99])
    assert {run.payload for run in found.values()} == {NOT_READ}
    assert aws.dynamodb.count() == {"batch_get_item": 1}
    assert "payload" not in aws.dynamodb.requests[0][1]["RequestItems"][aws.table]["ExpressionAttributeNames"].values()


def test_many_runs_of_no_ids_cost_no_request(jobs: Jobs, aws: Aws):
    assert jobs.get_many([]) == {}
    assert aws.dynamodb.requests == []


def test_a_page_that_is_not_the_last_says_how_far_back_it_has_looked(jobs: Jobs, aws: Aws):
    for number in range(3):
        ended(aws, at_ms=NOW_MS - number * 1_000)

    page = jobs.list_runs(limit=2)

    assert page.back_to == NOW - timedelta(seconds=1)
    assert jobs.list_runs(limit=2, page=page.next_page).back_to is None
