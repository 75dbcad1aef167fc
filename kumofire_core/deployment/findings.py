"""What an examination of a deployment finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"  # runs do not run, or not all of them, until someone acts
    WARNING = "warning"  # runs still run, but late, at a higher cost, or with less to fall back on
    NOTE = "note"  # worth knowing; also what could not be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a deployment, in sentences."""

    severity: Severity
    check: str
    """The check that found it; one of ``doctor.CHECKS``, or ``permissions`` or ``requests``."""
    what: str
    """What is wrong."""
    do: str
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What an examination came to."""

    findings: tuple[Finding, ...]
    """The worst first."""
    passed: tuple[str, ...]
    """The checks that looked at what they check, and found nothing."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is worse than a note."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)


class Trouble(Exception):
    """What could not be read shows by itself what is wrong."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.what)


def error(check: str, what: str, do: str) -> Finding:
    return Finding(severity=Severity.ERROR, check=check, what=what, do=do)


def warning(check: str, what: str, do: str) -> Finding:
    return Finding(severity=Severity.WARNING, check=check, what=what, do=do)


def note(check: str, what: str, do: str) -> Finding:
    return Finding(severity=Severity.NOTE, check=check, what=what, do=do)
