"""Fill a day with orders, schedule the report, and trigger it instead of waiting for the night."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from examples.nightly_report.jobs import ORDERS, REPORTS, Report, Shop, dynamodb, jobs, midnight, s3, schedule, stored
from examples.on_local_aws import expect, finished

BERLIN = Shop("berlin", "Europe/Berlin")


def main() -> None:
    zone = ZoneInfo(BERLIN.timezone)
    today = midnight(datetime.now(zone).date(), zone)
    make_table_and_bucket()
    print("four orders: two of yesterday by the clocks of Berlin, one before and one after it", flush=True)
    yesterday = midnight(today.date() - timedelta(days=1), zone)
    for placed_at in (yesterday - timedelta(seconds=1), yesterday, today - timedelta(seconds=1), today):
        dynamodb().put_item(
            TableName=ORDERS,
            Item={"shop": {"S": BERLIN.name}, "placed_at": {"S": stored(placed_at)}, "cents": {"N": "1999"}},
        )

    schedule_id = schedule(BERLIN)
    expect("a second deployment keeps the schedule", schedule(BERLIN) == schedule_id)
    if (found := jobs.get_schedule(schedule_id)) is None:
        raise SystemExit("wrong: the schedule is not there")
    nights = jobs.next_occurrences(found, count=366)
    changes = [night for night, later in pairwise(nights) if later - night != timedelta(days=1)]
    for night in [*nights[:2], *changes]:
        print(f"it runs at {night.astimezone(zone):%d %B %Y %H:%M %Z}, which is {night.astimezone(UTC):%H:%M} UTC")
    expect("the clocks change twice within a year, and no night is left out", len(changes) >= 2)

    run = finished(jobs, str(jobs.trigger_schedule(schedule_id)))
    expect("the triggered run has succeeded", run.status == "succeeded")
    made = Report(**run.output)
    expect(f"{made.key} has the two orders of yesterday", (made.orders, made.cents) == (2, 3998))
    print(s3().get_object(Bucket=REPORTS, Key=made.key)["Body"].read().decode())


def make_table_and_bucket() -> None:
    dynamodb().create_table(
        TableName=ORDERS,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": "shop", "AttributeType": "S"},
            {"AttributeName": "placed_at", "AttributeType": "S"},
        ],
        KeySchema=[{"AttributeName": "shop", "KeyType": "HASH"}, {"AttributeName": "placed_at", "KeyType": "RANGE"}],
    )
    s3().create_bucket(Bucket=REPORTS)


if __name__ == "__main__":
    main()
