"""Operations over many runs: counted first, begun in the background, watched, aborted, and resumed elsewhere."""

from __future__ import annotations

import gc
import re
import threading
from typing import Any

import pytest

from kumofire_core import Jobs
from kumofire_core.console import bulk_pages
from kumofire_core.rules.listing import list_shard
from tests.builders import NOW_MS, Aws, Clock
from tests.console.conftest import Browser
from tests.faults import Refused

SCRIPTS = {"HX-Request": "true"}
DIALOG = {**SCRIPTS, "HX-Target": "dialog"}


@pytest.fixture(autouse=True)
def threads_end() -> Any:
    """Wait for the threads that a test began, so that none is at work when its moto has gone."""
    yield
    finish()


def finish() -> None:
    """Wait until no operation is going on."""
    for thread in threading.enumerate():
        if thread.name == "kumofire-console-bulk":
            thread.join(30)
            assert not thread.is_alive()


def failed_runs(aws: Aws, number: int, *, at_ms: int = NOW_MS - 1000, **fields: Any) -> list[str]:
    """Store failed runs that are listed."""
    given = {"status": "failed", "attempt": 3, "finished_at": at_ms, "list_at": at_ms, "error_type": "ValueError"}
    made = []
    for index in range(number):
        run_id = f"r{at_ms}-{index:04}"
        shard = list_shard("failed", run_id)
        made.append(aws.a_run(run_id, **(given | {"list_shard": shard} | fields), without=("wake_shard", "wake_at")))
    return made


def statuses(aws: Aws) -> dict[str, int]:
    """Return how many runs there are of each status."""
    counted: dict[str, int] = {}
    for item in aws.items():
        if item["pk"].startswith("run#"):
            counted[item["status"]] = counted.get(item["status"], 0) + 1
    return counted


def form(text: str) -> dict[str, str]:
    """Return the hidden fields of the question's form."""
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', text))


def begun(answer: Any) -> str:
    """Return the operation's id out of the address that an answer leads to."""
    found = re.fullmatch(r"/bulk/([0-9a-f]{32})(\?of=\d+)?", answer.headers["HX-Location"])
    assert found is not None
    return found.group(1)


@pytest.mark.long
def test_all_that_fit_are_counted_retried_in_the_background_and_watched(browser: Browser, aws: Aws, jobs: Jobs):
    failed_runs(aws, 150)
    failed_runs(aws, 5, at_ms=NOW_MS - 2000, job_name="pay")
    client = browser()

    question = client.get("/bulk/confirm?action=retry&status=failed&job=email", headers=DIALOG)
    assert "Retry 150 runs?" in question.text
    assert "failed runs of job email" in question.text
    assert statuses(aws) == {"failed": 155}
    answer = client.post("/bulk", data=form(question.text) | {"spread": "30"}, headers=SCRIPTS)
    bulk_id = begun(answer)
    finish()

    page = client.get(f"/bulk/{bulk_id}?of=150").text
    assert statuses(aws) == {"failed": 5, "scheduled": 150}
    assert "Done" in page
    assert re.search(r"<dt>Changed</dt><dd>150</dd>", page)
    assert "hx-trigger" not in page
    due = {item["scheduled_for"] - NOW_MS for item in aws.items() if item.get("status") == "scheduled"}
    assert 0 <= min(due) < max(due) <= 30 * 60_000
    assert len(due) > 100


def test_without_scripts_the_question_and_the_answer_are_whole_pages(browser: Browser, aws: Aws):
    failed_runs(aws, 3)
    client = browser()

    question = client.get("/bulk/confirm?action=retry&job=email").text
    answer = client.post("/bulk", data=form(question)).text
    finish()
    page = client.get(re.findall(r'href="(/bulk/[^"]+)"', answer)[0]).text

    assert "<html" in question
    assert 'href="/runs?job=email"' in question
    assert re.search(r"<dt>Changed</dt><dd>3</dd>", page)


