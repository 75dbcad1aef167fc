"""The list of runs: what a filter finds, what a page costs, what stays in place, and what is done to chosen runs."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from kumofire_core import Jobs, Run
from kumofire_core.rules.listing import list_shard
from tests.builders import NOW, NOW_MS, Aws
from tests.console.conftest import Browser

SCRIPTS = {"HX-Request": "true"}
LIST = {**SCRIPTS, "HX-Target": "list"}


def an_ended_run(aws: Aws, run_id: str, status: str = "failed", *, at_ms: int = NOW_MS, **fields: Any) -> str:
    """Store a run that has ended and is listed, in one write."""
    given: dict[str, Any] = {
        "status": status,
        "attempt": 3,
        "finished_at": at_ms,
        "list_shard": list_shard(status, run_id),
        "list_at": at_ms,
    }
    if status == "failed":
        given |= {"error_type": "ValueError", "last_error": "ValueError: no such card"}
    return aws.a_run(run_id, **(given | fields), without=("wake_shard", "wake_at"))


def a_waiting_run(aws: Aws, run_id: str, *, seconds: int = 3600, **fields: Any) -> str:
    """Store a run that waits for its time."""
    due_ms = NOW_MS + seconds * 1000
    return aws.a_run(run_id, status="scheduled", scheduled_for=due_ms, wake_at=due_ms, **fields)


def ids(text: str) -> list[str]:
    """Return the ids of the rows, in their order."""
    return re.findall(r'<tr id="[^"]+" data-row="([^"]+)"', text)


def seen(jobs: Jobs, *run_ids: str) -> list[str]:
    """Return what the checkboxes of these runs send, as they are now."""
    runs = [jobs.get_status(run_id) for run_id in run_ids]
    return [f"{run.id} {run.status.value} {run.retries}" for run in runs if run is not None]


def status_of(jobs: Jobs, run_id: str) -> str | None:
    run: Run | None = jobs.get_status(run_id)
    return None if run is None else run.status.value


def undo_of(text: str) -> str:
    """Return what the notice's form would send to undo."""
    found = re.search(r'name="what" value="([^"]+)"', text)
    assert found is not None, text
    return found.group(1).replace("&#34;", '"')


# The list


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["later", "key", "mail", "card"]),
        ("?status=failed", ["mail", "card"]),
        ("?status=canceled", ["key"]),
        ("?status=scheduled", ["later"]),
        ("?job=pay", ["card"]),
        ("?error=ValueError", ["mail"]),
        ("?since=90m", ["later", "key", "mail"]),
        ("?since=2026-03-14T10:30&until=2026-03-14T11:30", ["mail"]),
        ("?until=2026-03-14T11:00:00%2B01:00", ["card"]),
        ("?q=ar", ["card"]),
        ("?q=order&status=canceled", ["key"]),
    ],
)
def test_the_address_says_which_runs_are_shown_newest_first(
    browser: Browser, aws: Aws, query: str, expected: list[str]
):
    hour = 3_600_000
    an_ended_run(aws, "card", at_ms=NOW_MS - 2 * hour, job_name="pay", error_type="KeyError")
    an_ended_run(aws, "mail", at_ms=NOW_MS - hour)
    an_ended_run(aws, "key", "canceled", at_ms=NOW_MS - 1000, dedupe_key="order-7")
    a_waiting_run(aws, "later")

    answer = browser().get(f"/runs{query}")

    assert (answer.status_code, ids(answer.text)) == (200, expected)


def test_a_time_without_an_offset_is_in_utc_whatever_the_zone_of_the_machine_is(
    browser: Browser, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    an_ended_run(aws, "a", at_ms=NOW_MS - 3_600_000)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        text = browser().get("/runs?since=2026-03-14T10:59&until=2026-03-14T11:01").text
    finally:
        monkeypatch.undo()
        time.tzset()

    assert ids(text) == ["a"]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("since", "yesterday", "Write a duration"),
        ("until", "2026-13-01", "(UTC)"),
        ("status", "lost", "There is no such status"),
        ("job", "x" * 300, "too long"),
        ("q", "x" * 2000, "too long"),
        ("error", "a\x00b", "be printed"),
    ],
)
def test_a_wrong_filter_is_told_at_its_field_and_kept_as_it_was_typed(
    browser: Browser, aws: Aws, field: str, value: str, told: str
):
    an_ended_run(aws, "a")

    answer = browser().get("/runs", params={field: value})

    assert answer.status_code == 422
    assert ids(answer.text) == []
    assert told in answer.text
    assert f'value="{value}"' in answer.text
    if field != "status":
        message = answer.text.split(f'id="wrong-{field}"')[1].split("</span>")[0]
        assert told in message


