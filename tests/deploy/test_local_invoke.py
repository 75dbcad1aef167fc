"""``make local-invoke`` without its container: finding the engine, the relay, what is refused, and what is a failure.

The engine is a server on a socket that answers as Docker and Podman do. ``test_container.py`` runs real ones.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import socketserver
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples import local_invoke
from examples.containers import ContainersError, Engine, find_engine, reachable
from examples.deployment import PROJECT
from examples.local_invoke import (
    LocalInvokeError,
    batch_of,
    complaints_about,
    for_plain_sam,
    local_settings,
    sam_environment,
    write_local_files,
)

DOCKER_BRIDGE = {"IPAM": {"Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]}}
PODMAN_BRIDGE = {"IPAM": {"Config": [{"Subnet": "10.88.0.0/16", "Gateway": "10.88.0.1"}]}}
LOOPBACK = {"IPAM": {"Config": [{"Subnet": "127.0.0.0/8", "Gateway": "127.0.0.2"}]}}
PODMAN = {"/version": {"Components": [{"Name": "Podman Engine"}]}}

BUILT_FOR = """
[function_build_definitions.1]
runtime = "python3.12"
architecture = "x86_64"
functions = ["Consumer"]
"""

Start = Callable[..., str]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start an engine that gives these answers by path, make it the one of ``DOCKER_HOST``, and return its address."""
    with contextlib.ExitStack() as stack:

        def start(answers: dict[str, Any]) -> str:
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    body = json.dumps(answers.get(self.path, {"message": "not found"})).encode()
                    self.send_response(200 if self.path in answers else 404)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_: object) -> None:
                    pass

                def address_string(self) -> str:
                    return "engine"

            server = stack.enter_context(socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine"), Handler))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine")
            return f"unix://{tmp_path}/engine"

        yield start


