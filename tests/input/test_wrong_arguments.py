"""Every argument of every public call, given what it can't be: the error is ours, and says so in the caller's words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from kumofire_core import Jobs, KumofireError, Limit, Rate, RetryPolicy
from kumofire_core.engine.create import RunRequest
from kumofire_core.engine.schedules import ScheduleChanges, ScheduleSettings
from tests.builders import NOW, Aws

NAIVE = datetime(2026, 3, 14)
HOURLY = {"schedule_type": "cron", "schedule_expr": "0 * * * *"}
TEXT: list[Any] = [None, 5, b"x", ["x"], object()]
TIME: list[Any] = [5, "tomorrow", NAIVE, NAIVE.date(), object()]
COUNT: list[Any] = [0, -1, 1.5, True, "3", [3], 10**5_000]
FLAG: list[Any] = [None, 0, 1, "true", object()]
NOT_JSON: list[Any] = [object(), {1: 2}, {"a"}, b"x", float("nan"), "x" * 400_000]
KEY: list[Any] = [5, b"x", ["x"], object()]
LENGTH: list[Any] = [-1, -0.5, timedelta(-1), float("nan"), float("inf"), 10**400, True, "5", [5], object()]
SCHEDULE: dict[str, list[Any]] = {
    "schedule_type": [None, 5, "weekly", ["cron"]],
    "schedule_expr": [None, 5, b"0 * * * *", ["0 * * * *"], timedelta(hours=1), object()],
    "timezone": [5, b"UTC", ["UTC"], "", "Mars", NAIVE],
    "max_attempts": COUNT,
    "enabled": FLAG,
    "missed": [None, 5, "some", ["all"]],
    "overlap": [None, 5, "wait", ["allow"]],
    "start_at": TIME,
    "end_at": TIME,
    "group": [5, b"t", ["t"], "", "x" * 129, "a b", "ä", "a\n", "\x00", "\ud800", True],
}
GROUP: list[Any] = [5, b"t", ["t"], "", "x" * 129, "a b", "ä", "a\n", "\x00", "\ud800", True]
DEDUPE = [5, "once", b"kept", ["kept"], timedelta(0), timedelta(-1), "debounce"]  # the last without a key
CREATE = {
    "dedupe": DEDUPE,
    "name": TEXT,
    "payload": NOT_JSON,
    "run_at": TIME,
    "delay": LENGTH,
    "max_attempts": COUNT,
    "dedupe_key": KEY,
    "group": GROUP,
}
ERRORS: list[Any] = [5, "ValueError", ValueError("x"), (), (ValueError, 5), [ValueError], int]
FILTER: dict[str, list[Any]] = {
    "status": [5, "waiting", ["failed"], True],
    "job_name": [*TEXT[1:], "", "x" * 256],
    "since": TIME,
    "until": TIME,
    "error_type": [5, "", b"x", ValueError],
    "text": [5, "", b"x", ["x"], "x" * 1_025, "\ud800"],
}
LIST = {**FILTER, "limit": [*COUNT, None, 101], "page": [5, "x", b"x", {}, "{}", "WzEsMl0="], "payloads": FLAG}
MANY = {
    **FILTER,
    "run_ids": [5, "x", b"x", {}, [5], [None], ["x", b"x"], [str(number) for number in range(1_001)]],
    "dry_run": FLAG,
    "on_progress": [5, "x", [print]],
}
NAMED = {"run_ids": ["x"]}
REASON = [5, b"x", ["x"], "x" * 10_000, "\ud800"]
ANY_BUT_A_SCHEDULE = {"schedule_id": TEXT}

# What else a call needs, and what each of its arguments can't be.
CALLS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "__init__": (
        {"table": "t", "queue_url": "q"},
        {
            "table": [*TEXT, ""],
            "queue_url": [*TEXT, ""],
            "dynamodb": [5, "x", object()],
            "sqs": [5, "x", object()],
            "handlers": [5, "x", [print], {"x": 5}, {5: print}],
            "retry": [5, RetryPolicy, object()],
            "lease": [None, 5, "5", timedelta(0), timedelta(-1)],
            "retention": [5, "5", timedelta(0), timedelta(-1)],
            "clock": [None, 5, lambda: 5, lambda: NAIVE],
            "concurrency": [*COUNT, None, 101],
            "wake_shards": [*COUNT, None, 1_001],
            "allow_unknown_jobs": FLAG,
            "batch_writes": FLAG,
            "cipher": [5, "x", object()],
            "missing_handler": [None, 5, "wait", True],
            "list_succeeded": FLAG,
            "counts": FLAG,
            "creator": [5, b"web", "", "x" * 129, "two\nlines"],
            "bucket": [5, b"x", "", "ab", "a bucket", "x" * 256, object()],
            "large_from": [*COUNT, None, 500_000],
            "s3": [5, "x", object()],
        },
    ),
    "from_env": ({}, {"environment": [5, "x", ["x"], {"KUMOFIRE_TABLE": 5}, {"KUMOFIRE_LEASE_SECONDS": 5}]}),
    "make_clients": ({}, {"sqs": FLAG}),
    "handler": (
        {"name": "another"},
        {
            "name": [*TEXT, "", print],
            "max_attempts": COUNT,
            "retry": [5, RetryPolicy],
            "timeout": [5, "5", -timedelta(1)],
            "retry_on": ERRORS,
            "fail_on": ERRORS,
            "expires_after": [5, "5", -timedelta(1)],
            "concurrency": [0, 5, "5", Limit, [], [5], [Limit(1), 5], {}, [Limit(1), Limit(2)], [Limit(1)] * 5],
            "rate": [0, 5, "5", Rate, Limit(1), [], [Rate(1, per=timedelta(1))]],
        },
    ),
    "middleware": ({}, {"function": [None, 5, "x", Jobs, lambda ctx: None, lambda: None]}),
    "on": ({}, {"events": [*TEXT, "fail", print]}),
    "wait_for_hooks": ({}, {"timeout": [None, 5, "5", -timedelta(1)]}),
    "include": ({}, {"group": [None, 5, "mail", Jobs, {}]}),
    "create": ({"name": "email"}, CREATE),
    "create_in_transaction": ({"name": "email"}, CREATE),
    "create_many": ({}, {"requests": [None, 5, "email", {"name": "email"}, [None], ["email"], [5], [{}], [[]]]}),
    "create_batch": (
        {"requests": [], "then": "email"},
        {
            "requests": [
                None,
                5,
                "email",
                {"name": "email"},
                [None],
                [5],
                [{}],
                [{"name": "email", "dedupe_key": "k"}],
            ],
            "then": [5, b"email", "", ["email"], {}, {"name": 5}, {"name": "email", "run_at": NOW}],
            "payload": NOT_JSON,
            "then_if": [None, 5, "failed", ["ended"], True],
            "key": [*KEY, "", "x" * 1_025, "\ud800"],
        },
    ),
    "create_chain": (
        {"requests": [{"name": "email"}]},
        {
            "requests": [None, 5, "email", {"name": "email"}, [], [None], [5], [{}], [{"name": "email"}, {}]],
            "key": [*KEY, "", "x" * 1_025, "\ud800"],
        },
    ),
    "get_batch": ({}, {"batch_id": TEXT}),
    "batch_members": ({"batch_id": "x"}, {"batch_id": TEXT, "status": [5, "running", ["failed"], True]}),
    "list_batches": ({}, {"limit": [*COUNT, None, 101], "page": [5, "x", b"x", {}, "{}", "WzEsMl0="]}),
    "cancel_batch": ({"batch_id": "x"}, {"batch_id": TEXT, "reason": REASON}),
    "consume": (
        {"message": {"version": 1, "kumofireJobRunId": "x"}},
        {"message": [None, 5, "x", [], {}, object()], "deadline": TIME},
    ),
    "consume_batch": ({"event": {}}, {"event": [], "context": [5, "x", {}, object()]}),
    "run_batch": ({"event": {}}, {"event": [], "context": [5, "x", {}, object()]}),
    "get_status": ({"run_id": "x"}, {"run_id": TEXT, "payloads": FLAG, "most_bytes": [-1, 1.5, "3", True, [3]]}),
    "clean_bucket": ({}, {"records": [None, 5, "x", b"x", {"Records": []}]}),
    "sweep_bucket": ({}, {"deadline": TIME}),
    "cancel": ({"run_id": "x"}, {"run_id": TEXT, "reason": REASON}),
    "cancel_tree": ({"run_id": "x"}, {"run_id": TEXT, "reason": REASON}),
    "retry": ({"run_id": "x"}, {"run_id": TEXT, "run_at": TIME, "from_start": FLAG}),
    "signal": (
        {"run_id": "x", "name": "go"},
        {"run_id": TEXT, "name": [*TEXT, "", "x" * 101, "\n"], "payload": [*NOT_JSON[:-1], "x" * 401_500]},
    ),
    "steps": ({"run_id": "x"}, {"run_id": TEXT, "results": FLAG}),
    "run_now": ({}, {"run_id": TEXT}),
    "reschedule": ({"run_id": "x", "run_at": NOW}, {"run_id": TEXT, "run_at": [None, *TIME]}),
    "update": ({"run_id": "x", "payload": 1}, {"run_id": TEXT, "payload": NOT_JSON}),
    "delete": ({}, {"run_id": TEXT}),
    "get_limit": (
        {"job_name": "email"},
        {
            "job_name": [*TEXT, "", "x" * 256],
            "key": [1.5, b"x", ["x"], True, "x" * 1_025],
            "name": [5, b"x", "", ["x"]],
        },
    ),
    "pause": (
        {"job_name": "email"},
        {"job_name": [*TEXT[1:], "", "x" * 256], "reason": [5, b"x", ["x"], "x" * 10_000, "\ud800"], "until": TIME},
    ),
    "pauses": ({}, {}),
    "resume": ({}, {"job_name": [*TEXT[1:], "", "x" * 256]}),
    "find_run": ({}, {"dedupe_key": [None, *KEY]}),
    "get_many": ({}, {"run_ids": [None, 5, "x", b"x", {}, [5], ["x", b"x"], [str(number) for number in range(101)]]}),
    "list_runs": ({}, LIST),
    "cancel_many": (NAMED, {**MANY, "reason": REASON}),
    "retry_many": (NAMED, {**MANY, "spread": [5, "5", -timedelta(1), timedelta.max]}),
    "delete_many": (NAMED, {**MANY, "free_dedupe_keys": FLAG}),
    "get_bulk": ({}, {"bulk_id": TEXT}),
    "resume_bulk": ({"bulk_id": "x"}, {"bulk_id": TEXT, "on_progress": [5, "x", [print]]}),
    "abort_bulk": ({}, {"bulk_id": TEXT}),
    "stats": ({}, {"minutes": [*COUNT, None, 61], "fresh": FLAG}),
    "dispatch": (
        {},
        {
            "limit": COUNT[:-1],
            "deadline": TIME,
            "partitions": [5, "x", ["0"], [-2], [True], [1.5]],
            "hand_over": [5, "x", [print]],
        },
    ),
    "create_schedule": (
        {"name": "email", **HOURLY},
        {"name": TEXT, "payload": NOT_JSON, "schedule_key": [*KEY, ""], **SCHEDULE},
    ),
    "get_schedule": ({}, ANY_BUT_A_SCHEDULE),
    "get_schedule_by_key": ({}, {"schedule_key": TEXT}),
    "next_occurrences": (
        {"schedule": "the one that exists"},
        {"schedule": [*TEXT, "s"], "count": [*COUNT, None, 1_001]},
    ),
    "update_schedule": (
        {"schedule_id": "s"},
        {"schedule_id": TEXT, "unchanged_since": [5, "now", NAIVE], "name": TEXT, "payload": NOT_JSON, **SCHEDULE},
    ),
    "update_schedule_by_key": (
        {"schedule_key": "k"},
        {"schedule_key": TEXT, "name": TEXT, "payload": NOT_JSON, **SCHEDULE},
    ),
    "upsert_schedule": (
        {"name": "email", "schedule_key": "k", **HOURLY},
        {"name": TEXT, "payload": NOT_JSON, "schedule_key": [*TEXT, ""], **SCHEDULE},
    ),
    "disable_schedule": ({}, ANY_BUT_A_SCHEDULE),
    "disable_schedule_by_key": ({}, {"schedule_key": TEXT}),
    "delete_schedule": ({}, ANY_BUT_A_SCHEDULE),
    "list_schedules": ({}, {"limit": [*COUNT, None, 101], "page": [5, "x", b"x", {}, "{}"]}),
    "trigger_schedule": ({}, ANY_BUT_A_SCHEDULE),
}
"""An event may be anything: what it holds is a record's matter, and never an error of the call."""

