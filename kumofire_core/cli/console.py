"""``kumofire console``: serve the console on the loopback, with the credentials of who calls it."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from kumofire_core.cli.exits import CommandError, UsageError
from kumofire_core.cli.invocation import Here

PORT = 8390


def console(
    *,
    port: Annotated[int | None, Parameter(help=f"Listen on this port; by default {PORT}, or a free one.")] = None,
    read_only: Annotated[bool, Parameter(negative=(), help="Let nothing be changed.")] = False,
    no_payloads: Annotated[
        bool, Parameter(negative=(), help="Do not show payloads, outputs and the texts of errors.")
    ] = False,
    no_browser: Annotated[bool, Parameter(negative=(), help="Do not open it in the browser.")] = False,
    here: Here,
) -> None:
    """Serve the console: web pages by which to see and steer the deployment. Ctrl-C ends it.

    It listens on this machine alone, and acts with your own AWS credentials. Its address has a key, so that other users
    of this machine can't open it.
    """
    if port is not None and not 0 <= port <= 65535:
        raise UsageError(f"--port is {port}; it must be a number from 0 to 65535")
    if here.as_json:
        raise UsageError("--json is for programs and the console for people")
    try:
        from kumofire_core.console.local import LocalConsole
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "kumofire_core":
            raise
        raise CommandError(
            f"the console needs {missing.name}, which is not installed; "
            "install it with: pip install 'kumofire-jobs[console]'"
        ) from None
    from kumofire_core.deployment.dead_letters import DeadLetters

    deployment = here.deployment

    def listening(on: int) -> LocalConsole:
        return LocalConsole(
            here.jobs,
            port=on,
            read_only=read_only,
            payloads=not no_payloads,
            title=deployment.stack_name or deployment.table,
            dead_letters=lambda: DeadLetters(deployment),
        )

    try:
        served = listening(PORT if port is None else port)
    except OSError as error:
        if port is not None:
            raise CommandError(f"port {port} can't be listened on ({error.strerror}); give another --port") from None
        served = listening(0)
    here.show(served.address)
    here.say("this address is for you alone: who has it can steer your jobs. Ctrl-C ends the console")
    if not no_browser and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(served.address)
    served.serve()
