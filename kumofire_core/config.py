"""The settings of a ``Jobs``: their defaults, their checks, and their environment variables.

An error names all wrong settings at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from inspect import getattr_static
from typing import Any

from kumofire_core.errors import ConfigurationError, short_repr
from kumofire_core.model.run import MAX_CREATOR_LENGTH
from kumofire_core.model.run_item import MAX_PAYLOAD_BYTES
from kumofire_core.model.times import duration_ms
from kumofire_core.rules.retry import RetryPolicy
from kumofire_core.rules.wake_ups import LEAST_SHARDS_READ, MOST_SHARDS

DEFAULT_LEASE = timedelta(seconds=30)
DEFAULT_RETENTION = timedelta(days=30)
DEFAULT_CONCURRENCY = 10
DEFAULT_WAKE_SHARDS = LEAST_SHARDS_READ
DEFAULT_LARGE_FROM = 2560
"""From this size on a payload costs less in S3 than in the item (docs/growth.md)."""
MISSING_HANDLER_CHOICES = ("fail", "retry")

REQUIRED = {
    "KUMOFIRE_TABLE": ("table", "the name of the DynamoDB table"),
    "KUMOFIRE_QUEUE_URL": ("queue_url", "the URL of the SQS queue"),
}

Setting = tuple[str, Callable[[str], Any], str]

OPTIONAL: dict[str, Setting] = {
    "KUMOFIRE_CONCURRENCY": ("concurrency", lambda text: _whole(text, 1, 100), "a whole number from 1 to 100"),
    "KUMOFIRE_WAKE_SHARDS": (
        "wake_shards",
        lambda text: _whole(text, 1, MOST_SHARDS),
        f"a whole number from 1 to {MOST_SHARDS}",
    ),
    "KUMOFIRE_RETENTION_DAYS": (
        "retention",
        lambda text: _retention(_whole(text, 0, 36500)),
        "a whole number of days from 0 (keep for ever) to 36500",
    ),
    "KUMOFIRE_LEASE_SECONDS": (
        "lease",
        lambda text: timedelta(seconds=_whole(text, 1, 43200)),
        "a whole number of seconds from 1 to 43200",
    ),
    "KUMOFIRE_BATCH_WRITES": ("batch_writes", lambda text: _flag(text), "true or false"),
    "KUMOFIRE_LIST_SUCCEEDED": ("list_succeeded", lambda text: _flag(text), "true or false"),
    "KUMOFIRE_COUNTS": ("counts", lambda text: _flag(text), "true or false"),
    "KUMOFIRE_MISSING_HANDLER": (
        "missing_handler",
        lambda text: _one_of(text, MISSING_HANDLER_CHOICES),
        "fail or retry",
    ),
    "KUMOFIRE_MAX_ATTEMPTS": ("max_attempts", lambda text: _whole(text, 1, 1000), "a whole number from 1 to 1000"),
    "KUMOFIRE_CREATOR": (
        "creator",
        lambda text: _creator(text),
        f"a name of at most {MAX_CREATOR_LENGTH} printable characters",
    ),
    "KUMOFIRE_BUCKET": ("bucket", lambda text: _bucket(text), "the name of an S3 bucket"),
    "KUMOFIRE_LARGE_FROM_BYTES": (
        "large_from",
        lambda text: _whole(text, 1, MAX_PAYLOAD_BYTES),
        f"a whole number of bytes from 1 to {MAX_PAYLOAD_BYTES}",
    ),
    "KUMOFIRE_PAYLOAD_KEY_ARN": (
        "cipher",
        lambda text: _key_arn(text),
        "the ARN of a KMS key, arn:aws:kms:…:key/… (and not of an alias)",
    ),
}


def settings_from(environment: Mapping[str, str], *, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the arguments of ``Jobs`` that environment variables set; an empty variable counts as unset.

    Arguments in ``given`` override the environment: their variables are not read.
    Raises ``ConfigurationError``, which names every missing or wrong variable.
    """
    problems: list[str] = []
    settings: dict[str, Any] = {}
    ours = {name: value for name, value in environment.items() if name in REQUIRED or name in OPTIONAL}
    if wrong := [
        f"{name} must be a string, not {short_repr(value)}" for name, value in ours.items() if not _is_text(value)
    ]:
        raise ConfigurationError(wrong)
    for name, (argument, what) in REQUIRED.items():
        if environment.get(name):
            settings[argument] = environment[name]
            if argument == "queue_url" and argument not in given and _is_fifo(environment[name]):
                problems.append(_fifo_problem(name, environment[name]))
        elif argument not in given:
            problems.append(f"{name} is not set; give it {what}")
    for name, (argument, read, form) in OPTIONAL.items():
        text = environment.get(name)
        if text and argument not in given:
            try:
                settings[argument] = read(text)
            except ValueError:
                problems.append(f"{name} is {text[:40]!r}; it must be {form}")
    if problems:
        raise ConfigurationError(problems)
    return settings