def test_times_that_exclude_each_other_are_told_and_nothing_is_read(browser: Browser, aws: Aws):
    answer = browser().get("/runs?since=1h&until=2h")

    assert answer.status_code == 422
    assert "before the other time" in answer.text
    assert aws.dynamodb.requests == []


def test_the_list_alone_is_sent_for_a_changed_filter_and_the_address_follows(browser: Browser, aws: Aws):
    an_ended_run(aws, "a")

    answer = browser().get("/runs?q=&job=email&status=failed&since=", headers=LIST)

    assert "<html" not in answer.text
    assert ids(answer.text) == ["a"]
    assert answer.headers["HX-Push-Url"] == "/runs?status=failed&job=email"


def test_a_page_that_a_script_was_led_to_is_whole(browser: Browser):
    assert "<html" in browser().get("/runs", headers=SCRIPTS).text


@pytest.mark.parametrize(
    ("typed", "requests"), [("0a1b", {"get_item": 1}), ("order-7", {"get_item": 1, "batch_get_item": 1})]
)
def test_a_whole_id_or_key_is_found_whatever_the_rest_of_the_filter_is(
    browser: Browser, aws: Aws, typed: str, requests: dict[str, int]
):
    aws.a_run("0a1b", status="succeeded", finished_at=NOW_MS, without=("wake_shard", "wake_at"))
    stored = browser()  # made before the requests are counted
    key_jobs = aws.jobs(allow_unknown_jobs=True)
    keyed = key_jobs.create("email", dedupe_key="order-7")
    aws.dynamodb.requests.clear()

    answer = stored.get("/runs", params={"q": typed, "status": "failed", "job": "other"})

    assert ids(answer.text) == ["0a1b" if typed == "0a1b" else keyed]
    assert aws.dynamodb.count() == requests
    assert "contains=yes" in answer.text


@pytest.mark.long
def test_a_part_of_a_key_is_looked_for_in_steps_that_say_how_far_they_came(browser: Browser, aws: Aws):
    for number in range(620):
        an_ended_run(aws, f"r{number:03}", at_ms=NOW_MS - number)
    an_ended_run(aws, "last", at_ms=NOW_MS - 10_000, dedupe_key="order-7")

    first = browser().get("/runs?status=failed&q=order")
    at = re.search(r'hx-get="(/runs/more[^"]+)"', first.text)
    assert at is not None
    second = browser().get(at.group(1).replace("&amp;", "&"), headers=SCRIPTS)

    assert ids(first.text) == []
    assert "Looked at about 500 runs, back to 2026-03-14 11:59:59" in first.text
    assert ids(second.text) == ["last"]


@pytest.mark.long
def test_a_list_goes_on_by_itself_five_times_and_then_waits_for_a_person(browser: Browser, aws: Aws):
    for number in range(620):
        an_ended_run(aws, f"r{number:03}", at_ms=NOW_MS - number)

    fourth, fifth = (
        browser().get(f"/runs/more?status=failed&q=order&steps={steps}", headers=SCRIPTS).text for steps in (3, 4)
    )

    assert 'hx-trigger="revealed"' in fourth
    assert 'hx-trigger="revealed"' not in fifth
    assert "Search further back" in fifth
    assert "about 2,500 runs" in fifth


def test_pages_follow_one_another_without_a_gap_with_scripts_and_without(browser: Browser, aws: Aws):
    expected = [an_ended_run(aws, f"r{number:03}", at_ms=NOW_MS - number) for number in range(120)]
    client = browser()
    first = client.get("/runs?status=failed").text
    found, text = ids(first), first
    while (at := re.search(r'hx-get="(/runs/more[^"]+)"', text)) is not None:
        text = client.get(at.group(1).replace("&amp;", "&"), headers=SCRIPTS).text
        found += ids(text)
    by_links, text = ids(first), first
    while (at := re.search(r'href="(/runs\?[^"]*page=[^"]+)"', text)) is not None:
        text = client.get(at.group(1).replace("&amp;", "&")).text
        by_links += ids(text)

    assert found == by_links == expected


