"""Payloads and outputs under a key of the user's: unreadable in the table, and nobody else's."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("aws_encryption_sdk", reason="the extra 'encryption' is not installed")

from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider

from kumofire_core import (
    ENCRYPTED,
    NOT_READ,
    ConfigurationError,
    DecryptionError,
    InvalidJSONError,
    InvalidPayloadError,
    JobContext,
    RetryPolicy,
    Snooze,
)
from kumofire_core.encryption import EnvelopeCipher
from kumofire_core.model.run_item import ATTEMPTS_BYTES, PROGRESS_BYTES
from tests.builders import NOW, NOW_MS, Aws, Clock, LambdaContext, event, failures, message, raises

SECRET = "4111 1111 1111 1111"


class LocalKeys(RawMasterKeyProvider):
    """A master key in memory, where KMS would have it."""

    provider_id = "tests"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._key = os.urandom(32)

    def _get_raw_key(self, key_id: bytes) -> WrappingKey:
        return WrappingKey(
            wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            wrapping_key=self._key,
            wrapping_key_type=EncryptionKeyType.SYMMETRIC,
        )


def a_cipher() -> EnvelopeCipher:
    keys = LocalKeys()
    keys.add_master_key("one")
    return EnvelopeCipher(keys)


@pytest.fixture(scope="module")
def cipher() -> EnvelopeCipher:
    return a_cipher()


def test_a_handler_gets_what_was_given_and_the_table_never_holds_it(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher, handlers={"email": lambda ctx: {"charged": ctx.payload["card"]}})

    run_id = jobs.create("email", {"card": SECRET})
    assert jobs.consume(message(run_id)).outcome == "succeeded"

    run = jobs.get_status(run_id)
    assert (run.payload, run.output) == ({"card": SECRET}, {"charged": SECRET})
    assert SECRET not in str(aws.items())
    assert SECRET not in str(aws.dynamodb.requests) + str(aws.sqs.requests)


def test_it_costs_no_request_more(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher, handlers={"email": lambda ctx: "done"})

    jobs.consume(message(jobs.create("email", {"card": SECRET})))

    assert aws.dynamodb.count() == {"put_item": 1, "get_item": 1, "update_item": 2}, "one read as without a cipher"


def test_a_process_without_the_key_sees_the_status_and_nothing_else(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher, handlers={"email": lambda ctx: "done"})
    run_id = jobs.create("email", {"card": SECRET})
    jobs.consume(message(run_id))

    run = aws.jobs().get_status(run_id)

    assert run.status == "succeeded"
    assert run.payload is ENCRYPTED
    assert run.output is ENCRYPTED


def test_a_run_that_is_read_without_its_payload_has_the_texts_of_its_errors_and_needs_no_key_for_the_rest(
    aws: Aws, cipher: EnvelopeCipher
):
    jobs = aws.jobs(cipher=cipher, handlers={"email": raises(ValueError(SECRET))})
    run_id = jobs.create("email", {"card": SECRET}, max_attempts=1)
    jobs.consume(message(run_id))
    aws.change(run_id, payload=aws.item(run_id)["payload"][:-8])  # which no key can decrypt any more

    run = jobs.get_status(run_id, payloads=False)

    assert run.payload is NOT_READ
    assert run.last_error == f"ValueError: {SECRET}"
    with pytest.raises(DecryptionError):
        jobs.get_status(run_id)


@pytest.mark.parametrize("other", [None, "another key"], ids=["no key", "another key"])
def test_a_consumer_that_can_not_decrypt_calls_no_handler_and_leaves_the_run_to_others(
    aws: Aws, cipher: EnvelopeCipher, other: str | None
):
    called: list[Any] = []
    run_id = aws.jobs(cipher=cipher).create("email", {"card": SECRET})
    blind = aws.jobs(cipher=other and a_cipher(), handlers={"email": called.append}, concurrency=1)

    with pytest.raises(DecryptionError, match=f"run#{run_id} payload is encrypted"):
        blind.consume(message(run_id))
    assert failures(blind.consume_batch(event(run_id), LambdaContext())) == [f"m-{run_id}"]

    assert called == []
    assert (aws.item(run_id)["status"], aws.item(run_id)["attempt"]) == ("queued", 0)
    seeing = aws.jobs(cipher=cipher, handlers={"email": lambda ctx: None})
    assert seeing.consume(message(run_id)).outcome == "succeeded"


def test_one_runs_payload_can_not_be_given_to_another(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher, handlers={"email": lambda ctx: None})
    first, second = jobs.create("email", {"card": SECRET}), jobs.create("email", None)
    aws.change(second, payload=aws.item(first)["payload"])

    with pytest.raises(DecryptionError, match="encrypted for another item"):
        jobs.consume(message(second))


@pytest.mark.parametrize("damaged", ["sealed:", "sealed:!!!", "sealed:AAAA"])
def test_a_damaged_payload_fails_alone(aws: Aws, cipher: EnvelopeCipher, damaged: str):
    jobs = aws.jobs(cipher=cipher, handlers={"email": lambda ctx: None}, concurrency=1)
    run_id, neighbour = aws.a_run(payload=damaged), aws.a_run()

    assert failures(jobs.consume_batch(event(run_id, neighbour), LambdaContext())) == [f"m-{run_id}"]

    assert aws.item(neighbour)["status"] == "succeeded"


def test_what_was_stored_before_there_was_a_key_stays_readable(aws: Aws, cipher: EnvelopeCipher):
    run_id = aws.jobs().create("email", {"n": 1})
    jobs = aws.jobs(cipher=cipher, handlers={"email": lambda ctx: ctx.payload})

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert (jobs.get_status(run_id).payload, jobs.get_status(run_id).output) == ({"n": 1}, {"n": 1})


def test_a_schedule_and_its_runs_are_encrypted_each_for_itself(aws: Aws, cipher: EnvelopeCipher):
    clock = Clock()
    jobs = aws.jobs(cipher=cipher, clock=clock, handlers={"email": lambda ctx: ctx.payload})
    settings: dict[str, Any] = {"schedule_type": "interval", "schedule_expr": "rate(1 hour)", "schedule_key": "k"}
    schedule_id = jobs.upsert_schedule("email", {"card": SECRET}, **settings)
    clock.advance(hours=1)

    assert jobs.dispatch().schedules == 1
    run_id = next(item["pk"][4:] for item in aws.items() if item["pk"].startswith("run#"))
    assert jobs.consume(message(run_id)).outcome == "succeeded"

    assert jobs.get_status(run_id).output == {"card": SECRET}
    assert jobs.get_schedule(schedule_id).payload == {"card": SECRET}
    assert aws.jobs().get_schedule(schedule_id).payload is ENCRYPTED
    assert SECRET not in str(aws.items())


def test_an_upsert_with_the_same_payload_changes_nothing_though_ciphertexts_differ(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher)
    settings: dict[str, Any] = {"schedule_type": "interval", "schedule_expr": "rate(1 hour)", "schedule_key": "k"}
    jobs.upsert_schedule("email", {"card": SECRET}, **settings)
    before = aws.items()

    jobs.upsert_schedule("email", {"card": SECRET}, **settings)
    assert aws.items() == before

    schedule = jobs.update_schedule_by_key("k", payload={"card": "another"})
    assert schedule.payload == {"card": "another"}
    assert "another" not in str(aws.items())


def test_what_fits_only_without_encryption_is_refused_before_anything_is_written(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher)

    with pytest.raises(InvalidJSONError, match="as it would be stored"):
        jobs.create("email", "x" * 350_000)

    assert aws.items() == []


def test_the_dispatcher_needs_no_key(aws: Aws, cipher: EnvelopeCipher):
    clock = Clock()
    run_id = aws.jobs(cipher=cipher, clock=clock).create("email", {"card": SECRET}, delay=3600)
    clock.advance(hours=1)

    assert aws.jobs(clock=clock).dispatch().dispatched == 1
    lost = aws.a_running_run(payload=aws.item(run_id)["payload"], lease_until=NOW_MS)
    assert aws.jobs(clock=clock).dispatch().errors == 0
    assert aws.item(lost)["status"] == "scheduled"


def test_a_cipher_that_is_none_is_refused(aws: Aws):
    with pytest.raises(ConfigurationError, match="cipher must have encrypt and decrypt"):
        aws.jobs(cipher="key")


def test_what_an_error_says_is_encrypted_with_the_payload_and_its_type_is_not(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher, handlers={"email": raises(ValueError(f"no such card {SECRET}"))})
    run_id = jobs.create("email", {"card": SECRET}, max_attempts=2)
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run.last_error == f"ValueError: no such card {SECRET}"
    assert run.attempts[0].message == f"no such card {SECRET}"
    assert [listed.attempts[0].message for listed in jobs.list_runs().runs] == [f"no such card {SECRET}"]
    assert SECRET not in str(aws.items())
    unprivileged = aws.jobs().get_status(run_id)
    assert (unprivileged.last_error, unprivileged.error_type) == ("ValueError", "ValueError")
    assert (unprivileged.attempts[0].message, unprivileged.attempts[0].traceback) == (None, None)


def test_the_latest_error_is_shown_in_whole_also_during_the_next_attempt_and_after_a_snooze(
    aws: Aws, cipher: EnvelopeCipher
):
    seen: list[str | None] = []
    jobs = aws.jobs(cipher=cipher)

    @jobs.handler("email")
    def fails_then_snoozes(ctx: JobContext) -> None:
        seen.append(jobs.get_status(ctx.run.id).last_error)
        raise ValueError(SECRET) if ctx.attempt == 1 else Snooze(0)

    run_id = jobs.create("email")
    jobs.consume(message(run_id))
    jobs.run_now(run_id)
    jobs.consume(message(run_id))

    assert [*seen, jobs.get_status(run_id).last_error] == [None, *[f"ValueError: {SECRET}"] * 2]
    assert SECRET not in str(aws.items())


def test_a_process_without_another_thread_records_an_attempts_end_without_its_texts(
    aws: Aws, cipher: EnvelopeCipher, monkeypatch: pytest.MonkeyPatch
):
    jobs = aws.jobs(cipher=cipher)

    def no_thread(function: object) -> None:
        raise RuntimeError("can't start new thread")

    @jobs.handler("email")
    def fails(ctx: JobContext) -> None:
        monkeypatch.setattr(jobs._consumer.pool, "start", no_thread)
        raise ValueError(SECRET)

    run_id = jobs.create("email")

    assert jobs.consume(message(run_id), deadline=NOW + timedelta(minutes=1)).outcome == "retried"
    attempt = jobs.get_status(run_id).attempts[0]
    assert (attempt.error_type, attempt.message) == ("ValueError", None)


def test_an_attempt_is_recorded_also_where_its_error_can_not_be_encrypted(aws: Aws, cipher: EnvelopeCipher):
    class Failing:
        out_of_reach = False

        def encrypt(self, plaintext: bytes) -> bytes:
            if self.out_of_reach:
                raise ConnectionError("no key")
            return cipher.encrypt(plaintext)

        def decrypt(self, ciphertext: bytes) -> bytes:
            return cipher.decrypt(ciphertext)

    failing = Failing()
    jobs = aws.jobs(cipher=failing, handlers={"email": raises(ValueError(SECRET))})
    run_id = jobs.create("email", {"card": SECRET})
    failing.out_of_reach = True

    assert jobs.consume(message(run_id)).outcome == "retried"

    run = jobs.get_status(run_id)
    assert (run.attempt, run.last_error, run.attempts[0].error_type) == (1, "ValueError", "ValueError")
    assert SECRET not in str(aws.items())


def test_the_attempts_of_a_long_encrypted_error_keep_within_their_room(aws: Aws, cipher: EnvelopeCipher):
    jobs = aws.jobs(cipher=cipher, retry=RetryPolicy(base=timedelta(0)))
    jobs.handler("email")(raises(ValueError("😀" * 9_000)))
    run_id = jobs.create("email", max_attempts=15)

    for number in range(1, 13):
        jobs.consume(message(run_id))
        assert len(aws.item(run_id)["attempts"]) <= ATTEMPTS_BYTES
        attempts = jobs.get_status(run_id).attempts
        assert attempts[-1].number == number
        assert attempts[-1].message.startswith("😀")


def test_a_key_that_does_not_answer_near_the_deadline_does_not_keep_an_attempts_end_from_being_recorded(
    aws: Aws, cipher: EnvelopeCipher
):
    answered = threading.Event()

    class Hanging:
        hangs = False

        def encrypt(self, plaintext: bytes) -> bytes:
            if self.hangs:
                answered.wait(30)
            return cipher.encrypt(plaintext)

        def decrypt(self, ciphertext: bytes) -> bytes:
            return cipher.decrypt(ciphertext)

    hanging = Hanging()
    jobs = aws.jobs(cipher=hanging, handlers={"email": raises(ValueError(SECRET))})
    run_id = jobs.create("email", {"card": SECRET})
    hanging.hangs = True

    report = jobs.run_batch(event(run_id), LambdaContext(remaining_ms=1_500))
    answered.set()

    assert report.records[0].result.outcome == "retried"
    assert report.stray_handlers == 0
    run = jobs.get_status(run_id)
    assert (run.attempts[0].error_type, run.attempts[0].message, run.last_error) == ("ValueError", None, "ValueError")


class AsLongAsWithKms:
    """Adds what the header of a message has more where the data key is encrypted by KMS: 184 bytes and a key's ARN."""

    def __init__(self, cipher: EnvelopeCipher) -> None:
        self._cipher = cipher

    def encrypt(self, plaintext: bytes) -> bytes:
        return self._cipher.encrypt(plaintext) + bytes(190)

    def decrypt(self, ciphertext: bytes) -> bytes:
        return self._cipher.decrypt(ciphertext[:-190])


