"""The command line ``kumofire``, described in docs/cli.md. The extra ``cli`` installs what it needs.

It is no part of what runs in Lambda, and nothing else in this package imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kumofire_core.edge import collector_paused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's, and return its exit code."""
    try:
        with collector_paused(freeze=arguments is None):
            from kumofire_core.cli.app import run
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "kumofire_core":
            raise
        print(
            f"kumofire: the command line needs {missing.name}, which is not installed; "
            "install it with: pip install 'kumofire-jobs[cli]'",
            file=sys.stderr,
        )
        return 2
    return run(arguments)
