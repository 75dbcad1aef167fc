"""The job that sends the welcome email, and the function that a sign-up calls."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import boto3

from kumofire_core import Fail, JobContext, Jobs, RetryPolicy

SENDER = "hello@example.com"

jobs = Jobs.from_env()


@dataclass
class Welcome:
    to: str
    name: str


@dataclass
class Sent:
    message_id: str


# Ten attempts within about an hour: an outage of the mail service, or a sender that is not verified yet, can be mended
# meanwhile. Half of each wait is random, so that the runs of an outage do not all come again at the same moment.
@jobs.handler("welcome", retry=RetryPolicy(10, base=timedelta(seconds=2), cap=timedelta(minutes=20), jitter=0.5))
def send_welcome(ctx: JobContext[Welcome]) -> Sent:
    if "@" not in ctx.payload.to:
        raise Fail(f"{ctx.payload.to!r} is no address")  # another attempt would not change that
    message_id = send(ctx.payload.to, "Welcome", f"Hello {ctx.payload.name}, it is good to have you here.")
    ctx.logger.info("sent as %s", message_id)
    return Sent(message_id)


def welcome(user_id: int, email: str, name: str) -> str:
    """Have a new user welcomed, and return the run's id: the same one however often this is called for a user."""
    return send_welcome.create(Welcome(email, name), dedupe_key=f"welcome/{user_id}")


def send(to: str, subject: str, text: str) -> str:
    """Send an email by Amazon SES; return its message id."""
    answer = ses().send_email(
        FromEmailAddress=SENDER,
        Destination={"ToAddresses": [to]},
        Content={"Simple": {"Subject": {"Data": subject}, "Body": {"Text": {"Data": text}}}},
    )
    return str(answer["MessageId"])


@cache
def ses() -> Any:
    return boto3.client("sesv2")
