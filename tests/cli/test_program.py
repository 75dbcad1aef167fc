"""The program as it is called: what it imports, its help, how it ends, and where it looks for a deployment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kumofire_core.cli.app import app
from tests.builders import Aws
from tests.cli.conftest import Kumofire

PROGRAM = Path(sys.executable).with_name("kumofire")
PROJECT = Path(__file__).parents[2]


def program(*words: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *words] if code is None else [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], **environment}
    )


IMPORTED = """
import sys
from kumofire_core.cli import main
code = main(sys.argv[1:])
print(code, *sorted(name for name in ("boto3", "botocore", "kumofire_core.jobs", "rich.table") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("words", "imported"),
    [
        (["--help"], "0"),
        (["runs", "--help"], "0"),
        (["runs", "show"], "2"),
        (["schedules", "next", "--every", "5m"], "0"),
        (["runs", "show", "x"], "3 botocore kumofire_core.jobs"),
    ],
    ids=" ".join,
)
def test_nothing_is_imported_before_it_is_needed(words: list[str], imported: str) -> None:
    where = {"KUMOFIRE_TABLE": "t", "KUMOFIRE_QUEUE_URL": "https://sqs/1/q", "AWS_EC2_METADATA_DISABLED": "true"}

    ended = program(*words, code=IMPORTED, **where)

    assert ended.stdout.splitlines()[-1] == imported


def test_without_the_extra_it_says_how_to_install_it() -> None:
    without = "import sys; sys.modules['cyclopts'] = None; from kumofire_core.cli import main; sys.exit(main())"

    ended = program("runs", "list", code=without)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install 'kumofire-jobs[cli]'" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)

    ended = subprocess.run(
        [str(PROGRAM), "schedules", "next", "--every", "5m"], stdout=writing, stderr=subprocess.PIPE, check=False
    )

    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_every_command_explains_itself_on_a_page_without_boxes(kumofire: Kumofire) -> None:
    pages = {
        f"{noun} {verb}".strip(): kumofire(*noun.split(), *verb.split(), "--help").out
        for noun, names in {"": app, "runs": app["runs"], "schedules": app["schedules"]}.items()
        for verb in names
        if not verb.startswith("-")
    }

    assert len(pages) > 15
    for command, page in pages.items():
        assert page.startswith(f"Usage: kumofire {command}"), command
        assert "--stack-name" in page
        assert not re.search("[─│╭<]", page), command
        described = re.findall(r"^  (\S.*)$", page, re.MULTILINE)
        assert all("  " in line or len(line) > 22 for line in described), command


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_a_shell_knows_commands_and_options(kumofire: Kumofire, shell: str) -> None:
    ended = kumofire("--show-completion", shell)

    assert ended.code == 0
    for word in ("runs", "cancel", "trigger", "stack-name", "max-attempts"):
        assert word in ended.out


def test_bash_accepts_the_completion_and_completes_by_it() -> None:
    asked = f"""
        source <({PROGRAM} --show-completion bash)
        COMP_WORDS=(kumofire runs ca) COMP_CWORD=2
        _kumofire
        echo "${{COMPREPLY[@]}}"
    """

    ended = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)

    assert ended.stdout.split() == ["cancel"]


def test_options_of_every_command_are_taken_wherever_they_stand(
    kumofire: Kumofire, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = aws.a_run()
    monkeypatch.delenv("KUMOFIRE_TABLE")
    monkeypatch.delenv("KUMOFIRE_QUEUE_URL")
    where = ["--table", aws.table, "--queue-url", aws.queue_url, "--json"]

    for words in ([*where, "runs", "show", run_id], ["runs", *where, "show", run_id], ["runs", "show", run_id, *where]):
        assert kumofire(*words).form["id"] == run_id


def test_dispatch_sends_what_is_due_and_tells_what_it_did(kumofire: Kumofire, aws: Aws) -> None:
    assert kumofire("dispatch").out == "nothing was due\n"
    run_id = kumofire("runs", "create", "email", "--at", "2026-03-14T11:00Z", "--json").form["id"]
    aws.change(run_id, status="scheduled", wake_at=0)

    assert kumofire("dispatch").out == "1 runs were sent to the queue\n"
    form = kumofire("dispatch", "--json").form
    assert (form["dispatched"], form["errors"], form["complete"]) == (0, 0, True)


def test_the_documentation_names_every_command_and_option(kumofire: Kumofire) -> None:
    page = (PROJECT / "docs/cli.md").read_text(encoding="utf-8")
    nouns = [name for name in app if not name.startswith("-")]

    for noun in nouns:
        verbs = [name for name in app[noun] if not name.startswith("-")]
        for words in [[noun, verb] for verb in verbs] or [[noun]]:
            assert re.search(rf"`({words[0]} )?{words[-1]}\b", page), words
            options = re.findall(r"^  (--[a-z-]+)", kumofire(*words, "--help").out, re.MULTILINE)
            missing = [option for option in options if not re.search(rf"`[^`]*{option}\b[^`]*`", page)]
            assert not missing, (words, missing)
