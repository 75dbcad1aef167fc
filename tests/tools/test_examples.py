"""The examples for authors: each is described, and its program does on a local AWS what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from examples import on_local_aws
from examples.deployment import PROJECT

NAMES = on_local_aws.names()


def run_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.on_local_aws", *arguments],
        cwd=PROJECT,
        env={
            **os.environ,
            "PYTHONIOENCODING": "utf-8",
            "AWS_PROFILE": "missing",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_program_of_an_example_ends_with_all_that_it_expects(name: str):
    ended = run_example(name)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "ok: " in ended.stdout
    assert ended.stderr == ""


@pytest.mark.long
def test_a_program_that_sees_something_else_ends_with_1():
    """``email`` expects one email; it finds none in a local AWS that has sent it elsewhere."""
    program = "import examples.email.__main__ as email; email.sent = lambda: []; email.main()"
    script = f"""
import subprocess, sys
from examples import on_local_aws
run = subprocess.run
def changed(command, **options):
    return run([command[0], "-c", {program!r}], **options)
on_local_aws.subprocess.run = changed
sys.exit(on_local_aws.main(["email"]))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "wrong: it does not hold that one email was sent" in ended.stderr


@pytest.mark.parametrize("arguments", [(), ("emial",), ("email", "thumbnails"), ("on_local_aws",)])
def test_a_name_that_is_no_example_is_told_with_those_that_are(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    assert on_local_aws.main(arguments) == 2
    assert f"make example NAME={'|'.join(NAMES)}" in capsys.readouterr().err


def test_a_fact_that_does_not_hold_ends_the_program():
    with pytest.raises(SystemExit, match="wrong: it does not hold that one is two"):
        on_local_aws.expect("one is two", False)


def test_the_page_of_the_examples_has_a_row_for_each():
    page = (PROJECT / "examples/README.md").read_text()

    rows = re.findall(r"^\| \[(\w+)\]\((\w+)/\) \| .+ \| `make example NAME=(\w+)` \|$", page, re.MULTILINE)

    assert sorted(rows) == [(name, name, name) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_its_jobs_its_tests_and_a_page_whose_links_lead_somewhere(name: str):
    folder = PROJECT / "examples" / name
    page = (folder / "README.md").read_text()
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page)

    assert (folder / "jobs.py").is_file()
    assert f"test_{name}.py" in links
    assert f"make example NAME={name}" in page
    assert [link for link in links if not (folder / link).exists()] == []
