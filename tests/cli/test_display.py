"""Texts, times and tables as a terminal shows them."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kumofire_core.cli.display import Cell, Column, table_lines
from kumofire_core.errors import InvalidArgumentError
from kumofire_core.text import length, parse_length, parse_moment, plain, plain_lines, relative
from tests.builders import NOW

PROGRAM = Path(sys.executable).with_name("kumofire")


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this machine into a zone that is nine hours ahead."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@given(st.text(st.characters(codec=None)))
def test_no_text_can_steer_a_terminal_or_begin_a_line(text: str) -> None:
    shown = plain(text)

    for line in (shown, *plain_lines(text)):
        kinds = {unicodedata.category(character) for character in line}
        assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        line.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("[bold]x[/bold] \\x", "[bold]x[/bold] \\x"),
        ("a\u202eb\u2066c\u200fd", "a\\u202eb\\u2066c\\u200fd"),
        ("\x9b2J\x7f\x00", "\\x9b2J\\x7f\\x00"),
        ("one\ntwo\r\tthree", "one\\ntwo\\r\\tthree"),
        ("\ud83d \U000e0041", "\\ud83d \\U000e0041"),
        ("雲と火 שלום 🔥", "雲と火 שלום 🔥"),
    ],
)
def test_a_character_that_a_terminal_obeys_is_written_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5h", 5400), ("1h30m", 5400), ("7d", 604_800), ("2w", 1_209_600), (" 2m ", 120)],
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert parse_length("--delay", text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "-5m", "5 m", "5y", "\uff11h", "1e3s", "5m!", "1.h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--delay is"):
        parse_length("--delay", text)


def test_a_time_without_an_offset_is_in_this_machines_zone(tokyo: None) -> None:
    assert parse_moment("--at", "2026-12-01T09:30", now=NOW) == datetime(2026, 12, 1, 0, 30, tzinfo=UTC)
    assert parse_moment("--at", "2026-12-01", now=NOW) == datetime(2026, 11, 30, 15, tzinfo=UTC)
    assert parse_moment("--at", "2026-12-01T09:30+01:00", now=NOW) == datetime(2026, 12, 1, 8, 30, tzinfo=UTC)


def test_a_duration_counts_back_in_a_filter_and_forward_elsewhere() -> None:
    assert parse_moment("--since", "2h", now=NOW) == NOW - timedelta(hours=2)
    assert parse_moment("--at", "2h", now=NOW, ahead=True) == NOW + timedelta(hours=2)
    assert parse_moment("--at", "now", now=NOW) == NOW


@pytest.mark.parametrize("text", ["9999-12-31T23:59-12:00", "0001-01-01T00:00+14:00", "2026-13-01", "99999999w", ""])
def test_a_time_that_can_not_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_moment("--at", text, now=NOW, ahead=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0.008, "8ms"), (0.9999, "1s"), (1.5, "1.5s"), (45.4, "45s"), (119, "119s"), (120, "2m"), (3599, "59m")],
        *[(3600, "1h"), (7500, "2h 5m"), (36_000, "10h"), (172_799, "47h"), (172_800, "2d")],
    ],
)
def test_a_duration_is_told_in_few_characters(seconds: float, text: str) -> None:
    assert length(seconds) == text


def test_a_time_is_told_by_how_far_away_it_is() -> None:
    assert relative(NOW - timedelta(minutes=3), NOW) == "3m ago"
    assert relative(NOW + timedelta(hours=2), NOW) == "in 2h"
    assert relative(NOW + timedelta(milliseconds=300), NOW) == "now"


COLUMNS = (Column("ID"), Column("JOB", least=6), Column("N", right=True), Column("ERROR", least=8))
ROWS = [
    ["a" * 20, "newsletter", "1", "ValueError: no such user in the whole of the list"],
    ["b" * 20, "雲と火と水と土", "23", Cell("short", "31")],
]


@pytest.mark.parametrize("width", [200, 92, 70, 55, 47])
def test_a_table_fits_its_terminal_and_never_cuts_an_id(width: int) -> None:
    lines = table_lines(COLUMNS, ROWS, width=width, color=False)

    assert all(cell_len(line) <= width for line in lines)
    assert [line.split()[0] for line in lines] == ["ID", "a" * 20, "b" * 20]
    assert ("…" in lines[1]) == (width < 92)


def test_a_table_in_a_pipe_is_not_cut() -> None:
    lines = table_lines(COLUMNS, ROWS, width=None, color=False)

    assert lines[1].endswith("in the whole of the list")


def test_the_columns_stand_below_their_titles_in_colour_as_well() -> None:
    plain_text, colored = (table_lines(COLUMNS, ROWS, width=70, color=color) for color in (False, True))

    place = plain_text[0].index("ERROR")
    assert plain_text[1][place:].startswith("ValueError")
    assert cell_len(plain_text[2]) - cell_len("short") == place
    assert "\x1b[31mshort\x1b[0m" in colored[2]
    assert [re.sub(r"\x1b\[[0-9]+m", "", line) for line in colored] == plain_text


def test_a_column_in_which_every_row_is_empty_is_left_out() -> None:
    assert table_lines([Column("A"), Column("B")], [["x", ""], ["y", ""]], width=80, color=False) == ["A", "x", "y"]


def in_a_terminal(*words: str, **environment: str) -> str:
    """Run the program in a terminal of its own and return what it shows."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [str(PROGRAM), *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "60", **environment},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass  # Linux's word for the end: the program has closed its side
    finally:
        os.close(ours)
        child.wait()
    return shown.decode()


def test_a_terminal_gets_colours_and_its_width_unless_it_wants_none() -> None:
    words = ["schedules", "next", "--every", "5m", "--count", "1"]

    assert "\x1b[1mIN UTC" in in_a_terminal(*words)
    for wish in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b[" not in in_a_terminal(*words, **wish)
    assert "\x1b[" not in subprocess.run([str(PROGRAM), *words], capture_output=True, text=True, check=True).stdout
    assert all(len(line) <= 60 for line in in_a_terminal("runs", "list", "--help", NO_COLOR="1").splitlines())
