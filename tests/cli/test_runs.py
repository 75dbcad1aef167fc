"""``kumofire runs``: what is printed, what is stored, and how each command ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kumofire_core import Jobs
from tests.builders import NOW_MS, Aws
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


def test_a_second_create_with_a_dedupe_key_prints_the_first_id(kumofire: Kumofire) -> None:
    first = kumofire("runs", "create", "email", "--dedupe-key", "welcome-42")
    second = kumofire("runs", "create", "email", "--dedupe-key", "welcome-42")

    assert first.code == second.code == 0
    assert first.out == second.out


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
    run_id = aws.a_run(
        status="failed", attempt=3, last_error="ValueError: no", finished_at=NOW_MS - 180_000, started_at=NOW_MS
    )

    out = kumofire("runs", "show", run_id).out

    assert "failed attempts  3 of 3" in out
    assert "(3m ago)" in out
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
        "schedule_id": None,
        "dedupe_key": None,
        "cancel_requested": False,
        "cancel_reason": None,
        "history": [],
    }


def test_a_retried_run_shows_how_it_had_ended(kumofire: Kumofire, aws: Aws) -> None:
    run_id = aws.a_run(status="failed", attempt=3, last_error="ValueError: the first end", finished_at=NOW_MS)

    assert kumofire("runs", "retry", run_id).out == f"{run_id} retried\n"

    shown, form = kumofire("runs", "show", run_id).out, kumofire("runs", "show", run_id, "--json").form
    assert "before a retry: failed" in shown
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
