"""Remakes the locks in ``requirements/`` from ``pyproject.toml``. It needs the package index."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.environment import PROJECT, ToolError, pip_install, run

UV = "uv==0.13.9"

# What is shipped is what was tested: the locks of the runtime take their versions from the one for development, which
# is made first. The other tools' locks are apart, because they may need versions that the emulators do not take.
LOCKS = {
    "dev": ("pyproject.toml", "--extra", "dev"),
    "runtime": ("pyproject.toml", "--extra", "lambda", "--constraint", "requirements/dev.txt"),
    "encryption": (
        *("pyproject.toml", "--extra", "lambda", "--extra", "encryption"),
        *("--constraint", "requirements/dev.txt"),
    ),
    "sam": ("--group", "sam"),
    "audit": ("--group", "audit"),
    "docs": ("--group", "docs"),
    "celery": (
        *("pyproject.toml", "--extra", "typed", "--group", "celery"),
        *("--constraint", "requirements/dev.txt"),
    ),
}

# One lock for every platform and every Python that the project supports. No address of an index gets into it.
OPTIONS = (
    *("--quiet", "--universal", "--python-version", "3.11", "--no-python-downloads", "--generate-hashes"),
    *("--no-emit-index-url", "--no-emit-find-links", "--custom-compile-command", "make lock"),
)


def main(given: Sequence[str] | None = None) -> int:
    """Remake every lock; ``given`` are further options of ``uv pip compile``, for example ``--upgrade``."""
    options = sys.argv[1:] if given is None else list(given)
    os.chdir(PROJECT)
    try:
        with tempfile.TemporaryDirectory() as name:
            python = Path(name) / "bin" / "python"
            run([sys.executable, "-m", "venv", name])
            pip_install(python, UV)
            compile_lock = [str(python.with_name("uv")), "pip", "compile", "--python", str(python), *OPTIONS, *options]
            for lock, sources in LOCKS.items():
                run([*compile_lock, *sources, "--output-file", f"requirements/{lock}.txt"])
    except ToolError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"up to date: {', '.join(f'requirements/{lock}.txt' for lock in LOCKS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
