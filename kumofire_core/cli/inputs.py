"""Options that several commands have, and what is read from them: payloads, and times to come."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kumofire_core.cli.exits import UsageError
from kumofire_core.cli.invocation import Invocation
from kumofire_core.text import parse_moment

Payload = Annotated[
    str | None,
    Parameter(allow_leading_hyphen=True, help="The payload as JSON; @FILE reads it from a file, - from the input."),
]
At = Annotated[
    str | None, Parameter(help="When it is due: 2026-12-01T09:30 in this machine's zone, or with an offset.")
]
Delay = Annotated[str | None, Parameter(help="After what time it is due: 90s, 30m, 2h, 1h30m, 7d.")]


def payload_of(given: str | None) -> Any:
    """Return the payload that ``--payload`` gives, ``None`` without one."""
    if given is None:
        return None
    source, text = "--payload", given
    if given == "-":
        source = "standard input"
        text = _read(source, lambda: sys.stdin.buffer.read())
    elif given.startswith("@"):
        source = f"the file {given[1:]!r}"
        text = _read(source, Path(given[1:]).read_bytes)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        hint = "" if source != "--payload" else "; a text is written as '\"…\"', in quotes inside the shell's quotes"
        raise UsageError(f"{source} is not JSON ({error}){hint}") from None


def moment_of(here: Invocation, *, at: str | None, delay: str | None) -> datetime | None:
    """Return the time that ``--at`` or ``--delay`` gives, ``None`` without either."""
    if at is not None and delay is not None:
        raise UsageError("--at and --delay are both given; give one of them")
    if delay is not None:
        return parse_length_ahead("--delay", delay, here.now())
    return None if at is None else parse_moment("--at", at, now=here.now(), ahead=True)


def parse_length_ahead(option: str, text: str, now: datetime) -> datetime:
    """Return the time that is as far from ``now`` as a person wrote."""
    from kumofire_core.text import parse_length

    try:
        return now + parse_length(option, text)
    except OverflowError:
        raise UsageError(f"{option} is {text!r}, which is outside the years 1 to 9999") from None


def _read(source: str, read: Any) -> str:
    try:
        return bytes(read()).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{source} is not UTF-8") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{source} can't be read: {getattr(error, 'strerror', None) or error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} does not exist in JSON")
