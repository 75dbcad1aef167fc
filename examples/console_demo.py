"""The console on a local AWS, with a morning's data to look at: ``make console-demo``.

``arrange`` plays two hours with a clock of its own: jobs that do well, a nightly export that takes long, a service that
is down for a while, and a deployment with a mistake. Then a thread takes the consumer's and the dispatcher's place, so
that what is retried on the pages is executed. The tests and the screenshots use the same data.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from examples.deployment import table_definition
from examples.local_aws import LocalAws, local_aws
from kumofire_core import Fail, JobContext, Jobs
from kumofire_core.console.local import LocalConsole

NAME = "kumofire-console-demo"


class PaymentServiceError(Exception):
    """The payment service does not answer."""


class TemplateError(Exception):
    """A mistake in a template of mails."""


@dataclass
class World:
    """What the handlers depend on."""

    now: datetime
    payments_are_down: bool = False
    template_is_broken: bool = False

    def clock(self) -> datetime:
        return self.now

    def takes(self, seconds: float) -> None:
        """Let a handler take some time of this clock."""
        self.now += timedelta(seconds=seconds)


def add_handlers(jobs: Jobs, world: World) -> None:
    """Register the handlers of the story."""

    @jobs.handler("send-email")
    def send_email(ctx: JobContext) -> dict[str, Any]:
        world.takes(0.18)
        if world.template_is_broken and ctx.payload["template"] == "receipt":
            render(ctx.payload)
        return {"message_id": f"<{ctx.run.id[:12]}@mail.example>", "accepted": [ctx.payload["to"]]}

    def render(payload: dict[str, Any]) -> None:
        raise TemplateError(f"receipt.html, line 14: 'order.totl' is undefined, for {payload['to']}")

    @jobs.handler("charge-card", max_attempts=4)
    def charge_card(ctx: JobContext) -> dict[str, Any]:
        world.takes(0.64)
        if world.payments_are_down:
            try:
                raise ConnectionError("payments.example:443 refused the connection")
            except ConnectionError as error:
                raise PaymentServiceError("the payment service does not answer") from error
        if ctx.payload["cents"] > 90_000:
            raise Fail("the card's limit is exceeded")
        return {"charged": ctx.payload["cents"], "currency": "EUR"}

    @jobs.handler("resize-image")
    def resize_image(ctx: JobContext) -> dict[str, Any]:
        world.takes(1.9)
        return {"width": 640, "height": 480, "key": f"thumbnails/{ctx.payload['key']}"}

    @jobs.handler("export-report", timeout=timedelta(minutes=10))
    def export_report(ctx: JobContext) -> dict[str, Any]:
        for page in range(ctx.payload["pages"]):
            ctx.progress((page + 1) / ctx.payload["pages"], f"page {page + 1} of {ctx.payload['pages']}")
            time.sleep(ctx.payload.get("seconds_each", 0))
        return {"rows": ctx.payload["pages"] * 1000}

    @jobs.handler("sync-inventory")
    def sync_inventory(ctx: JobContext) -> None:
        world.takes(4.2)


def make_table_and_queues(aws: LocalAws, name: str = NAME) -> tuple[str, str]:
    """Make a table as the template has it, and a queue with a dead-letter queue; return its name and the URL."""
    dynamodb, sqs = aws.client("dynamodb"), aws.client("sqs")
    dynamodb.create_table(TableName=name, **table_definition())
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5})
    queue_url = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})["QueueUrl"]
    return name, queue_url


def make_jobs(aws: LocalAws, table: str, queue_url: str, clock: Callable[[], datetime], **settings: Any) -> Jobs:
    """Return a ``Jobs`` on that table and queue."""
    return Jobs(
        table=table,
        queue_url=queue_url,
        dynamodb=aws.client("dynamodb"),
        sqs=aws.client("sqs"),
        clock=clock,
        **settings,
    )


def deliver(jobs: Jobs, run_ids: Sequence[str]) -> None:
    """Hand messages of these runs to a consumer, as SQS would."""
    for start in range(0, len(run_ids), 10):
        records = [
            {
                "messageId": f"m-{run_id}",
                "receiptHandle": "none",
                "body": json.dumps({"version": 1, "kumofireJobRunId": run_id}),
                "attributes": {},
                "eventSource": "aws:sqs",
            }
            for run_id in run_ids[start : start + 10]
        ]
        jobs.consume_batch({"Records": records})


def arrange(jobs: Jobs, world: World, *, until: datetime) -> None:
    """Play the morning, so that it ends at ``until``; the runs of the last minute are left for the consumer."""
    logging.getLogger("kumofire_core").setLevel(logging.CRITICAL)  # so much goes wrong here on purpose
    chance = random.Random(7)
    orders = iter(range(4_100, 9_999))

    def mails(count: int) -> list[str]:
        return [
            jobs.create(
                "send-email",
                {
                    "to": f"customer{chance.randrange(900)}@example.com",
                    "template": chance.choice(["receipt", "welcome"]),
                },
            )
            for _ in range(count)
        ]

    def charges(count: int) -> list[str]:
        ids = []
        for _ in range(count):
            order = next(orders)
            ids.append(
                jobs.create(
                    "charge-card",
                    {
                        "order": order,
                        "cents": chance.randrange(500, 96_000),
                        "card": {"last4": "4242", "expires": "12/28"},
                    },
                    dedupe_key=f"order-{order}",
                )
            )
        return ids

    def images(count: int) -> list[str]:
        return [jobs.create("resize-image", {"key": f"{chance.randrange(9_999):04}.jpg"}) for _ in range(count)]

    world.now = until - timedelta(minutes=75)
    jobs.create_schedule(
        "export-report",
        {"pages": 40, "seconds_each": 1},
        schedule_type="cron",
        schedule_expr="0 6 * * 1-5",
        timezone="Europe/Berlin",
        schedule_key="reports/morning",
        overlap="skip",
    )
    jobs.create_schedule(
        "sync-inventory",
        {"warehouse": "north"},
        schedule_type="interval",
        schedule_expr=timedelta(minutes=15),
        schedule_key="inventory/north",
        missed="latest",
    )
    jobs.create_schedule(
        "send-email",
        {"to": "team@example.com", "template": "digest"},
        schedule_type="cron",
        schedule_expr="30 8 1 * *",
        timezone="America/New_York",
        schedule_key="digest/monthly",
        enabled=False,
    )
    for minutes_ago in range(75, 1, -1):
        world.now = until - timedelta(minutes=minutes_ago)
        world.payments_are_down = 52 >= minutes_ago > 38
        world.template_is_broken = 24 >= minutes_ago > 12
        busy = 3 + (minutes_ago % 7 == 0) * 4
        due = [*mails(busy), *images(chance.randrange(1, 4)), *(charges(chance.randrange(0, 3)))]
        if minutes_ago % 15 == 0:
            due.append(jobs.create("sync-inventory", {"warehouse": "north"}))
        for _ in range(4):
            deliver(jobs, due)
            world.now += timedelta(seconds=14)
    world.payments_are_down = world.template_is_broken = False
    world.now = until - timedelta(minutes=1)
    for run_id in mails(2):
        jobs.cancel(run_id, "the campaign was called off")
    for hours in (2, 5, 26):
        jobs.create(
            "send-email", {"to": "anna@example.com", "template": "reminder"}, run_at=until + timedelta(hours=hours)
        )
    jobs.pause("resize-image", reason="the image service is being moved", until=until + timedelta(hours=2))
    deliver(jobs, images(6))
    jobs.create("export-report", {"pages": 12, "seconds_each": 0}, dedupe_key="report-2026-11")
    world.now = until


def work(jobs: Jobs, sqs: Any, ended: threading.Event) -> None:
    """Take the consumer's and the dispatcher's place until ``ended``."""
    dispatched = 0.0
    while not ended.is_set():
        if time.monotonic() - dispatched > 5:
            jobs.dispatch()
            dispatched = time.monotonic()
        messages = sqs.receive_message(
            QueueUrl=jobs.queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=1,
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        if not messages:
            continue
        records = [
            {
                "messageId": each["MessageId"],
                "receiptHandle": each["ReceiptHandle"],
                "body": each["Body"],
                "attributes": each.get("Attributes", {}),
            }
            for each in messages
        ]
        failed = {each["itemIdentifier"] for each in jobs.consume_batch({"Records": records})["batchItemFailures"]}
        for each in messages:
            if each["MessageId"] not in failed:
                sqs.delete_message(QueueUrl=jobs.queue_url, ReceiptHandle=each["ReceiptHandle"])


def played_morning(aws: LocalAws) -> Jobs:
    """Play the morning up to now on a table and a queue of its own; return a ``Jobs`` on the clock of the world."""
    table, queue_url = make_table_and_queues(aws)
    world = World(datetime.now(UTC))
    past = make_jobs(aws, table, queue_url, world.clock, concurrency=1)
    add_handlers(past, world)
    arrange(past, world, until=datetime.now(UTC))
    aws.client("sqs").send_message(QueueUrl=f"{queue_url}-dead", MessageBody='{"order": 4242}')
    jobs = make_jobs(aws, table, queue_url, lambda: datetime.now(UTC), allow_unknown_jobs=True)
    add_handlers(jobs, world)
    return jobs


@contextmanager
def working(jobs: Jobs, sqs: Any) -> Iterator[None]:
    """Let a thread take the consumer's and the dispatcher's place for the length of the block."""
    ended = threading.Event()
    worker = threading.Thread(target=work, args=(jobs, sqs, ended), daemon=True)
    worker.start()
    try:
        yield
    finally:
        ended.set()
        worker.join(10)


@contextmanager
def serving(jobs: Jobs, **options: Any) -> Iterator[LocalConsole]:
    """Serve a console of ``jobs`` on a free port for the length of the block; ``options`` are ``LocalConsole``'s."""
    served = LocalConsole(jobs, port=0, **options)
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stop()
        thread.join(10)


def main(given: Sequence[str] | None = None) -> None:
    """Serve the console until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8390)
    parser.add_argument("--read-only", action="store_true")
    arguments = parser.parse_args(given)
    with local_aws() as aws:
        print("playing a morning's runs …", flush=True)
        jobs = played_morning(aws)
        served = LocalConsole(jobs, port=arguments.port, read_only=arguments.read_only)
        with working(jobs, aws.client("sqs")):
            print(served.address, flush=True)
            served.serve()


if __name__ == "__main__":
    main()
