"""``kumofire pause``, ``resume`` and ``pauses``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kumofire_core import Jobs
from tests.builders import Clock
from tests.cli.conftest import Kumofire


def test_a_job_is_paused_listed_and_resumed(kumofire: Kumofire, jobs: Jobs, clock: Clock) -> None:
    paused = kumofire("pause", "email", "--reason", "the \u202e provider is down", "--until", "2h")

    assert paused.code == 0
    [pause] = jobs.pauses()
    assert (pause.job_name, pause.reason) == ("email", "the \u202e provider is down")
    assert pause.until == clock() + timedelta(hours=2)
    listed = kumofire("pauses")
    assert listed.out.splitlines()[0].split() == ["JOB", "PAUSED", "UNTIL", "REASON"]
    assert "the \\u202e provider is down" in listed.out
    assert kumofire("resume", "email").code == 0
    assert jobs.pauses() == ()
    again = kumofire("resume", "email")
    assert (again.code, again.out) == (1, "")


def test_all_jobs_are_paused_only_where_that_is_said(kumofire: Kumofire, jobs: Jobs) -> None:
    for words in (["pause"], ["pause", "email", "--all"], ["resume"]):
        assert kumofire(*words).code == 2
    assert jobs.pauses() == ()

    assert kumofire("pause", "--all").code == 0
    assert kumofire("pause", "email").code == 0
    resumed = kumofire("resume", "email")
    assert "kumofire resume --all" in resumed.err
    assert kumofire("resume", "--all").code == 0
    assert jobs.pauses() == ()


def test_the_json_of_pauses_has_these_names(kumofire: Kumofire) -> None:
    form = kumofire("pause", "email", "--reason", "a release", "--json").form

    assert form == {
        "pauses": [{"job_name": "email", "since": "2026-03-14T12:00:00.000Z", "until": None, "reason": "a release"}]
    }
    assert kumofire("pauses", "--json").form == form
    assert kumofire("resume", "email", "--json").form == {"pauses": []}


@pytest.mark.parametrize("until", ["2026-03-14T11:00Z", "soon"])
def test_a_pause_that_is_over_is_refused(kumofire: Kumofire, jobs: Jobs, until: str) -> None:
    assert kumofire("pause", "email", "--until", until).code == 2
    assert jobs.pauses() == ()
