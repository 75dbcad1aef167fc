"""Lets a container reach the local AWS, which listens on this machine's loopback only. Free of this project's code.

In a container, 127.0.0.1 is the container itself, and this machine has the address of the bridge's gateway. So a relay
listens on the gateway's address and forwards connections to the loopback. Docker Desktop does not need a relay: its
containers reach the loopback as ``host.docker.internal``.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
DOCKER_DESKTOP_HOST = "host.docker.internal"
# The addresses of the default networks, for an engine that does not tell its own.
DEFAULT_SUBNETS = {"podman": "10.88.0.0/16", "docker": "172.17.0.0/16"}
ENGINE_TIMEOUT_SECONDS = 10
# Linux' number for it (ip(7)); Python's socket module has no name for it.
IP_FREEBIND = 15


class ContainersError(Exception):
    """No container engine answers, or its containers can't reach this machine; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A container engine that speaks Docker's API: Docker, Podman, Docker Desktop."""

    address: str
    kind: str
    """``docker``, ``podman`` or ``desktop``."""
    rootless: bool
    gateway: str
    """This machine's address on the network that containers get by default; empty for Docker Desktop."""
    subnet: str

    def has_image(self, name: str) -> bool:
        """Return whether the engine has an image already and need not pull it."""
        return _ask(self.address, f"/images/{quote(name, safe='/:')}/json")[0] == 200


@dataclass(kw_only=True)
class Reach:
    """The address by which a container reaches the local AWS, and the connections that were made."""

    host: str
    port: int
    relayed: bool
    connections: int = 0
    refused: list[str] = field(default_factory=list)
    """Addresses outside of the containers' network that tried to connect."""

    def url(self, local_url: str) -> str:
        """Return the URL by which a container reaches a loopback URL of the local AWS."""
        return urlsplit(local_url)._replace(netloc=f"{self.host}:{self.port}").geturl()


def find_engine(environment: Mapping[str, str] = os.environ) -> Engine:
    """Return the engine that ``DOCKER_HOST`` names, or that listens on Docker's usual socket.

    Raises ``ContainersError`` if no engine answers.
    """
    address = environment.get("DOCKER_HOST") or DEFAULT_ENGINE
    status, info = _ask(address, "/info")
    if status != 200:
        raise ContainersError(f"the container engine at {address} answers /info with status {status}")
    if info.get("OperatingSystem") == "Docker Desktop":
        return Engine(address=address, kind="desktop", rootless=False, gateway="", subnet="")
    _, version = _ask(address, "/version")
    kind = "podman" if "podman" in json.dumps(version).lower() else "docker"
    # Podman gives its default network, which it calls "podman", under Docker's name as well.
    status, network = _ask(address, "/networks/bridge")
    gateway, subnet = _gateway(network if status == 200 else {}, DEFAULT_SUBNETS[kind])
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or [])
    return Engine(address=address, kind=kind, rootless=rootless, gateway=gateway, subnet=subnet)


@contextlib.contextmanager
def reachable(engine: Engine, port: int, *, host: str | None = None) -> Iterator[Reach]:
    """Let containers, and nobody else, reach 127.0.0.1:``port`` while the block runs.

    With ``host``, a name by which containers reach this machine's loopback already, this does not open a relay. Raises
    ``ContainersError`` if the engine's network can't be used, or the relay can't listen.
    """
    if host is None and engine.kind == "desktop":
        host = DOCKER_DESKTOP_HOST
    if host is not None:
        yield Reach(host=host, port=port, relayed=False)
        return
    if engine.rootless:
        raise ContainersError(
            f"the container engine at {engine.address} is rootless: its bridge is in a network namespace where this "
            "machine has no address. Use a rootful engine (DOCKER_HOST), or let rootless containers reach the loopback "
            "and say by which address: HOST_FROM_CONTAINER=… (see docs/deploy.md)"
        )
    with _listening(engine) as listener:
        reach = Reach(host=engine.gateway, port=listener.getsockname()[1], relayed=True)
        accepting = threading.Thread(target=_accept, args=(listener, engine.subnet, port, reach), daemon=True)
        accepting.start()
        try:
            yield reach
        finally:
            # close() alone would leave a thread that waits in accept() with the socket open.
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _gateway(network: Mapping[str, Any], default_subnet: str) -> tuple[str, str]:
    """Return the gateway and the subnet of an engine's network; an engine may leave out either."""
    configured = (network.get("IPAM") or {}).get("Config") or []
    for config in configured:
        with contextlib.suppress(ValueError):
            subnet = ipaddress.ip_network(config.get("Subnet") or default_subnet, strict=False)
            if subnet.version == 4:
                # Docker leaves it out where it is the first address.
                gateway = config.get("Gateway") or next(subnet.hosts())
                return str(ipaddress.ip_interface(gateway).ip), str(subnet)
    return str(next(ipaddress.ip_network(default_subnet).hosts())), default_subnet


def _listening(engine: Engine) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Podman makes its bridge with the first container, which is later than this.
        listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        listener.bind((engine.gateway, 0))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ContainersError(
            f"can't listen on {engine.gateway}, the gateway of the default network of the container engine at "
            f"{engine.address}: {error.strerror}. If the engine is on another machine or in a virtual one, say by "
            "which name its containers reach this machine's loopback: HOST_FROM_CONTAINER=…"
        ) from error
    return listener


def _accept(listener: socket.socket, subnet: str, port: int, reach: Reach) -> None:
    containers = ipaddress.ip_network(subnet)
    # Of every connection that is open; the end of the block ends them.
    live: set[socket.socket] = set()
    try:
        while True:
            inward, (peer, _) = listener.accept()
            if ipaddress.ip_address(peer) in containers:
                reach.connections += 1
                live.add(inward)
                threading.Thread(target=_serve, args=(inward, port, live), daemon=True).start()
            else:
                # Linux takes packets for this address from any interface.
                reach.refused.append(peer)
                inward.close()
    except OSError:
        pass  # the listener was shut down
    finally:
        for connection in tuple(live):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _serve(inward: socket.socket, port: int, live: set[socket.socket]) -> None:
    # A connection that the local AWS does not take is closed; the container's client says so.
    with inward, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as outward:
        back = threading.Thread(target=_pass_on, args=(outward, inward), daemon=True)
        back.start()
        _pass_on(inward, outward)
        back.join()
    live.discard(inward)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    # The end of one direction is passed on; the other one may still have something to say.
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _ask(address: str, path: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON of an engine's answer; raises ``ContainersError`` if it does not answer."""
    scheme, _, place = address.partition("://")
    if scheme == "unix":
        connection: http.client.HTTPConnection = _UnixConnection(place)
    elif scheme in ("tcp", "http"):
        connection = http.client.HTTPConnection(place.rstrip("/"), timeout=ENGINE_TIMEOUT_SECONDS)
    else:
        raise ContainersError(
            f"DOCKER_HOST is {address!r}; only unix:// and tcp:// are understood here, and a relay needs an engine on "
            "this machine"
        )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        parsed = json.loads(body) if answer.status == 200 else {}
        return answer.status, parsed if isinstance(parsed, dict) else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ContainersError(
            f"no container engine answers at {address} ({error or type(error).__name__}). Start Docker; or for Podman "
            "start `podman system service --time=0 unix://SOCKET` and export DOCKER_HOST=unix://SOCKET"
        ) from error
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=ENGINE_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
