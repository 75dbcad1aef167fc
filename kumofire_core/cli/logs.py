"""What ``kumofire runs logs`` shows of a line of a function's log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kumofire_core.cli.display import RED, YELLOW, Cell, Column
from kumofire_core.cli.exits import NotDoneError
from kumofire_core.cli.invocation import Invocation
from kumofire_core.text import absolute, iso

if TYPE_CHECKING:
    from kumofire_core.deployment.logs import LogLine
    from kumofire_core.model.run_view import Run

STYLES = {"WARNING": YELLOW, "ERROR": RED, "CRITICAL": RED}
COLUMNS = (Column("TIME"), Column("LEVEL"), Column("ATTEMPT", right=True), Column("MESSAGE"))


def show_logs(here: Invocation, run: Run, *, attempt: int | None, limit: int) -> None:
    """Print what the functions logged about a run, or while one of its attempts was executed."""
    from kumofire_core.deployment.logs import lines_about, lines_of_attempt

    if attempt is None:
        lines = lines_about(here.deployment, run.id, since=run.created_at, limit=limit)
    else:
        chosen = [each for each in run.attempts if each.number == attempt]
        if not chosen:
            raise NotDoneError(f"attempt {attempt} of the run {run.id!r} is not kept")
        lines = lines_of_attempt(here.deployment, chosen[-1], limit=limit)
    if here.as_json:
        here.emit({"lines": [_form(line) for line in lines]})
    elif lines:
        here.show_table(COLUMNS, [_row(line) for line in lines])
    else:
        here.say("there are no such lines")


def _row(line: LogLine) -> list[Cell | str]:
    """Return a line's row: the parts of one that is structured, and the text of any other."""
    time, text = absolute(line.at), line.text.rstrip("\n")
    try:
        parts: Any = json.loads(text)
    except (ValueError, RecursionError):
        parts = None
    if not isinstance(parts, dict) or not isinstance(parts.get("message"), str):
        return [time, "", "", text]
    level = str(parts.get("level", ""))
    message = parts["message"]
    if isinstance(parts.get("exception"), str):
        message += f": {parts['exception'].strip().rpartition(chr(10))[2]}"
    return [time, Cell(level, STYLES.get(level, "")), str(parts.get("attempt", "")), message]


def _form(line: LogLine) -> dict[str, Any]:
    return {"at": iso(line.at), "text": line.text, "log_group": line.log_group, "log_stream": line.log_stream}
