"""Lambda without Lambda: a built artifact in a process of its own, under AWS's runtime client and a Runtime API here.

The process has the standard library, the artifact and the runtime client on its path, and nothing else. It is started,
kept, killed at its timeout and started anew as Lambda does it.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

API = "/2018-06-01/runtime"
START_SECONDS = 30
ENDS = ("response", "error")
RUNTIME_CLIENT = ("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py")
START = """
import os, sys
sys.path[:] = [os.getcwd(), *sys.path, sys.argv.pop(1)]
from awslambdaric.__main__ import main
main(sys.argv)
"""


class FunctionError(Exception):
    """The function raised, or did not start; ``type`` and ``message`` are what Lambda shows."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error.get('errorType')}: {error.get('errorMessage')}")
        self.type = str(error.get("errorType"))
        self.message = str(error.get("errorMessage"))


class TimedOutError(Exception):
    """The function was killed at its timeout."""


class ExitedError(Exception):
    """The function's process ended in mid-invocation."""


@dataclass(kw_only=True)
class _Invocation:
    id: str
    event: bytes
    timeout_seconds: float
    answer: queue.SimpleQueue[tuple[str, bytes]]
    ends: float
    """When it is over. Its time begins when the process takes it; until then, this is when the process must start."""


class LambdaProcess:
    """One execution environment of a function at a time. Use it in a ``with`` block."""

    def __init__(
        self, artifact: Path, handler: str, environment: Mapping[str, str], *, timeout_seconds: float = 30
    ) -> None:
        self.cold_starts = 0
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="kumofire-runtime-")
        self._log_path = Path(self._directory.name) / "log"
        self._api = _RuntimeApi()
        self._command = [sys.executable, "-I", "-S", "-c", START, runtime_client(Path(self._directory.name)), handler]
        self._artifact = artifact
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "LAMBDA_TASK_ROOT": str(artifact),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._api.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "function",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/function",
            "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
            **environment,
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._api.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        self._api.close()
        self._directory.cleanup()

    @property
    def log(self) -> str:
        """All that the function has written to stdout and stderr."""
        return self._log_path.read_text() if self._log_path.exists() else ""

    def invoke(self, event: Any) -> Any:
        """Return the function's answer to one event; ``FunctionError``, ``TimedOutError`` or ``ExitedError``."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        invocation = _Invocation(
            id=str(uuid.uuid4()),
            event=json.dumps(event).encode(),
            timeout_seconds=self._timeout_seconds,
            answer=queue.SimpleQueue(),
            ends=time.time() + START_SECONDS,
        )
        self._api.offer(invocation)
        while time.time() < invocation.ends:
            try:
                kind, body = invocation.answer.get(timeout=0.05)
            except queue.Empty:
                if self._process.poll() is None:
                    continue
                if invocation.answer.empty():
                    self._api.withdraw()
                    raise ExitedError(f"exit status {self._process.returncode}; its log:\n{self.log}") from None
                kind, body = invocation.answer.get()
            if kind == "response":
                return json.loads(body)
            if kind == "init/error":
                self._kill()
            raise FunctionError(json.loads(body))
        self._kill()
        self._api.withdraw()
        raise TimedOutError(f"after {self._timeout_seconds:g} s; its log:\n{self.log}")

    def _start(self) -> None:
        self.cold_starts += 1
        with open(self._log_path, "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._artifact,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class _RuntimeApi(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.offered: queue.SimpleQueue[_Invocation | None] = queue.SimpleQueue()
        self.current: _Invocation | None = None

    def offer(self, invocation: _Invocation) -> None:
        """Have the next process that asks for work do this."""
        self.current = invocation
        self.offered.put(invocation)

    def withdraw(self) -> None:
        """Forget an invocation whose process is gone, whether it took it or not."""
        self.current = None
        while not self.offered.empty():
            self.offered.get()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a process that is killed breaks its connection."""

    def close(self) -> None:
        """End the server, and whoever still waits for work."""
        for _ in range(8):
            self.offered.put(None)
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # With Nagle's algorithm on, every answer would wait 40 ms for an acknowledgement.
    disable_nagle_algorithm = True
    server: _RuntimeApi

    def do_GET(self) -> None:
        invocation = self.server.offered.get()
        if invocation is None or invocation is not self.server.current:
            self.close_connection = True
            return
        invocation.ends = time.time() + invocation.timeout_seconds
        self._answer(
            200,
            invocation.event,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.id,
                "Lambda-Runtime-Deadline-Ms": str(int(invocation.ends * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:function",
                "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
            },
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = self.path.removeprefix(f"{API}/")
        invocation = self.server.current
        if invocation is not None and path in ("init/error", *(f"invocation/{invocation.id}/{end}" for end in ENDS)):
            invocation.answer.put((path.removeprefix(f"invocation/{invocation.id}/"), body))
        self._answer(202, b'{"status":"OK"}', {})

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def runtime_client(directory: Path) -> str:
    """Copy AWS's runtime client, and only that, to a folder of its own; return the folder."""
    folder = directory / "runtime-client"
    folder.mkdir()
    for name in RUNTIME_CLIENT:
        spec = find_spec(name)
        assert spec is not None, f"{name} is not installed"
        assert spec.origin is not None
        source = Path(spec.origin)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, folder / source.parent.name)
        else:
            shutil.copy(source, folder)
    return str(folder)
