"""The API by its test client; its runs are executed in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from examples.http_api import app as api
from examples.http_api.jobs import count_words, jobs
from kumofire_core import Jobs
from kumofire_core.testing import InProcessAWS

TEXT = {"text": "a job has a name\na run has an id"}
COUNTED = {"total": 10, "most_used": {"a": 3, "has": 2, "job": 1}}


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return jobs


@pytest.fixture
def client(kumofire: InProcessAWS) -> Iterator[TestClient]:
    with TestClient(api.app) as client:
        yield client


def test_a_post_creates_a_run_and_a_get_tells_of_its_result(kumofire: InProcessAWS, client: TestClient) -> None:
    created = client.post("/counts", json=TEXT)
    assert (created.status_code, created.json()["status"]) == (202, "queued")
    kumofire.assert_created(count_words, text=TEXT["text"])

    kumofire.drain()

    shown = client.get(created.headers["Location"]).json()
    assert (shown["status"], shown["result"]) == ("succeeded", COUNTED)


def test_the_same_idempotency_key_gets_the_same_run(kumofire: InProcessAWS, client: TestClient) -> None:
    key = {"Idempotency-Key": "a1"}

    first, again = (client.post("/counts", json=TEXT, headers=key).json()["id"] for _ in range(2))
    other = client.post("/counts", json=TEXT, headers={"Idempotency-Key": "a2"}).json()["id"]

    assert first == again != other
    kumofire.assert_created(count_words, count=2)


def test_a_key_is_refused_with_another_text(client: TestClient) -> None:
    key = {"Idempotency-Key": "a1"}
    client.post("/counts", json=TEXT, headers=key)

    refused = client.post("/counts", json={"text": "another"}, headers=key)

    assert (refused.status_code, refused.json()["detail"]) == (422, "this Idempotency-Key belongs to another text")


def test_a_run_that_waits_is_canceled_and_a_second_cancel_changes_nothing(
    kumofire: InProcessAWS, client: TestClient
) -> None:
    place = client.post("/counts?delay=3600", json=TEXT).headers["Location"]

    canceled = [client.delete(place) for _ in range(2)]
    kumofire.drain(until=timedelta(hours=2))

    assert [(each.status_code, each.json()["status"]) for each in canceled] == [(202, "canceled")] * 2
    assert client.get(place).json()["result"] is None


def test_a_run_that_has_ended_is_not_canceled(kumofire: InProcessAWS, client: TestClient) -> None:
    place = client.post("/counts", json=TEXT).headers["Location"]
    kumofire.drain()

    refused = client.delete(place)

    assert (refused.status_code, refused.json()["detail"]) == (409, "it has succeeded already")


def test_the_run_of_another_job_is_not_shown_and_not_canceled(
    kumofire: InProcessAWS, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = client.post("/counts", json=TEXT).json()["id"]
    monkeypatch.setattr(api, "count_words", SimpleNamespace(job_name="another"))

    assert client.get(f"/counts/{run_id}").status_code == 404
    assert client.delete(f"/counts/{run_id}").status_code == 404
    assert [run.status for run in kumofire.runs()] == ["queued"]


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        ("?delay=-1", TEXT, {}),
        ("?delay=tomorrow", TEXT, {}),
        ("", {}, {}),
        ("", {"text": 5}, {}),
        ("", {"text": "x" * 400_000}, {}),
        ("", TEXT, {"Idempotency-Key": "x" * 201}),
    ],
)
def test_what_is_wrong_is_answered_by_422_and_makes_no_run(
    kumofire: InProcessAWS, client: TestClient, query: str, body: dict[str, object], headers: dict[str, str]
) -> None:
    assert client.post(f"/counts{query}", json=body, headers=headers).status_code == 422
    kumofire.assert_not_created(count_words)


def test_an_unknown_id_is_answered_by_404(client: TestClient) -> None:
    assert client.get("/counts/unknown").status_code == client.delete("/counts/unknown").status_code == 404
