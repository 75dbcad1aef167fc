"""JSON is stored as it was given, or refused with the place that is wrong."""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumofire_core.errors import InvalidJSONError
from kumofire_core.model.json_codec import decode, encode

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["\ud800", "a\udfff"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


class Colour(enum.Enum):
    RED = 1


@given(JSON)
def test_any_json_value_is_read_back_equal(value: Any):
    text = encode("it", value)

    assert decode(text) == value
    text.encode()  # what is stored has a form in UTF-8


@pytest.mark.parametrize(
    "value",
    [
        "žluťoučký 🐎",
        "\x00\x1f\x7f",
        "\ud800",
        {"half": "\udfff"},
        0.1,
        -0.0,
        5e-324,
        1.7976931348623157e308,
        2**53 + 1,
        -(10**400),
        True,
        None,
        "",
        [],
        {},
        {"": {"": [[], {}]}},
    ],
    ids=ascii,
)
def test_unicode_floats_big_integers_and_empty_values_are_read_back_equal(value: Any):
    back = decode(encode("it", value))

    assert back == value
    assert type(back) is type(value)


def test_text_outside_ascii_takes_its_utf_8_size_and_not_an_escape_s():
    assert len(encode("it", "é" * 100).encode()) == 202


def test_tuples_become_arrays():
    assert decode(encode("it", {"a": (1, (2, 3))})) == {"a": [1, [2, 3]]}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), "value is NaN or infinite"),
        ({"a": [1, float("inf")]}, r"value\['a'\]\[1\] is NaN or infinite"),
        ([-float("inf")], r"value\[0\] is NaN or infinite"),
        ({1: "a"}, "value has a key of type int"),
        ({"a": {None: 1}}, r"value\['a'\] has a key of type NoneType"),
        ({1: "a", "1": "b"}, "key of type int"),
        (({1.5: 2},), r"value\[0\] has a key of type float"),
        ({"a": {1, 2}}, r"value\['a'\] is of type set"),
        (b"bytes", "value is of type bytes"),
        (Decimal("1.5"), "value is of type Decimal"),
        ([datetime(2026, 1, 1)], r"value\[0\] is of type datetime"),
        ({"id": uuid4()}, r"value\['id'\] is of type UUID"),
        (object(), "value is of type object"),
        (Colour.RED, "value is of type Colour"),
    ],
    ids=lambda value: value[-30:] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_not_json_is_refused_with_its_place(value: Any, place: str):
    with pytest.raises(InvalidJSONError, match=f"^it is not JSON: .*{place}"):
        encode("it", value)


def test_a_value_that_holds_itself_is_refused():
    value: list[Any] = []
    value.append(value)

    with pytest.raises(InvalidJSONError, match="it is not JSON: Circular reference"):
        encode("it", value)


def test_a_value_nested_too_deeply_is_refused():
    value: Any = None
    for _ in range(100_000):
        value = [value]

    with pytest.raises(InvalidJSONError, match="nested too deeply"):
        encode("it", value)


def test_an_integer_too_long_to_be_read_back_is_refused():
    with pytest.raises(InvalidJSONError, match="Exceeds the limit"):
        encode("it", 10**5000)


def test_the_refusal_quotes_no_value():
    with pytest.raises(InvalidJSONError) as caught:
        encode("it", {"password": ["hunter2", b"hunter2"]})

    assert "hunter2" not in str(caught.value)


def test_the_refusal_is_short_however_deep_the_place_is():
    value: Any = {1, 2}
    for _ in range(200):
        value = {"k" * 1000: value}

    with pytest.raises(InvalidJSONError) as caught:
        encode("it", value)

    assert len(str(caught.value)) < 400


def test_a_refusal_is_a_type_error_and_a_value_error():
    assert issubclass(InvalidJSONError, TypeError)
    assert issubclass(InvalidJSONError, ValueError)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000], ids=["empty", "open", "deep", "long"])
def test_text_that_can_not_be_read_is_a_value_error(text: str):
    with pytest.raises(ValueError):  # noqa: PT011  json's own texts differ
        decode(text)


def test_two_halves_of_a_surrogate_pair_are_read_back_equal_or_refused():
    value = "\ud83d" + "\ude00"

    try:
        text = encode("it", value)
    except InvalidJSONError:
        return
    same = decode(text) == value
    assert same
