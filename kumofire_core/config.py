"""Settings from the environment. Free of AWS; every wrong setting is named at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any

from kumofire_core.errors import ConfigurationError, shown

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
    "KUMOFIRE_MAX_ATTEMPTS": ("max_attempts", lambda text: _whole(text, 1, 1000), "a whole number from 1 to 1000"),
    "KUMOFIRE_PAYLOAD_KEY_ARN": (
        "cipher",
        lambda text: _key_arn(text),
        "the ARN of a KMS key, arn:aws:kms:…:key/… (and not of an alias)",
    ),
}


def settings_from(environment: Mapping[str, str], *, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the arguments of ``Jobs`` that an environment gives; an empty variable counts as none.

    ``given`` are arguments that the caller has: what the environment says of them, or does not, plays no part.
    Raises ``ConfigurationError`` that names every variable that is missing or wrong.
    """
    problems: list[str] = []
    settings: dict[str, Any] = {}
    ours = {name: value for name, value in environment.items() if name in REQUIRED or name in OPTIONAL}
    if wrong := [f"{name} must be a string, not {shown(value)}" for name, value in ours.items() if not _is_text(value)]:
        raise ConfigurationError(wrong)
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


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _whole(text: str, least: int, most: int) -> int:
    if not text.strip().isdecimal() or len(text) > 12 or not least <= int(text) <= most:
        raise ValueError(text)
    return int(text)


def _flag(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(text)
    return text.strip().lower() == "true"


def _key_arn(text: str) -> str:
    # AWS has no more than these: partition, region, account and the key's id.
    if not re.fullmatch(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,36}", text.strip(), re.ASCII):
        raise ValueError(text)
    return text.strip()


def _retention(days: int) -> timedelta | None:
    return timedelta(days=days) if days else None
