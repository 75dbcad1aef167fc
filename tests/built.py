"""The artifact as ``sam build`` makes it, for the interpreter that runs the tests. Free of AWS."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from examples.deployment import PROJECT

RUNTIME = f"python{sys.version_info[0]}.{sys.version_info[1]}"
ARCHITECTURE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
SERVICES = "dynamodb sqs sts lambda"


def build_artifact(target: Path, *, encryption: bool = False, **files: str) -> Path:
    """Build a function's artifact into ``target``; ``files`` are modules to add to it, by name.

    Dependencies are fetched once and kept in ``build/``, where ``make build`` keeps them.
    """
    options = ("--runtime", RUNTIME, "--architecture", ARCHITECTURE, "--services", SERVICES)
    options += ("--encryption", str(encryption).lower())
    built = subprocess.run(
        [sys.executable, "-m", "tools.artifact", target.absolute(), *options],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for name, text in files.items():
        (target / f"{name}.py").write_text(text)
    return target
