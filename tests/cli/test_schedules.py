"""``kumofire schedules``: what is printed, what is stored, and how each command ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kumofire_core import Jobs
from tests.builders import NOW, Clock
from tests.cli.conftest import Kumofire


def a_schedule(jobs: Jobs, **settings: Any) -> str:
    given = {"schedule_type": "cron", "schedule_expr": "30 7 * * *", "timezone": "Europe/Berlin"} | settings
    return jobs.create_schedule("email", {"to": "p-42"}, **given)


def test_create_stores_what_was_given_and_prints_the_id(kumofire: Kumofire, jobs: Jobs) -> None:
    words = ["--cron", "30 7 * * MON-FRI", "--timezone", "Europe/Berlin", "--payload", '{"to": "x"}', "--key", "news"]
    words += ["--missed", "latest", "--overlap", "skip", "--max-attempts", "5", "--end-at", "2026-12-24T00:00Z"]

    ended = kumofire("schedules", "create", "email", *words)

    assert (ended.code, ended.err) == (0, "")
    schedule = jobs.get_schedule(ended.out.rstrip("\n"))
    assert schedule is not None
    assert (schedule.job_name, schedule.payload, schedule.schedule_key) == ("email", {"to": "x"}, "news")
    assert (schedule.schedule_expr, schedule.timezone) == ("30 7 * * MON-FRI", "Europe/Berlin")
    assert (schedule.missed, schedule.overlap, schedule.max_attempts) == ("latest", "skip", 5)
    assert schedule.end_at == datetime(2026, 12, 24, tzinfo=UTC)
    assert schedule.enabled


@pytest.mark.parametrize(
    ("words", "kind", "expression"),
    [
        (["--every", "1h30m"], "interval", "rate(90 minutes)"),
        (["--every", "rate(5 minutes)"], "interval", "rate(5 minutes)"),
        (["--at", "2026-12-01T09:30+01:00"], "once", "2026-12-01T08:30:00+00:00"),
        (["--at", "2026-12-01T09:30", "--timezone", "Europe/Berlin"], "once", "at(2026-12-01T09:30:00)"),
    ],
)
def test_create_takes_intervals_and_single_times(
    kumofire: Kumofire, jobs: Jobs, words: list[str], kind: str, expression: str
) -> None:
    schedule = jobs.get_schedule(kumofire("schedules", "create", "email", *words, "--json").form["id"])

    assert schedule is not None
    assert (schedule.schedule_type, schedule.schedule_expr) == (kind, expression)


def test_a_key_that_is_taken_is_told(kumofire: Kumofire, jobs: Jobs) -> None:
    first = a_schedule(jobs, schedule_key="news")

    ended = kumofire("schedules", "create", "email", "--cron", "@daily", "--key", "news")

    assert (ended.code, ended.out) == (2, "")
    assert first in ended.err


def test_a_schedule_gets_a_group_and_loses_it(kumofire: Kumofire, jobs: Jobs) -> None:
    words = ["--cron", "@daily", "--key", "news", "--group", "tenant-42"]
    schedule_id = kumofire("schedules", "create", "email", *words).out.rstrip("\n")
    assert kumofire("schedules", "show", schedule_id, "--json").form["group"] == "tenant-42"
    assert "tenant-42" in kumofire("schedules", "show", schedule_id).out

    assert kumofire("schedules", "update", "--key", "news", "--max-attempts", "2").code == 0
    assert jobs.get_schedule(schedule_id).group == "tenant-42"  # type: ignore[union-attr]
    assert kumofire("schedules", "update", "--key", "news", "--group", "none").code == 0
    assert jobs.get_schedule(schedule_id).group is None  # type: ignore[union-attr]


def test_update_changes_what_is_given_and_keeps_the_rest(kumofire: Kumofire, jobs: Jobs) -> None:
    a_schedule(jobs, schedule_key="news", max_attempts=3, end_at=NOW + timedelta(days=100))

    words = ["--cron", "0 8 * * *", "--max-attempts", "none", "--end-at", "none"]
    assert kumofire("schedules", "update", "--key", "news", *words).code == 0

    schedule = jobs.get_schedule_by_key("news")
    assert schedule is not None
    assert (schedule.schedule_expr, schedule.timezone) == ("0 8 * * *", "Europe/Berlin")
    assert (schedule.payload, schedule.max_attempts, schedule.end_at) == ({"to": "p-42"}, None, None)


def test_disable_and_enable(kumofire: Kumofire, jobs: Jobs) -> None:
    schedule_id = a_schedule(jobs)

    disabled = kumofire("schedules", "disable", schedule_id)
    assert (disabled.code, "disabled" in disabled.out) == (0, True)
    assert kumofire("schedules", "next", schedule_id).code == 1
    enabled = kumofire("schedules", "enable", schedule_id, "--json").form
    assert (enabled["enabled"], enabled["next_run_at"]) == (True, "2026-03-15T06:30:00.000Z")


def test_trigger_makes_a_run_now(kumofire: Kumofire, jobs: Jobs) -> None:
    schedule_id = a_schedule(jobs)

    run = jobs.get_status(kumofire("schedules", "trigger", schedule_id).out.strip())

    assert run is not None
    assert (run.schedule_id, run.payload, run.status) == (schedule_id, {"to": "p-42"}, "queued")


def test_delete_asks_and_takes_no_for_an_answer(kumofire: Kumofire, jobs: Jobs) -> None:
    schedule_id = a_schedule(jobs)

    for answer in ("n\n", "\n", ""):
        refused = kumofire("schedules", "delete", schedule_id, typed=answer, terminal=True)
        assert (refused.code, refused.out) == (1, "")
        assert "[y/N]" in refused.err
    unasked = kumofire("schedules", "delete", schedule_id)
    assert unasked.code == 2
    assert "--yes" in unasked.err
    assert jobs.get_schedule(schedule_id) is not None
    assert kumofire("schedules", "delete", schedule_id, typed="y\n", terminal=True).code == 0
    assert jobs.get_schedule(schedule_id) is None


def test_delete_with_yes_asks_nothing(kumofire: Kumofire, jobs: Jobs) -> None:
    schedule_id = a_schedule(jobs)

    ended = kumofire("schedules", "delete", schedule_id, "--yes", "--json")

    assert (ended.code, ended.err, ended.form) == (0, "", {"deleted": [schedule_id]})
    assert jobs.get_schedule(schedule_id) is None


@pytest.mark.parametrize("command", ["show", "enable", "disable", "trigger", "delete", "next", "update"])
@pytest.mark.parametrize("named", [["no-such"], ["--key", "no-such"]], ids=["id", "key"])
def test_a_schedule_that_is_not_there_is_told(kumofire: Kumofire, command: str, named: list[str]) -> None:
    more = ["--cron", "@daily"] if command == "update" else []

    ended = kumofire("schedules", command, *named, *more)

    assert (ended.code, ended.out) == (1, "")
    assert "'no-such'" in ended.err


def test_the_list_is_in_the_order_of_the_next_times(kumofire: Kumofire, jobs: Jobs) -> None:
    later, sooner = a_schedule(jobs), a_schedule(jobs, schedule_expr="0 6 * * *", schedule_key="news")

    lines = kumofire("schedules", "list").out.splitlines()

    assert lines[0].split() == ["ID", "KEY", "JOB", "STATE", "TIMES", "ZONE", "NEXT"]
    assert [line.split()[0] for line in lines[1:]] == [sooner, later]
    assert lines[1].endswith("in 17h")


def test_the_json_of_a_list_has_these_names(kumofire: Kumofire, jobs: Jobs) -> None:
    schedule_id = a_schedule(jobs)
    a_schedule(jobs, schedule_expr="0 9 * * *")

    form = kumofire("schedules", "list", "--limit", "1", "--json").form

    assert form["next_page"]
    assert form["schedules"] == [
        {
            "id": schedule_id,
            "schedule_key": None,
            "job_name": "email",
            "schedule_type": "cron",
            "schedule_expr": "30 7 * * *",
            "timezone": "Europe/Berlin",
            "enabled": True,
            "next_run_at": "2026-03-15T06:30:00.000Z",
            "last_scheduled_at": None,
            "max_attempts": None,
            "missed": "all",
            "overlap": "allow",
            "start_at": None,
            "end_at": None,
            "created_at": "2026-03-14T12:00:00.000Z",
            "updated_at": "2026-03-14T12:00:00.000Z",
            "group": None,
        }
    ]
    rest = kumofire("schedules", "list", "--page", form["next_page"], "--json").form
    assert (len(rest["schedules"]), rest["next_page"]) == (1, None)


def test_an_empty_list_prints_nothing_to_standard_output(kumofire: Kumofire) -> None:
    ended = kumofire("schedules", "list")

    assert (ended.code, ended.out) == (0, "")
    assert kumofire("schedules", "list", "--json").form == {"schedules": [], "next_page": None}


def test_the_next_times_follow_the_clocks_of_the_zone(kumofire: Kumofire, jobs: Jobs) -> None:
    schedule_id = a_schedule(jobs)

    form = kumofire("schedules", "next", schedule_id, "--json", "--count", "16").form
    shown = kumofire("schedules", "next", schedule_id).out.splitlines()

    assert form["timezone"] == "Europe/Berlin"
    assert form["occurrences"][0] == "2026-03-15T06:30:00.000Z"
    assert form["occurrences"][-1] == "2026-03-30T05:30:00.000Z"  # the clocks went forward on the 29th
    assert len(shown) == 11
    assert shown[1].startswith("Sun 2026-03-15 07:30:00 +0100")


def test_the_next_times_of_an_interval_keep_their_rhythm(kumofire: Kumofire, jobs: Jobs, clock: Clock) -> None:
    schedule_id = a_schedule(jobs, schedule_type="interval", schedule_expr=timedelta(hours=5), timezone=None)
    clock.advance(minutes=17)

    form = kumofire("schedules", "next", schedule_id, "--json", "--count", "2").form

    assert form["occurrences"] == ["2026-03-14T17:00:00.000Z", "2026-03-14T22:00:00.000Z"]


def test_an_expression_is_tried_without_a_deployment(kumofire: Kumofire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUMOFIRE_TABLE")

    form = kumofire("schedules", "next", "--cron", "0 9 1 * *", "--count", "2", "--json").form

    assert form["occurrences"] == ["2026-04-01T09:00:00.000Z", "2026-05-01T09:00:00.000Z"]
