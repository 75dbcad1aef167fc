"""The pytest plugin, in a pytest session of its own, as an author has it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
PLUGIN = "kumofire_core.testing.plugin"
JOBS = """
from kumofire_core import JobContext, Jobs

jobs = Jobs.from_env()
EFFECTS = []

@jobs.handler("charge")
def charge(ctx: JobContext):
    EFFECTS.append(ctx.payload["order"])

@jobs.handler("charge once")
def charge_once(ctx: JobContext):
    if ctx.payload["order"] not in EFFECTS:
        EFFECTS.append(ctx.payload["order"])
"""


class Session:
    """A project with its jobs and tests, and what pytest says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUMOFIRE_", "PYTEST_"))
        }
        self.environment |= {"HOME": str(folder), "PYTHONPATH": f"{PROJECT}"}
        self.write("handler/__init__.py", "")
        self.write("handler/jobs.py", JOBS)
        self.write("pytest.ini", "[pytest]\npythonpath = .\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def run(self, tests: str, *arguments: str) -> tuple[int, str]:
        self.write("test_it.py", tests)
        loaded = any(each.value == PLUGIN for each in entry_points(group="pytest11"))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *([] if loaded else ["-p", PLUGIN]), "-p", "no:cacheprovider", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def test_the_entry_point_names_the_plugin() -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    assert f'[project.entry-points.pytest11]\nkumofire = "{PLUGIN}"\n' in text


def test_a_first_test_needs_no_settings_at_all(session: Session) -> None:
    code, told = session.run(
        """
from datetime import UTC, datetime
from handler.jobs import charge, jobs
import pytest

def test_first(kumofire):
    run_id = charge.create({"order": 1})
    assert kumofire.drain().succeeded == 1
    assert jobs.get_status(run_id).status == "succeeded"
    assert kumofire.jobs is jobs

def test_second(kumofire):
    assert kumofire.runs() == []

@pytest.mark.kumofire(now=datetime(2026, 3, 14, tzinfo=UTC))
def test_third(kumofire):
    assert kumofire.now.year == 2026
"""
    )
    assert code == 0, told
    assert "3 passed" in told


def test_the_setting_names_the_jobs_and_a_fixture_may_return_others(session: Session) -> None:
    session.write("pytest.ini", "[pytest]\npythonpath = .\nkumofire_jobs = work:app.jobs\n")
    session.write(
        "work.py",
        "from types import SimpleNamespace\nfrom kumofire_core import Jobs\n"
        "app = SimpleNamespace(jobs=Jobs.from_env())\n",
    )
    session.environment["KUMOFIRE_TABLE"] = "a-real-table"
    code, told = session.run(
        """
import pytest
import work
from kumofire_core import Jobs

def test_named(kumofire):
    assert kumofire.jobs is work.app.jobs

class TestOther:
    @pytest.fixture
    def kumofire_jobs(self):
        return Jobs.from_env(handlers={"mine": lambda ctx: None}), work.app.jobs

    def test_overridden(self, kumofire):
        work.app.jobs.create("mine")
        assert kumofire.drain().succeeded == 1
"""
    )
    assert code == 0, told
    assert "KUMOFIRE_TABLE is a-real-table; a test without the fixture kumofire reaches that table" in told


def test_a_wrong_setting_or_marker_says_what_to_do(session: Session) -> None:
    code, told = session.run(
        """
import pytest

@pytest.mark.parametrize(("setting", "told"), [
    ("nowhere:jobs", "there is no module 'nowhere' for kumofire_jobs = 'nowhere:jobs'"),
    ("handler.jobs:job", "handler.jobs has no 'job', as kumofire_jobs = 'handler.jobs:job' says"),
    ("handler.jobs", "kumofire_jobs is 'handler.jobs'; write kumofire_jobs = .module:attribute."),
    ("handler.jobs:charge", "in_process takes a Jobs, not JobFunction"),
])
def test_setting(monkeypatch, request, setting, told):
    monkeypatch.setenv("KUMOFIRE_JOBS", setting)
    with pytest.raises(Exception, match=told):
        request.getfixturevalue("kumofire")

@pytest.mark.kumofire(caos=True)
def test_marker(request):
    with pytest.raises(pytest.UsageError, match="takes chaos, now, seed by name, and not caos"):
        request.getfixturevalue("kumofire")
"""
    )
    assert code == 0, told


CHAOS = """
import pytest
from handler import jobs

@pytest.mark.kumofire(chaos=True)
@pytest.mark.parametrize("name", ["charge", "charge once"])
def test_an_order_is_charged_once(kumofire, name):
    jobs.EFFECTS.clear()
    jobs.jobs.create_many([{"name": name, "payload": {"order": number}} for number in range(3)])
    kumofire.drain()
    assert sorted(jobs.EFFECTS) == [0, 1, 2]
    assert [run.status for run in kumofire.runs()] == ["succeeded"] * 3
"""


def test_a_failed_test_with_chaos_tells_its_seed_and_what_was_done(session: Session) -> None:
    code, told = session.run(CHAOS)
    assert code == 1
    assert "1 failed, 1 passed" in told
    assert "test_an_order_is_charged_once[charge]" in told
    section = told.partition("kumofire chaos")[2]
    seed = section.partition("--kumofire-seed=")[2].split()[0]
    assert section.count("its worker died after the handler had returned") == 3

    one = "test_it.py::test_an_order_is_charged_once[charge]"
    _, again = session.run(CHAOS, f"--kumofire-seed={seed}", one)
    assert without_ids(again.partition("kumofire chaos")[2]) == without_ids(section)


def without_ids(section: str) -> list[str]:
    """Return what was done, without the ids of the runs, which are new each time."""
    return sorted(" ".join(line.split()[:2] + line.split()[3:]) for line in section.splitlines() if " charge " in line)


def test_a_session_that_does_not_use_it_imports_nothing_of_it(session: Session) -> None:
    code, told = session.run(
        """
import sys

def test_nothing():
    heavy = ("boto3", "botocore", "msgspec", "kumofire_core.jobs", "kumofire_core.engine")
    assert not [name for name in (*heavy, "kumofire_core.testing.world") if name in sys.modules]
"""
    )
    assert code == 0, told


def test_what_is_set_stays_and_dummies_stand_in_where_there_is_no_aws(session: Session) -> None:
    tests = """
import os

def test_it():
    print([each for each in sorted(os.environ.items()) if each[0][:4] in ("AWS_", "KUMO")])
"""
    _, told = session.run(tests, "-s")
    assert "('AWS_ACCESS_KEY_ID', 'test'), ('AWS_DEFAULT_REGION', 'us-east-1')" in told
    assert "('KUMOFIRE_TABLE', 'use-the-kumofire-fixture')" in told
    session.environment |= {"AWS_CA_BUNDLE": "/none.pem", "AWS_DEFAULT_REGION": "eu-north-1"}
    _, told = session.run(tests, "-s")
    assert "('AWS_ACCESS_KEY_ID', 'test')" in told, "a setting that names no account gives no credentials"
    assert "('AWS_DEFAULT_REGION', 'eu-north-1')" in told
    del session.environment["AWS_CA_BUNDLE"], session.environment["AWS_DEFAULT_REGION"]
    session.write(".aws/config", "[default]\n")
    session.environment["KUMOFIRE_TABLE"] = "mine"
    _, told = session.run(tests, "-s")
    assert "AWS_" not in told
    assert "('KUMOFIRE_TABLE', 'mine')" in told