@pytest.mark.long
def test_a_page_costs_as_many_reads_whether_100_or_2000_runs_have_failed(browser: Browser, aws: Aws):
    client = browser()
    costs = []
    made = 0
    for total in (100, 2_000):
        while made < total:
            an_ended_run(aws, f"r{made:04}", at_ms=NOW_MS - made)
            made += 1
        aws.dynamodb.requests.clear()
        assert len(ids(client.get("/runs?status=failed").text)) == 50
        asked = sum(
            len(table["Keys"])
            for request in aws.dynamodb.parameters("batch_get_item")
            for table in request["RequestItems"].values()
        )
        costs.append((aws.dynamodb.count(), asked))
        assert {request["Limit"] for request in aws.dynamodb.parameters("query")} == {9}
    assert costs[0] == costs[1]
    assert costs[1][1] == 50
    assert costs[1][0]["batch_get_item"] == 1
    assert costs[1][0]["query"] <= 16  # eight partitions, and some of them a second time
    assert set(costs[1][0]) == {"query", "batch_get_item"}


def test_who_may_not_see_payloads_sees_error_types_and_no_texts(browser: Browser, aws: Aws):
    an_ended_run(aws, "a", last_error="ValueError: card 4242")
    an_ended_run(aws, "b", "canceled", cancel_reason="asked by anna")
    aws.a_running_run(progress=json.dumps([5000, "page 5 of anna", NOW_MS]))

    hidden, shown = (browser(payloads=payloads).get("/runs").text for payloads in (False, True))

    assert "ValueError" in hidden
    assert "4242" not in hidden
    assert "anna" not in hidden
    assert "card 4242" in shown
    assert "asked by anna" in shown


def test_who_may_only_look_has_nothing_to_choose(browser: Browser, aws: Aws):
    an_ended_run(aws, "a")

    text = browser(act=False).get("/runs?status=failed").text

    assert ids(text) == ["a"]
    assert "data-choice" not in text
    assert 'id="chosen"' not in text
    assert "/bulk" not in text


def test_hostile_names_and_errors_are_shown_as_text(browser: Browser, aws: Aws):
    bad = "<img src=x onerror=alert(1)>\u202e"
    an_ended_run(aws, 'x"><script>', job_name=bad, error_type=bad, last_error=f"{bad}\x1b[2J")

    text = browser().get("/runs").text

    assert "<img" not in text
    assert "<script>" not in text
    assert "\u202e" not in text
    assert "&lt;img src=x" in text


# The rows on the screen


def again(client: TestClient, page: str, *run_ids: str) -> str:
    """Ask for the rows on the screen as the page's script does."""
    at = re.search(r'id="runs-live"[^>]*hx-get="([^"]+)"', page)
    assert at is not None
    answer = client.get(
        at.group(1).replace("&amp;", "&") + "".join(f"&id={run_id}" for run_id in run_ids), headers=SCRIPTS
    )
    assert answer.status_code == 200
    return answer.text


def test_rows_on_the_screen_are_read_again_in_one_request_and_stay_in_place(browser: Browser, aws: Aws, jobs: Jobs):
    for number in range(3):
        an_ended_run(aws, f"r{number}", at_ms=NOW_MS - number)
    client = browser()
    page = client.get("/runs?status=failed").text
    jobs.retry("r0")
    jobs.delete("r1")
    aws.dynamodb.requests.clear()

    text = again(client, page, "r0", "r1", "r2")

    rows = dict(re.findall(r'<tr id="run-(r\d)"(.*?)</tr>', text, re.DOTALL))
    assert list(rows) == ["r0", "r1", "r2"]
    assert all('hx-swap-oob="morph"' in row for row in rows.values())
    assert 'class="gone"' in rows["r0"]
    assert "queued" in rows["r0"]
    assert 'value="r0 queued 1"' in rows["r0"]
    assert "deleted" in rows["r1"]
    assert "data-choice" not in rows["r1"]
    assert 'class="gone"' not in rows["r2"]
    assert aws.dynamodb.count() == {"batch_get_item": 1, "query": 8}


