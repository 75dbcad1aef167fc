"""``kumofire doctor``: examines a deployment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from kumofire_core.cli.display import BOLD, DIM, GREEN, RED, YELLOW, styled
from kumofire_core.cli.exits import Exit
from kumofire_core.cli.invocation import Here, number
from kumofire_core.text import plain

STYLES = {"error": RED, "warning": YELLOW, "note": DIM}


def doctor(
    *,
    try_batch_writes: Annotated[
        bool,
        Parameter(negative=(), help="Also try batched writes on the table, on items of its own that it deletes again."),
    ] = False,
    here: Here,
) -> int:
    """Examine the deployment, and say what is wrong with it and what to do. Nothing is changed without an option."""
    from kumofire_core.deployment.doctor import examine

    with _telling() as tell:
        diagnosis = examine(here.deployment, clock=here.now, on_check=tell, try_batch_writes=try_batch_writes)
    if here.as_json:
        here.emit(
            {
                "healthy": diagnosis.healthy,
                "findings": [asdict(finding) for finding in diagnosis.findings],
                "passed": list(diagnosis.passed),
            }
        )
    else:
        for finding in diagnosis.findings:
            severity = finding.severity.value
            head = styled(severity, STYLES[severity], color=here.color)
            here.lines(
                [
                    f"{head}  {styled(plain(finding.check), BOLD, color=here.color)}",
                    f"  {plain(finding.what)}",
                    f"  {plain(finding.do)}",
                    "",
                ]
            )
        found = number(len(diagnosis.findings), "finding") if diagnosis.findings else "nothing is wrong"
        style = GREEN if diagnosis.healthy else ""
        here.show(f"{number(len(diagnosis.passed), 'check')} passed, {found}", style)
    return Exit.DONE if diagnosis.healthy else Exit.FINDINGS


@contextmanager
def _telling() -> Iterator[Callable[[str], object] | None]:
    """Name the check that is being made, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("checking") as status:
        yield lambda name: status.update(f"checking {name}")
