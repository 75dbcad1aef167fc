"""A project that ``kumofire init`` wrote, as its owner uses it: tested, built, deployed, used and upgraded."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from examples.deploy_local import credentials
from examples.deployment import PROJECT
from examples.local_aws import LocalAws, local_aws
from kumofire_core.cli import main
from tests.built import RUNTIME
from tests.deploy.test_deploy import Deployed
from tools.project_template import METADATA

pytestmark = pytest.mark.long

RELEASED = PROJECT / "tests/deploy/released/template-0.1.0.yaml"

FAILING = """

@jobs.handler("fail", max_attempts=1)
def fail(ctx: JobContext) -> None:
    raise ConnectionError("no answer")
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where pip finds this checkout as a release: settings for the environment of a command."""
    folder = tmp_path_factory.mktemp("dist")
    call([sys.executable, "-m", "hatchling", "build", "--directory", folder, "--target", "wheel"], PROJECT, {})
    return {"PIP_FIND_LINKS": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture
def sam() -> str:
    found = os.environ.get("SAM")
    if not found:
        pytest.skip("the variable SAM names no SAM CLI; `make test-long` sets it")
    return found


def call(command: list[Any], folder: Path, settings: Mapping[str, str]) -> str:
    """Run a command in a folder, with this interpreter's own folder first on the path; return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KUMOFIRE_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**inherited, "PATH": path, "HOME": str(folder.parent), "SAM_CLI_TELEMETRY": "0", **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def new_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have ``kumofire init`` write a project for this interpreter."""
    monkeypatch.chdir(folder)
    assert main(["init", "my-app", "--runtime", RUNTIME]) == 0
    return folder / "my-app"


def test_a_new_project_passes_its_own_tests_in_a_fresh_environment(
    index: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = new_project(tmp_path, monkeypatch)
    venv.create(project / ".venv", with_pip=True)
    python = project / ".venv/bin/python"
    call([python, "-m", "pip", "install", "--quiet", "-r", "requirements-dev.txt"], project, index)

    said = call([project / ".venv/bin/pytest", "-W", "error", "-p", "no:cacheprovider"], project, {})

    assert "3 passed" in said
    assert "runs create" in call([project / ".venv/bin/kumofire", "runs", "create", "--help"], project, {})

    broken = project / "src/handler/jobs.py"
    broken.write_text(broken.read_text().replace("Hello", "Goodbye"))
    with pytest.raises(AssertionError, match="1 failed, 2 passed"):
        call([project / ".venv/bin/pytest"], project, {})


def test_the_sam_cli_writes_the_same_project_from_the_repository(
    sam: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    shipped = call(["git", "ls-files", "-z", "cookiecutter.json", "kumofire_core/cli/project_template"], PROJECT, {})
    for name in filter(None, shipped.split("\0")):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_bytes((PROJECT / name).read_bytes())
    author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
    for words in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "all"]):
        call(["git", *words], repository, {})
    (tmp_path / "by-sam").mkdir()
    (tmp_path / "by-kumofire").mkdir()

    extra = f'{{"runtime": "{RUNTIME}"}}'
    options = ["--location", f"git+file://{repository}", "--name", "my-app", "--no-input", "--extra-context", extra]
    call([sam, "init", *options], tmp_path / "by-sam", {})
    new_project(tmp_path / "by-kumofire", monkeypatch)

    assert files(tmp_path / "by-sam") == files(tmp_path / "by-kumofire")
    assert "my-app/template.yaml" in files(tmp_path / "by-sam")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_new_project_is_built_deployed_and_upgraded_from_the_release_before(
    sam: str,
    index: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = new_project(tmp_path, monkeypatch)
    jobs = project / "src/handler/jobs.py"
    jobs.write_text(jobs.read_text() + FAILING)
    template = project / "template.yaml"
    current = template.read_text()
    template.write_text(METADATA.sub("", RELEASED.read_text()).replace("CodeUri: .\n", "CodeUri: src/\n"))

    def deploy(aws: LocalAws) -> Deployed:
        call([sam, "build"], project, index)
        # Byte code, as docs/new-project.md makes it.
        compiled = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", ".aws-sam/build"]
        call([sys.executable, *compiled], project, {})
        call([sam, "deploy", "--no-confirm-changeset", "--no-progressbar"], project, credentials(aws))
        return Deployed(aws=aws, name="my-app")

    with local_aws() as aws:
        before = deploy(aws)
        shipped = {path.name for path in (project / ".aws-sam/build/Consumer").iterdir()}
        assert {"handler", "kumofire_core", "botocore"} <= shipped
        assert not shipped & {"tests", "template.yaml", "README.md", "moto", "pytest"}
        function = aws.client("lambda").get_function_configuration(FunctionName=before.outputs["ConsumerFunction"])
        assert function["Runtime"] == RUNTIME
        first = before.ended(before.jobs().create("hello", {"name": "Ada"}))
        assert (first.status, first.output) == ("succeeded", {"greeting": "Hello, Ada!"})
        assert before.invoke("DispatcherFunction", {})["errors"] == 0
        kept = {name: before.outputs[name] for name in ("TableName", "QueueUrl", "ConsumerFunction")}

        capsys.readouterr()
        assert main(["template"]) == 0
        template.write_text(capsys.readouterr().out)
        assert template.read_text() == current
        call([sam, "validate", "--lint"], project, {"AWS_DEFAULT_REGION": "eu-central-1"})
        after = deploy(aws)

        assert {name: after.outputs[name] for name in kept} == kept
        assert after.jobs().get_status(first.id) == first
        failed = after.ended(after.jobs().create("fail"))
        assert failed.id in {run.id for run in after.jobs().list_runs(status="failed").runs}
        second = after.ended(after.jobs().create("hello", {"name": "Grace"}))
        assert second.output == {"greeting": "Hello, Grace!"}
