"""``kumofire stats``: the counts that people see, and those that programs get."""

from __future__ import annotations

import pytest

from kumofire_core import Jobs
from kumofire_core.cli.invocation import Invocation
from tests.builders import Aws, Clock, event, raises
from tests.cli.conftest import Kumofire

pytestmark = pytest.mark.usefixtures("counts_awaited")


@pytest.fixture
def busy(aws: Aws, clock: Clock) -> Jobs:
    """Two runs have failed, one has succeeded, one of another job waits since three minutes."""
    jobs = aws.jobs(clock=clock, concurrency=1)
    jobs.handler("email", max_attempts=1)(raises(ValueError("no")))
    jobs.handler("pay")(lambda ctx: None)
    aws.a_run(job_name="[red]\x1b[2J waits")
    clock.advance(minutes=3)
    run_ids = [jobs.create("email"), jobs.create("email"), jobs.create("pay")]
    jobs.consume_batch(event(*run_ids))
    return jobs


def test_the_counts_are_shown_by_status_and_job(kumofire: Kumofire, busy: Jobs) -> None:
    ended = kumofire("stats")

    lines = [line.split() for line in ended.out.splitlines()]
    assert ended.code == 0
    assert ["failed", "2", "email", "2"] in lines
    assert ["email", "ValueError", "2"] in lines
    assert "[red]\\x1b[2J waits 1" in ended.out
    assert "due 3m ago" in ended.out
    assert ["email", "0", "0", "2", "0"] in [line[:5] for line in lines]


def test_the_json_of_the_counts_has_these_names(kumofire: Kumofire, busy: Jobs) -> None:
    form = kumofire("stats", "--minutes", "2", "--json").form

    assert set(form) == {
        *("as_of", "by_status", "failures", "unfinished", "paused", "pauses", "oldest_due"),
        *("queue", "dead_letters", "consumers", "minutes"),
    }
    assert form["by_status"]["failed"] == {"total": 2, "by_job": {"email": 2}, "complete": True}
    assert form["failures"] == [{"job_name": "email", "error_type": "ValueError", "count": 2}]
    assert form["oldest_due"]["since"] == "2026-03-14T12:00:00.000Z"
    assert set(form["queue"]) == {"waiting", "in_flight", "delayed"}
    assert len(form["minutes"]) == 2
    assert form["minutes"][-1]["by_job"]["email"]["failed"] == 2


def test_the_errors_with_most_runs_are_shown_and_how_many_more_there_are(
    kumofire: Kumofire, aws: Aws, clock: Clock
) -> None:
    jobs = aws.jobs(clock=clock, concurrency=1)
    for number in range(10):
        jobs.handler(f"job-{number}", max_attempts=1)(raises(ValueError("no")))
    run_ids = [jobs.create(f"job-{number}") for number in range(10)]
    jobs.consume_batch(event(*run_ids, jobs.create("job-9")))

    out = kumofire("stats").out

    shown = [line.split() for line in out.splitlines() if "ValueError" in line]
    assert shown == [["job-9", "ValueError", "2"], *([f"job-{number}", "ValueError", "1"] for number in range(7))]
    assert "and 2 more; --json has them" in out


def test_the_counts_say_which_jobs_are_paused(kumofire: Kumofire, busy: Jobs) -> None:
    busy.pause("email", reason="a bad night")

    assert "paused jobs" in kumofire("stats").out
    [pause] = kumofire("stats", "--json").form["pauses"]
    assert (pause["job_name"], pause["reason"]) == ("email", "a bad night")


def test_the_counts_are_shown_again_and_again_until_ctrl_c(
    kumofire: Kumofire, busy: Jobs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def wait(self: Invocation, seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            raise KeyboardInterrupt
        clock.advance(seconds=seconds)

    monkeypatch.setattr(Invocation, "wait", wait)

    ended = kumofire("stats", "--watch", "--interval", "10")

    assert (ended.code, waited) == (130, [10, 10, 10])
    assert ended.out.count("oldest due") == 3


@pytest.mark.parametrize(
    "words", [["--minutes", "0"], ["--minutes", "61"], ["--watch", "--interval", "0"], ["--watch", "--json"]]
)
def test_what_can_not_be_counted_is_refused(kumofire: Kumofire, words: list[str]) -> None:
    ended = kumofire("stats", *words)

    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