def test_runs_that_fail_after_they_were_counted_are_left(browser: Browser, aws: Aws, clock: Clock):
    failed_runs(aws, 3)
    client = browser()
    question = client.get("/bulk/confirm?action=retry&job=email&since=2h", headers=DIALOG)
    clock.advance(minutes=5)
    failed_runs(aws, 2, at_ms=NOW_MS + 60_000)

    client.post("/bulk", data=form(question.text), headers=SCRIPTS)
    finish()

    assert statuses(aws) == {"failed": 2, "queued": 3}


def test_a_time_that_was_given_as_a_duration_is_that_of_the_count(browser: Browser, aws: Aws, clock: Clock):
    failed_runs(aws, 2, at_ms=NOW_MS - 110 * 60_000)
    client = browser()
    question = client.get("/bulk/confirm?action=delete&since=2h", headers=DIALOG)
    assert "Delete 2 runs?" in question.text
    clock.advance(minutes=30)

    client.post("/bulk", data=form(question.text), headers=SCRIPTS)
    finish()

    assert statuses(aws) == {}


def test_canceling_all_that_fit_takes_runs_that_are_still_to_come(browser: Browser, aws: Aws):
    due_ms = NOW_MS + 86_400_000
    for number in range(3):
        aws.a_run(f"w{number}", status="scheduled", scheduled_for=due_ms, wake_at=due_ms)
    client = browser()
    question = client.get("/bulk/confirm?action=cancel&status=scheduled", headers=DIALOG)

    client.post("/bulk", data=form(question.text), headers=SCRIPTS)
    finish()

    assert statuses(aws) == {"canceled": 3}


@pytest.mark.parametrize(("free", "left"), [({}, 2), ({"free": "yes"}, 0)])
def test_runs_with_a_key_are_deleted_only_where_the_question_says_so(
    browser: Browser, aws: Aws, free: dict[str, str], left: int
):
    failed_runs(aws, 3)
    failed_runs(aws, 2, at_ms=NOW_MS - 2000, dedupe_key="order-7")
    client = browser()
    question = client.get("/bulk/confirm?action=delete&job=email", headers=DIALOG)
    assert "Delete the 2 with a dedupe key, too" in question.text

    client.post("/bulk", data=form(question.text) | free, headers=SCRIPTS)
    finish()

    assert sum(statuses(aws).values()) == left


@pytest.mark.parametrize(
    "query",
    [
        "action=retry",
        "action=explode&job=email",
        "action=retry&since=nonsense",
        "action=retry&status=running",
        "action=cancel&status=failed",
        "action=retry&since=2030-01-01",
    ],
)
def test_a_filter_that_cannot_be_acted_upon_is_refused_in_the_question_and_in_the_form(
    browser: Browser, aws: Aws, query: str
):
    failed_runs(aws, 2)
    aws.a_running_run()
    client, before = browser(), aws.items()
    fields = dict(each.split("=") for each in query.split("&"))

    asked = client.get(f"/bulk/confirm?{query}", headers=DIALOG)
    told = client.post("/bulk", data=fields | {"counted_at": str(NOW_MS)}, headers=SCRIPTS)

    assert (asked.status_code, told.status_code) == (422, 422)
    assert aws.items() == before


@pytest.mark.parametrize("fields", [{}, {"counted_at": "soon"}, {"counted_at": str(NOW_MS), "spread": "7"}])
def test_a_form_that_is_none_of_ours_begins_nothing(browser: Browser, aws: Aws, fields: dict[str, str]):
    failed_runs(aws, 2)

    answer = browser().post("/bulk", data={"action": "retry", "job": "email"} | fields, headers=SCRIPTS)

    assert answer.status_code == 422
    assert statuses(aws) == {"failed": 2}


