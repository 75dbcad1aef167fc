"""A TCP proxy that breaks connections: before a request was passed on, or after, when its reply is on the way.

It understands of HTTP what it needs to tell one request from the next: ``Content-Length``.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from types import TracebackType


class CuttingProxy:
    """Listens on a port of its own and passes everything on to ``target``, which may be set later.

    ``cutting`` is the part of requests whose connection breaks, half of them unseen by the target and half of them
    done, with a reply that is lost.
    """

    def __init__(self, *, seed: int, cutting: float = 0.0) -> None:
        self.cutting = cutting
        self.target: tuple[str, int] | None = None
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near:
            assert self.target is not None
            with socket.create_connection(self.target) as far:
                for side in (near, far):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                losing = threading.Event()
                threading.Thread(target=self._replies, args=(far, near, losing), daemon=True).start()
                for request in _requests(near):
                    fate = self._fate()
                    if fate == "refused":
                        break
                    if fate == "lost":
                        losing.set()
                    far.sendall(request)
                _shut(near)

    def _fate(self) -> str:
        with self._lock:
            drawn = self._random.random()
            fate = "passed" if drawn >= self.cutting else "refused" if drawn < self.cutting / 2 else "lost"
            self.counts[fate] += 1
            return fate

    def _replies(self, far: socket.socket, near: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (part := far.recv(65536)) and not losing.is_set():
                near.sendall(part)
        _shut(near)
        _shut(far)


def _requests(connection: socket.socket) -> Iterator[bytes]:
    """Yield the requests of a connection, whole, one after the other."""
    buffer = b""
    while True:
        while b"\r\n\r\n" not in buffer:
            part = connection.recv(65536)
            if not part:
                return
            buffer += part
        head, _, rest = buffer.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length":
                length = int(value)
        while len(rest) < length:
            part = connection.recv(65536)
            if not part:
                return
            rest += part
        yield head + b"\r\n\r\n" + rest[:length]
        buffer = rest[length:]


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
