"""How this repository is set up and checked: environments from locks, tests without your AWS account, one CI entry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.deployment import PROJECT
from tests.tools.test_wheel import SETTINGS
from tools import environment

GIVEN_AWAY = {
    "AWS_PROFILE": "production",
    "AWS_ENDPOINT_URL": "https://example.com",
    "AWS_ACCESS_KEY_ID": "real",
    "AWS_CONFIG_FILE": "real",
    "KUMOFIRE_TABLE": "real",
    "POWERTOOLS_LOG_LEVEL": "real",
    "PYTHONPATH": "real",
    "PYTHONOPTIMIZE": "1",
    "NO_PROXY": "",
}


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=PROJECT,
        # Without the variables of a make that runs the tests.
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", ""), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_make_runs_offline_sees_none_of_your_aws_account(tmp_path: Path) -> None:
    shown = tmp_path / "Makefile"
    shown.write_text("include Makefile\nshown:\n\t@$(offline) env\n")

    ended = make("-f", str(shown), "shown", **GIVEN_AWAY)

    assert ended.returncode == 0, ended.stderr
    seen = dict(line.split("=", 1) for line in ended.stdout.splitlines() if "=" in line)
    assert seen["AWS_ACCESS_KEY_ID"] == seen["AWS_SECRET_ACCESS_KEY"] == "test"
    assert seen["AWS_CONFIG_FILE"] == seen["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"
    assert seen["NO_PROXY"] == "127.0.0.1,localhost"
    assert not seen.keys() & {"AWS_PROFILE", "AWS_ENDPOINT_URL", "KUMOFIRE_TABLE", "POWERTOOLS_LOG_LEVEL"}
    assert not seen.keys() & {"PYTHONPATH", "PYTHONOPTIMIZE"}


@pytest.mark.parametrize("target", ["test", "coverage", "demo", "build", "simulate", "deploy-local"])
def test_every_target_that_could_reach_aws_runs_offline(target: str) -> None:
    planned = make("-n", target, AWS_PROFILE="production").stdout

    # The last line, its continuations joined, is what the target is for.
    last = planned.replace("\\\n", " ").strip().splitlines()[-1]
    assert "-u AWS_PROFILE" in last
    assert "AWS_ACCESS_KEY_ID=test" in last


@pytest.mark.parametrize("version", ["2.7.18", "3.10.13"])
def test_a_python_that_is_too_old_is_named_with_what_to_do(tmp_path: Path, version: str) -> None:
    old = tmp_path / "python"
    old.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit\nexit 1\n')
    old.chmod(0o755)

    ended = make("test", f"PYTHON={old}")

    assert ended.returncode == 2
    assert f"a Python 3.11 or newer is needed, and '{old}' is: Python {version}; name another one" in ended.stderr
    assert "making" not in ended.stdout


def test_a_python_that_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    ended = make("venv", f"PYTHON={tmp_path}/none")

    assert ended.returncode == 2
    assert f"a Python 3.11 or newer is needed, and '{tmp_path}/none' is: " in ended.stderr


@pytest.mark.parametrize("command", ["make", "remove"])
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_folder_that_is_not_an_environment_is_never_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "pyvenv.cfg" if kind == "link" else kept / "thesis.txt").write_text("mine")
    given = {"folder": kept, "file": kept / "thesis.txt", "link": tmp_path / "link"}[kind]
    if kind == "link":
        given.symlink_to(kept)
    lock = [str(PROJECT / "requirements/dev.txt")] if command == "make" else []

    status = environment.main([command, str(given), *lock])

    assert status == 1
    assert f"{str(given)!r} is not a virtual environment" in capsys.readouterr().err
    assert [path.read_text() for path in kept.iterdir()] == ["mine"]


def test_this_project_is_never_removed_even_inside_an_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "pyvenv.cfg").write_text("")
    (tmp_path / "project").mkdir()
    monkeypatch.setattr(environment, "PROJECT", (tmp_path / "project").resolve())

    with pytest.raises(environment.ToolError, match="holds this project"):
        environment.remove(tmp_path)

    assert (tmp_path / "project").is_dir()


def test_an_environment_and_an_empty_folder_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/pyvenv.cfg").write_text("")
    (tmp_path / "empty").mkdir()

    assert environment.main(["remove", *(str(tmp_path / name) for name in ("old", "empty", "none"))]) == 0

    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_environment_is_made_once_for_each_lock_and_anew_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    folder, lock = tmp_path / "environment", tmp_path / "lock.txt"

    def made(pins: str) -> tuple[int, bool]:
        lock.write_text(pins)
        status = environment.main(["make", str(folder), str(lock)])
        return status, "making" in capsys.readouterr().out

    assert made("# nothing yet\n") == (0, True)
    assert made("# nothing yet\n") == (0, False)
    missing = f"not-to-be-had==1 --hash=sha256:{'0' * 64}\n"
    assert made(missing) == (1, True)
    assert made(missing) == (1, True)
    assert made("# again nothing\n") == (0, True)
    (folder / "bin/python").unlink()
    assert made("# again nothing\n") == (0, True)


def test_pip_keeps_the_settings_that_say_where_packages_come_from_and_no_others() -> None:
    seen = environment.pip_settings(
        {"PIP_INDEX_URL": "i", "PIP_CERT": "c", "PIP_USER": "1", "PIP_TARGET": "t", "A": "a"}
    )

    assert seen == {
        "PIP_INDEX_URL": "i",
        "PIP_CERT": "c",
        "PIP_USER": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "A": "a",
    }


def load(path: str) -> Any:
    return yaml.safe_load((PROJECT / path).read_text())


def test_the_workflow_runs_what_has_to_pass_before_a_merge_on_every_supported_python() -> None:
    workflow = load(".github/workflows/ci.yml")
    [job] = workflow["jobs"].values()
    prefix = "Programming Language :: Python :: 3."
    supported = [entry for entry in SETTINGS["project"]["classifiers"] if entry.startswith(prefix)]

    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(PROJECT / ".ci/run", os.X_OK)
    assert [
        f"Programming Language :: Python :: {version}" for version in job["strategy"]["matrix"]["python"]
    ] == supported
    assert "continue-on-error" not in job


def test_the_workflow_may_only_read_and_uses_no_third_party_action() -> None:
    workflow = load(".github/workflows/ci.yml")
    [job] = workflow["jobs"].values()

    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in job
    actions = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
    assert actions == {"actions/checkout", "actions/setup-python"}


def test_a_commit_is_held_against_the_same_style_as_make_lint() -> None:
    [local] = load(".pre-commit-config.yaml")["repos"]
    planned = make("-n", "lint", f"PYTHON={sys.executable}").stdout.replace('"', "").splitlines()

    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == [line for line in planned if "-m ruff" in line]
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