@pytest.mark.parametrize(
    ("note", "seen"),
    [
        (SECRET, SECRET),
        (SECRET + "x" * 181, SECRET + "x" * 181),
        (SECRET + "é" * 181, SECRET + "é" * 89 + "…"),
    ],
    ids=["short", "as long as it may be", "of more bytes"],
)
def test_the_note_of_a_progress_is_encrypted_and_cut_where_it_has_no_room(
    aws: Aws, cipher: EnvelopeCipher, note: str, seen: str
):
    written: list[str] = []

    def handler(ctx: JobContext) -> None:
        ctx.progress(0.5, note)
        give_up = time.monotonic() + 20
        while not written and time.monotonic() < give_up:
            written.extend(filter(None, [aws.item(ctx.run.id).get("progress")]))
            time.sleep(0.002)

    jobs = aws.jobs(cipher=AsLongAsWithKms(cipher), handlers={"email": handler})
    run_id = jobs.create("email")
    assert jobs.consume(message(run_id)).outcome == "succeeded"

    [stored] = written
    assert SECRET not in stored
    assert len(stored) <= PROGRESS_BYTES
    progress = jobs.get_status(run_id).progress
    assert (progress.fraction, progress.note) == (0.5, seen)
    assert aws.jobs().get_status(run_id).progress.note is None, "without the key"


