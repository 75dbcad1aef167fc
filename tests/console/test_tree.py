"""A payload as a tree: exact, bounded, and text only."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from kumofire_core.console.tree import MOST_CHILDREN, MOST_NODES, exact, readable, tree

VALUES = [
    None,
    True,
    [],
    {},
    0,
    -1.5,
    1e300,
    12345678901234567890123,
    10**4000,
    "",
    'quotes " and \\ and \n lines \t',
    "\x1b[31m\x00\x7f\x9b",
    "\u202eturned\u2066 שלום \u200f",
    "\ud800",
    "\U000e0001 \U0001f600",
    {"": {"\u202e": [1, [2, [3]]]}, "<b>": "</textarea><script>"},
]


class Shown(HTMLParser):
    """What a browser makes of markup: its elements, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.closed: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def of(value: Any) -> Shown:
    return Shown(str(tree(value)))


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_nothing_in_a_value_acts_as_markup_or_steers_a_display(value: Any):
    shown = of(value)

    assert set(shown.elements) <= {"ul", "li", "details", "summary", "span", "bdi"}
    assert sorted(shown.elements) == sorted(shown.closed), "every element is closed"
    assert shown.attributes <= {"class", "open"}
    assert shown.text.isprintable()


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_what_a_person_copies_is_printable_and_equal(value: Any):
    text = readable(value)

    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == value


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_what_a_person_downloads_can_be_encoded_and_is_equal(value: Any):
    assert json.loads(exact(value).encode()) == value


def test_numbers_are_shown_to_their_last_digit():
    big = 10**4000 + 7

    assert str(big) in of({"big": big}).text
    assert "0.1" in of([0.1]).text
    assert [of(float(name)).text for name in ("nan", "inf", "-inf")] == ["NaN", "Infinity", "-Infinity"]


def test_a_text_is_written_as_json_has_it_so_that_a_line_end_differs_from_its_escape():
    assert of("a\nb").text == r'"a\nb"'
    assert of(r"a\nb").text == r'"a\\nb"'


def test_a_long_text_is_cut_and_its_length_said():
    shown = of("x" * 300_000)

    assert "300,000 characters" in shown.text
    assert shown.text.count("x") == 2_000
    assert of("x" * 2_000).text == f'"{"x" * 2_000}"'


def test_a_long_key_is_cut():
    assert len(of({"k" * 300_000: 1}).text) < 300


def test_of_a_long_list_the_first_hundred_are_shown_and_the_rest_counted():
    shown = of(list(range(1_000)))

    assert "99: 99" in shown.text
    assert "100: 100" not in shown.text
    assert "and 900 more, not shown" in shown.text
    assert "more" not in of(list(range(MOST_CHILDREN))).text


def test_what_is_nested_too_deeply_is_not_shown():
    value: Any = "bottom"
    for _ in range(30):
        value = [value]

    shown = of(value)

    assert "bottom" not in shown.text
    assert "not shown: nested deeper than 20 levels" in shown.text


def test_a_wide_value_makes_a_bounded_page():
    shown = of([[[index] * 50 for index in range(50)] for _ in range(50)])

    assert shown.elements.count("li") < MOST_NODES + 500
    assert len(of({f"key{index}": "y" * 40 for index in range(6_000)}).elements) < 1_000


def test_a_small_value_is_open_and_of_a_large_one_the_first_levels_are():
    small: Any = {"a": {"b": {"c": 1}}}

    assert str(tree(small)).count("<details open>") == 3
    assert str(tree({**small, "many": list(range(100))})).count("<details open>") == 3
    assert str(tree({**small, "many": list(range(100))})).count("<details>") == 1


def test_a_value_that_is_deeper_than_python_recurses_is_shown_without_an_error():
    value: Any = 1
    for _ in range(sys.getrecursionlimit() * 2):
        value = {"in": value}

    assert "not shown: nested deeper" in of(value).text
