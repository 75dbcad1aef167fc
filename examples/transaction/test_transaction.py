"""An order exists if and only if its run does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from examples.transaction import jobs as application
from examples.transaction.jobs import TABLE, OrderExistsError, confirm, jobs, place
from kumofire_core import Jobs
from kumofire_core.testing import InProcessAWS


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return jobs


@pytest.fixture(autouse=True)
def orders(kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of the orders, in this test's own process."""
    monkeypatch.setattr(application, "dynamodb", lambda: kumofire.dynamodb)
    kumofire.create_table(TABLE, key="id")


def order(kumofire: InProcessAWS, order_id: str) -> dict[str, str]:
    item = kumofire.dynamodb.get_item(TableName=TABLE, Key={"id": {"S": order_id}}).get("Item", {})
    return {name: value["S"] for name, value in item.items()}


class CommitsAndRaises:
    """A client whose first transaction is committed, and which raises this instead of replying."""

    def __init__(self, dynamodb: Any, error: BaseException) -> None:
        self.dynamodb = dynamodb
        self.error: BaseException | None = error

    def transact_write_items(self, **request: Any) -> Any:
        answer = self.dynamodb.transact_write_items(**request)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return answer


class ProcessDiedError(BaseException):
    """Stands for the end of the process: no ``except Exception`` catches it."""


def test_an_order_is_confirmed_by_the_run_that_was_stored_with_it(kumofire: InProcessAWS) -> None:
    run = kumofire.drain_run(place("1001", "Ada"))

    assert (run.payload, run.output) == ({"order_id": "1001"}, "Ada")
    assert order(kumofire, "1001")["run_id"] == run.id
    assert order(kumofire, "1001")["confirmed_at"] == kumofire.now.isoformat()


def test_an_order_that_is_refused_has_no_run_either(kumofire: InProcessAWS) -> None:
    place("1001", "Ada")

    with pytest.raises(OrderExistsError, match="order 1001 exists already"):
        place("1001", "Mallory")

    kumofire.assert_created(confirm, order_id="1001", count=1)
    assert order(kumofire, "1001")["customer"] == "Ada"


def test_after_a_lost_reply_there_is_one_order_and_one_run(
    kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ReadTimeoutError(endpoint_url="https://dynamodb.us-east-1.amazonaws.com")
    client = CommitsAndRaises(kumofire.dynamodb, lost)
    monkeypatch.setattr(application, "dynamodb", lambda: client)

    run_id = place("1001", "Ada")

    assert client.error is None
    assert [run.id for run in kumofire.runs(confirm)] == [run_id]
    assert order(kumofire, "1001")["run_id"] == run_id


def test_an_order_whose_process_dies_after_the_commit_is_confirmed_all_the_same(
    kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        client = CommitsAndRaises(kumofire.dynamodb, ProcessDiedError())
        dying.setattr(application, "dynamodb", lambda: client)
        with pytest.raises(ProcessDiedError):
            place("1001", "Ada")
    assert not kumofire.drain()  # no message was sent

    kumofire.drain(until=timedelta(minutes=4))

    assert "confirmed_at" in order(kumofire, "1001")


@pytest.mark.kumofire(chaos=True)
def test_an_order_keeps_the_time_of_the_first_attempt_that_confirmed_it(kumofire: InProcessAWS) -> None:
    run = kumofire.drain_run(place("1001", "Ada"))

    first, *others = run.attempts
    assert others  # the process of the first one died after it had confirmed the order
    assert run.status == "succeeded"
    assert first.started_at is not None
    assert order(kumofire, "1001")["confirmed_at"] == first.started_at.isoformat()
