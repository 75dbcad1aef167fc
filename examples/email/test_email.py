"""The welcome email, on an AWS in memory and without a mail service."""

from __future__ import annotations

from datetime import timedelta

import pytest

from examples.email import jobs as app
from examples.email.jobs import Welcome, send_welcome, welcome
from kumofire_core import Jobs
from kumofire_core.testing import InProcessAWS

ADA = "ada@example.com"


class MailService:
    """What is sent, in place of Amazon SES."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.is_down = False

    def send(self, to: str, subject: str, text: str) -> str:
        if self.is_down:
            raise ConnectionError("the mail service does not answer")
        self.sent.append(to)
        return f"message-{len(self.sent)}"


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return app.jobs


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> MailService:
    service = MailService()
    monkeypatch.setattr(app, "send", service.send)
    return service


def test_a_form_that_is_sent_three_times_sends_one_email(kumofire: InProcessAWS, mail: MailService) -> None:
    run_ids = {welcome(42, ADA, "Ada") for _ in range(3)}
    kumofire.drain()

    kumofire.assert_created(send_welcome, to=ADA, name="Ada", count=1)
    run = app.jobs.get_status(run_ids.pop())
    assert run is not None
    assert run.output == {"message_id": "message-1"}
    assert mail.sent == [ADA]


def test_each_user_gets_an_email(kumofire: InProcessAWS, mail: MailService) -> None:
    for user_id in (1, 2):
        welcome(user_id, ADA, "Ada")

    assert kumofire.drain().succeeded == 2
    assert mail.sent == [ADA, ADA]


def test_an_email_is_sent_when_the_mail_service_is_back(kumofire: InProcessAWS, mail: MailService) -> None:
    run_id = welcome(42, ADA, "Ada")
    mail.is_down = True
    kumofire.drain(until=timedelta(minutes=10))
    mail.is_down = False

    run = kumofire.drain_run(run_id)

    assert run.status == "succeeded"
    assert run.failed_attempts > 3
    assert mail.sent == [ADA]


def test_a_wrong_address_is_tried_once(kumofire: InProcessAWS, mail: MailService) -> None:
    run = kumofire.drain_run(send_welcome.create(Welcome("ada", "Ada")))

    assert (run.status, run.failed_attempts) == ("failed", 1)
    assert mail.sent == []


@pytest.mark.kumofire(chaos=True)
def test_an_email_is_sent_again_where_the_worker_died_before_that_was_recorded(
    kumofire: InProcessAWS, mail: MailService
) -> None:
    run = kumofire.drain_run(welcome(42, ADA, "Ada"))

    assert run.status == "succeeded"
    assert mail.sent == [ADA, ADA], "SES takes no key by which it would know the second request"