def test_a_key_that_is_out_of_reach_is_asked_three_times_for_a_page_of_runs_and_no_more(
    aws: Aws, cipher: EnvelopeCipher
):
    class Counting:
        asked = 0

        def encrypt(self, plaintext: bytes) -> bytes:
            return cipher.encrypt(plaintext)

        def decrypt(self, ciphertext: bytes) -> bytes:
            self.asked += 1
            raise ConnectionError("no key")

    counting = Counting()
    jobs = aws.jobs(cipher=counting, handlers={"email": raises(ValueError(SECRET))})
    for _ in range(6):
        # Its consumer reads no payload, because there is none to decrypt.
        aws.jobs(cipher=cipher, handlers={"email": raises(ValueError(SECRET))}).consume(
            message(jobs.create("email", max_attempts=1))
        )

    runs = jobs.list_runs(status="failed").runs

    assert [run.attempts[0].message for run in runs] == [None] * 6
    assert counting.asked == 3


def test_a_typed_payload_is_decrypted_before_it_is_checked_and_its_problem_is_not_told(
    aws: Aws, cipher: EnvelopeCipher
):
    payloads = []

    @dataclass
    class Payment:
        card: str

        def __post_init__(self) -> None:
            if not self.card.isascii():
                raise ValueError(f"{self.card} is no card")

    def pay(ctx: Any) -> None:
        payloads.append(ctx.payload)

    pay.__annotations__["ctx"] = JobContext[Payment]
    jobs, other = aws.jobs(cipher=cipher), aws.jobs(cipher=cipher)
    job = jobs.handler("pay")(pay)

    assert jobs.consume(message(job.create(Payment(SECRET)))).outcome == "succeeded"
    run_id = other.create("pay", {"card": f"{SECRET}ä"})
    assert jobs.consume(message(run_id)).reason == "payload does not fit"

    assert payloads == [Payment(SECRET)]
    item = aws.item(run_id)
    assert item is not None
    assert item["last_error"] == "the payload of job 'pay' does not fit Payment"
    assert SECRET not in str(item)
    with pytest.raises(InvalidPayloadError, match="is no card"):  # whoever can decrypt it is told
        jobs.retry(run_id)
    assert other.retry(run_id)
