"""``python -m tools.site``: builds the documentation's site, serves it, or writes docs/llms.txt.

``build`` and ``serve`` need the environment of requirements/docs.txt; ``llms`` needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tools.environment import PROJECT, ToolError
from tools.site.check import problems_of
from tools.site.llms import LLMS, summary
from tools.site.pages import prepare

CONFIGURATION = PROJECT / "zensical.toml"
PUBLISHED = PROJECT / "build/zensical.toml"
"""The same for a site whose address is known."""

SITE = PROJECT / "build/site"


def main(given: Sequence[str] | None = None) -> int:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help=f"build {SITE.relative_to(PROJECT)}, and fail on a broken link")
    building.add_argument("--url", help="the address that the site is published at, for its sitemap and its 404 page")
    serving = commands.add_parser("serve", help="serve the site, and build it again after a change")
    serving.add_argument("--address", default="localhost:8000", help="host:port (default: %(default)s)")
    commands.add_parser("llms", help="write docs/llms.txt from the navigation")
    arguments = parser.parse_args(given)
    try:
        if arguments.command == "llms":
            LLMS.write_text(summary(), encoding="utf-8")
            return 0
        prepare()
        if arguments.command == "build":
            return build(arguments.url)
        threading.Thread(target=prepare_again, daemon=True).start()
        return zensical(CONFIGURATION, "serve", "--dev-addr", arguments.address)
    except (ToolError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1


def build(url: str | None) -> int:
    """Build the site and look through it; return an exit status. Say what is wrong, a line each."""
    configuration = CONFIGURATION if url is None else with_address(url)
    status = zensical(configuration, "build", "--strict", "--clean")
    # A site with an address names it in its own pages, which is no request elsewhere.
    problems = [] if status or url is not None else problems_of(SITE)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return status or bool(problems)


def with_address(url: str) -> Path:
    """Write the configuration for a site with this address, and return its place."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    for here, there in (
        ("[project]\n", f"[project]\nsite_url = {json.dumps(url)}\n"),
        ('"build/docs"', '"docs"'),
        ('"build/site"', '"site"'),
        ('paths = ["."]', 'paths = [".."]'),
    ):
        if text.count(here) != 1:
            raise ToolError(f"zensical.toml has {here!r} {text.count(here)} times, and one is expected")
        text = text.replace(here, there)
    PUBLISHED.write_text(text, encoding="utf-8")
    return PUBLISHED


def zensical(configuration: Path, *words: str) -> int:
    """Run the builder on what was prepared, and return its exit status."""
    program = Path(sys.executable).with_name("zensical")
    if not program.is_file():
        raise ToolError("there is no zensical beside this Python; call `make docs`, which makes its environment")
    # The builder loads tools.site.docstrings, from here.
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [str(program), *words, "--config-file", str(configuration)]
    try:
        return subprocess.run(command, cwd=PROJECT, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 130


def prepare_again() -> None:
    """Prepare the pages again after each change, until the process ends; the builder notices what was written."""
    watched, seen = threading.Event(), None
    while not watched.wait(1):
        times = [path.stat().st_mtime_ns for path in [*PROJECT.glob("*.md"), *(PROJECT / "docs").iterdir()]]
        if times != seen and seen is not None:
            try:
                prepare()
            except (ToolError, OSError) as problem:
                print(f"error: {problem}", file=sys.stderr)
        seen = times


if __name__ == "__main__":
    sys.exit(main())
