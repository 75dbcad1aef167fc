"""``kumofire init`` and ``kumofire template``: a project of one's own, written from ``project_template``.

That folder is a Cookiecutter template, so that ``sam init --location`` writes the same project. Of what Cookiecutter
can do, it uses placeholders for its variables alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kumofire_core.cli.exits import CommandError, UsageError
from kumofire_core.cli.invocation import Here, number

PROJECT_TEMPLATE = Path(__file__).with_name("project_template")
STACK = "template.yaml"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}", re.ASCII)
"""What CloudFormation takes as a stack's name.
https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateStack.html"""

_PLACEHOLDER = re.compile(rb"\{\{ ?cookiecutter\.(\w+) ?\}\}", re.ASCII)


def init(
    name: Annotated[str, Parameter(help="The new folder's name, and the stack's.")],
    /,
    *,
    runtime: Annotated[
        str | None, Parameter(help="The functions' runtime; by default the Python that you call this with, or 3.13.")
    ] = None,
    here: Here,
) -> None:
    """Write a new project into a new folder here: the stack, one job, and its tests.

    Nothing is asked of AWS. An existing folder is left alone.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the name is {name!r}; it becomes the stack's, so it must be of letters, digits and hyphens, begin with a "
            "letter and have 128 characters at most"
        )
    about = json.loads((PROJECT_TEMPLATE / "cookiecutter.json").read_bytes())
    runtimes: list[str] = about["runtime"]
    if runtime is None:
        this = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        runtime = this if this in runtimes else runtimes[0]
    elif runtime not in runtimes:
        raise UsageError(f"--runtime is {runtime!r}; it must be one of {', '.join(runtimes)}")
    written = _project({"project_name": name, "runtime": runtime}, about["_copy_without_render"])
    folder = Path.cwd() / name
    _write(folder, written)
    if here.as_json:
        here.emit({"folder": str(folder), "files": sorted(written)})
        return
    here.show(f"wrote {number(len(written), 'file')} into {name}; its README.md says what they are")
    here.lines(
        [
            "",
            f"  cd {name}",
            f"  {runtime} -m venv .venv && .venv/bin/pip install -r requirements-dev.txt",
            "  .venv/bin/pytest            # test it",
            "  .venv/bin/kumofire dev      # run it here, on a local AWS",
            "  sam build && sam deploy     # deploy it",
        ]
    )


def template(*, here: Here) -> None:
    """Print the template.yaml of this release, for a project that was made with an earlier one."""
    [source] = PROJECT_TEMPLATE.glob(f"*/{STACK}")
    text = source.read_text(encoding="utf-8")
    if here.as_json:
        here.emit({"template": text})
    else:
        here.lines([text.removesuffix("\n")])
    for place in _functions(text):
        if Path("src").is_dir() and not Path("src", place).exists():
            here.say(
                f"this template names a function that is not here: src/{place}; a new project (kumofire init) has it"
            )


def _functions(stack: str) -> list[str]:
    """Return the modules of the functions that a template names, as paths."""
    return [f"{handler.replace('.', '/')}.py" for handler in re.findall(r"^ +Handler: ([\w.]+)\.\w+$", stack, re.M)]


def _project(values: dict[str, str], as_they_are: list[str]) -> dict[str, bytes]:
    """Return the files of a project by their place in it, with ``values`` for the placeholders.

    Files that one of the patterns ``as_they_are`` fits have none.
    """

    def filled(found: re.Match[bytes]) -> bytes:
        return values[found[1].decode()].encode()

    [root] = (path for path in PROJECT_TEMPLATE.iterdir() if path.is_dir())
    written = {}
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root).as_posix()
        # An installer compiles every module that it finds.
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            plain = any(fnmatch(place, pattern) for pattern in as_they_are)
            written[place] = content if plain else _PLACEHOLDER.sub(filled, content)
    return written


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files into a new folder, which appears whole or not at all. Raises ``CommandError``."""
    exists = UsageError(f"{folder.name} exists already, so nothing was written; give another name, or move it away")
    if os.path.lexists(folder):
        raise exists
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:64]}-") as unfinished:
            # Inside it, for the permissions that any new folder has.
            whole = Path(unfinished) / "whole"
            for place, content in files.items():
                path = whole / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            whole.rename(folder)
    except OSError as error:
        if os.path.lexists(folder):
            raise exists from None
        raise CommandError(f"{folder} can't be written ({error.strerror or error}); nothing was") from None