@pytest.mark.long
def test_more_than_a_hundred_chosen_runs_become_an_operation(browser: Browser, aws: Aws, jobs: Jobs):
    ids = failed_runs(aws, 130)
    aws.change(ids[0], retries=1)

    answer = browser().post(
        "/runs/chosen", data={"action": "retry", "run": [f"{each} failed 0" for each in ids]}, headers=SCRIPTS
    )
    bulk_id = begun(answer)
    finish()

    operation = jobs.get_bulk(bulk_id)
    assert operation is not None
    assert (operation.changed, operation.done) == (129, True)
    assert "129 runs are being retried. 1 has changed meanwhile" in answer.text
    assert statuses(aws) == {"failed": 1, "queued": 129}


def test_what_the_table_refuses_is_told_and_no_operation_is_left_behind(
    browser: Browser, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    failed_runs(aws, 2)
    client = browser()
    question = client.get("/bulk/confirm?action=retry&job=email", headers=DIALOG)
    monkeypatch.setattr(aws.dynamodb, "client", Refused("AccessDeniedException"))

    answer = client.post("/bulk", data=form(question.text), headers=SCRIPTS)

    assert answer.status_code == 503
    assert answer.headers["HX-Retarget"] == "#trouble"


def an_interrupted_operation(aws: Aws, jobs: Jobs) -> str:
    """Leave an operation whose process ended after its first page, and return its id."""
    told: list[str] = []

    class ProcessEnds(BaseException):
        pass

    def end(operation: Any) -> None:
        told.append(operation.id)
        if operation.matched:
            raise ProcessEnds

    failed_runs(aws, 150)
    with pytest.raises(ProcessEnds):
        jobs.retry_many(job_name="email", on_progress=end)
    return told[0]


@pytest.mark.long
def test_an_operation_whose_process_has_ended_is_offered_to_be_resumed_after_a_while(
    browser: Browser, aws: Aws, jobs: Jobs, clock: Clock
):
    bulk_id = an_interrupted_operation(aws, jobs)
    client = browser()

    first = client.get(f"/bulk/{bulk_id}").text
    clock.advance(seconds=16)
    later = client.get(f"/bulk/{bulk_id}/progress").text
    answer = client.post(f"/bulk/{bulk_id}/resume", headers=SCRIPTS)
    finish()

    assert "Resume" not in first
    assert "Working" in first
    assert "Interrupted" in later
    assert f'action="/bulk/{bulk_id}/resume"' in later
    assert answer.status_code == 200
    assert statuses(aws) == {"queued": 150}
    assert "Done" in client.get(f"/bulk/{bulk_id}/progress").text


@pytest.mark.long
def test_an_operation_that_goes_on_elsewhere_is_not_called_interrupted(
    browser: Browser, aws: Aws, jobs: Jobs, clock: Clock
):
    bulk_id = an_interrupted_operation(aws, jobs)
    client = browser()
    client.get(f"/bulk/{bulk_id}")
    clock.advance(seconds=10)
    stored = aws.dynamodb.client.scan(TableName=aws.table)["Items"]
    item = next(each for each in stored if each["pk"]["S"] == f"bulk#{bulk_id}")
    aws.dynamodb.client.put_item(TableName=aws.table, Item=item | {"matched": {"N": "120"}})
    client.get(f"/bulk/{bulk_id}/progress")
    clock.advance(seconds=10)

    assert "Resume" not in client.get(f"/bulk/{bulk_id}/progress").text


@pytest.mark.long
def test_an_operation_that_is_aborted_stops_and_cannot_be_resumed(browser: Browser, aws: Aws, jobs: Jobs):
    bulk_id = an_interrupted_operation(aws, jobs)
    client = browser()

    first, second = (client.post(f"/bulk/{bulk_id}/abort", headers=SCRIPTS) for _ in range(2))
    resumed = client.post(f"/bulk/{bulk_id}/resume", headers=SCRIPTS)
    finish()

    assert (first.status_code, second.status_code, resumed.status_code) == (200, 409, 409)
    assert statuses(aws) == {"failed": 50, "queued": 100}
    page = client.get(f"/bulk/{bulk_id}").text
    assert "Aborted" in page
    assert "Resume" not in page


@pytest.mark.long
def test_an_error_that_stops_an_operation_is_told_and_it_can_be_resumed_at_once(
    browser: Browser, aws: Aws, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
):
    bulk_id = an_interrupted_operation(aws, jobs)
    client = browser()
    working = aws.dynamodb.client

    class NoQueries:
        def __getattr__(self, operation: str) -> Any:
            return getattr(Refused("AccessDeniedException") if operation == "query" else working, operation)

    monkeypatch.setattr(aws.dynamodb, "client", NoQueries())
    client.post(f"/bulk/{bulk_id}/resume", headers=SCRIPTS)
    finish()
    monkeypatch.setattr(aws.dynamodb, "client", working)
    text = client.get(f"/bulk/{bulk_id}/progress").text

    assert "It stopped:" in text
    assert "/resume" in text
    client.post(f"/bulk/{bulk_id}/resume", headers=SCRIPTS)
    finish()
    assert statuses(aws) == {"queued": 150}


def test_who_may_only_look_sees_how_far_it_has_come_and_no_buttons(
    browser: Browser, aws: Aws, jobs: Jobs, clock: Clock
):
    bulk_id = an_interrupted_operation(aws, jobs)
    client = browser(act=False)
    client.get(f"/bulk/{bulk_id}")
    clock.advance(seconds=20)

    page = client.get(f"/bulk/{bulk_id}").text

    assert "Interrupted" in page
    assert "<dd>100" in page
    assert "/resume" not in page
    assert "/abort" not in page
    assert client.post(f"/bulk/{bulk_id}/abort", headers=SCRIPTS).status_code == 403


def test_an_unknown_operation_is_missing(browser: Browser):
    client = browser()

    assert client.get("/bulk/unknown").status_code == 404
    assert client.post("/bulk/unknown/resume", headers=SCRIPTS).status_code == 409
    assert client.post("/bulk/unknown/abort", headers=SCRIPTS).status_code == 409


def test_operations_that_have_ended_are_forgotten_in_time(browser: Browser, monkeypatch: pytest.MonkeyPatch):
    def remembered() -> int:
        gc.collect()
        return sum(isinstance(each, bulk_pages.Work) for each in gc.get_objects())

    monkeypatch.setattr(bulk_pages, "MOST_KEPT", 2)
    client, before = browser(), remembered()
    for _ in range(6):
        client.post("/bulk", data={"action": "retry", "job": "email", "counted_at": str(NOW_MS)}, headers=SCRIPTS)
        finish()

    assert 0 < remembered() - before <= 3


@pytest.fixture
def held(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let each operation that retries wait until this is set."""
    go, retry_many = threading.Event(), jobs.retry_many

    def waiting(*, on_progress: Any = None, **options: Any) -> Any:
        def tell(operation: Any) -> None:
            on_progress(operation)
            go.wait(30)

        return retry_many(on_progress=on_progress and tell, **options)

    monkeypatch.setattr(jobs, "retry_many", waiting)
    yield go
    go.set()
    finish()


def test_no_more_operations_are_worked_on_at_once_than_a_process_can_bear(
    browser: Browser, aws: Aws, held: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk_pages, "MOST_AT_WORK", 2)
    failed_runs(aws, 2)
    client = browser()
    question = form(client.get("/bulk/confirm?action=retry&job=email", headers=DIALOG).text)

    answers = [client.post("/bulk", data=question, headers=SCRIPTS) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 409]
    assert "2 operations are under way" in answers[2].text
    assert sum(item["pk"].startswith("bulk#") for item in aws.items()) == 2
    held.set()
    finish()
    assert client.post("/bulk", data=question, headers=SCRIPTS).status_code == 200
