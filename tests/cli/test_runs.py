"""``kumofire runs``: what is printed, what is stored, and how each command ends."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from kumofire_core import Jobs
from kumofire_core.cli.invocation import Invocation
from tests.builders import NOW_MS, Aws, Clock, message, raises
from tests.cli.conftest import Kumofire


def test_create_stores_a_run_and_prints_nothing_but_its_id(kumofire: Kumofire, jobs: Jobs) -> None:
    ended = kumofire("runs", "create", "email", "--payload", '{"to": "x"}', "--max-attempts", "7", "--delay", "1h30m")

    assert (ended.code, ended.err) == (0, "")
    run = jobs.get_status(ended.out.rstrip("\n"))
    assert run is not None
    assert (run.job_name, run.payload, run.max_attempts) == ("email", {"to": "x"}, 7)
    assert (run.scheduled_for - run.created_at).total_seconds() == pytest.approx(5400, abs=1)


@pytest.mark.parametrize("given", ["argument", "file", "input"])
def test_a_payload_comes_from_the_line_a_file_or_the_input(
    kumofire: Kumofire, jobs: Jobs, tmp_path: Path, given: str
) -> None:
    text = '{"text": "雲 \\u0000", "n": -1.5}'
    file = tmp_path / "payload.json"
    file.write_text(text, encoding="utf-8")
    option = {"argument": text, "file": f"@{file}", "input": "-"}[given]

    ended = kumofire("runs", "create", "email", "--payload", option, "--json", typed=text)

    run = jobs.get_status(ended.form["id"])
    assert run is not None
    assert run.payload == {"text": "雲 \0", "n": -1.5}


def test_a_run_is_created_with_a_group_and_shown_with_it(kumofire: Kumofire) -> None:
    run_id = kumofire("runs", "create", "email", "--group", "tenant-42").out.rstrip("\n")

    assert kumofire("runs", "show", run_id, "--json").form["group"] == "tenant-42"
    assert "tenant-42" in kumofire("runs", "show", run_id).out
    refused = kumofire("runs", "create", "email", "--group", "tenant 42")
    assert (refused.code, refused.out) == (2, "")
    assert "group may have letters, digits and punctuation" in refused.err


def test_a_second_create_with_a_dedupe_key_prints_the_first_id(kumofire: Kumofire) -> None:
    first = kumofire("runs", "create", "email", "--dedupe-key", "welcome-42")
    second = kumofire("runs", "create", "email", "--dedupe-key", "welcome-42")

    assert first.code == second.code == 0
    assert first.out == second.out


def test_a_dedupe_key_holds_for_as_long_as_is_said(kumofire: Kumofire, jobs: Jobs, clock: Clock) -> None:
    def created(*words: str) -> str:
        return kumofire("runs", "create", "email", "--dedupe-key", "k", *words).out.strip()

    first = created("--dedupe", "2h")
    clock.advance(hours=1)
    assert created("--dedupe", "2h") == first
    clock.advance(hours=2)
    second = created("--dedupe", "2h")
    assert second != first
    assert created("--dedupe", "unfinished") == second
    jobs.cancel(second)
    assert created("--dedupe", "unfinished") not in (first, second)


def test_show_hides_payload_and_output_until_they_are_asked_for(kumofire: Kumofire, aws: Aws) -> None:
    run_id = aws.a_run(status="succeeded", payload='{"secret": "p-42"}', output='"o-42"', finished_at=NOW_MS)

    hidden, shown = kumofire("runs", "show", run_id), kumofire("runs", "show", run_id, "--payload", "--output")
    hidden_form = kumofire("runs", "show", run_id, "--json").form
    shown_form = kumofire("runs", "show", run_id, "--payload", "--output", "--json").form

    assert "p-42" not in hidden.out
    assert "o-42" not in hidden.out
    assert '"secret": "p-42"' in shown.out
    assert '"o-42"' in shown.out
    assert not {"payload", "output"} & set(hidden_form)
    assert (shown_form["payload"], shown_form["output"]) == ({"secret": "p-42"}, "o-42")


def test_show_tells_times_here_and_how_long_ago(kumofire: Kumofire, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    run_id = aws.a_run(
        status="failed", attempt=3, last_error="ValueError: no", finished_at=NOW_MS - 180_000, started_at=NOW_MS
    )

    out = kumofire("runs", "show", run_id).out
    monkeypatch.undo()
    time.tzset()

    assert "attempts  3 of 3 failed" in out
    assert "finished  2026-03-14 20:57:00 +09:00 (3m ago)" in out
    assert "last error\n  ValueError: no" in out


def test_the_json_of_a_run_has_these_names(kumofire: Kumofire, aws: Aws) -> None:
    run_id = aws.a_run(status="failed", attempt=3, last_error="ValueError: no", finished_at=NOW_MS)

    form = kumofire("runs", "show", run_id, "--json").form

    assert form == {
        "id": run_id,
        "job_name": "email",
        "status": "failed",
        "failed_attempts": 3,
        "max_attempts": 3,
        "scheduled_for": "2026-03-14T12:00:00.000Z",
        "created_at": "2026-03-14T12:00:00.000Z",
        "updated_at": "2026-03-14T12:00:00.000Z",
        "started_at": None,
        "finished_at": "2026-03-14T12:00:00.000Z",
        "last_error": "ValueError: no",
        "error_type": None,
        "retries": 0,
        "paused": False,
        "waiting_for_limit": False,
        "progress": None,
        "schedule_id": None,
        "occurrence": None,
        "dedupe_key": None,
        "parent_id": None,
        "created_by": None,
        "group": None,
        "batch_id": None,
        "batch_index": None,
        "callback_of": None,
        "cancel_requested": False,
        "cancel_reason": None,
        "waiting_for": None,
        "kept_steps": 0,
        "attempts": [],
        "history": [],
        "steps": [],
    }


def test_a_run_shows_where_it_came_from(kumofire: Kumofire, aws: Aws) -> None:
    run_id = aws.a_run(parent_id="the-import", created_by="shop-Checkout\x1b[2J")

    shown, form = kumofire("runs", "show", run_id).out, kumofire("runs", "list", "--json").form["runs"][0]

    assert re.search(r"^created by +shop-Checkout\\x1b\[2J$", shown, re.MULTILINE)
    assert re.search(r"^parent +the-import$", shown, re.MULTILINE)
    assert (form["parent_id"], form["created_by"]) == ("the-import", "shop-Checkout\x1b[2J")


def test_a_retried_run_shows_how_it_had_ended(kumofire: Kumofire, aws: Aws) -> None:
    run_id = aws.a_run(status="failed", attempt=3, last_error="ValueError: the first end", finished_at=NOW_MS)

    assert kumofire("runs", "retry", run_id).out == f"{run_id} retried\n"

    shown, form = kumofire("runs", "show", run_id).out, kumofire("runs", "show", run_id, "--json").form
    assert "-- failed after 3 failed attempts at 2026-03-14" in shown
    assert "ValueError: the first end" in shown
    assert form["status"] == "queued"
    assert form["history"] == [
        {
            "status": "failed",
            "failed_attempts": 3,
            "finished_at": "2026-03-14T12:00:00.000Z",
            "last_error": "ValueError: the first end",
            "cancel_reason": None,
        }
    ]


def test_a_run_that_is_named_can_be_retried_later(kumofire: Kumofire, aws: Aws, jobs: Jobs) -> None:
    first, second = (aws.a_run(status="canceled", finished_at=NOW_MS) for _ in range(2))

    assert kumofire("runs", "retry", first, "--at", "2027-01-01T00:00Z").code == 0
    assert kumofire("runs", "retry", second, "--delay", "2h").code == 0

    runs = [jobs.get_status(run_id) for run_id in (first, second)]
    assert [run and run.status for run in runs] == ["scheduled", "scheduled"]
    assert runs[0] is not None
    assert runs[0].scheduled_for == datetime(2027, 1, 1, tzinfo=UTC)
    assert runs[1] is not None
    assert (runs[1].scheduled_for - runs[1].updated_at).total_seconds() == pytest.approx(7200, abs=1)


@pytest.mark.parametrize("words", [["--job", "email", "--delay", "2h"], ["x", "--over", "1m", "--at", "2027-01-01"]])
def test_runs_that_a_filter_means_are_spread_and_not_put_off(kumofire: Kumofire, words: list[str]) -> None:
    ended = kumofire("runs", "retry", *words)

    assert (ended.code, ended.out) == (2, "")
    assert "--over spreads" in ended.err


def test_cancel_says_of_each_run_what_became_of_it(kumofire: Kumofire, aws: Aws, jobs: Jobs) -> None:
    waiting, running = aws.a_run(), aws.a_running_run()
    ended_run = aws.a_run(status="succeeded", finished_at=NOW_MS)

    ended = kumofire("runs", "cancel", waiting, running, ended_run, "unknown", "--reason", "wrong address")

    assert ended.code == 1
    assert ended.out == f"{waiting} canceled\n{running} canceled\n"
    assert f"{ended_run} was not canceled: it is succeeded" in ended.err
    assert "unknown was not canceled: there is no such run" in ended.err
    canceled, asked = jobs.get_status(waiting), jobs.get_status(running)
    assert canceled is not None
    assert (canceled.status, canceled.cancel_reason) == ("canceled", "wrong address")
    assert asked is not None
    assert asked.cancel_requested


def test_the_json_of_a_change_tells_what_was_changed(kumofire: Kumofire, aws: Aws) -> None:
    run_id = aws.a_run()

    ended = kumofire("runs", "cancel", run_id, "unknown", "--json")

    assert ended.form == {"changed": [run_id], "unchanged": [{"id": "unknown", "status": None}]}
    assert kumofire("runs", "cancel", aws.a_run()).code == 0


def test_what_is_not_there_is_told_in_a_sentence(kumofire: Kumofire) -> None:
    ended = kumofire("runs", "show", "nothing")

    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "kumofire: there is no run 'nothing'\n"


def ended_runs(jobs: Jobs, error: Exception, *, number: int = 1, job: str = "email") -> list[str]:
    """Let runs fail in their only attempt, and return their ids."""
    jobs.handler(job, max_attempts=1)(raises(error))
    run_ids = [jobs.create(job, {"n": n}) for n in range(number)]
    for run_id in run_ids:
        jobs.consume(message(run_id))
    return run_ids


def test_the_attempts_are_shown_around_the_retry_between_them(kumofire: Kumofire, jobs: Jobs) -> None:
    [run_id] = ended_runs(jobs, ValueError("the \x1b[2J first"))
    jobs.retry(run_id)
    jobs.consume(message(run_id))

    shown, form = kumofire("runs", "show", run_id).out, kumofire("runs", "show", run_id, "--json").form

    lines = [line.strip() for line in shown.splitlines()]
    heads = [line.split(",")[0] for line in lines if re.match(r"1  |-- ", line)]
    assert heads == [
        "1  raised ValueError",
        "-- failed after 1 failed attempts at 2026-03-14 12:00:00 +00:00",
        "1  raised ValueError",
    ]
    assert "the \\x1b[2J first" in shown
    assert any("tests/builders.py" in line for line in lines), "the traceback's own frames"
    assert [(attempt["number"], attempt["retries"], attempt["ended"]) for attempt in form["attempts"]] == [
        (1, 0, "raised"),
        (1, 1, "raised"),
    ]
    assert set(form["attempts"][0]) == {
        *("number", "retries", "started_at", "ended_at", "ended", "error_type", "message", "traceback"),
        *("request_id", "log_stream"),
    }


def test_the_list_shows_what_failed_and_why_newest_first(kumofire: Kumofire, jobs: Jobs, clock: Clock) -> None:
    [older] = ended_runs(jobs, ValueError("no\nsuch user"))
    clock.advance(minutes=90)
    [newer] = ended_runs(jobs, KeyError("x"), job="pay")

    lines = kumofire("runs", "list", "--status", "failed").out.splitlines()

    assert lines[0].split() == ["ID", "JOB", "STATUS", "FAILED", "WHEN", "ERROR"]
    assert [line.split()[0] for line in lines[1:]] == [newer, older]
    assert lines[2].split(maxsplit=4)[1:] == ["email", "failed", "1/1", "1h 30m ago  ValueError: no"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--job", "email"], {"email"}),
        (["--error-type", "KeyError"], {"pay"}),
        (["--since", "1h"], {"pay"}),
        (["--until", "2026-03-14T13:00Z"], {"email"}),
        (["--status", "canceled"], set()),
        (["--text", "no such id"], set()),
        ([], {"email", "pay"}),
    ],
)
def test_the_list_is_filtered(kumofire: Kumofire, jobs: Jobs, clock: Clock, words: list[str], found: set[str]) -> None:
    ended_runs(jobs, ValueError("no"))
    clock.advance(minutes=90)
    ended_runs(jobs, KeyError("x"), job="pay")

    form = kumofire("runs", "list", *words, "--json").form

    assert {run["job_name"] for run in form["runs"]} == found
    assert form["next_page"] is None
    assert not any("payload" in run or "attempts" in run for run in form["runs"])


def test_a_list_goes_on_at_its_next_page(kumofire: Kumofire, jobs: Jobs) -> None:
    run_ids = ended_runs(jobs, ValueError("no"), number=5)

    first = kumofire("runs", "list", "--limit", "3", "--json").form
    shown = kumofire("runs", "list", "--limit", "3")
    second = kumofire("runs", "list", "--page", first["next_page"], "--json").form

    assert sorted(run["id"] for run in first["runs"] + second["runs"]) == sorted(run_ids)
    assert (len(first["runs"]), second["next_page"]) == (3, None)
    assert first["next_page"] in shown.err


def test_a_list_of_nothing_is_empty_and_done(kumofire: Kumofire) -> None:
    ended = kumofire("runs", "list")

    assert (ended.code, ended.out, ended.err) == (0, "", "there are no such runs\n")


def test_a_run_is_found_by_its_dedupe_key(kumofire: Kumofire, jobs: Jobs) -> None:
    run_id = jobs.create("email", dedupe_key="welcome-42")

    assert kumofire("runs", "show", "--dedupe-key", "welcome-42", "--json").form["id"] == run_id
    assert kumofire("runs", "show", "--dedupe-key", "other").code == 1


def test_waiting_runs_are_moved_and_changed(kumofire: Kumofire, jobs: Jobs, clock: Clock) -> None:
    run_id = jobs.create("email", {"to": "x"}, delay=timedelta(days=1))

    assert kumofire("runs", "reschedule", run_id, "--delay", "2h").out == f"{run_id} rescheduled\n"
    moved = jobs.get_status(run_id)
    assert kumofire("runs", "update", run_id, "--payload", '{"to": "y"}').code == 0
    assert kumofire("runs", "run-now", run_id).code == 0
    now = jobs.get_status(run_id)

    assert moved is not None
    assert moved.scheduled_for == clock() + timedelta(hours=2)
    assert now is not None
    assert (now.payload, now.status) == ({"to": "y"}, "queued")
    assert now.scheduled_for - clock() < timedelta(seconds=1)
    assert kumofire("runs", "run-now", run_id, "--json").form == {
        "changed": [],
        "unchanged": [{"id": run_id, "status": "queued"}],
    }


def test_delete_asks_first_and_leaves_what_has_not_ended(kumofire: Kumofire, aws: Aws) -> None:
    gone, waiting = aws.a_run(status="failed", finished_at=NOW_MS), aws.a_run()

    refused = kumofire("runs", "delete", gone, waiting, typed="no\n", terminal=True)
    assert (refused.code, "Delete 2 runs?" in refused.err) == (1, True)
    assert aws.item(gone) is not None
    assert kumofire("runs", "delete", gone, waiting).code == 2
    ended = kumofire("runs", "delete", gone, waiting, "--yes")

    assert (ended.code, ended.out) == (1, f"{gone} deleted\n")
    assert f"{waiting} was not deleted: it is queued" in ended.err
    assert aws.item(gone) is None
    assert aws.item(waiting) is not None


def test_watch_follows_runs_until_all_have_ended(
    kumofire: Kumofire, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.handler("email")(lambda ctx: None)
    run_ids = [jobs.create("email") for _ in range(3)]
    left = list(run_ids)
    monkeypatch.setattr(Invocation, "wait", lambda self, seconds: jobs.consume(message(left.pop())))

    ended = kumofire("runs", "watch", *run_ids)

    assert ended.code == 0
    assert sorted(ended.out.splitlines()) == sorted(
        f"{id} {word}" for id in run_ids for word in ("queued", "succeeded")
    )
    assert ended.err == "3 succeeded\n"


def test_watch_fails_where_a_run_did_not_succeed(kumofire: Kumofire, aws: Aws, jobs: Jobs) -> None:
    done = aws.a_run(status="succeeded", job_name="pay", finished_at=NOW_MS)
    [failed] = ended_runs(jobs, ValueError("no"))

    assert kumofire("runs", "watch", done).code == 0
    assert kumofire("runs", "watch", done, "unknown").code == 1
    filtered = kumofire("runs", "watch", "--job", "email", "--since", "1h", "--json")
    assert (filtered.code, [run["id"] for run in filtered.form["runs"]]) == (1, [failed])
    assert kumofire("runs", "watch", "--job", "other").code == 1


def test_watching_ends_with_ctrl_c(kumofire: Kumofire, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Invocation, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Invocation, "wait", interrupted)

    assert kumofire("runs", "watch", aws.a_run()).code == 130


HOSTILE = "\x1b]0;owned\x07\x1b[31m[red]bold[/red] \u202egpj.exe\u2066 \r\n\x9b2J \u200b雲 \ud83d"


def test_a_hostile_text_can_not_steer_the_terminal(kumofire: Kumofire, aws: Aws) -> None:
    error, name = HOSTILE.replace("\ud83d", ""), "[red]\x1b[2J"
    run_id = aws.a_run(
        job_name=name, status="failed", last_error=error, payload=json.dumps(HOSTILE), finished_at=NOW_MS
    )

    shown = kumofire("runs", "show", run_id, "--payload")
    form = kumofire("runs", "show", run_id, "--payload", "--json")

    for text in (shown.out, form.out):
        assert not {character for character in text if not character.isprintable()} - {"\n"}
    assert "[red]\\x1b[2J" in shown.out
    assert "\\x1b]0;owned\\x07\\x1b[31m[red]bold[/red] \\u202egpj.exe" in shown.out
    assert "雲" in shown.out
    assert form.form["last_error"] == error
    assert form.form["job_name"] == name


def test_a_hostile_argument_can_not_steer_the_terminal(kumofire: Kumofire) -> None:
    for ended in (
        kumofire("runs", "show", "\x1b[2J"),
        kumofire("runs", "\x1b[2J"),
        kumofire("runs", "show", "--\x1b[2J"),
    ):
        assert "\x1b" not in ended.err
        assert ended.err


LARGE = {"text": "ä" * 3_000}


@pytest.fixture
def large_run(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run with its payload and its output in a bucket, which the program is not told of."""
    s3 = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").client("s3")
    s3.create_bucket(Bucket="large-values")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    keeping = aws.jobs(bucket="large-values", s3=s3, handlers={"email": lambda ctx: [ctx.payload]})
    run_id = keeping.create("email", LARGE)
    keeping.consume(message(run_id))
    return run_id


def test_a_value_in_s3_is_shown_where_the_bucket_is_named(
    kumofire: Kumofire, large_run: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUMOFIRE_BUCKET", "large-values")

    shown = kumofire("runs", "show", large_run, "--payload", "--output", "--json").form

    assert (shown["payload"], shown["output"]) == (LARGE, [LARGE])


def test_a_value_in_s3_is_said_to_be_there_where_no_bucket_is_named(kumofire: Kumofire, large_run: str):
    shown = kumofire("runs", "show", large_run, "--payload", "--output", "--json").form

    assert (shown["payload"], shown["output"]["in_s3"]) == ({"in_s3": True, "bytes": 6_011}, True)
    assert "6,011 bytes in S3" in kumofire("runs", "show", large_run, "--payload").out
