"""What is a message of ours and what is not, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kumofire_core.errors import MalformedMessageError, UnsupportedMessageVersionError
from kumofire_core.model.message import decode_body, encode_message, parse_message
from tests.builders import body, message

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_the_message_is_exactly_version_and_run_id():
    assert json.loads(encode_message("r1")) == {"version": 1, "kumofireJobRunId": "r1"}


def test_what_is_encoded_is_decoded():
    assert decode_body(encode_message("a" * 128)) == "a" * 128


def test_further_keys_are_let_pass():
    assert parse_message(message("r1", later="field")) == "r1"


@pytest.mark.parametrize("version", [0, 2, -1, 10**6, "1", 1.0, True, None, [], {}])
def test_any_version_but_the_number_1_is_unsupported(version: Any):
    with pytest.raises(UnsupportedMessageVersionError, match=r"unsupported message version .*understands version 1"):
        parse_message(message("r1", version=version))


def test_an_unsupported_version_names_the_version_it_found():
    with pytest.raises(UnsupportedMessageVersionError, match="version 7;"):
        parse_message(message("r1", version=7))


def test_a_message_without_a_version_is_unsupported():
    with pytest.raises(UnsupportedMessageVersionError):
        parse_message({"kumofireJobRunId": "r1"})


def test_an_unsupported_version_is_malformed_too_so_one_clause_catches_both():
    assert issubclass(UnsupportedMessageVersionError, MalformedMessageError)
    assert issubclass(MalformedMessageError, ValueError)


@pytest.mark.parametrize("run_id", [None, 1, 1.5, True, ["r1"], {"id": "r1"}, b"r1"])
def test_a_run_id_of_another_type_is_malformed(run_id: Any):
    with pytest.raises(MalformedMessageError, match="kumofireJobRunId"):
        parse_message(message("r1", kumofireJobRunId=run_id))


def test_a_missing_run_id_is_malformed():
    with pytest.raises(MalformedMessageError, match="kumofireJobRunId is missing"):
        parse_message({"version": 1})


@pytest.mark.parametrize("length", [0, 129, 100_000])
def test_an_empty_or_over_long_run_id_is_malformed_and_not_quoted(length: int):
    with pytest.raises(MalformedMessageError) as caught:
        parse_message(message("x" * length))

    assert f"has {length} characters" in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("run_id", ["a\nb", "a\x00", "\ud800", "\u202e"])
def test_a_run_id_that_can_not_be_printed_is_malformed(run_id: str):
    with pytest.raises(MalformedMessageError):
        parse_message(message(run_id))


@pytest.mark.parametrize("value", [None, 1, 1.5, "text", True, [], [{"version": 1, "kumofireJobRunId": "r1"}]])
def test_a_message_that_is_no_object_is_malformed(value: Any):
    with pytest.raises(MalformedMessageError, match="not an object"):
        parse_message(value)


@pytest.mark.parametrize("text", ["", " ", "{", "not json", "{'version': 1}", "\ufeff{}", "[" * 100_000, "1" * 10_000])
def test_a_body_that_is_not_json_is_malformed(text: str):
    with pytest.raises(MalformedMessageError):
        decode_body(text)


@pytest.mark.parametrize("value", [None, 1, b"{}", {"version": 1, "kumofireJobRunId": "r1"}, []])
def test_a_body_that_is_no_text_is_malformed(value: Any):
    with pytest.raises(MalformedMessageError, match="not text"):
        decode_body(value)


def test_a_null_body_is_malformed():
    with pytest.raises(MalformedMessageError):
        decode_body("null")


@given(ANY_JSON | st.text() | st.binary() | st.fixed_dictionaries({"version": ANY_JSON, "kumofireJobRunId": ANY_JSON}))
def test_any_value_is_a_run_id_or_malformed(value: Any):
    try:
        run_id = parse_message(value)
    except MalformedMessageError:
        return
    assert 1 <= len(run_id) <= 128


@given(st.text() | ANY_JSON.map(json.dumps) | st.builds(body, st.text(), version=ANY_JSON))
def test_any_text_is_a_run_id_or_malformed(text: str):
    try:
        run_id = decode_body(text)
    except MalformedMessageError:
        return
    assert 1 <= len(run_id) <= 128


def test_an_unsupported_version_is_quoted_in_short():
    with pytest.raises(UnsupportedMessageVersionError) as caught:
        decode_body(body("r1", version=10**4000))

    assert len(str(caught.value)) < 200


def test_an_unsupported_version_too_long_to_be_written_out_is_unsupported_too():
    with pytest.raises(UnsupportedMessageVersionError):
        parse_message(message("r1", version=10**5000))
