"""The process of the local AWS: MiniStack on a socket that it inherits. Free of this project's code.

``local_aws`` starts this file by its path, with MiniStack's environment, in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading


def serve_until_alone(descriptor: int) -> None:
    """Serve on an inherited listening socket until standard input ends with the process at its far end.

    It notices however that process ends. Then it removes its folder, and ends with all of its process group.
    """
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app  # type: ignore[import-untyped]

    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.keep_alive_timeout = 75
    asyncio.run(serve(app, config))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(os.getcwd(), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    serve_until_alone(int(sys.argv[1]))
