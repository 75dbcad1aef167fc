"""``kumofire dlq``: the messages on the dead-letter queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from kumofire_core.cli.bars import progress_bar
from kumofire_core.cli.display import Cell, Column, status_cell
from kumofire_core.cli.exits import Exit, NotDoneError
from kumofire_core.cli.invocation import Here, Invocation, Yes, number
from kumofire_core.text import iso, relative

if TYPE_CHECKING:
    from kumofire_core.deployment.dead_letters import DeadLetter, DeadLetters

app = App(name="dlq")

COLUMNS = (
    Column("RUN"),
    Column("ITS STATUS"),
    Column("SENT"),
    Column("RECEIVED", right=True),
    Column("MESSAGE", least=20),
)


@app.command
def show(*, limit: Annotated[int, Parameter(help="Show so many at most, up to 1000.")] = 10, here: Here) -> None:
    """Show messages of the dead-letter queue, and the runs that they name. They stay there.

    Each look counts as one more receive of the message.
    """
    letters = _letters(here)
    found, count = letters.show(limit), letters.count()
    statuses = {letter.run_id: _status(here, letter.run_id) for letter in found}
    if here.as_json:
        here.emit({"count": count, "messages": [_form(letter, statuses[letter.run_id]) for letter in found]})
        return
    if not found:
        here.say("there are no dead letters" if count == 0 else "no message was received; try again in a minute")
        return
    now = here.now()
    rows: list[list[Cell | str]] = [
        [
            letter.run_id or "",
            _status_cell(letter, statuses[letter.run_id]),
            relative(letter.sent_at, now),
            str(letter.receives),
            "" if letter.run_id else letter.body,
        ]
        for letter in found
    ]
    here.show_table(COLUMNS, rows)
    if count > len(found):
        here.say(f"there are about {count:,}; --limit shows more")


@app.command
def redrive(
    *,
    rate: Annotated[
        int | None, Parameter(help="Messages a second, from 1 to 500; without it as fast as SQS can.")
    ] = None,
    yes: Yes = False,
    here: Here,
) -> int:
    """Send all dead letters back to the jobs' queue, when what made them die is mended."""
    letters = _letters(here)
    _require_some(here, letters, "Send {} back to the jobs' queue?", yes=yes)
    with progress_bar("sent back") as tell:
        result = letters.redrive(on_progress=tell, messages_per_second=rate)
    if here.as_json:
        here.emit({"moved": result.moved, "found": result.found, "finished": result.finished})
    else:
        here.show(f"{number(result.moved, 'message')} sent back")
        if not result.finished:
            here.say(f"SQS is still moving the others of {result.found:,}; `kumofire dlq redrive` waits for it")
    return Exit.DONE if result.finished else Exit.TROUBLE


@app.command
def purge(*, yes: Yes = False, here: Here) -> None:
    """Delete all dead letters. Runs are not deleted: the dispatcher sends those that have not ended again."""
    letters = _letters(here)
    count = _require_some(here, letters, "Delete {}?", yes=yes)
    letters.purge()
    if here.as_json:
        here.emit({"purged": count})
    else:
        here.show(f"{number(count, 'message')} deleted (SQS takes up to a minute)")


def _letters(here: Invocation) -> DeadLetters:
    from kumofire_core.deployment.dead_letters import DeadLetters

    return DeadLetters(here.deployment, wait=here.wait)


def _require_some(here: Invocation, letters: DeadLetters, question: str, *, yes: bool) -> int:
    count = letters.count()
    if count == 0:
        raise NotDoneError("there are no dead letters")
    here.confirm(question.format(f"about {number(count, 'dead letter')}"), yes=yes)
    return count


def _status(here: Invocation, run_id: str | None) -> str | None:
    run = None if run_id is None else here.jobs.get_status(run_id, payloads=False)
    return None if run is None else run.status.value


def _status_cell(letter: DeadLetter, status: str | None) -> Cell:
    if letter.run_id is None:
        return Cell("not of Kumofire")
    return Cell("not there") if status is None else status_cell(status)


def _form(letter: DeadLetter, status: str | None) -> dict[str, Any]:
    return {
        "message_id": letter.message_id,
        "run_id": letter.run_id,
        "run_status": status,
        "receives": letter.receives,
        "sent_at": iso(letter.sent_at),
        "body": letter.body,
    }
