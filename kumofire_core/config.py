"""The settings of a ``Jobs``: their defaults, their checks, and how they are read from the environment.

An error names every wrong setting at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from kumofire_core.errors import ConfigurationError, short_repr
from kumofire_core.model.times import duration_ms
from kumofire_core.rules.retry import RetryPolicy

DEFAULT_LEASE = timedelta(seconds=30)
DEFAULT_RETENTION = timedelta(days=30)
DEFAULT_CONCURRENCY = 10
DEFAULT_WAKE_SHARDS = 8
MISSING_HANDLER_CHOICES = ("fail", "retry")

REQUIRED = {
    "KUMOFIRE_TABLE": ("table", "the name of the DynamoDB table"),
    "KUMOFIRE_QUEUE_URL": ("queue_url", "the URL of the SQS queue"),
}

Setting = tuple[str, Callable[[str], Any], str]

OPTIONAL: dict[str, Setting] = {
    "KUMOFIRE_CONCURRENCY": ("concurrency", lambda text: _whole(text, 1, 100), "a whole number from 1 to 100"),
    "KUMOFIRE_WAKE_SHARDS": ("wake_shards", lambda text: _whole(text, 1, 1000), "a whole number from 1 to 1000"),
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
    "KUMOFIRE_MISSING_HANDLER": (
        "missing_handler",
        lambda text: _one_of(text, MISSING_HANDLER_CHOICES),
        "fail or retry",
    ),
    "KUMOFIRE_MAX_ATTEMPTS": ("max_attempts", lambda text: _whole(text, 1, 1000), "a whole number from 1 to 1000"),
    "KUMOFIRE_PAYLOAD_KEY_ARN": (
        "cipher",
        lambda text: _key_arn(text),
        "the ARN of a KMS key, arn:aws:kms:…:key/… (and not of an alias)",
    ),
}


def settings_from(environment: Mapping[str, str], *, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the arguments of ``Jobs`` that an environment gives; an empty variable counts as none.

    Arguments in ``given`` override the environment: their variables are not read.
    Raises ``ConfigurationError`` that names every variable that is missing or wrong.
    """
    problems: list[str] = []
    settings: dict[str, Any] = {}
    for name, (argument, what) in REQUIRED.items():
        if environment.get(name):
            settings[argument] = environment[name]
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
    retry: object,
    lease: object,
    retention: object,
    clock: object,
    concurrency: object,
    wake_shards: object,
    allow_unknown_jobs: object,
    batch_writes: object,
    missing_handler: object,
    cipher: object,
) -> list[str]:
    """Return what is wrong with the arguments of ``Jobs``, a sentence for each."""
    problems = [
        f"{name} must be a non-empty string, not {short_repr(value)}"
        for name, value in (("table", table), ("queue_url", queue_url))
        if not isinstance(value, str) or not value
    ]
    problems += [
        f"{name} must be a whole number from 1 to {most}, not {short_repr(value)}"
        for name, value, most in (("concurrency", concurrency, 100), ("wake_shards", wake_shards, 1000))
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most
    ]
    if not isinstance(lease, timedelta) or duration_ms(lease) < 1:
        problems.append(f"lease must be a timedelta of at least 1 ms, not {short_repr(lease)}")
    # 0 is refused, because it would delete at once, while KUMOFIRE_RETENTION_DAYS=0 keeps for ever.
    if retention is not None and (not isinstance(retention, timedelta) or retention <= timedelta(0)):
        problems.append(f"retention must be a timedelta above 0, or None for ever, not {short_repr(retention)}")
    if retry is not None and not isinstance(retry, RetryPolicy):
        problems.append(f"retry must be a RetryPolicy, not {type(retry).__name__}")
    problems += [
        f"{name} must be True or False, not {short_repr(value)}"
        for name, value in (("allow_unknown_jobs", allow_unknown_jobs), ("batch_writes", batch_writes))
        if not isinstance(value, bool)
    ]
    if missing_handler not in MISSING_HANDLER_CHOICES:
        problems.append(f"missing_handler must be 'fail' or 'retry', not {short_repr(missing_handler)}")
    if not callable(clock):
        problems.append(f"clock must be callable, not {type(clock).__name__}")
    elif not isinstance(now := clock(), datetime) or now.utcoffset() is None:
        problems.append(f"clock must return an aware datetime, not {short_repr(now)}")
    if cipher is not None and not (callable(getattr(cipher, "encrypt", None)) and hasattr(cipher, "decrypt")):
        problems.append(f"cipher must have encrypt and decrypt, which {type(cipher).__name__} does not have")
    return problems


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


def _key_arn(text: str) -> str:
    # AWS has no more than these: partition, region, account and the key's id.
    if not re.fullmatch(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,36}", text.strip(), re.ASCII):
        raise ValueError(text)
    return text.strip()


def _retention(days: int) -> timedelta | None:
    return timedelta(days=days) if days else None