def test_no_more_than_a_hundred_rows_are_read_again(browser: Browser, aws: Aws):
    client = browser()
    page = client.get("/runs").text
    aws.dynamodb.requests.clear()

    again(client, page, *[f"r{number}" for number in range(150)])

    asked = aws.dynamodb.parameters("batch_get_item")[0]["RequestItems"][aws.table]["Keys"]
    assert len(asked) == 100


def test_newer_runs_are_announced_once_and_not_inserted(browser: Browser, aws: Aws):
    an_ended_run(aws, "old", at_ms=NOW_MS - 1000)
    client = browser()
    page = client.get("/runs?status=failed&job=email").text

    before = again(client, page, "old")
    an_ended_run(aws, "other", job_name="pay")
    unrelated = again(client, page, "old")
    an_ended_run(aws, "new")
    after = again(client, page, "old")

    assert "Newer runs" not in before
    assert "Newer runs" not in unrelated
    assert 'href="/runs?status=failed&amp;job=email"' in after
    assert "Newer runs" in after
    assert ids(after) == ["old"]
    aws.dynamodb.requests.clear()
    assert "Newer runs" in again(client, after, "old")
    assert aws.dynamodb.count() == {"batch_get_item": 1}


def test_a_list_of_all_that_begins_with_runs_to_come_announces_failures(browser: Browser, aws: Aws):
    a_waiting_run(aws, "later")
    client = browser()
    page = client.get("/runs").text

    before = again(client, page, "later")
    an_ended_run(aws, "new", at_ms=NOW_MS + 5)

    assert "Newer runs" not in before
    assert "Newer runs" in again(client, page, "later")


# What is chosen


def chosen(client: TestClient, action: str, runs: list[str], **fields: str) -> Any:
    return client.post("/runs/chosen", data={"action": action, "run": runs, **fields}, headers=SCRIPTS)


def test_chosen_runs_are_retried_and_the_others_left(browser: Browser, aws: Aws, jobs: Jobs):
    for name in "abc":
        an_ended_run(aws, name)

    answer = chosen(browser(), "retry", seen(jobs, "a", "b"))

    assert answer.status_code == 200
    assert "Retried 2 runs." in answer.text
    assert "Undo" not in answer.text
    assert [status_of(jobs, name) for name in "abc"] == ["queued", "queued", "failed"]


@pytest.mark.parametrize(("action", "status"), [("retry", "queued"), ("cancel", "canceled"), ("delete", None)])
def test_a_single_run_is_changed_without_an_operation(
    browser: Browser, aws: Aws, jobs: Jobs, action: str, status: str | None
):
    a_waiting_run(aws, "a") if action == "cancel" else an_ended_run(aws, "a")

    answer = chosen(browser(), action, seen(jobs, "a"), sure="yes")

    assert (answer.status_code, status_of(jobs, "a")) == (200, status)
    assert not [item for item in aws.items() if item["pk"].startswith("bulk#")]


@pytest.mark.parametrize("free", ["", "yes"])
def test_a_single_run_with_a_key_is_deleted_only_where_the_question_says_so(
    browser: Browser, aws: Aws, jobs: Jobs, free: str
):
    an_ended_run(aws, "a", dedupe_key="order-7")

    answer = chosen(browser(), "delete", seen(jobs, "a"), sure="yes", free=free)

    assert (answer.status_code, status_of(jobs, "a")) == ((200, None) if free else (409, "failed"))
    assert ("1 has a dedupe key and was left." in answer.text) is not bool(free)


def test_a_run_that_a_newer_one_of_its_key_supersedes_is_left_and_that_is_told(browser: Browser, aws: Aws, jobs: Jobs):
    own = aws.jobs(allow_unknown_jobs=True)
    first = own.create("email", dedupe_key="k", dedupe="unfinished")
    own.cancel(first)
    own.create("email", dedupe_key="k", dedupe="unfinished")

    answer = chosen(browser(), "retry", seen(jobs, first))

    assert (answer.status_code, status_of(jobs, first)) == (409, "canceled")
    assert "1 could not be changed:" in answer.text