def argument_problems(
    *,
    table: object,
    queue_url: object,
    dynamodb: object,
    sqs: object,
    retry: object,
    lease: object,
    retention: object,
    clock: object,
    concurrency: object,
    wake_shards: object,
    allow_unknown_jobs: object,
    batch_writes: object,
    missing_handler: object,
    list_succeeded: object,
    counts: object,
    cipher: object,
    creator: object,
    bucket: object,
    large_from: object,
    s3: object,
) -> list[str]:
    """Return one sentence for each wrong argument of ``Jobs``."""
    problems = [
        f"{name} must be a non-empty string, not {short_repr(value)}"
        for name, value in (("table", table), ("queue_url", queue_url))
        if not isinstance(value, str) or not value
    ]
    if isinstance(queue_url, str) and _is_fifo(queue_url):
        problems.append(_fifo_problem("queue_url", queue_url))
    problems += [
        f"{name} must be a whole number from 1 to {most}, not {short_repr(value)}"
        for name, value, most in (("concurrency", concurrency, 100), ("wake_shards", wake_shards, MOST_SHARDS))
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most
    ]
    if not isinstance(lease, timedelta) or duration_ms(lease) < 1:
        problems.append(f"lease must be a timedelta of at least 1 ms, not {short_repr(lease)}")
    # 0 is refused: it would delete runs at once, while KUMOFIRE_RETENTION_DAYS=0 keeps them for ever.
    if retention is not None and (not isinstance(retention, timedelta) or retention <= timedelta(0)):
        problems.append(f"retention must be a timedelta above 0, or None for ever, not {short_repr(retention)}")
    if retry is not None and not isinstance(retry, RetryPolicy):
        problems.append(f"retry must be a RetryPolicy, not {type(retry).__name__}")
    problems += [
        f"{name} must be True or False, not {short_repr(value)}"
        for name, value in (
            ("allow_unknown_jobs", allow_unknown_jobs),
            ("batch_writes", batch_writes),
            ("list_succeeded", list_succeeded),
            ("counts", counts),
        )
        if not isinstance(value, bool)
    ]
    if missing_handler not in MISSING_HANDLER_CHOICES:
        problems.append(f"missing_handler must be 'fail' or 'retry', not {short_repr(missing_handler)}")
    if not callable(clock):
        problems.append(f"clock must be callable, not {type(clock).__name__}")
    elif not isinstance(now := clock(), datetime) or now.utcoffset() is None:
        problems.append(f"clock must return an aware datetime, not {short_repr(now)}")
    problems += [
        f"{name} must be a boto3 client, not {type(client).__name__}"
        for name, client, operations in (
            ("dynamodb", dynamodb, ("get_item", "put_item", "update_item", "query")),
            ("sqs", sqs, ("send_message", "send_message_batch")),
            ("s3", s3, ("put_object", "get_object", "delete_objects")),
        )
        if client is not None and not _may_have_any(client, operations)
    ]
    if bucket is not None and not _may_be_bucket(bucket):
        problems.append(f"bucket must be the name of an S3 bucket, or None, not {short_repr(bucket)}")
    if isinstance(large_from, bool) or not isinstance(large_from, int) or not 1 <= large_from <= MAX_PAYLOAD_BYTES:
        problems.append(
            f"large_from must be a whole number of bytes from 1 to {MAX_PAYLOAD_BYTES}, not {short_repr(large_from)}"
        )
    if s3 is not None and bucket is None:
        problems.append("s3 is a client for the bucket of large payloads, so give bucket, too")
    if cipher is not None and not (callable(getattr(cipher, "encrypt", None)) and hasattr(cipher, "decrypt")):
        problems.append(f"cipher must have encrypt and decrypt, which {type(cipher).__name__} does not have")
    if creator is not None and not _may_be_creator(creator):
        problems.append(
            f"creator must be a name of 1 to {MAX_CREATOR_LENGTH} printable characters, not {short_repr(creator)}"
        )
    return problems


def default_creator() -> str | None:
    """Return the name of the Lambda function that this process is of, or ``None``.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html (defined runtime environment variables)
    """
    name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
    return name if _may_be_creator(name) else None


def _may_be_creator(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MAX_CREATOR_LENGTH and name.isprintable()


def _may_be_bucket(name: object) -> bool:
    # A name, or an access point's ARN.
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._:/-]{3,255}", name) is not None


def _bucket(text: str) -> str:
    if not _may_be_bucket(text.strip()):
        raise ValueError(text)
    return text.strip()


def _may_have_any(client: object, operations: tuple[str, ...]) -> bool:
    """Return whether a client may have one of these methods. Does not access it: the first access may create it."""
    if hasattr(type(client), "__getattr__"):
        return True
    return any(getattr_static(client, operation, None) is not None for operation in operations)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_fifo(queue_url: str) -> bool:
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html (queue name)
    return queue_url.strip().rstrip("/").endswith(".fifo")


def _fifo_problem(setting: str, queue_url: str) -> str:
    return (
        f"{setting} is {short_repr(queue_url)}, a FIFO queue, which refuses messages without a group and with a delay; "
        "give it the URL of a standard queue"
    )


def _whole(text: str, least: int, most: int) -> int:
    if not text.strip().isdecimal() or len(text) > 12 or not least <= int(text) <= most:
        raise ValueError(text)
    return int(text)


def _flag(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(text)
    return text.strip().lower() == "true"


def _one_of(text: str, choices: Collection[str]) -> str:
    if text.strip().lower() not in choices:
        raise ValueError(text)
    return text.strip().lower()


def _creator(text: str) -> str:
    if not _may_be_creator(text.strip()):
        raise ValueError(text)
    return text.strip()


def _key_arn(text: str) -> str:
    # The parts of a key's ARN are partition, region, account and the key's id.
    # https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN
    if not re.fullmatch(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,36}", text.strip(), re.ASCII):
        raise ValueError(text)
    return text.strip()


def _retention(days: int) -> timedelta | None:
    return timedelta(days=days) if days else None
