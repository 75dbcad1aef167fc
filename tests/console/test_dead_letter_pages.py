"""The dead-letter queue's page: seen without being taken, looked at when asked, sent back beside the page, deleted."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kumofire_core import Jobs
from kumofire_core.deployment.dead_letters import DeadLetters
from kumofire_core.deployment.discovery import deployment_of_jobs
from tests.builders import Aws, body
from tests.console.conftest import Visitor

pytestmark = [pytest.mark.long, pytest.mark.moto]

STATE = "/dead-letters/state"


class Sqs:
    """SQS as moto has it, without message move tasks, which moto does not know: so messages move one by one."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.refused: dict[str, str] = {}
        """Codes of errors, by the operation that answers with them."""
        self.before: dict[str, Callable[[], object]] = {}
        """What happens before an operation."""

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**given: Any) -> Any:
            if operation in ("list_message_move_tasks", "start_message_move_task"):
                self.refused.setdefault(operation, "InvalidAction")
            if operation in self.refused:
                raise ClientError({"Error": {"Code": self.refused[operation], "Message": "no"}}, operation)
            self.before.get(operation, lambda: None)()
            return getattr(self.client, operation)(**given)

        return request


@pytest.fixture
def sqs(aws: Aws) -> Iterator[Sqs]:
    real = aws.sqs.client
    aws.sqs.client = Sqs(real)
    yield aws.sqs.client
    aws.sqs.client.refused.clear()
    aws.sqs.client.before.clear()
    moved()
    aws.sqs.client = real


@pytest.fixture
def dead(aws: Aws, sqs: Sqs) -> str:
    """Give the queue a dead-letter queue, and return its URL."""
    url = str(sqs.client.create_queue(QueueName="dead")["QueueUrl"])
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead", "maxReceiveCount": 200}
    sqs.client.set_queue_attributes(QueueUrl=aws.queue_url, Attributes={"RedrivePolicy": json.dumps(policy)})
    return url


@pytest.fixture
def bury(sqs: Sqs, dead: str) -> Callable[..., None]:
    def put(*bodies: str) -> None:
        for text in bodies:
            sqs.client.send_message(QueueUrl=dead, MessageBody=text)

    return put


def moved() -> None:
    """Wait until what sends messages back has ended."""
    for thread in threading.enumerate():
        if thread.name == "kumofire-redrive":
            thread.join(30)


def held(sqs: Sqs, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs.client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(map(int, found.values()))


def text(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html))).strip()


def test_the_page_counts_messages_and_receives_none(aws: Aws, visitor: Visitor, bury: Callable[..., None]) -> None:
    bury(body("run-1"), body("run-2"))

    shown = visitor(scripts=False).get("/dead-letters")

    assert "2 messages on the dead-letter queue" in text(shown.text)
    assert aws.sqs.count() == {"get_queue_attributes": 2}
    assert "run-1" not in shown.text


def test_an_update_of_the_page_is_one_request(aws: Aws, visitor: Visitor, bury: Callable[..., None]) -> None:
    bury(body("run-1"))
    someone = visitor()
    someone.get("/dead-letters")
    aws.sqs.requests.clear()

    assert "1 message on" in text(someone.get(STATE).text)
    assert aws.sqs.count() == {"get_queue_attributes": 1}
    assert aws.dynamodb.requests == []


