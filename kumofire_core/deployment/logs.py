"""Reads what the functions of a deployment have logged: about one run, or while one attempt was executed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from kumofire_core.deployment.discovery import Deployment, DiscoveryError
from kumofire_core.errors import InvalidArgumentError, short_repr
from kumofire_core.model.message import MAX_RUN_ID_LENGTH
from kumofire_core.model.run_view import Attempt
from kumofire_core.model.times import from_ms, require_aware, to_ms

MOST_LINES = 10_000
LATE = timedelta(seconds=2)
"""How long after an attempt's end its lines may be dated: Lambda dates a line when it takes it over."""

MOST_PAGES = 100
"""A search through much that does not fit gives up after so many pages, of a megabyte each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of a function's log, as the function wrote it. It may hold control characters."""

    at: datetime
    text: str
    log_group: str
    log_stream: str


def lines_about(
    deployment: Deployment, run_id: str, *, since: datetime, until: datetime | None = None, limit: int = 1000
) -> list[LogLine]:
    """Return the lines of both functions that name a run, by their times, at most ``limit`` of each function.

    This library's own lines about a run name it, and so do lines of a handler that come through ``AttemptLogFilter``.
    Needs ``logs:FilterLogEvents``. Searching reads all of the functions' lines of that time, so give the run's
    ``created_at`` as ``since``. Raises ``DiscoveryError`` if the deployment was found without its stack.
    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
    """
    _require_limit(limit)
    if not isinstance(run_id, str) or not 1 <= len(run_id) <= MAX_RUN_ID_LENGTH or '"' in run_id:
        raise InvalidArgumentError(f"run_id must be a run's id, not {short_repr(run_id)}")
    groups = [_known(deployment.consumer_log_group), _known(deployment.dispatcher_log_group)]
    request = {"filterPattern": f'"{run_id}"', **_period(since, until)}
    lines = [
        _line(event, group, event["logStreamName"])
        for group in groups
        for event in islice(_found(deployment.client("logs"), group, request), limit)
    ]
    return sorted(lines, key=lambda line: line.at)


def lines_of_attempt(deployment: Deployment, attempt: Attempt, *, limit: int = 1000) -> list[LogLine]:
    """Return the first ``limit`` lines of the consumer that executed an attempt, from its start to its end.

    These are all lines of that time, also those of a handler that do not name the run, and those of the other runs
    that the same consumer executed meanwhile. An attempt without a log stream was executed outside of Lambda, or by an
    earlier release: there are no lines. Needs ``logs:GetLogEvents``. Raises ``DiscoveryError`` if the deployment was
    found without its stack.
    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
    """
    _require_limit(limit)
    group = _known(deployment.consumer_log_group)
    if attempt.log_stream is None or attempt.started_at is None:
        return []
    ended = None if attempt.ended_at is None else attempt.ended_at + LATE
    request = {"logGroupName": group, "logStreamName": attempt.log_stream, "startFromHead": True}
    events = _read(deployment.client("logs"), {**request, **_period(attempt.started_at, ended)})
    return [_line(event, group, attempt.log_stream) for event in islice(events, limit)]


def _found(logs: Any, group: str, request: dict[str, Any]) -> Iterator[Any]:
    token: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        reply = logs.filter_log_events(logGroupName=group, **request, **token)
        yield from reply["events"]
        if not reply.get("nextToken"):
            return
        token = {"nextToken": reply["nextToken"]}


def _read(logs: Any, request: dict[str, Any]) -> Iterator[Any]:
    token: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        reply = logs.get_log_events(**request, **token)
        yield from reply["events"]
        # The same token again means that this was the end.
        if reply["nextForwardToken"] == token.get("nextToken"):
            return
        token = {"nextToken": reply["nextForwardToken"]}


def _line(event: Any, group: str, stream: str) -> LogLine:
    return LogLine(at=from_ms(event["timestamp"]), text=event["message"], log_group=group, log_stream=stream)


def _period(since: datetime, until: datetime | None) -> dict[str, int]:
    period = {"startTime": to_ms(require_aware("since", since))}
    return period if until is None else period | {"endTime": to_ms(require_aware("until", until))}


def _known(group: str | None) -> str:
    if group is None:
        raise DiscoveryError("where the functions log is not known without their stack; name it (--stack-name)")
    return group


def _require_limit(limit: object) -> None:
    if type(limit) is not int or not 1 <= limit <= MOST_LINES:
        raise InvalidArgumentError(f"limit must be a whole number from 1 to {MOST_LINES}, not {short_repr(limit)}")
