"""The examples of the pages for those who come from another job system, executed as they are printed."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from examples.deployment import PROJECT
from kumofire_core import Jobs
from tests.builders import NOW, Aws, Clock, message


def executed(page: str, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Execute the one example of a page on these jobs, and return what it defines."""
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / page).read_text(), re.DOTALL)
    monkeypatch.setattr(Jobs, "from_env", lambda **settings: jobs)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, f"docs/{page}", "exec", dont_inherit=True), names)
    return names


def test_runs_that_wait_in_the_original_are_copied_once(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"id": "a", "job_name": "email", "payload": '{"to": "x"}', "max_attempts": 4}
    answer = [{"results": [row | {"next_run_at": "2027-03-27T01:00:00.000Z"}], "success": True}]
    (tmp_path / "runs.json").write_text(json.dumps(answer))
    jobs = aws.jobs()
    copy = executed("from-kumofire-typescript.md", jobs, monkeypatch)["copy_waiting_runs"]

    for _ in range(2):
        copy(str(tmp_path / "runs.json"))

    [run] = jobs.list_runs(payloads=True).runs
    assert (run.job_name, run.payload, run.max_attempts) == ("email", {"to": "x"}, 4)
    assert run.scheduled_for == datetime(2027, 3, 27, 1, tzinfo=UTC)


def test_a_task_that_was_celerys_is_attempted_again_when_its_service_says_so(
    aws: Aws, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = aws.jobs(clock=clock)
    names = executed("from-celery.md", jobs, monkeypatch)
    run_id, refusal = names["run_id"], names["TooManyRequests"]

    def refusing(to: str, subject: str, *, key: str) -> None:
        assert (to, subject, key) == ("user@example.com", "Hello", run_id)
        raise refusal

    monkeypatch.setitem(names, "send", refusing)
    clock.now += timedelta(minutes=1)
    assert jobs.consume(message(run_id)).outcome == "retried"
    waiting = jobs.get_status(run_id)
    assert waiting is not None
    assert waiting.scheduled_for == clock.now + timedelta(seconds=30)


def test_a_run_can_be_retried_as_sidekiq_does(aws: Aws, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = aws.jobs(clock=clock)
    names = executed("from-sidekiq.md", jobs, monkeypatch)
    run_id = jobs.create("email", None)
    run = jobs.get_status(run_id)

    assert run is not None
    assert run.max_attempts == 26
    for attempt, least in ((1, 15), (2, 16), (26, 25**4 + 15)):
        wait = names["like_sidekiq"](attempt=attempt, error=OSError(), run=run, now=NOW) - NOW
        assert timedelta(seconds=least) <= wait <= timedelta(seconds=least + 10 * attempt)