@pytest.mark.parametrize("action", ["retry", "cancel", "run-now", "delete"])
def test_runs_that_changed_since_they_were_seen_are_left_alone_and_told(
    browser: Browser, aws: Aws, jobs: Jobs, action: str
):
    ended = action in ("retry", "delete")
    for name in "abc":
        an_ended_run(aws, name) if ended else a_waiting_run(aws, name)
    before = seen(jobs, "a", "b", "c")
    if ended:  # retried by another person, and failed again: the same status, and not the same end
        aws.change("a", retries=1)
        aws.change("b", status="queued")
    else:
        jobs.cancel("a")
        jobs.cancel("b")
    untouched = [aws.item("a"), aws.item("b")]

    answer = chosen(browser(), action, before, sure="yes")

    assert "2 have changed meanwhile and were left as they are." in answer.text
    assert [aws.item("a"), aws.item("b")] == untouched
    assert aws.item("c") is None or aws.item("c") != before


def test_nothing_is_changed_where_all_have_changed_and_that_is_said(browser: Browser, aws: Aws, jobs: Jobs):
    an_ended_run(aws, "a")
    before = seen(jobs, "a")
    jobs.delete("a")

    answer = chosen(browser(), "retry", before)

    assert answer.status_code == 409
    assert "Nothing was changed. 1 has changed meanwhile" in answer.text


def test_runs_in_another_status_are_left_and_counted(browser: Browser, aws: Aws, jobs: Jobs):
    an_ended_run(aws, "a")
    a_waiting_run(aws, "b")

    answer = chosen(browser(), "retry", seen(jobs, "a", "b"))

    assert "Retried 1 run. 1 can&#39;t be retried in its status." in answer.text
    assert status_of(jobs, "b") == "scheduled"


def test_a_canceled_run_gets_its_time_back(browser: Browser, aws: Aws, jobs: Jobs):
    a_waiting_run(aws, "a", seconds=7200)
    aws.a_running_run()  # not chosen
    client = browser()

    answer = chosen(client, "cancel", seen(jobs, "a"))
    assert status_of(jobs, "a") == "canceled"
    undone = client.post("/runs/undo", data={"what": undo_of(answer.text)}, headers=SCRIPTS)

    run = jobs.get_status("a")
    assert run is not None
    assert (run.status, run.scheduled_for) == ("scheduled", NOW + timedelta(hours=2))
    assert "Undone: 1 run as before." in undone.text


def test_canceling_says_what_cannot_be_undone(browser: Browser, aws: Aws, jobs: Jobs):
    a_waiting_run(aws, "fresh")
    a_waiting_run(aws, "between", attempt=1)
    aws.a_running_run(run_id="busy")

    answer = chosen(browser(), "cancel", seen(jobs, "fresh", "between", "busy"))

    assert "Canceled 3 runs. 1 of them executes, and was asked to stop. 2 can&#39;t be undone." in answer.text
    assert [entry[0] for entry in json.loads(undo_of(answer.text))["runs"]] == ["fresh"]


@pytest.mark.parametrize(("action", "fields"), [("run-now", {}), ("reschedule", {"at": "2026-03-15T09:30"})])
def test_a_moved_run_gets_its_former_time_back(
    browser: Browser, aws: Aws, jobs: Jobs, action: str, fields: dict[str, str]
):
    a_waiting_run(aws, "a", seconds=7200)
    client = browser()

    answer = chosen(client, action, seen(jobs, "a"), **fields)
    moved = jobs.get_status("a")
    assert moved is not None
    assert moved.scheduled_for == (NOW if action == "run-now" else NOW + timedelta(hours=21, minutes=30))
    client.post("/runs/undo", data={"what": undo_of(answer.text)}, headers=SCRIPTS)

    back = jobs.get_status("a")
    assert back is not None
    assert back.scheduled_for == NOW + timedelta(hours=2)


def test_undoing_what_has_moved_on_says_so_and_harms_nothing(browser: Browser, aws: Aws, jobs: Jobs):
    for name in "abcd":
        a_waiting_run(aws, name)
    client = browser()
    canceled = undo_of(chosen(client, "cancel", seen(jobs, "a", "b", "d")).text)
    moved = undo_of(chosen(client, "reschedule", seen(jobs, "c"), at="3h").text)
    jobs.retry("a")  # another person was faster
    jobs.delete("b")
    jobs.retry("d")
    jobs.cancel("d", "for good")  # canceled again, and not by the change that is to be undone
    jobs.reschedule("c", NOW + timedelta(days=1))
    before = aws.items()

    first, second = (client.post("/runs/undo", data={"what": what}, headers=SCRIPTS) for what in (canceled, moved))

    assert first.status_code == second.status_code == 409
    assert "Nothing was undone. 3 have moved on and were left as they are." in first.text
    assert "1 has moved on" in second.text
    assert aws.items() == before


