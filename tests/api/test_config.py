"""Settings: what is wrong is named all at once, and what is left out has its default."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import ConfigurationError, Jobs, RetryPolicy
from kumofire_core.config import settings_from
from tests.builders import Aws, message, raises

ENVIRONMENT = {"KUMOFIRE_TABLE": "t", "KUMOFIRE_QUEUE_URL": "https://queue"}
KEY_ARN = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
GOOD: dict[str, Any] = {"table": "t", "queue_url": "https://queue"}


def test_table_and_queue_are_all_that_an_environment_must_give():
    assert settings_from(ENVIRONMENT) == {"table": "t", "queue_url": "https://queue"}


def test_every_setting_can_be_given_by_the_environment():
    settings = settings_from(
        ENVIRONMENT
        | {
            "KUMOFIRE_CONCURRENCY": "4",
            "KUMOFIRE_WAKE_SHARDS": "16",
            "KUMOFIRE_RETENTION_DAYS": "7",
            "KUMOFIRE_LEASE_SECONDS": "90",
            "KUMOFIRE_MAX_ATTEMPTS": "5",
            "KUMOFIRE_BATCH_WRITES": "true",
            "KUMOFIRE_MISSING_HANDLER": "retry",
            "KUMOFIRE_CREATOR": " the web shop ",
            "KUMOFIRE_BUCKET": " large-values ",
            "KUMOFIRE_LARGE_FROM_BYTES": "100000",
            "KUMOFIRE_PAYLOAD_KEY_ARN": KEY_ARN,
        }
    )

    assert settings == {
        "table": "t",
        "queue_url": "https://queue",
        "concurrency": 4,
        "wake_shards": 16,
        "retention": timedelta(days=7),
        "lease": timedelta(seconds=90),
        "max_attempts": 5,
        "batch_writes": True,
        "missing_handler": "retry",
        "creator": "the web shop",
        "bucket": "large-values",
        "large_from": 100_000,
        "cipher": KEY_ARN,
    }


def test_a_retention_of_0_days_keeps_runs_for_ever():
    assert settings_from(ENVIRONMENT | {"KUMOFIRE_RETENTION_DAYS": "0"})["retention"] is None


def test_an_empty_variable_counts_as_none():
    empty = dict.fromkeys(("KUMOFIRE_CONCURRENCY", "KUMOFIRE_LEASE_SECONDS"), "")

    assert settings_from(ENVIRONMENT | empty) == settings_from(ENVIRONMENT)


def test_every_variable_that_is_missing_or_wrong_is_named_at_once():
    with pytest.raises(ConfigurationError) as caught:
        Jobs.from_env(
            {
                "KUMOFIRE_TABLE": "",
                "KUMOFIRE_CONCURRENCY": "0",
                "KUMOFIRE_WAKE_SHARDS": "many",
                "KUMOFIRE_RETENTION_DAYS": "-1",
                "KUMOFIRE_LEASE_SECONDS": "1.5",
                "KUMOFIRE_MAX_ATTEMPTS": "0",
            }
        )

    assert {problem.split()[0] for problem in caught.value.problems} == {
        "KUMOFIRE_TABLE",
        "KUMOFIRE_QUEUE_URL",
        "KUMOFIRE_CONCURRENCY",
        "KUMOFIRE_WAKE_SHARDS",
        "KUMOFIRE_RETENTION_DAYS",
        "KUMOFIRE_LEASE_SECONDS",
        "KUMOFIRE_MAX_ATTEMPTS",
    }
    assert "KUMOFIRE_WAKE_SHARDS is 'many'; it must be a whole number from 1 to 1000" in str(caught.value)
    assert "KUMOFIRE_TABLE is not set; give it the name of the DynamoDB table" in str(caught.value)


@pytest.mark.parametrize("text", ["101", "1e1", "0x5", "5 5", "9" * 5000, "\N{SUPERSCRIPT TWO}", "+5"])
def test_a_number_that_is_none_or_out_of_range_is_named_and_quoted_in_short(text: str):
    with pytest.raises(ConfigurationError, match="KUMOFIRE_CONCURRENCY is") as caught:
        settings_from(ENVIRONMENT | {"KUMOFIRE_CONCURRENCY": text})

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("given", [{"max_attempts": 3}, {"max_atempts": 3, "lease_seconds": 5}])
def test_an_argument_that_there_is_not_is_named_with_those_that_there_are(given: dict[str, Any]):
    with pytest.raises(ConfigurationError) as caught:
        Jobs.from_env(ENVIRONMENT, **given)

    assert [problem for problem in caught.value.problems if "has no argument" in problem] == [
        f"Jobs has no argument {name!r}" for name in sorted(given)
    ]
    assert "it has table, queue_url, dynamodb" in str(caught.value)
    assert ("retry=RetryPolicy(max_attempts=…)" in str(caught.value)) == ("max_attempts" in given)


def test_a_subclass_of_jobs_may_take_more_arguments():
    class Ours(Jobs):
        def __init__(self, *, tenant: str, **settings: Any) -> None:
            super().__init__(**settings)
            self.tenant = tenant

    assert Ours.from_env(ENVIRONMENT, tenant="a").tenant == "a"


@pytest.mark.parametrize(
    "text",
    [
        "alias/payloads",
        "arn:aws:kms:eu-west-1:123456789012:alias/payloads",
        "arn:aws:kms:eu-west-1:123456789012:key/",
        "arn:aws:s3:eu-west-1:123456789012:key/1234abcd",
        f"{KEY_ARN}/",
        f"{KEY_ARN}, {KEY_ARN}",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
    ],
)
def test_a_payload_key_that_is_no_key_s_arn_is_refused(text: str):
    with pytest.raises(ConfigurationError, match="KUMOFIRE_PAYLOAD_KEY_ARN is"):
        settings_from(ENVIRONMENT | {"KUMOFIRE_PAYLOAD_KEY_ARN": text})


def test_a_cipher_that_is_given_goes_before_the_key_of_the_environment():
    class Cipher:
        def encrypt(self, plaintext: bytes) -> bytes:
            return plaintext

        decrypt = encrypt

    given = Cipher()

    assert Jobs.from_env(ENVIRONMENT | {"KUMOFIRE_PAYLOAD_KEY_ARN": KEY_ARN}, cipher=given)._store.cipher is given
    assert Jobs.from_env(ENVIRONMENT | {"KUMOFIRE_PAYLOAD_KEY_ARN": KEY_ARN}, cipher=None)._store.cipher is None


def test_arguments_go_before_the_environment(aws: Aws):
    environment = ENVIRONMENT | {"KUMOFIRE_MAX_ATTEMPTS": "7"}
    jobs = Jobs.from_env(
        environment,
        table=aws.table,
        queue_url=aws.queue_url,
        dynamodb=aws.dynamodb,
        sqs=aws.sqs,
        retry=RetryPolicy(2),
        handlers={"email": raises(ValueError())},
    )

    assert aws.item(jobs.create("email"))["max_attempts"] == 2


def test_the_environment_of_the_process_is_read(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUMOFIRE_TABLE", aws.table)
    monkeypatch.setenv("KUMOFIRE_QUEUE_URL", aws.queue_url)
    monkeypatch.setenv("KUMOFIRE_MAX_ATTEMPTS", "7")
    jobs = Jobs.from_env(dynamodb=aws.dynamodb, sqs=aws.sqs)
    jobs.handler("email")(lambda ctx: None)

    run_id = jobs.create("email")

    assert aws.item(run_id)["max_attempts"] == 7
    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_every_wrong_argument_is_named_at_once():
    with pytest.raises(ConfigurationError) as caught:
        Jobs(
            table="",
            queue_url=None,  # type: ignore[arg-type]
            handlers={"": lambda ctx: None},
            retry=3,  # type: ignore[arg-type]
            lease=timedelta(0),
            retention=timedelta(-1),
            clock=0,  # type: ignore[arg-type]
            concurrency=0,
            wake_shards=1001,
        )

    assert [problem.split(" must")[0] for problem in caught.value.problems] == [
        "table",
        "queue_url",
        "concurrency",
        "wake_shards",
        "lease",
        "retention",
        "retry",
        "clock",
        "a job's name",
    ]
    assert str(caught.value).startswith("wrong configuration: table must be a non-empty string, not ''; queue_url")


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": None},
        {"table": 5},
        {"queue_url": ""},
        {"concurrency": 101},
        {"concurrency": True},
        {"concurrency": 1.0},
        {"wake_shards": 0},
        {"lease": 30},
        {"lease": timedelta(microseconds=1)},
        {"retention": 30},
        {"retention": timedelta(0)},  # deletes at once, while 0 in the environment keeps for ever
        {"retry": RetryPolicy},
        {"handlers": {"email": 5}},
        {"handlers": {5: raises}},
        {"handlers": {"x" * 256: raises}},
    ],
    ids=lambda wrong: f"{wrong}"[:24],
)
def test_an_argument_that_is_wrong_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        Jobs(**(GOOD | wrong))


def test_a_configuration_error_is_a_value_error_with_its_problems_one_by_one():
    error = ConfigurationError(["a is wrong", "b is wrong"])

    assert isinstance(error, ValueError)
    assert error.problems == ("a is wrong", "b is wrong")
    assert str(error) == "wrong configuration: a is wrong; b is wrong"


def test_everything_wrong_with_a_job_is_named_at_once():
    jobs = Jobs(**GOOD)

    with pytest.raises(ConfigurationError) as caught:
        jobs.handler("a\nb", max_attempts=0, retry=3, timeout=timedelta(0))(5)  # type: ignore[arg-type]

    assert len(caught.value.problems) == 5


def test_a_second_handler_of_one_name_is_refused():
    jobs = Jobs(**GOOD, handlers={"email": raises})

    with pytest.raises(ConfigurationError, match="job 'email' has a handler already"):
        jobs.handler("email")(raises)


@pytest.mark.parametrize("timeout", [0, 5, timedelta(0), timedelta(seconds=-1), timedelta(microseconds=1)])
def test_a_timeout_must_be_a_timedelta_of_at_least_a_millisecond(timeout: Any):
    with pytest.raises(ConfigurationError, match="timeout of job 'email'"):
        Jobs(**GOOD).handler("email", timeout=timeout)(raises)


def test_no_client_is_made_before_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)

    Jobs(**GOOD)  # a client can't be made without a region


def test_every_wrong_handler_of_a_mapping_is_named_at_once():
    with pytest.raises(ConfigurationError) as caught:
        Jobs(**GOOD, handlers={"a": 5, "b": 6})  # type: ignore[dict-item]

    assert len(caught.value.problems) == 2


def test_handlers_that_are_no_mapping_are_named_with_all_else_that_is_wrong():
    with pytest.raises(ConfigurationError) as caught:
        Jobs(table="", queue_url="q", handlers=["email"])  # type: ignore[arg-type]

    assert len(caught.value.problems) == 2


def test_a_variable_is_not_missed_where_its_argument_is_given():
    Jobs.from_env({}, table="t", queue_url="https://queue")
