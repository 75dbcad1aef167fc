"""Wrong command lines: one sentence on standard error, exit code 2, and nothing asked of AWS."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import Aws
from tests.cli.conftest import Kumofire

WRONG = {
    "a command that does not exist": (["runs", "shw"], 'Did you mean "show"?'),
    "an option that does not exist": (["runs", "show", "x", "--nope"], "--nope"),
    "no id": (["runs", "show"], "by its id or by --dedupe-key"),
    "two ids where one is meant": (["runs", "show", "a", "b"], "'b'"),
    "no ids to cancel": (["runs", "cancel"], "which runs are to be canceled"),
    "no run to update": (["runs", "update"], "RUN_ID"),
    "no new time": (["runs", "reschedule", "a"], "--at or --delay"),
    "no new payload": (["runs", "update", "a"], "--payload"),
    "nothing to watch": (["runs", "watch"], "--job"),
    "ids and a filter": (["runs", "watch", "a", "--job", "email"], "their ids, or a filter"),
    "no time between two looks": (["runs", "watch", "a", "--interval", "0"], "--interval"),
    "a status that is none": (["runs", "list", "--status", "lost"], "--status"),
    "a time that is none in a filter": (["runs", "list", "--since", "yesterday"], "--since"),
    "a filter that ends before it begins": (["runs", "list", "--since", "1h", "--until", "2h"], "until"),
    "an empty list": (["runs", "list", "--limit", "0"], "--limit"),
    "a page of a list that is none": (["runs", "list", "--page", "nonsense"], "page"),
    "a payload that is not JSON": (["runs", "create", "email", "--payload", "{to: x}"], "--payload is not JSON"),
    "a payload that JSON does not have": (["runs", "create", "email", "--payload", "NaN"], "NaN"),
    "a payload nested too deep": (["runs", "create", "email", "--payload", "[" * 100_000], "is not JSON"),
    "a payload without a value": (["runs", "create", "email", "--payload"], "--payload"),
    "a file that is not there": (["runs", "create", "email", "--payload", "@/no/such/file"], "can't be read"),
    "a file's name with a null byte": (["runs", "create", "email", "--payload", "@a\0b"], "can't be read"),
    "a time and a delay": (["runs", "create", "email", "--at", "now", "--delay", "1m"], "give one of them"),
    "a delay without a unit": (["runs", "create", "email", "--delay", "90"], "90s, 30m"),
    "a delay of ages": (["runs", "create", "email", "--delay", "999999999w"], "--delay"),
    "a time that is none": (["runs", "create", "email", "--at", "tomorrow"], "2026-12-01T09:30"),
    "an empty job": (["runs", "create", ""], "name"),
    "a dedupe that is none": (["runs", "create", "email", "--dedupe-key", "k", "--dedupe", "ever"], "debounce"),
    "a dedupe without a key": (["runs", "create", "email", "--dedupe", "unfinished"], "dedupe_key"),
    "attempts that are no number": (["runs", "create", "email", "--max-attempts", "many"], "--max-attempts"),
    "no attempts": (["runs", "create", "email", "--max-attempts", "0"], "max_attempts"),
    "a schedule without times": (["schedules", "create", "email"], "--cron, --every or --at"),
    "a schedule with two sorts of times": (
        ["schedules", "create", "email", "--cron", "@daily", "--every", "5m"],
        "give one of them",
    ),
    "a cron expression that never fires": (["schedules", "create", "email", "--cron", "0 0 30 2 *"], "never fire"),
    "a zone that is none": (
        ["schedules", "create", "email", "--cron", "@daily", "--timezone", "Berlin"],
        "Europe/Berlin",
    ),
    "no schedule": (["schedules", "show"], "by its id or by --key"),
    "a schedule named twice": (["schedules", "show", "a", "--key", "b"], "by its id or by --key"),
    "an update of nothing": (["schedules", "update", "a"], "--help shows the options"),
    "missed times of another sort": (["schedules", "update", "a", "--missed", "some"], "--missed"),
    "a page that is none": (["schedules", "list", "--page", "nonsense"], "page"),
    "a limit that is too high": (["schedules", "list", "--limit", "101"], "limit"),
    "a stack and a table": (["runs", "show", "a", "--stack-name", "s", "--table", "t"], "two deployments"),
    "a FIFO queue": (["runs", "show", "a", "--queue-url", "https://sqs.x/1/q.fifo"], "FIFO"),
    "a dispatch of nothing": (["dispatch", "--limit", "0"], "limit"),
    "a shell that is not known": (["--show-completion", "tcsh"], "bash"),
}


@pytest.mark.parametrize(("words", "told"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_line_is_told_in_one_sentence(
    kumofire: Kumofire, aws: Aws, words: list[str], told: str
) -> None:
    ended = kumofire(*words)

    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert ended.err.startswith("kumofire: ")
    assert ended.err.count("\n") == 1
    assert aws.items() == []


def test_a_file_that_is_not_utf_8_is_told(kumofire: Kumofire, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_bytes(b'"\xff"')

    assert kumofire("runs", "create", "email", "--payload", f"@{file}").code == 2
    assert kumofire("runs", "create", "email", "--payload", "-", typed=b'"\xff"').code == 2


def test_a_deployment_that_nobody_named_is_asked_for(kumofire: Kumofire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUMOFIRE_TABLE")
    monkeypatch.delenv("KUMOFIRE_QUEUE_URL")

    ended = kumofire("runs", "show", "x")

    assert ended.code == 2
    assert "--stack-name" in ended.err
    assert "KUMOFIRE_TABLE" in ended.err


def test_a_table_that_is_not_there_is_trouble_and_its_traceback_is_shown_on_request_only(kumofire: Kumofire) -> None:
    plain, debug = (kumofire("runs", "show", "x", "--table", "no-such", *more) for more in ((), ("--debug",)))

    assert (plain.code, plain.out) == (debug.code, debug.out) == (3, "")
    assert "no-such" in plain.err
    assert "Traceback" not in plain.err
    assert plain.err.count("\n") == 1
    assert "Traceback" in debug.err
