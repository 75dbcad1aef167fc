"""``kumofire console``: on the loopback alone, for who has its address."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from examples.console_demo import serving
from kumofire_core import Jobs
from kumofire_core.console.local import LocalConsole
from tests.builders import Aws

pytestmark = pytest.mark.long


@pytest.fixture
def served(jobs: Jobs) -> Iterator[LocalConsole]:
    """A console that answers on a port of the loopback."""
    with serving(jobs, read_only=True, payloads=False, title="test") as found:
        yield found
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", found.port), timeout=10).close()


def get(served: LocalConsole, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, str], str]:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("GET", path, headers=dict(headers or {}))
        with connection.getresponse() as answer:
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


def entered(served: LocalConsole) -> dict[str, str]:
    """Return the cookie that the browser has after it opened the address."""
    _, headers, _ = get(served, served.address.partition(str(served.port))[2])
    return {"Cookie": SimpleCookie(headers["set-cookie"]).output(attrs=[], header="").strip()}


def test_the_address_s_key_becomes_a_cookie_and_leaves_the_address(served: LocalConsole) -> None:
    status, headers, _ = get(served, served.address.partition(str(served.port))[2])

    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    assert "samesite=strict" in headers["set-cookie"].lower()
    assert headers["referrer-policy"] == "no-referrer"
    status, _, text = get(served, "/", entered(served))
    assert (status, "<h1>Overview</h1>" in text) == (200, True)


@pytest.mark.parametrize("path", ["/", "/runs", "/?key=", f"/?key={'x' * 43}", "/?key=%C3%A9", "/runs?key=x"])
def test_another_user_of_the_machine_sees_nothing(served: LocalConsole, aws: Aws, path: str) -> None:
    asked = len(aws.dynamodb.requests)

    for cookie in ("", f"kumofire_console_{served.port}={'x' * 43}"):
        status, _, text = get(served, path, {"Cookie": cookie})
        assert (status, "Overview" in text) == (403, False)
    assert len(aws.dynamodb.requests) == asked


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:80"])
def test_a_name_that_was_rebound_to_the_loopback_is_not_answered(served: LocalConsole, host: str) -> None:
    status, _, _ = get(served, "/", entered(served) | {"Host": host})

    assert status == 421


def test_localhost_is_answered(served: LocalConsole) -> None:
    assert get(served, "/", entered(served) | {"Host": f"localhost:{served.port}"})[0] == 200


def test_it_listens_on_the_loopback_alone(served: LocalConsole) -> None:
    assert served._socket.getsockname()[0] == "127.0.0.1"


def console(*arguments: str) -> subprocess.Popen[str]:
    """Start ``kumofire console`` on a deployment that it need not ask until a page is opened."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUMOFIRE_"))},
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # nothing listens there
        "KUMOFIRE_TABLE": "jobs",
        "KUMOFIRE_QUEUE_URL": "http://127.0.0.1:9/1/jobs",
    }
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("kumofire")), "console", "--no-browser", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_serves_until_it_is_interrupted_and_says_when_the_table_is_out_of_reach() -> None:
    process = console("--port", "0")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/\?key=[\w-]{43})", address)
        assert found is not None, address
        with closing(http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)) as connection:
            connection.request("GET", found[2])
            with connection.getresponse() as answer:
                answer.read()
                cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
            connection.request("GET", "/runs", headers={"Cookie": cookie})
            with connection.getresponse() as answer:
                text = answer.read().decode()
        assert (answer.status, "the service was not reached" in text) == (503, True)
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "for you alone" in errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_said_and_another_is_found_where_none_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = console("--port", str(port))
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 3
    assert f"port {port} can't be listened on" in errors


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--json",)])
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    process = console(*arguments)
    _, errors = process.communicate(timeout=20)

    assert process.returncode == 2
    assert errors.startswith("kumofire: --")