def test_who_looks_sees_runs_and_receives_and_leaves_the_messages_there(
    sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kumofire_core.console")
    bury(body("run-1"), "of others")
    someone = visitor()
    someone.post("/dead-letters/look")

    shown = someone.post("/dead-letters/look").text

    assert '<a class="mono" href="/runs/run-1">' in shown
    assert text(shown).count("2 times") == 2
    assert "not a message of Kumofire" in shown
    assert len(sqs.client.receive_message(QueueUrl=dead, MaxNumberOfMessages=10)["Messages"]) == 2
    assert "alice looked at 2 dead letters" in caplog.text


def test_no_more_are_received_than_a_person_may_choose(visitor: Visitor, bury: Callable[..., None]) -> None:
    bury(*(body(f"run-{number}") for number in range(15)))
    someone = visitor()

    chosen, other = (someone.post("/dead-letters/look", data={"most": most}).text for most in ("100", "1000"))

    assert (chosen.count('<tr id="letter-'), other.count('<tr id="letter-')) == (15, 10)


@pytest.mark.parametrize("path", ["look", "redrive", "purge"])
def test_who_may_only_look_sees_the_count_and_changes_no_count_of_receives(
    aws: Aws, sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None], path: str
) -> None:
    bury(body("run-1"))
    someone = visitor(act=False)

    shown, answer = someone.get("/dead-letters").text, someone.post(f"/dead-letters/{path}", data={"sure": "yes"})

    assert "1 message on" in text(shown)
    assert 'method="post"' not in shown
    assert answer.status_code == 403
    assert set(aws.sqs.count()) == {"get_queue_attributes"}
    [message] = sqs.client.receive_message(QueueUrl=dead, MessageSystemAttributeNames=["All"])["Messages"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_what_a_message_says_is_hidden_from_who_may_not_see_payloads(
    visitor: Visitor, bury: Callable[..., None]
) -> None:
    bury("anna@example.com")

    assert "anna@" in visitor().post("/dead-letters/look").text
    hidden = visitor(payloads=False).post("/dead-letters/look").text
    assert "anna@" not in hidden
    assert "you may not see payloads" in hidden


def test_a_hostile_message_is_shown_as_text_and_cut(visitor: Visitor, bury: Callable[..., None]) -> None:
    bury("<script>alert(1)</script>\u202e" + "x" * 200_000)

    shown = visitor().post("/dead-letters/look").text

    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in shown
    assert len(shown) < 5_000


def test_messages_are_sent_back_beside_the_page_which_shows_how_far_it_is(
    aws: Aws, sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None]
) -> None:
    bury(*(body(f"run-{number}") for number in range(3)))
    sent, go_on = threading.Semaphore(0), threading.Semaphore(1)

    def pause() -> None:
        sent.release()
        assert go_on.acquire(timeout=30)

    # The first message goes at once, the second one waits.
    lock_free = Sqs(sqs.client)
    lock_free.before["send_message"] = pause
    someone, another = visitor(jobs=aws.jobs(sqs=lock_free)), visitor()

    answer = someone.post("/dead-letters/redrive")
    for _ in range(2):
        assert sent.acquire(timeout=30)
    meanwhile, again = someone.get(STATE).text, someone.post("/dead-letters/redrive")
    purge = someone.post("/dead-letters/purge")
    go_on.release(5)
    moved()

    assert answer.status_code == 200
    assert "About 3 messages on the way back" in text(answer.text)
    assert "Sending back: 1 of about 3." in text(meanwhile)
    assert '<progress aria-labelledby="moving" max="3" value="1">' in meanwhile
    assert "<form" not in meanwhile
    assert (again.status_code, purge.status_code) == (409, 409)
    assert "being sent back already" in text(again.text)
    assert "3 messages sent back" in text(someone.get(STATE).text)
    assert "0 messages on" in text(another.get(STATE).text)
    assert (held(sqs, dead), held(sqs, aws.queue_url)) == (0, 3)


def test_of_two_people_who_press_at_the_same_time_one_starts_a_move_and_the_other_is_told(
    aws: Aws, sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None]
) -> None:
    bury(body("run-1"), body("run-2"))
    unlocked, go_on = Sqs(sqs.client), threading.Event()
    unlocked.before["send_message"] = lambda: go_on.wait(30)
    someone = visitor(jobs=aws.jobs(sqs=unlocked))
    someone.get(STATE)
    first: list[int] = []

    def press() -> None:
        del unlocked.before["get_queue_attributes"]
        first.append(someone.post("/dead-letters/redrive").status_code)

    # The first one's press is answered while the second one's is being counted.
    unlocked.before["get_queue_attributes"] = press
    second = someone.post("/dead-letters/redrive")
    movers = sum(thread.name == "kumofire-redrive" for thread in threading.enumerate())
    go_on.set()
    moved()

    assert (first, second.status_code, movers) == ([200], 409, 1)
    assert "being sent back already" in text(second.text)
    assert (held(sqs, dead), held(sqs, aws.queue_url)) == (0, 2)


def test_a_move_that_fails_says_why_and_can_be_tried_again(
    aws: Aws, sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None]
) -> None:
    bury(body("run-1"))
    sqs.refused["start_message_move_task"] = sqs.refused["list_message_move_tasks"] = "AccessDenied"
    someone = visitor()

    someone.post("/dead-letters/redrive")
    moved()
    failed = someone.get(STATE).text
    sqs.refused.clear()
    someone.post("/dead-letters/redrive")
    moved()

    assert "Sending back failed" in text(failed)
    assert "AccessDenied" in failed
    assert "<form" in failed
    assert "1 message sent back" in text(someone.get(STATE).text)
    assert (held(sqs, dead), held(sqs, aws.queue_url)) == (0, 1)