WORDS = {
    "run_id": "run id",
    "bulk_id": "bulk id",
    "job_name": "job's name|job name",
    "schedule_id": "schedule id",
    "environment": "environment|KUMOFIRE_",
    "requests": "create_many|create_batch|create_chain",
    "batch_id": "a batch id",
    "function": "middleware",
    "events": "on has no event",
    "handlers": "handlers|handler|job's name",
}
"""How an error names an argument, other than by its name."""

KEYWORDS = {"update_schedule": ScheduleChanges, "update_schedule_by_key": ScheduleChanges}
KEYWORDS |= {"upsert_schedule": ScheduleSettings}


def arguments_of(call: str) -> set[str]:
    """Return the names of what a public call takes."""
    found = inspect.signature(getattr(Jobs, call)).parameters
    names = {name for name, parameter in found.items() if parameter.kind is not parameter.VAR_KEYWORD}
    return (names | set(KEYWORDS[call].__annotations__ if call in KEYWORDS else ())) - {"self"}


def test_each_argument_of_each_public_call_is_tried():
    properties = {name for name, value in vars(Jobs).items() if isinstance(value, property)}
    public = {name for name in dir(Jobs) if not name.startswith("_")} - properties | {"__init__"}

    assert set(CALLS) == public
    for call, (_, arguments) in CALLS.items():
        assert set(arguments) == arguments_of(call), call
    assert set(CREATE) == set(RunRequest.__annotations__)


