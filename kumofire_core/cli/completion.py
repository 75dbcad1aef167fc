"""``--install-completion`` and ``--show-completion``: completion for bash, zsh and fish."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from kumofire_core.cli.exits import UsageError

ShellName = Literal["bash", "zsh", "fish"]
Shell = Annotated[ShellName | None, Parameter(help="Default: the shell that SHELL names.", negative=())]


def install(shell: Shell = None, /) -> None:
    """Install completion for a shell, for this user."""
    from kumofire_core.cli.app import app

    name = _shell(shell)
    place = app.install_completion(shell=name, add_to_startup=True)
    print(f"completion for {name} is installed in {place}; it works in new shells")


def show(shell: Shell = None, /) -> None:
    """Print the completion script for a shell."""
    from kumofire_core.cli.app import app

    print(app.generate_completion(shell=_shell(shell)))


def _shell(given: ShellName | None) -> ShellName:
    match given or Path(os.environ.get("SHELL", "")).name:
        case "bash" | "zsh" | "fish" as name:
            return name
    raise UsageError("it is not known which shell this is; name it: bash, zsh or fish")
