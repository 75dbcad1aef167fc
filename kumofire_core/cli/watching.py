"""Follows runs until they have ended: a table that moves on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kumofire_core.cli.display import STATUS_STYLES, styled, table_lines, width_of
from kumofire_core.cli.invocation import Invocation
from kumofire_core.cli.run_views import RUN_COLUMNS, progress_text, run_row
from kumofire_core.text import plain

if TYPE_CHECKING:
    from rich.live import Live

    from kumofire_core.model.run_view import Run

Tell = Callable[[list["Run"]], None]

SHOWN_LINES = 20
"""The most runs that the moving table shows; the unfinished ones first."""


def follow(here: Invocation, run_ids: Iterable[str], *, seconds: float) -> dict[str, Run | None]:
    """Look at the runs every ``seconds`` until all have ended; return them, ``None`` for those that are not there."""
    runs: dict[str, Run | None] = dict.fromkeys(run_ids)
    open_ids = list(runs)
    with _Telling(here) as tell:
        while True:
            for run_id in open_ids:
                runs[run_id] = here.jobs.get_status(run_id, payloads=False)
            found = [run for run in runs.values() if run is not None]
            tell(found)
            open_ids = [run.id for run in found if run.finished_at is None]
            if not open_ids:
                return runs
            here.wait(seconds)


def counts(runs: Iterable[Run]) -> str:
    """Return how many runs have each status, in words."""
    found = Counter(run.status.value for run in runs)
    return ", ".join(f"{number} {status}" for status, number in found.most_common())


class _Telling:
    """Tells how the runs are: in a moving table on a terminal, in lines elsewhere, and not at all for ``--json``."""

    def __init__(self, here: Invocation) -> None:
        self._here = here
        self._live = None if here.as_json or not sys.stdout.isatty() else _live()
        self._told: dict[str, str] = {}

    def __enter__(self) -> Tell:
        if self._live is not None:
            self._live.start()
            return self._draw
        return self._print_changes if not self._here.as_json else lambda runs: None

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _draw(self, runs: list[Run]) -> None:
        from rich.text import Text

        now = self._here.now()
        shown = sorted(runs, key=lambda run: run.finished_at is not None)[:SHOWN_LINES]
        rows = [run_row(run, now) for run in shown]
        lines = table_lines(RUN_COLUMNS, rows, width=width_of(sys.stdout), color=self._here.color)
        if len(runs) > 1:
            lines.append(counts(runs))
        assert self._live is not None
        self._live.update(Text.from_ansi("\n".join(lines)), refresh=True)

    def _print_changes(self, runs: list[Run]) -> None:
        for run in runs:
            status = run.status.value
            text = " ".join(filter(None, [status, progress_text(run), (run.last_error or "").split("\n", 1)[0]]))
            if self._told.get(run.id) != text:
                self._told[run.id] = text
                color = styled(plain(text), STATUS_STYLES.get(status, ""), color=self._here.color)
                self._here.lines([f"{plain(run.id)} {color}"])


def _live() -> Live:
    from rich.live import Live

    return Live(auto_refresh=False, transient=False)