def prepared(aws: Aws) -> Jobs:
    jobs = aws.jobs(handlers={"email": lambda ctx: None})
    jobs.create_schedule("email", {"n": 1}, schedule_key="k", **HOURLY)
    return jobs


def the_call(aws: Aws, jobs: Jobs, call: str) -> Callable[..., Any]:
    if call == "__init__":
        return aws.jobs
    found: Callable[..., Any] = getattr(jobs, call)
    if call == "update_schedule":  # of one that exists, so that all of the change is looked at
        known = jobs.get_schedule_by_key("k")
        assert known is not None
        return lambda *, schedule_id, **changes: found(known.id if schedule_id == "s" else schedule_id, **changes)
    if call == "next_occurrences":
        known = jobs.get_schedule_by_key("k")
        return lambda schedule, **given: found(known if schedule == "the one that exists" else schedule, **given)
    if call == "on":
        return lambda events: found(events)(lambda told: None)
    if call == "handler":
        return lambda **given: found(**given)(lambda ctx: None)
    return found


@pytest.mark.parametrize(
    ("call", "argument"), [(call, argument) for call, (_, arguments) in CALLS.items() for argument in arguments]
)
def test_what_an_argument_can_not_be_is_refused_in_the_callers_words(aws: Aws, call: str, argument: str):
    jobs = prepared(aws)
    before = aws.items()
    function = the_call(aws, jobs, call)

    for wrong in CALLS[call][1][argument]:
        with pytest.raises(KumofireError) as refusal:
            function(**{**CALLS[call][0], argument: wrong})
        text = str(refusal.value)
        assert any(word in text for word in WORDS.get(argument, argument).split("|")), text
        assert len(text) < 600
        assert not any(ours in text for ours in ("unexpected keyword", "positional", "NoneType' object", "prepare("))
    assert aws.items() == before


@pytest.mark.parametrize("argument", CREATE)
def test_what_a_request_of_create_many_can_not_be_is_refused_with_its_place(aws: Aws, argument: str):
    jobs = prepared(aws)
    before = aws.items()

    for wrong in CREATE[argument]:
        with pytest.raises(KumofireError, match=f"run 1 of create_many: .*{argument}"):
            jobs.create_many([{"name": "email"}, {"name": "email", argument: wrong}])  # type: ignore[misc]
    assert aws.items() == before


@pytest.mark.parametrize(
    ("setting", "shown"),
    [("lease", "-datetime.timedelta(seconds=1)"), ("retention", "-datetime.timedelta(seconds=1)")],
)
def test_a_negative_time_is_shown_as_it_was_given(aws: Aws, setting: str, shown: str):
    with pytest.raises(KumofireError) as refusal:
        aws.jobs(**{setting: timedelta(seconds=-1)})

    assert f"not {shown}" in str(refusal.value)
