"""The stack of a new project is this repository's, and stays it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from examples.deployment import PROJECT, load_template, table_definition
from kumofire_core.cli.new_project import PROJECT_TEMPLATE
from kumofire_core.deployment.table import DEFINITION
from tools import project_template
from tools.environment import ToolError
from tools.project_template import files, main, requirements, stack


def test_what_a_project_shares_with_the_repository_is_as_the_tool_writes_it() -> None:
    stale = [path.name for path, text in files().items() if path.read_text(encoding="utf-8") != text]

    assert not stale, "call `make project-template`, and commit what it wrote"


def test_the_stack_of_a_project_is_the_repositorys_but_for_how_it_is_built() -> None:
    [place] = PROJECT_TEMPLATE.glob("*/template.yaml")
    ours, theirs = load_template(), load_template(place)

    assert theirs["Globals"]["Function"].pop("CodeUri") == "src/"
    assert ours["Globals"]["Function"].pop("CodeUri") == "."
    assert not [name for name, resource in theirs["Resources"].items() if "Metadata" in resource]
    assert without_texts(theirs) == without_texts(ours)


def without_texts(value: Any) -> Any:
    """Return a part of a template without descriptions and without the metadata of resources."""
    if isinstance(value, dict):
        texts = ("Description", "AlarmDescription")
        kept = {name: without_texts(part) for name, part in value.items() if name not in texts}
        return {name: part for name, part in kept.items() if name != "Metadata" or "Type" not in kept}
    return value


def test_a_project_has_every_function_that_its_stack_names() -> None:
    [place] = PROJECT_TEMPLATE.glob("*/template.yaml")
    resources = load_template(place)["Resources"].values()
    handlers = [found["Properties"]["Handler"] for found in resources if found["Type"] == "AWS::Serverless::Function"]

    assert "handler.consumer.handler" in handlers
    for handler in handlers:
        assert (place.parent / "src" / f"{handler.removesuffix('.handler').replace('.', '/')}.py").is_file()


def test_the_table_that_no_stack_makes_is_that_of_the_template() -> None:
    assert table_definition() == DEFINITION


def test_a_project_has_no_placeholders_but_those_that_both_programs_know() -> None:
    about = json.loads((PROJECT_TEMPLATE / "cookiecutter.json").read_text())
    known = {name for name in about if not name.startswith("_")}
    for path in PROJECT_TEMPLATE.glob("*/**/*"):
        if not path.is_file() or "__pycache__" in path.parts or path.name in about["_copy_without_render"]:
            continue
        rest = re.sub(rf"\{{\{{ ?cookiecutter\.({'|'.join(known)}) ?\}}\}}", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"\{\{|\{%|\{#|\}\}", rest), path


def test_a_project_can_have_each_runtime_that_the_template_allows() -> None:
    runtimes = json.loads((PROJECT_TEMPLATE / "cookiecutter.json").read_text())["runtime"]
    parameter = load_template()["Parameters"]["Runtime"]

    assert sorted(runtimes) == sorted(parameter["AllowedValues"])
    assert runtimes[0] == parameter["Default"]


def test_the_repository_itself_can_be_named_to_sam_init() -> None:
    [named] = json.loads((PROJECT / "cookiecutter.json").read_text())["templates"].values()

    assert (PROJECT / named["path"]).resolve() == PROJECT_TEMPLATE


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("0.1.0", ">=0.1.0,<0.2"), ("0.9.3", ">=0.9.3,<0.10"), ("1.4.2", ">=1.4.2,<2"), ("2.0.0", ">=2.0.0,<3")],
)
def test_a_project_takes_corrections_of_its_release_but_no_release_that_may_change_the_api(
    version: str, wanted: str
) -> None:
    assert requirements(version) == f"kumofire-jobs[lambda]{wanted}\n"


def test_a_template_without_what_is_replaced_is_refused_rather_than_written_half() -> None:
    text = (PROJECT / "template.yaml").read_text()

    with pytest.raises(ToolError, match=r"'CodeUri: \.' 0 times"):
        stack(text.replace("    CodeUri: .\n", ""), "0.1.0")
    with pytest.raises(ToolError, match="2 times"):
        stack(text + "    CodeUri: .\n", "0.1.0")


def test_the_tool_writes_its_files_and_takes_no_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src/handler").mkdir(parents=True)
    monkeypatch.setattr(project_template, "PROJECT_TEMPLATE", tmp_path)

    assert main([]) == 0
    assert main(["--help"]) == 2

    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"template.yaml", "src/requirements.txt", "src/handler/consumer.py", "src/handler/dispatcher.py"} <= written
    assert "src/handler/jobs.py" not in written
    assert all(path.read_text() == text for path, text in files().items())
    assert "takes no arguments" in capsys.readouterr().err
