"""Writes what a new project shares with this repository: the stack's template and the release that it installs.

``kumofire init`` and ``sam init`` make a project from ``kumofire_core/cli/project_template``. Some of its
files follow from this repository's own: ``template.yaml`` from the one here, with the differences below,
``src/requirements.txt`` from the version in ``pyproject.toml``, and the Lambda functions from ``handler/``. Call
``make project-template`` after a change of these; a test fails until then.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tools.environment import PROJECT, ToolError

PROJECT_TEMPLATE = PROJECT / "kumofire_core/cli/project_template/{{cookiecutter.project_name}}"

HEAD = """\
# The stack of Kumofire Jobs {version}. `kumofire template` prints that of the release that is installed. Keep what you
# add together, so that an upgrade is easy to compare.
"""

REPLACED = (
    ("    CodeUri: .\n", "    CodeUri: src/\n"),
    (" Build for the same one (RUNTIME of the Makefile).", " `sam build` needs an interpreter of it on the path."),
    (" Build for the same one (ARCHITECTURE of the Makefile).", ""),
    (" Build with ENCRYPTION=true.", " It needs kumofire-jobs[lambda,encryption] in src/requirements.txt."),
    (" Build with s3 among BOTO3_SERVICES.", ""),
    (" docs/alarms.md says what to do.", " `kumofire doctor` says what to do."),
)
"""What a project has in place of something here. Each of them is there exactly once."""

METADATA = re.compile(r"^    Metadata:.*\n(?:      .*\n)*", re.MULTILINE)
"""How a resource is built and linted here. A project's functions are built by SAM's own builder for Python."""


def main(given: Sequence[str] | None = None) -> int:
    """Write the files."""
    if sys.argv[1:] if given is None else given:
        print("error: this tool takes no arguments", file=sys.stderr)
        return 2
    try:
        for path, text in files().items():
            path.write_text(text, encoding="utf-8")
    except (ToolError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def files() -> dict[Path, str]:
    """Return what each of the files has to hold.

    Raises ``ToolError`` where template.yaml does not have what is replaced.
    """
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    functions = [path for path in (PROJECT / "handler").glob("*.py") if path.name not in ("__init__.py", "jobs.py")]
    return {
        **{PROJECT_TEMPLATE / f"src/handler/{path.name}": path.read_text(encoding="utf-8") for path in functions},
        PROJECT_TEMPLATE / "template.yaml": stack((PROJECT / "template.yaml").read_text(encoding="utf-8"), version),
        PROJECT_TEMPLATE / "src/requirements.txt": requirements(version),
    }


def stack(text: str, version: str) -> str:
    """Return a project's template, made from this repository's."""
    for ours, theirs in REPLACED:
        if text.count(ours) != 1:
            raise ToolError(
                f"template.yaml has {ours.strip()!r} {text.count(ours)} times and not once; correct REPLACED in"
                " tools/project_template.py"
            )
        text = text.replace(ours, theirs)
    return HEAD.format(version=version) + METADATA.sub("", text)


def requirements(version: str) -> str:
    """Return what a project's functions install: this release and its corrections.

    Before 1.0.0 a minor version may change the public API.
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    following = f"{major}.{minor + 1}" if major == 0 else f"{major + 1}"
    return f"kumofire-jobs[lambda]>={version},<{following}\n"


if __name__ == "__main__":
    sys.exit(main())
