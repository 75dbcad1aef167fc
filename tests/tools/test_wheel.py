"""What other repositories install: the wheel is complete, holds the library alone, and runs a job by itself."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import uuid
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import kumofire_core
from examples.deployment import PROJECT
from examples.local_aws import REGION, LocalAws
from tests.builders import make_aws

SETTINGS = tomllib.loads((PROJECT / "pyproject.toml").read_text())
VERSION = SETTINGS["project"]["version"]
NAME = f"kumofire_jobs-{VERSION}"
LIBRARY = {
    str(path.relative_to(PROJECT))
    for path in (PROJECT / "kumofire_core").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}

# An application as another repository has it: its jobs in a module of its own, and none of this repository's folders.
APPLICATION = {
    "shop_jobs.py": """
from kumofire_core import JobContext, Jobs

jobs = Jobs.from_env()

@jobs.handler("send receipt")
def send_receipt(ctx: JobContext) -> str:
    return f"receipt for {ctx.payload['order']}"
""",
    "shop.py": """
import json, os, sys
import boto3
import kumofire_core
from shop_jobs import jobs

run_id = jobs.create("send receipt", {"order": 42})
sqs = boto3.client("sqs")
[received] = sqs.receive_message(QueueUrl=os.environ["KUMOFIRE_QUEUE_URL"], WaitTimeSeconds=20)["Messages"]
before = jobs.get_status(run_id)
jobs.consume(json.loads(received["Body"]))
after = jobs.get_status(run_id)
print(json.dumps({
    "before": before.status, "after": after.status, "output": after.output,
    "library": kumofire_core.__file__, "path": sys.path,
}))
""",
}


def build(project: Path, folder: Path, *targets: str) -> None:
    """Build with the backend of this environment; ``pip`` would fetch it into one of its own."""
    options = [option for target in targets for option in ("--target", target)]
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(folder), *options],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build(PROJECT, folder, "wheel", "sdist")
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [wheel] = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel and what the runtime's lock pins, and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/*/site-packages")
    lock = (PROJECT / "requirements/runtime.txt").read_text()
    for name in re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE):
        locked = distribution(name)
        # As installed here: a test fetches nothing.
        for entry in {path.parts[0] for path in locked.files or ()} - {"..", "__pycache__"}:
            (packages / entry).symlink_to(Path(str(locked.locate_file(entry))))
    python = folder / "bin/python"
    pip(python, "install", "--quiet", "--no-index", "--no-deps", str(wheel))
    return python


def pip(python: Path, *arguments: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_wheel_holds_the_library_with_its_types_and_its_licence_and_nothing_else(wheel: Path) -> None:
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}

    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == LIBRARY | {f"{NAME}.dist-info/{file}" for file in about}
        assert archive.read(f"{NAME}.dist-info/licenses/LICENSE") == (PROJECT / "LICENSE").read_bytes()
        metadata = email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))
    assert "kumofire_core/py.typed" in LIBRARY
    assert (metadata["Name"], metadata["Version"]) == ("kumofire-jobs", VERSION)
    assert (metadata["Requires-Python"], metadata["License-Expression"]) == (">=3.11", "MIT")


def test_the_sdist_holds_what_makes_the_same_wheel_and_nothing_else(built: Path, wheel: Path, tmp_path: Path) -> None:
    [sdist] = built.glob("*.tar.gz")

    with tarfile.open(sdist) as archive:
        names = set(archive.getnames())
        archive.extractall(tmp_path, filter="data")
    build(tmp_path / NAME, tmp_path, "wheel")

    # hatchling adds .gitignore, which says what to leave out of the wheel.
    about = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert names == {f"{NAME}/{file}" for file in LIBRARY | about}
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_lock_of_the_runtime_is_all_that_the_wheel_requires(python: Path) -> None:
    pip(python, "check")


def test_an_application_of_its_own_runs_a_job_with_the_wheel(python: Path, ministack: LocalAws, tmp_path: Path) -> None:
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=f"wheel-{uuid.uuid4()}")
    for name, text in APPLICATION.items():
        (tmp_path / name).write_text(text)

    ended = subprocess.run(
        [python, "-W", "error", "shop.py"],
        cwd=tmp_path,
        env={
            "PATH": os.defpath,
            "AWS_ENDPOINT_URL": ministack.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "KUMOFIRE_TABLE": aws.table,
            "KUMOFIRE_QUEUE_URL": aws.queue_url,
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)

    assert (said["before"], said["after"], said["output"]) == ("queued", "succeeded", "receipt for 42")
    assert Path(said["library"]).is_relative_to(python.parent.parent)
    assert not [entry for entry in said["path"] if Path(entry).is_relative_to(PROJECT)]


def test_the_library_says_its_version_as_it_is_published() -> None:
    assert kumofire_core.__version__ == VERSION


def test_the_changelog_has_a_section_for_the_version_and_one_for_what_comes_next() -> None:
    sections = re.findall(r"^## \[?([^\]\n ]+)\]?", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert sections[0] == "Unreleased"
    assert sections[1] == VERSION


def test_the_installed_command_line_says_which_extra_it_needs(python: Path) -> None:
    program = python.with_name("kumofire")

    ended = subprocess.run([str(program), "runs", "list"], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install 'kumofire-jobs[cli]'" in ended.stderr
    assert ended.stderr.count("\n") == 1
