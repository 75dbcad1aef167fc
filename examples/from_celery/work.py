"""The work itself: it adds up a bank statement in S3. It knows neither Celery nor Kumofire, so both can call it."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

import boto3


class NotReadyError(Exception):
    """The statement has not arrived yet."""


def add_up(bucket: str, key: str) -> dict[str, str]:
    """Add up a CSV file of accounts and amounts, store the totals beside it, and return them.

    Raises ``NotReadyError`` where there is no such file yet, and ``ValueError`` for a file that is wrong. A second call
    stores the same totals in the same place.
    """
    try:
        text = s3().get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    except s3().exceptions.NoSuchKey:
        raise NotReadyError(f"{key} has not arrived yet") from None
    totals: dict[str, Decimal] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        try:
            account, amount = row
            totals[account] = totals.get(account, Decimal(0)) + Decimal(amount)
        except (ValueError, InvalidOperation):
            raise ValueError(f"{key}, line {number}: {row} is not an account and an amount") from None
    result = {account: str(total) for account, total in sorted(totals.items())}
    s3().put_object(Bucket=bucket, Key=f"totals/{key}.json", Body=json.dumps(result).encode())
    return result


@cache
def s3() -> Any:
    return boto3.client("s3")
