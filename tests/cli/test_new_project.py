"""``kumofire init`` writes a whole project or nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kumofire_core.cli import new_project
from kumofire_core.cli.new_project import PROJECT_TEMPLATE
from tests.cli.conftest import Kumofire


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the program is called without a deployment."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def nowhere(kumofire: Kumofire, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUMOFIRE_TABLE", "KUMOFIRE_QUEUE_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)


def test_a_project_is_written_and_its_next_commands_are_told(kumofire: Kumofire, here: Path) -> None:
    ended = kumofire("init", "my-app", "--runtime", "python3.12")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("wrote 13 files into my-app;")
    assert "cd my-app\n" in ended.out
    assert "sam build && sam deploy" in ended.out
    assert [path.name for path in here.iterdir()] == ["my-app"]
    assert 'stack_name = "my-app"' in (here / "my-app/samconfig.toml").read_text()
    assert '"Runtime=python3.12"' in (here / "my-app/samconfig.toml").read_text()
    assert (here / "my-app/README.md").read_text().startswith("# my-app\n")
    [ours] = PROJECT_TEMPLATE.glob("*/template.yaml")
    assert (here / "my-app/template.yaml").read_bytes() == ours.read_bytes()


def test_a_new_folder_has_the_permissions_of_any_new_folder(kumofire: Kumofire, here: Path) -> None:
    (here / "other").mkdir()

    kumofire("init", "my-app")

    assert (here / "my-app").stat().st_mode == (here / "other").stat().st_mode


def test_a_program_gets_the_folder_and_its_files(kumofire: Kumofire, here: Path) -> None:
    form = kumofire("init", "my-app", "--json").form

    assert form["folder"] == str(here / "my-app")
    assert form["files"] == sorted(
        path.relative_to(here / "my-app").as_posix() for path in (here / "my-app").rglob("*") if path.is_file()
    )
    assert {"template.yaml", ".gitignore", "src/handler/jobs.py", "tests/test_jobs.py"} <= {*form["files"]}


def test_the_runtime_is_the_python_that_is_used_where_lambda_has_it(
    kumofire: Kumofire, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (version, runtime) in enumerate({(3, 12): "python3.12", (3, 99): "python3.13"}.items()):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "version_info", (*version, 0, "final", 0))
            kumofire("init", f"app-{number}")
        assert f'"Runtime={runtime}"' in (here / f"app-{number}/samconfig.toml").read_text()


@pytest.mark.parametrize(
    "name", ["", "1app", "my_app", "my app", "../app", "/app", "a/b", ".", "-app", "é", "a\n", "a" * 129]
)
def test_a_name_that_can_be_no_stacks_is_refused_and_nothing_is_written(
    kumofire: Kumofire, here: Path, name: str
) -> None:
    ended = kumofire("init", "--", name)

    assert (ended.code, ended.out) == (2, "")
    assert "letters, digits and hyphens" in ended.err
    assert not list(here.iterdir())


def test_a_runtime_that_lambda_does_not_have_here_is_refused(kumofire: Kumofire, here: Path) -> None:
    ended = kumofire("init", "my-app", "--runtime", "python3.9")

    assert ended.code == 2
    assert "python3.13, python3.12, python3.11" in ended.err
    assert not list(here.iterdir())


@pytest.mark.parametrize("kind", ["an empty folder", "a folder", "a file", "a link to nowhere"])
def test_what_is_there_already_is_left_alone(kumofire: Kumofire, here: Path, kind: str) -> None:
    place = here / "my-app"
    if kind == "a file":
        place.write_text("mine")
    elif kind == "a link to nowhere":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
        if kind == "a folder":
            (place / "mine").write_text("mine")
    before = sorted((path.name, path.is_file() and path.read_text()) for path in here.rglob("*"))

    ended = kumofire("init", "my-app")

    assert (ended.code, ended.out) == (2, "")
    assert "my-app exists already, so nothing was written" in ended.err
    assert sorted((path.name, path.is_file() and path.read_text()) for path in here.rglob("*")) == before


def test_a_disk_that_is_full_halfway_leaves_nothing_behind(
    kumofire: Kumofire, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if len(written) == 5:
            raise OSError(28, os.strerror(28))
        written.append(path)
        return write(path, data)

    monkeypatch.setattr(new_project.Path, "write_bytes", full)

    ended = kumofire("init", "my-app")

    assert ended.code == 3
    assert "No space left" in ended.err
    assert len(written) == 5
    assert not list(here.iterdir())


def test_the_template_of_this_release_is_printed_as_a_new_project_has_it(kumofire: Kumofire, here: Path) -> None:
    kumofire("init", "my-app")
    text = (here / "my-app/template.yaml").read_text()

    assert kumofire("template").out == text
    assert kumofire("template", "--json").form == {"template": text}


def test_the_template_s_new_functions_are_named_to_a_project_that_lacks_them(kumofire: Kumofire, here: Path) -> None:
    kumofire("init", "my-app")
    os.chdir(here / "my-app")
    assert kumofire("template").err == ""

    Path("src/handler/cleaner.py").unlink()

    ended = kumofire("template")
    assert ended.out == Path("template.yaml").read_text()
    assert ended.err.count("\n") == 1
    assert "src/handler/cleaner.py" in ended.err
