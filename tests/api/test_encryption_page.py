"""The examples of docs/encryption.md, executed as they are printed."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cryptography.fernet import Fernet

from examples.deployment import PROJECT
from kumofire_core import ENCRYPTED, Jobs
from tests.builders import Aws, message

PAGE = (PROJECT / "docs/encryption.md").read_text()


def code_with(example: str) -> str:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if example in block]
    return str(code)


@pytest.fixture
def environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMOFIRE_TABLE", aws.table)
    monkeypatch.setenv("KUMOFIRE_QUEUE_URL", aws.queue_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(Jobs, "from_env", classmethod(lambda cls, cipher: aws.jobs(cipher=cipher)))


def test_a_run_of_the_old_key_is_executed_by_a_consumer_with_both(environment: None, aws: Aws) -> None:
    old, new = Fernet(Fernet.generate_key()), Fernet(Fernet.generate_key())
    run_id = aws.jobs(cipher=old).create("email", {"to": "ada@example.com"})
    before, _, after = code_with("class Both").partition("cipher = Both(")
    names: dict[str, Any] = {"cipher": None}
    exec(compile(before, "docs/encryption.md", "exec"), names)
    names["cipher"] = names["Both"](new, old)
    exec(compile(after.partition("\n")[2], "docs/encryption.md", "exec"), names)
    jobs: Jobs = names["jobs"]
    jobs.handler("email")(lambda ctx: ctx.payload["to"])

    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.output) == ("succeeded", "ada@example.com")
    later = aws.jobs(cipher=new).get_status(jobs.create("email", {"to": "grace@example.com"}))
    assert later is not None
    assert later.payload == {"to": "grace@example.com"}


def test_a_cipher_of_one_s_own_hides_payloads(environment: None, aws: Aws) -> None:
    names: dict[str, Any] = {"Jobs": Jobs, "load_keys": lambda: [Fernet.generate_key() for _ in range(2)]}
    exec(compile(code_with("MultiFernet"), "docs/encryption.md", "exec"), names)

    run_id = names["jobs"].create("email", {"to": "ada@example.com"})

    shown = aws.jobs().get_status(run_id)
    assert shown is not None
    assert shown.payload == ENCRYPTED
    item = aws.item(run_id)
    assert item is not None
    assert "ada@" not in item["payload"]
