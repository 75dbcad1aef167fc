"""Compares lock files with the database of known vulnerabilities, by pip-audit. Standard library only.

pip-audit also reports "no known vulnerabilities" for versions that its database does not know, and it fails in the same
way for a vulnerability and for a network that is down. So this first looks up a version with known vulnerabilities: if
the database does not report them, it was not reached.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KNOWN_TO_BE_VULNERABLE = "urllib3==1.24.1"

CLEAN, FAILED, UNREACHABLE = 0, 1, 3

TIMEOUT_SECONDS = 600

NO_ANSWER = (
    "requests.exceptions.",
    "urllib3.exceptions.",
    "pip_audit._service.interface.",
    "vulnerability feed",
    "PyPI is not redirecting properly",
)
"""What pip-audit writes where its database does not answer; anything else that it ends with is a fault of the audit."""


class UnreachableError(Exception):
    """The database does not answer, or its answer can't be trusted."""


class BrokenError(Exception):
    """pip-audit itself failed."""


def main(given: Sequence[str] | None = None) -> int:
    """Audit what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"Exit status {UNREACHABLE}: no database was reached.")
    parser.add_argument("locks", nargs="+", type=Path, metavar="lock", help="requirements files with hashes")
    parser.add_argument("--pip-audit", default="pip-audit", metavar="PROGRAM", help="pip-audit itself")
    parser.add_argument(
        "--where-reachable", action="store_true", help="succeed, and say so, where the database can't be reached"
    )
    arguments = parser.parse_args(given)
    if missing := [str(lock) for lock in arguments.locks if not os.path.isfile(lock)]:
        parser.error(f"there is no file {', '.join(map(repr, missing))}")
    try:
        found = audit(arguments.pip_audit, arguments.locks)
    except UnreachableError as reason:
        print(f"NOT AUDITED for known vulnerabilities: {reason}", file=sys.stderr)
        return CLEAN if arguments.where_reachable else UNREACHABLE
    except BrokenError as reason:
        print(f"error: the audit itself failed: {reason}", file=sys.stderr)
        return FAILED
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(arguments.locks)} lock files: {'no known vulnerabilities' if not found else 'see above'}")
    return FAILED if found else CLEAN


def audit(program: str, locks: list[Path]) -> list[str]:
    """Return a line for each vulnerability, and where there is one, for each lock that could not be audited."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "requirements.txt"
        known.write_text(f"{KNOWN_TO_BE_VULNERABLE}\n", encoding="utf-8")
        if not vulnerabilities(ask(program, known, "--no-deps")):
            raise UnreachableError(f"the database that answers knows nothing of {KNOWN_TO_BE_VULNERABLE}")
    found: list[str] = []
    unanswered: list[str] = []
    for lock in locks:
        try:
            dependencies = ask(program, lock, "--require-hashes")
        except UnreachableError as reason:
            unanswered.append(f"{lock.name}: {reason}")
            continue
        found += [f"{lock.name}: {vulnerability}" for vulnerability in vulnerabilities(dependencies)]
        if skipped := [each["name"] for each in dependencies if "skip_reason" in each]:
            unanswered.append(f"{lock.name}: the database does not know {', '.join(skipped)}")
    if unanswered and not found:
        raise UnreachableError("; ".join(unanswered))
    return [*found, *(f"NOT AUDITED: {each}" for each in unanswered)]


def ask(program: str, requirements: Path, *options: str) -> list[dict[str, Any]]:
    """Return pip-audit's result for each dependency; raises ``UnreachableError`` or ``BrokenError``."""
    command = [program, "--disable-pip", "--format", "json", "--progress-spinner", "off", *options]
    try:
        ended = subprocess.run(
            [*command, "--requirement", str(requirements)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"no answer within {TIMEOUT_SECONDS} s") from None
    except OSError as error:
        raise BrokenError(f"{program} does not run: {error}") from None
    try:
        dependencies: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        words = ended.stderr.strip().splitlines() or [f"{program} ended with {ended.returncode} and no word"]
        if any(sign in ended.stderr for sign in NO_ANSWER):
            raise UnreachableError(words[-1][:300]) from None
        raise BrokenError("\n".join(words[-10:])) from None
    return dependencies


def vulnerabilities(dependencies: list[dict[str, Any]]) -> list[str]:
    """Return a line for each vulnerability, with the versions that fix it."""
    return [
        f"{each['name']} {each['version']}: {one['id']}, fixed in {', '.join(one.get('fix_versions') or ['none yet'])}"
        for each in dependencies
        for one in each.get("vulns", ())
    ]


if __name__ == "__main__":
    sys.exit(main())
