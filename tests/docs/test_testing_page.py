"""The tests of docs/testing.md pass in an application that has what they name, and catch what the page says they do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from examples.deployment import PROJECT
from tests.docs.snippets import snippet

PAGE = "docs/testing.md"

JOBS = """
from kumofire_core import JobContext, Jobs

jobs = Jobs.from_env()


@jobs.handler("email")
def send_email(ctx: JobContext) -> dict[str, str]:
    return {"sent_to": ctx.payload["to"]}


@jobs.handler("remind")
def remind(ctx: JobContext) -> None: ...


@jobs.handler("confirm")
def confirm(ctx: JobContext) -> None: ...


@jobs.handler("refund")
def refund(ctx: JobContext) -> None: ...
"""

APPLICATION = """
from datetime import timedelta

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from handler.jobs import jobs, send_email

dynamodb = None


def place_order(to, total):
    send_email.create({"to": to, "total": total}, delay=timedelta(days=1))


def place(number):
    pending = jobs.create_in_transaction("confirm", {"order": number})
    order = {"Put": {"TableName": "orders", "Item": {"number": {"S": number}}}}
    with pending:
        dynamodb.transact_write_items(TransactItems=[order, pending.entry])


async def contact(request):
    send_email.create({"to": "ada@example.com"})
    return Response(status_code=202)


app = Starlette(routes=[Route("/contact", contact, methods=["POST"])])


class Payments:
    def __init__(self):
        self.charges = {}

    def charge(self, card, amount, idempotency_key=None):
        self.charges[idempotency_key or len(self.charges)] = (card, amount)

    def total(self, card):
        return sum(amount for found, amount in self.charges.values() if found == card)
"""

TESTS = """
import unittest
from datetime import UTC, datetime, timedelta

import pytest
from starlette.testclient import TestClient

from handler import application as orders
from handler.application import Payments, app, place_order
from handler.jobs import jobs, remind
from kumofire_core import JobContext


@pytest.fixture
def payments():
    return Payments.of_this_test


@pytest.fixture(autouse=True)
def new_payments():
    Payments.of_this_test = Payments()
"""


def test_the_tests_of_the_page_pass_and_chaos_catches_the_handler_without_a_key(tmp_path: Path) -> None:
    charged_twice = snippet(PAGE, 'payments.charge(ctx.payload["card"], ctx.payload["amount"])\n\n\n@pytest')
    with_a_key = snippet(PAGE, "idempotency_key=ctx.run.id")
    others = [
        snippet(PAGE, part)
        for part in ("def test_a_receipt", "def test_an_order_sends", "def test_a_reminder", "class EmailTest")
    ] + [snippet(PAGE, part) for part in ("def test_an_order_and_its_confirmation", "def test_the_form")]
    handler, its_test = charged_twice.text.split("\n\n\n@pytest", 1)

    def in_an_application(name: str, charging: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / name
        (folder / "handler").mkdir(parents=True)
        (folder / "handler/__init__.py").write_text("")
        charging = charging.replace("payments.charge", "Payments.of_this_test.charge")
        (folder / "handler/jobs.py").write_text(f"{JOBS}\n\nfrom handler.payments import Payments\n\n\n{charging}\n")
        application, _, payments = APPLICATION.partition("class Payments")
        (folder / "handler/payments.py").write_text(f"class Payments{payments}")
        (folder / "handler/application.py").write_text(f"from handler.payments import Payments\n{application}")
        texts = [each.text for each in others]
        tests = "\n\n".join([TESTS, "from handler.jobs import charge", *texts, f"@pytest{its_test}"])
        (folder / "test_page.py").write_text(tests)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "kumofire_core.testing.plugin", "-p", "no:cacheprovider"],
            cwd=folder,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": f"{folder}:{PROJECT}",
                # Where this project is installed, pytest would load its plugin a second time.
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    idempotent = in_an_application("with_a_key", with_a_key.text)
    assert idempotent.returncode == 0, idempotent.stdout + idempotent.stderr
    assert "7 passed" in idempotent.stdout

    twice = in_an_application("charged_twice", handler)
    assert twice.returncode == 1, twice.stdout + twice.stderr
    assert "1 failed, 6 passed" in twice.stdout
    assert "test_an_order_is_charged_once" in twice.stdout
