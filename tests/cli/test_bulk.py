"""Changes of many runs by a filter: counted, asked for, done once, and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kumofire_core import Jobs
from kumofire_core.cli.invocation import Invocation
from tests.builders import Aws, Clock, message, raises
from tests.cli.conftest import Kumofire


@pytest.fixture
def failed(jobs: Jobs) -> list[str]:
    """Five runs of ``email`` that have failed, beside one of ``pay``."""
    for job in ("email", "pay"):
        jobs.handler(job, max_attempts=1)(raises(ValueError("no")))
    run_ids = [jobs.create("email") for _ in range(5)]
    for run_id in [*run_ids, jobs.create("pay")]:
        jobs.consume(message(run_id))
    return run_ids


def statuses(jobs: Jobs, run_ids: list[str]) -> list[str]:
    return [run.status.value if (run := jobs.get_status(run_id)) else "gone" for run_id in run_ids]


def test_retry_counts_asks_and_retries_what_the_filter_means(kumofire: Kumofire, jobs: Jobs, failed: list[str]) -> None:
    words = ["runs", "retry", "--job", "email", "--status", "failed"]

    refused = kumofire(*words, typed="n\n", terminal=True)
    assert (refused.code, refused.out) == (1, "")
    assert "Retry 5 runs: failed runs of job email? [y/N]" in refused.err
    assert kumofire(*words).code == 2
    assert statuses(jobs, failed) == ["failed"] * 5
    ended = kumofire(*words, typed="y\n", terminal=True)

    assert (ended.code, ended.out) == (0, "5 runs retried\n")
    assert statuses(jobs, failed) == ["queued"] * 5
    assert len(jobs.list_runs(status="failed").runs) == 1


def test_what_fails_while_the_question_waits_is_not_retried(
    kumofire: Kumofire, jobs: Jobs, failed: list[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = jobs.create("email")

    def confirm(self: Invocation, question: str, *, yes: bool) -> None:
        clock.advance(seconds=20)
        jobs.consume(message(late))

    monkeypatch.setattr(Invocation, "confirm", confirm)

    ended = kumofire("runs", "retry", "--job", "email")

    assert (ended.code, ended.out) == (0, "5 runs retried\n")
    assert statuses(jobs, [late]) == ["failed"]


def test_a_dry_run_counts_and_changes_nothing(kumofire: Kumofire, jobs: Jobs, failed: list[str]) -> None:
    shown = kumofire("runs", "retry", "--job", "email", "--dry-run")
    form = kumofire("runs", "retry", "--job", "email", "--dry-run", "--json").form

    assert (shown.code, shown.out) == (0, "5 runs would be retried: failed and canceled runs of job email\n")
    assert (form["matched"], form["changed"], form["id"]) == (5, 0, None)
    assert statuses(jobs, failed) == ["failed"] * 5
    assert kumofire("runs", "retry", "--job", "other", "--dry-run").code == 1


def test_the_json_of_a_change_of_many_has_these_names(kumofire: Kumofire, failed: list[str]) -> None:
    ended = kumofire("runs", "retry", "--job", "email", "--yes", "--json")

    assert (ended.code, ended.err) == (0, "")
    assert ended.form == {
        "id": ended.form["id"],
        "action": "retry",
        "created_at": "2026-03-14T12:00:00.000Z",
        "matched": 5,
        "at_least": False,
        "changed": 5,
        "skipped": 0,
        "failed": 0,
        "errors": [],
        "done": True,
        "aborted": False,
    }
    assert kumofire("bulk", "show", ended.form["id"], "--json").form == ended.form


def test_retries_are_spread_over_a_time(kumofire: Kumofire, jobs: Jobs, failed: list[str]) -> None:
    ended = kumofire("runs", "retry", "--job", "email", "--over", "10m", "--yes")

    assert ended.code == 0
    due = sorted(run.scheduled_for for run_id in failed if (run := jobs.get_status(run_id)))
    assert 60 < (due[-1] - due[0]).total_seconds() <= 600


def test_named_runs_are_spread_as_well(kumofire: Kumofire, jobs: Jobs, failed: list[str]) -> None:
    assert kumofire("runs", "retry", *failed[:2], "--over", "10m").code == 0

    assert set(statuses(jobs, failed[2:])) == {"failed"}
    assert not {"failed"} & set(statuses(jobs, failed[:2]))


def test_cancel_and_delete_take_filters_too(kumofire: Kumofire, aws: Aws, jobs: Jobs, failed: list[str]) -> None:
    waiting = [jobs.create("email", delay=3600) for _ in range(2)]

    canceled = kumofire("runs", "cancel", "--job", "email", "--reason", "a mistake", "--yes")
    assert (canceled.code, canceled.out) == (0, "2 runs canceled\n")
    run = jobs.get_status(waiting[0])
    assert run is not None
    assert (run.status, run.cancel_reason) == ("canceled", "a mistake")
    deleted = kumofire("runs", "delete", "--job", "email", "--yes")
    assert (deleted.code, deleted.out) == (0, "7 runs deleted\n")
    assert statuses(jobs, [*failed, *waiting]) == ["gone"] * 7
    assert len(jobs.list_runs().runs) == 1


def test_a_text_says_which_runs_are_meant(kumofire: Kumofire, jobs: Jobs) -> None:
    meant, other = (jobs.create("email", dedupe_key=key, delay=3600) for key in ("order-7", "order-8"))

    assert [run["id"] for run in kumofire("runs", "list", "--text", "order-7", "--json").form["runs"]] == [meant]
    asked = kumofire("runs", "cancel", "--text", "order-7", "--dry-run")
    assert asked.out == "1 run would be canceled: unfinished runs with 'order-7' in their id or dedupe_key\n"
    canceled = kumofire("runs", "cancel", "--text", "order-7", "--yes", "--json").form
    assert canceled["changed"] == 1
    assert "with 'order-7' in their id or dedupe_key" in kumofire("bulk", "show", canceled["id"]).out
    assert statuses(jobs, [meant, other]) == ["canceled", "scheduled"]


def test_a_run_with_a_dedupe_key_is_deleted_only_where_that_is_said(kumofire: Kumofire, jobs: Jobs) -> None:
    jobs.handler("email", max_attempts=1)(raises(ValueError("no")))
    run_id = jobs.create("email", dedupe_key="welcome-42")
    jobs.consume(message(run_id))

    kept = kumofire("runs", "delete", "--job", "email", "--yes")
    assert (kept.code, kept.out) == (1, "0 runs deleted, 1 skipped\n")
    assert kumofire("runs", "delete", "--job", "email", "--free-dedupe-keys", "--yes").code == 0
    assert jobs.get_status(run_id) is None


def test_a_filter_that_means_nothing_changes_nothing(kumofire: Kumofire, failed: list[str]) -> None:
    ended = kumofire("runs", "retry", "--job", "other", "--yes")

    assert (ended.code, ended.out) == (1, "")
    assert "there are no such runs (failed and canceled runs of job other)" in ended.err


@pytest.mark.parametrize("command", ["cancel", "retry", "delete"])
def test_an_empty_filter_is_refused(kumofire: Kumofire, jobs: Jobs, failed: list[str], command: str) -> None:
    for words in ([], ["--yes"], ["--dry-run"], [failed[0], "--job", "email"], [failed[0], "--dry-run"]):
        ended = kumofire("runs", command, *words)
        assert (ended.code, ended.out) == (2, "")
    assert statuses(jobs, failed) == ["failed"] * 5


def test_a_status_that_can_not_be_changed_so_is_refused(kumofire: Kumofire, failed: list[str]) -> None:
    assert kumofire("runs", "retry", "--status", "running", "--yes").code == 2


def test_ctrl_c_says_how_to_go_on_and_resume_does(
    kumofire: Kumofire, jobs: Jobs, failed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = Jobs.retry_many

    def interrupted(self: Jobs, **given: Any) -> Any:
        def told(operation: Any) -> None:
            given["on_progress"](operation)
            raise KeyboardInterrupt

        return real(self, **given) if given.get("dry_run") else real(self, **(given | {"on_progress": told}))

    monkeypatch.setattr(Jobs, "retry_many", interrupted)

    ended = kumofire("runs", "retry", "--job", "email", "--yes")

    assert ended.code == 130
    command = ended.err[ended.err.index("`kumofire ") + 1 :].partition("`")[0].split()
    assert command[:3] == ["kumofire", "bulk", "resume"]
    assert "begun, and not done" in kumofire("bulk", "show", command[3]).out
    resumed = kumofire(*command[1:])
    assert (resumed.code, resumed.out) == (0, "5 runs retried\n")
    assert statuses(jobs, failed) == ["queued"] * 5
    assert kumofire(*command[1:]).code == 1


@pytest.mark.parametrize("command", ["show", "resume", "abort"])
def test_a_change_that_is_not_there_is_told(kumofire: Kumofire, command: str) -> None:
    ended = kumofire("bulk", command, "no-such")

    assert (ended.code, ended.out) == (1, "")
    assert "'no-such'" in ended.err
