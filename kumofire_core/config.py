"""Settings from the environment. Free of AWS; every wrong setting is named at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from kumofire_core.errors import ConfigurationError

REQUIRED = {
    "KUMOFIRE_TABLE": "the name of the DynamoDB table",
    "KUMOFIRE_QUEUE_URL": "the URL of the SQS queue",
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
    "KUMOFIRE_BATCH_CLAIMS": ("batch_claims", lambda text: _flag(text), "true or false"),
    "KUMOFIRE_MAX_ATTEMPTS": ("max_attempts", lambda text: _whole(text, 1, 1000), "a whole number from 1 to 1000"),
}


def settings_from(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of ``Jobs`` that an environment gives; an empty variable counts as none.

    Raises ``ConfigurationError`` that names every variable that is missing or wrong.
    """
    problems = [f"{name} is not set; give it {what}" for name, what in REQUIRED.items() if not environment.get(name)]
    settings: dict[str, Any] = {
        "table": environment.get("KUMOFIRE_TABLE"),
        "queue_url": environment.get("KUMOFIRE_QUEUE_URL"),
    }
    for name, (argument, read, form) in OPTIONAL.items():
        text = environment.get(name)
        if text:
            try:
                settings[argument] = read(text)
            except ValueError:
                problems.append(f"{name} is {text[:40]!r}; it must be {form}")
    if problems:
        raise ConfigurationError(problems)
    return settings


def _whole(text: str, least: int, most: int) -> int:
    if not text.strip().isdecimal() or len(text) > 12 or not least <= int(text) <= most:
        raise ValueError(text)
    return int(text)


def _flag(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError(text)
    return text.strip().lower() == "true"


def _retention(days: int) -> timedelta | None:
    return timedelta(days=days) if days else None