@pytest.fixture
def local() -> Iterator[int]:
    """A server on the loopback that answers with what it is sent, in capitals, until the sender ends; its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.read().upper())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def an_engine(**changed: Any) -> Engine:
    given = {"address": "unix:///engine", "kind": "docker", "rootless": False}
    return Engine(**{**given, "gateway": "127.0.0.2", "subnet": "127.0.0.0/8", **changed})


def said(host: str, port: int, text: bytes) -> bytes:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def a_project(folder: Path) -> Path:
    (folder / ".aws-sam/build").mkdir(parents=True)
    (folder / ".aws-sam/build.toml").write_text(BUILT_FOR)
    template = (PROJECT / "template.yaml").read_text()
    template = template.replace(
        "      Handler: handler.consumer", "      CodeUri: Consumer\n      Handler: handler.consumer"
    )
    for name, module in (("Dispatcher", "disp"), ("Cleaner", "cleaner")):
        handler = f"      Handler: handler.{module}"
        template = template.replace(handler, f"      CodeUri: {name}\n{handler}")
    (folder / ".aws-sam/build/template.yaml").write_text(template)
    return folder


def settings_for(port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return {"AWS_ENDPOINT_URL": url, "KUMOFIRE_TABLE": "runs", "KUMOFIRE_QUEUE_URL": f"{url}/000000000000/queue"}


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({"/networks/bridge": DOCKER_BRIDGE}, ("docker", "172.17.0.1", "172.17.0.0/16")),
        ({"/networks/bridge": PODMAN_BRIDGE, **PODMAN}, ("podman", "10.88.0.1", "10.88.0.0/16")),
        (
            {"/networks/bridge": {"IPAM": {"Config": [{"Subnet": "192.168.9.0/24"}]}}},
            ("docker", "192.168.9.1", "192.168.9.0/24"),
        ),
        (
            {"/networks/bridge": {"IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "172.30.0.0/16"}]}}},
            ("docker", "172.30.0.1", "172.30.0.0/16"),
        ),
        ({}, ("docker", "172.17.0.1", "172.17.0.0/16")),
        (PODMAN, ("podman", "10.88.0.1", "10.88.0.0/16")),
        ({"/networks/bridge": {"IPAM": {"Config": None}}}, ("docker", "172.17.0.1", "172.17.0.0/16")),
    ],
)
def test_the_engine_is_asked_for_the_gateway_of_its_default_network(
    engine: Start, answers: dict[str, Any], found: tuple[str, str, str]
) -> None:
    engine({"/info": {"OperatingSystem": "debian"}, "/version": {}, **answers})

    asked = find_engine()

    assert (asked.kind, asked.gateway, asked.subnet) == found


@pytest.mark.parametrize("address", ["unix:///none", "tcp://127.0.0.1:1", "ssh://host", "npipe:////./pipe/docker"])
def test_without_an_engine_the_error_names_the_address_that_was_asked(address: str) -> None:
    with pytest.raises(ContainersError) as refused:
        find_engine({"DOCKER_HOST": address})
    assert address in str(refused.value)


def test_docker_desktop_reaches_the_loopback_by_a_name_and_nothing_is_opened(engine: Start, local: int) -> None:
    engine({"/info": {"OperatingSystem": "Docker Desktop"}})

    with reachable(find_engine(), local) as reach:
        assert reach.url(f"http://127.0.0.1:{local}/queue") == f"http://host.docker.internal:{local}/queue"
        assert not reach.relayed


def test_a_rootless_engine_is_refused_unless_the_way_is_named(engine: Start, local: int) -> None:
    engine({"/info": {"SecurityOptions": ["name=seccomp", "name=rootless"]}, "/networks/bridge": LOOPBACK})
    found = find_engine()

    with pytest.raises(ContainersError, match="HOST_FROM_CONTAINER"), reachable(found, local):
        pass
    with reachable(found, local, host="10.0.2.2") as reach:
        assert reach.url(f"http://127.0.0.1:{local}") == f"http://10.0.2.2:{local}"


def test_the_relay_passes_both_directions_on_whole(local: int) -> None:
    text = b"ab" * 1_000_000

    with reachable(an_engine(), local) as reach:
        assert reach.host == "127.0.0.2"
        assert said(reach.host, reach.port, text) == text.upper()
        assert reach.connections == 1


def test_the_relay_listens_on_the_gateway_alone(local: int) -> None:
    with reachable(an_engine(), local) as reach:
        for other in ("127.0.0.1", "127.0.0.3"):
            with pytest.raises(ConnectionRefusedError):
                said(other, reach.port, b"x")


def test_the_relay_refuses_whoever_is_not_on_the_containers_network(local: int) -> None:
    with reachable(an_engine(subnet="127.0.1.0/24"), local) as reach:
        with contextlib.suppress(OSError):
            assert said(reach.host, reach.port, b"x") == b""
        assert (reach.connections, len(reach.refused)) == (0, 1)


def test_the_relay_ends_with_its_connections(local: int) -> None:
    with reachable(an_engine(), local) as reach:
        held = socket.create_connection((reach.host, reach.port), timeout=10)
        held.sendall(b"not yet the end")
        while not reach.connections:
            pass
    with held, contextlib.suppress(OSError):
        # The echo of what was sent may still come, and then the end.
        assert len(held.recv(100) + held.recv(100)) <= 15
    with pytest.raises(ConnectionRefusedError):
        said(reach.host, reach.port, b"x")


def test_the_relay_survives_a_local_aws_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with reachable(an_engine(), port) as reach:
        for _ in range(2):
            with contextlib.suppress(OSError):
                assert said(reach.host, reach.port, b"x") == b""
        assert reach.connections == 2


def test_the_relay_can_listen_before_the_bridge_is_there(local: int) -> None:
    # TEST-NET-1 (RFC 5737): no machine has such an address.
    with reachable(an_engine(gateway="192.0.2.1", subnet="192.0.2.0/24"), local) as reach:
        assert reach.host == "192.0.2.1"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"AWS_ENDPOINT_URL": ""}, "AWS_ENDPOINT_URL not set"),
        ({"AWS_ENDPOINT_URL": "https://dynamodb.us-east-1.amazonaws.com"}, "AWS_ENDPOINT_URL is 'https://dynamodb"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1.example.com:80"}, "AWS_ENDPOINT_URL is"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1@example.com:80"}, "AWS_ENDPOINT_URL is"),
        ({"KUMOFIRE_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/1/q"}, "KUMOFIRE_QUEUE_URL is"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "nothing answers at AWS_ENDPOINT_URL, http://127.0.0.1:1"),
    ],
)
def test_what_is_not_the_local_aws_is_refused_by_name(local: int, changed: dict[str, str], named: str) -> None:
    assert local_settings(settings_for(local)) == settings_for(local)
    with pytest.raises(LocalInvokeError) as refused:
        local_settings({**settings_for(local), **changed})
    assert named in str(refused.value)


def test_neither_the_sam_cli_nor_the_function_gets_anything_of_a_real_account(tmp_path: Path, local: int) -> None:
    mine = {"AWS_PROFILE": "prod", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_ENDPOINT_URL_STS": "https://sts", "PATH": "/bin"}
    sam = sam_environment(mine, f"http://127.0.0.1:{local}")
    # The SAM CLI asks STS for the account.
    assert (sam["AWS_ENDPOINT_URL"], sam["AWS_ACCESS_KEY_ID"]) == (f"http://127.0.0.1:{local}", "test")
    assert sam["PATH"] == "/bin"
    assert not {"AWS_PROFILE", "AWS_ENDPOINT_URL_STS"} & sam.keys()

    with reachable(an_engine(), local) as reach:
        template, variables = write_local_files(a_project(tmp_path), tmp_path / "to", settings_for(local), reach)
        values = json.loads(variables.read_text())["Parameters"]
        url = f"http://127.0.0.2:{reach.port}"
    assert (values["AWS_ENDPOINT_URL"], values["KUMOFIRE_QUEUE_URL"]) == (url, f"{url}/000000000000/queue")
    # The SAM CLI drops a value whose name the template lacks, and takes a shell's over the template's.
    named = json.loads(template.read_text())["Globals"]["Function"]["Environment"]["Variables"]
    assert values.keys() <= named.keys()
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} <= values.keys()


def test_the_container_has_runtime_architecture_and_code_of_the_build(tmp_path: Path, local: int) -> None:
    project = a_project(tmp_path / "project")
    with reachable(an_engine(), local) as reach:
        written = json.loads(write_local_files(project, tmp_path / "to", settings_for(local), reach)[0].read_text())
    assert written["Parameters"]["Runtime"]["Default"] == "python3.12"
    assert written["Parameters"]["Architecture"]["Default"] == "x86_64"
    assert written["Resources"]["Consumer"]["Properties"]["CodeUri"] == str(project / ".aws-sam/build/Consumer")
    with reachable(an_engine(), local) as reach, pytest.raises(LocalInvokeError, match="make build"):
        write_local_files(tmp_path, tmp_path / "to", settings_for(local), reach)


def test_plain_sam_finds_its_template_only_while_the_local_aws_runs(tmp_path: Path, engine: Start, local: int) -> None:
    engine({"/info": {}, "/version": {}, "/networks/bridge": LOOPBACK})
    project = a_project(tmp_path / "project")
    written = project / local_invoke.FOR_PLAIN_SAM / "template.json"

    with for_plain_sam(project, settings_for(local)) as note:
        assert written.is_file()
        assert "http://127.0.0.2:" in note
    assert not written.exists()


def test_without_an_engine_the_local_aws_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: int
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///none")
    project = a_project(tmp_path / "project")
    left_over = project / local_invoke.FOR_PLAIN_SAM / "template.json"
    left_over.parent.mkdir()
    left_over.write_text("of one that was killed")

    with for_plain_sam(project, settings_for(local)) as note:
        assert "no container engine answers at unix:///none" in note
        assert not left_over.exists()


def test_the_sam_cli_refuses_without_the_files_that_deploy_local_writes(tmp_path: Path) -> None:
    sam = os.environ.get("SAM")
    if not sam:
        pytest.skip("the variable SAM does not name the SAM CLI; `make test` sets it")
    shutil.copy(PROJECT / "samconfig.toml", tmp_path)
    a_project(tmp_path)
    environment = {**sam_environment(os.environ, "http://127.0.0.1:1"), "HOME": str(tmp_path)}

    for command in (["invoke", "Consumer"], ["start-lambda"]):
        refused = subprocess.run(
            [sam, "local", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert refused.returncode != 0
        assert ".aws-sam/deploy-local/variables.json" in refused.stderr


EVENT = batch_of(["first", "second"])
MIXED = {"Records": [*EVENT["Records"], {"messageId": "bad", "body": "not JSON"}]}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('{"batchItemFailures": []}', None),
        ('{"batchItemFailures": [{"itemIdentifier": "bad"}]}', None),
        ('{"dispatched": 2, "unsent": 0, "errors": 0, "unread": 0}', None),
        ('{"batchItemFailures": [{"itemIdentifier": "local-2"}]}', "1 of 2 valid records"),
        ('{"dispatched": 2, "unsent": 2, "errors": 0, "unread": 0}', "2 unsent"),
        ('{"errorType": "ImportError", "errorMessage": "no module"}', "ImportError: no module"),
        ("", "no answer"),
        ("null", "no answer"),
        ("killed", "no answer"),
    ],
)
def test_an_answer_is_green_only_when_every_valid_record_was_taken(answer: str, told: str | None) -> None:
    complaints = complaints_about(answer, MIXED)

    assert told in complaints[0] if told else not complaints


def test_the_exit_status_and_the_error_say_what_the_sam_cli_does_not(
    tmp_path: Path, engine: Start, local: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    engine({"/info": {}, "/version": {}, "/networks/bridge": LOOPBACK})
    # It ends with 0, as the SAM CLI does whatever the function says.
    sam = tmp_path / "sam"
    sam.write_text('#!/bin/sh\necho \'{"batchItemFailures": [{"itemIdentifier": "local-1"}]}\'\n')
    sam.chmod(sam.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SAM", str(sam))
    for name, value in settings_for(local).items():
        monkeypatch.setenv(name, value)

    status = local_invoke.main(["Consumer", "--run", "first", "--project", str(a_project(tmp_path / "project"))])

    told = capfd.readouterr().err
    assert status == 1
    for part in ("http://127.0.0.2:", f"http://127.0.0.1:{local}", "'runs'", "firewall"):
        assert part in told