def test_a_purge_deletes_dead_letters_alone_and_is_logged(
    aws: Aws, sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kumofire_core.console")
    bury(body("run-1"), body("run-2"))
    sqs.client.send_message(QueueUrl=aws.queue_url, MessageBody=body("run-3"))

    answer = visitor().post("/dead-letters/purge")

    assert "About 2 messages deleted." in text(answer.text)
    assert (held(sqs, dead), held(sqs, aws.queue_url)) == (0, 1)
    assert "alice purged about 2 dead letters" in caplog.text


def test_a_second_purge_within_a_minute_says_to_wait(
    sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kumofire_core.console")
    bury(body("run-1"))
    sqs.refused["purge_queue"] = "PurgeQueueInProgress"

    answer = visitor().post("/dead-letters/purge")

    assert answer.status_code == 409
    assert "wait a minute" in text(answer.text)
    assert held(sqs, dead) == 1
    assert "purged" not in caplog.text


def test_both_actions_ask_with_the_count_before_they_do_anything(visitor: Visitor, bury: Callable[..., None]) -> None:
    bury(body("run-1"), body("run-2"))

    questions = re.findall(r'data-confirm="(.*?)"', visitor().get(STATE).text)

    assert [question[:30] for question in questions] == [
        "Send about 2 messages back to ",
        "Delete about 2 messages, and w",
    ]


@pytest.mark.parametrize(("doing", "left"), [("redrive", (0, 1)), ("purge", (0, 0))])
def test_without_scripts_a_page_asks_first(
    aws: Aws, sqs: Sqs, dead: str, visitor: Visitor, bury: Callable[..., None], doing: str, left: tuple[int, int]
) -> None:
    bury(body("run-1"))
    someone = visitor(scripts=False)

    asked = someone.post(f"/dead-letters/{doing}")
    before = held(sqs, dead)
    [sure] = re.findall(r'name="sure" value="(\w+)"', asked.text)
    done = someone.post(f"/dead-letters/{doing}", data={"sure": sure})
    moved()

    assert "About 1 message would" in text(asked.text)
    assert before == 1
    assert done.status_code == 200
    assert (held(sqs, dead), held(sqs, aws.queue_url)) == left


def test_without_scripts_the_messages_are_on_a_whole_page(visitor: Visitor, bury: Callable[..., None]) -> None:
    bury(body("run-1"))

    shown = visitor(scripts=False).post("/dead-letters/look").text

    assert "<h1>Dead letters</h1>" in shown
    assert 'href="/runs/run-1"' in shown


@pytest.mark.parametrize("doing", ["redrive", "purge"])
@pytest.mark.usefixtures("dead")
def test_an_action_on_a_page_that_is_out_of_date_finds_nothing_to_do(aws: Aws, visitor: Visitor, doing: str) -> None:
    answer = visitor().post(f"/dead-letters/{doing}")

    assert answer.status_code == 409
    assert "There are no dead letters." in text(answer.text)
    assert set(aws.sqs.count()) == {"get_queue_attributes"}


@pytest.mark.usefixtures("sqs")
def test_a_queue_without_a_dead_letter_queue_has_a_page_that_says_so(visitor: Visitor) -> None:
    someone = visitor()

    shown = someone.get("/dead-letters")

    assert shown.status_code == 200
    assert "There is no dead-letter queue." in text(shown.text)
    assert "give it a RedrivePolicy" in text(shown.text)
    assert 'method="post"' not in shown.text
    assert someone.post("/dead-letters/look").status_code == 409


@pytest.mark.usefixtures("dead")
def test_people_share_one_reader_of_the_queue_since_a_client_of_aws_is_dear(jobs: Jobs, visitor: Visitor) -> None:
    made: list[DeadLetters] = []

    def reader() -> DeadLetters:
        made.append(DeadLetters(deployment_of_jobs(jobs)))
        return made[-1]

    someone = visitor(dead_letters=reader)
    for _ in range(3):
        assert someone.get(STATE).status_code == 200

    assert len(made) == 1
