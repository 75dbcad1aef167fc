"""docs/quick-start.md, played from its first job to its first test: every command and example as it is printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from examples.deployment import PROJECT
from tests.cli.test_dev import PATIENCE_SECONDS, PROGRAM, Dev, developing

PAGE = (PROJECT / "docs/quick-start.md").read_text()
FIRST_JOB, SECOND_JOB, CREATING, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def printed(prefix: str) -> list[list[str]]:
    """Return the command lines of the page that begin so, without their comments."""
    return [shlex.split(line, comments=True) for line in PAGE.splitlines() if line.startswith(prefix)]


def call(dev: Dev, words: list[str]) -> str:
    """Return what a program prints in the second terminal."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUMOFIRE_"))}
    ended = subprocess.run(
        words,
        cwd=dev.project,
        env={**inherited, **dev.settings, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{words}: {ended.stdout}\n{ended.stderr}"
    return ended.stdout.strip()


@pytest.mark.long
def test_the_quick_start(tmp_path: Path) -> None:
    hello, now, later, wrong = [words[1:] for words in printed("kumofire runs create")][:4]
    with developing(tmp_path, jobs=FIRST_JOB) as dev:
        run_id = call(dev, [str(PROGRAM), *hello])
        assert dev.ended(run_id).output == {"greeting": "Hello, Ada!"}
        shown = call(dev, [str(PROGRAM), "runs", "show", run_id, "--output"])
        assert "status    succeeded\nattempts  0 of 5 failed\n" in shown
        assert '  {\n    "greeting": "Hello, Ada!"\n  }' in shown
        dev.says(f"hello {run_id} saying hello")

        place = dev.project / "src/handler/jobs.py"
        place.write_text(f"{FIRST_JOB}\n\n{SECOND_JOB}")
        dev.says("the jobs of handler.jobs:jobs are ready: hello, welcome")
        for words in (now, later):
            assert dev.ended(call(dev, [str(PROGRAM), *words])).output == {"sent_to": "ada@example.com"}
        failed = dev.ended(call(dev, [str(PROGRAM), *wrong]))
        assert (failed.status, failed.error_type, failed.failed_attempts) == ("failed", "KeyError", 5)
        assert 'return {"sent_to": ctx.payload["to"]}' in call(dev, [str(PROGRAM), "runs", "show", failed.id])

        (dev.project / "create.py").write_text(CREATING)
        first, again = (call(dev, [sys.executable, "create.py"]).split()[0] for _ in range(2))
        assert first == again
        assert dev.ended(first).output == {"sent_to": "grace@example.com"}

        (dev.project / "tests").mkdir()
        (dev.project / "tests/test_jobs.py").write_text(TEST)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=src", "tests"]
        assert "1 passed" in call(dev, command)