@pytest.mark.parametrize(
    "what",
    [
        "",
        "[]",
        "{}",
        '{"action":"delete","runs":[["a",0,1,1]]}',
        '{"action":"move","runs":[["a",0,-1,1]]}',
        '{"action":"move","runs":[["a",0,1]]}',
        '{"action":"move","runs":[[5,0,1,1]]}',
        '{"action":"move","runs":[["a",true,1,1]]}',
        '{"action":"move","runs":[["a",0,99999999999999999,1]]}',
        json.dumps({"action": "move", "runs": [["a", 0, 1, 1]] * 101}),
        "[" * 100_000,
    ],
)
def test_an_undo_that_is_none_of_ours_changes_nothing(browser: Browser, aws: Aws, what: str):
    a_waiting_run(aws, "a")
    before = aws.items()

    answer = browser().post("/runs/undo", data={"what": what}, headers=SCRIPTS)

    assert answer.status_code == 422
    assert aws.items() == before


def test_deleting_asks_first_and_leaves_runs_with_a_key(browser: Browser, aws: Aws, jobs: Jobs):
    an_ended_run(aws, "a")
    an_ended_run(aws, "b", dedupe_key="order-7")
    client = browser()

    question = chosen(client, "delete", seen(jobs, "a", "b"))
    assert question.headers["HX-Retarget"] == "#dialog"
    assert "Delete 2 runs?" in question.text
    assert 'name="sure"' in question.text
    assert status_of(jobs, "a") == "failed"
    answer = chosen(client, "delete", seen(jobs, "a", "b"), sure="yes")

    assert "Deleted 1 run. 1 has a dedupe key and was left." in answer.text
    assert [status_of(jobs, name) for name in "ab"] == [None, "failed"]
    assert "Undo" not in answer.text

    chosen(client, "delete", seen(jobs, "b"), sure="yes", free="yes")
    assert status_of(jobs, "b") is None


def test_a_wrong_time_is_told_in_the_dialog_and_kept(browser: Browser, aws: Aws, jobs: Jobs):
    a_waiting_run(aws, "a")

    answer = chosen(browser(), "reschedule", seen(jobs, "a"), at="soon")

    assert (answer.status_code, answer.headers["HX-Retarget"]) == (422, "#dialog")
    assert 'value="soon"' in answer.text
    assert 'value="a scheduled 0"' in answer.text
    assert "(UTC)" in answer.text


@pytest.mark.parametrize(
    ("action", "runs"),
    [
        ("retry", []),
        ("retry", ["a"]),
        ("retry", ["a failed"]),
        ("retry", ["a lost 0"]),
        ("retry", ["a failed -1"]),
        ("explode", ["a failed 0"]),
        ("retry", ["a failed 0"] * 1_001),
    ],
)
def test_a_choice_that_cannot_be_meant_changes_nothing(browser: Browser, aws: Aws, action: str, runs: list[str]):
    an_ended_run(aws, "a")
    before = aws.items()

    answer = chosen(browser(), action, runs)

    assert answer.status_code == 422
    assert aws.items() == before


def test_without_scripts_the_answer_leads_back_to_the_same_list(browser: Browser, aws: Aws, jobs: Jobs):
    an_ended_run(aws, "a")
    client = browser()
    data = {"action": "retry", "run": seen(jobs, "a"), "back": "status=failed&job=email&evil=1"}

    done = client.post("/runs/chosen", data=data)
    asked = client.post("/runs/chosen", data=data | {"action": "delete"})

    assert "Retried 1 run." in done.text
    assert 'href="/runs?status=failed&amp;job=email"' in done.text
    assert "<html" in asked.text
    assert "Delete 1 run?" in asked.text


def test_who_may_only_look_can_change_nothing_by_an_address(browser: Browser, aws: Aws, jobs: Jobs):
    an_ended_run(aws, "a")

    answer = chosen(browser(act=False), "retry", seen(jobs, "a"))

    assert (answer.status_code, status_of(jobs, "a")) == (403, "failed")
