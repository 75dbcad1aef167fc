"""The job that reports a shop's day, and the schedule that runs it each night."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import boto3

from kumofire_core import JobContext, Jobs, RetryPolicy

ORDERS = "orders"
REPORTS = "reports"

jobs = Jobs.from_env()


@dataclass
class Shop:
    name: str
    timezone: str


@dataclass
class Report:
    key: str
    orders: int
    cents: int


@jobs.handler("nightly_report", retry=RetryPolicy.patient())
def report(ctx: JobContext[Shop]) -> Report:
    """Report the day before the night that this run is for."""
    shop, zone = ctx.payload.name, ZoneInfo(ctx.payload.timezone)
    # Not the current time: the run may be late, or attempted again in the next night.
    planned = ctx.run.occurrence or ctx.run.scheduled_for
    day = planned.astimezone(zone).date() - timedelta(days=1)
    orders = orders_of(shop, day, zone)
    text = "".join(f"{placed_at},{cents}\n" for placed_at, cents in orders)
    # The key follows from the day, so that a second attempt puts the same report again.
    key = f"{shop}/{day}.csv"
    s3().put_object(Bucket=REPORTS, Key=key, Body=f"placed_at,cents\n{text}".encode())
    return Report(key, len(orders), sum(cents for _, cents in orders))


def schedule(shop: Shop) -> str:
    """Have the shop's day reported at 02:30 of its clocks; call it in every deployment. Return the schedule's id."""
    return jobs.upsert_schedule(
        "nightly_report",
        shop,
        schedule_key=f"nightly_report/{shop.name}",
        schedule_type="cron",
        schedule_expr="30 2 * * *",
        timezone=shop.timezone,
    )


def orders_of(shop: str, day: date, zone: ZoneInfo) -> list[tuple[str, int]]:
    """Return the time and the cents of each order of a day, which may have 23 or 25 hours."""
    pages = (
        dynamodb()
        .get_paginator("query")
        .paginate(
            TableName=ORDERS,
            KeyConditionExpression="shop = :shop AND placed_at BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":shop": {"S": shop},
                ":first": {"S": stored(midnight(day, zone))},
                ":last": {"S": stored(midnight(day + timedelta(days=1), zone) - timedelta(milliseconds=1))},
            },
        )
    )
    return [(item["placed_at"]["S"], int(item["cents"]["N"])) for page in pages for item in page["Items"]]


def midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def stored(moment: datetime) -> str:
    """Return a time as the orders have it: UTC with milliseconds, so that its texts sort as the times do."""
    return moment.astimezone(ZoneInfo("UTC")).isoformat(timespec="milliseconds")


@cache
def dynamodb() -> Any:
    return boto3.client("dynamodb")


@cache
def s3() -> Any:
    return boto3.client("s3")
