"""The audit of the locks: a vulnerability fails it, an outage does not, and silence is never taken for a clean bill."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.deployment import PROJECT
from tools.lock import LOCKS

AUDIT = ("-m", "tools.audit")
CANARY = "urllib3==1.24.1"

PIP_AUDIT = """#!{python}
import json, re, sys

answers = json.loads({answers!r})
requirements = open(sys.argv[sys.argv.index("--requirement") + 1]).read()
[pinned] = re.findall(r"^[^ \\n]+==[^ \\n]+", requirements, re.MULTILINE)
with open({log!r}, "a") as log:
    log.write(json.dumps([pinned, sys.argv[1:]]) + "\\n")
answer = answers.get(pinned, answers.get("otherwise"))
if isinstance(answer, str):
    sys.exit(answer)
name, _, version = pinned.partition("==")
print(json.dumps({{"dependencies": [{{"name": name, "version": version, **answer}}], "fixes": []}}))
sys.exit(bool(answer.get("vulns")))
"""

CLEAN: dict[str, Any] = {"vulns": []}
VULNERABLE: dict[str, Any] = {"vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2.0", "1.9.1"], "aliases": []}]}
UNKNOWN: dict[str, Any] = {"skip_reason": "Dependency not found on PyPI and could not be audited"}
OUTAGES = {
    "no route": "Traceback …\nrequests.exceptions.ConnectionError: HTTPSConnectionPool(host='db.example', port=443)",
    "timeout": "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\nERROR:pip_audit._cli:Tip: …",
    "broken": "Traceback …\npip_audit._service.interface.ServiceError",
    "no json": "Traceback …\nrequests.exceptions.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
}

Audit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """Run the audit of one lock for each package in ``answers``, which a pip-audit on the path gives."""

    def run(answers: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "pip-audit"
        known = {CANARY: VULNERABLE, **answers}
        log = str(tmp_path / "log")
        program.write_text(PIP_AUDIT.format(python=sys.executable, answers=json.dumps(known), log=log))
        program.chmod(0o755)
        locks = []
        for pinned in answers:
            if pinned not in (CANARY, "otherwise"):
                locks.append(tmp_path / f"{pinned.partition('==')[0]}.txt")
                locks[-1].write_text(f"{pinned} \\\n    --hash=sha256:{'0' * 64}\n")
        return subprocess.run(
            [sys.executable, *AUDIT, *options, *locks],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        )

    return run


@pytest.mark.parametrize("options", [(), ("--where-reachable",)])
def test_locks_without_a_known_vulnerability_pass(audit: Audit, tmp_path: Path, options: tuple[str, ...]):
    ended = audit({"a==1": CLEAN, "b==2": CLEAN}, *options)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "2 lock files: no known vulnerabilities\n"
    asked = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [pinned for pinned, _ in asked] == [CANARY, "a==1", "b==2"]
    assert all("--require-hashes" in given and "--disable-pip" in given for _, given in asked[1:])


@pytest.mark.parametrize("options", [(), ("--where-reachable",)])
def test_a_known_vulnerability_fails_and_is_named_with_its_lock_and_its_fix(audit: Audit, options: tuple[str, ...]):
    ended = audit({"a==1": CLEAN, "b==2": VULNERABLE}, *options)

    assert ended.returncode == 1
    assert "b.txt: b 2: PYSEC-2026-1, fixed in 2.0, 1.9.1" in ended.stderr


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_database_that_does_not_answer_is_told_and_fails_only_who_asked_for_it(audit: Audit, outage: str):
    answers = {CANARY: OUTAGES[outage], "a==1": CLEAN}

    asked, tolerant = audit(answers), audit(answers, "--where-reachable")

    assert (asked.returncode, tolerant.returncode) == (3, 0)
    assert "NOT AUDITED" in asked.stderr
    assert asked.stderr == tolerant.stderr
    assert "no known vulnerabilities" not in tolerant.stdout


@pytest.mark.parametrize("answer", [CLEAN, UNKNOWN], ids=["calls all clean", "knows nothing"])
def test_a_database_that_does_not_know_a_known_vulnerability_is_taken_for_none(audit: Audit, answer: dict[str, Any]):
    ended = audit({CANARY: answer, "a==1": CLEAN})

    assert ended.returncode == 3
    assert f"knows nothing of {CANARY}" in ended.stderr


@pytest.mark.parametrize("second", [OUTAGES["no route"], UNKNOWN], ids=["goes away", "misses a package"])
def test_a_database_that_answers_for_some_does_not_pass_the_others(audit: Audit, second: Any):
    ended = audit({"a==1": CLEAN, "b==2": second})

    assert ended.returncode == 3
    assert "b.txt" in ended.stderr


def test_what_was_found_fails_although_the_database_goes_away(audit: Audit):
    ended = audit({"a==1": VULNERABLE, "b==2": OUTAGES["no route"]}, "--where-reachable")

    assert ended.returncode == 1
    assert "PYSEC-2026-1" in ended.stderr
    assert "NOT AUDITED: b.txt" in ended.stderr


def test_an_audit_that_is_itself_broken_fails_and_is_no_outage(audit: Audit):
    ended = audit({"a==1": "ERROR:pip_audit._cli:requirement a is unpinned"}, "--where-reachable")

    assert ended.returncode == 1
    assert "unpinned" in ended.stderr
    assert "NOT AUDITED" not in ended.stderr


def test_a_pip_audit_that_is_not_there_fails(tmp_path: Path):
    lock = tmp_path / "lock.txt"
    lock.write_text("a==1\n")

    ended = subprocess.run(
        [sys.executable, *AUDIT, "--pip-audit", tmp_path / "none", "--where-reachable", lock],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "does not run" in ended.stderr


def test_every_lock_has_a_hash_for_every_package():
    locks = list(PROJECT.glob("requirements/*.txt"))
    assert {lock.stem for lock in locks} == set(LOCKS)
    for lock in locks:
        text = lock.read_text()
        pinned = re.findall(r"^[a-z0-9][^ \n]*==.*?(?=^[a-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL)
        assert len(pinned) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > 5, lock.name
        assert all("--hash=sha256:" in block for block in pinned), lock.name
