"""The program ``kumofire``: its commands, its global options, and how its errors end. See docs/cli.md.

The module of a command is imported when the command is called; AWS and ``Jobs`` are imported when a command needs them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from kumofire_core import __version__
from kumofire_core.cli.exits import CommandError, Exit
from kumofire_core.cli.help_pages import HelpPages
from kumofire_core.cli.invocation import Invocation
from kumofire_core.text import plain

app = App(
    name="kumofire",
    help="Look at the runs and schedules of a Kumofire deployment, and steer them.",
    version=__version__,
    help_format="plaintext",
    help_formatter=HelpPages(),
    result_action="return_value",
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
app.command("kumofire_core.cli.runs:app", name="runs", help="Look at runs, create them, and steer them.")
app.command("kumofire_core.cli.batches:app", name="batches", help="Look at batches, and cancel them.")
app.command("kumofire_core.cli.schedules:app", name="schedules", help="Look at schedules, and change them.")
app.command("kumofire_core.cli.counts:stats", name="stats", help="Count runs, messages, and what happened lately.")
app.command("kumofire_core.cli.pausing:pause", name="pause", help="Let nothing of a job start, or of all.")
app.command("kumofire_core.cli.pausing:resume", name="resume", help="Let a paused job go on.")
app.command("kumofire_core.cli.pausing:pauses", name="pauses", help="List what is paused.")
app.command("kumofire_core.cli.limits:limits", name="limits", help="Show who has the slots of a limit, and who waits.")
app.command("kumofire_core.cli.bulk:app", name="bulk", help="Go on with changes of many runs.")
app.command("kumofire_core.cli.dead_letters:app", name="dlq", help="Look at dead letters, and send them back.")
app.command("kumofire_core.cli.dispatching:dispatch", name="dispatch", help="Make one pass of the dispatcher.")
app.command("kumofire_core.cli.work:work", name="work", help="Execute the runs of a queue, in a container for example.")
app.command("kumofire_core.cli.checkup:doctor", name="doctor", help="Say what is wrong with a deployment.")
app.command("kumofire_core.cli.console:console", name="console", help="Serve the console, a web page, to this machine.")
app.command("kumofire_core.cli.new_project:init", name="init", help="Write a new project, with a job and its tests.")
app.command("kumofire_core.cli.dev.command:dev", name="dev", help="Execute your jobs on a local AWS, while you write.")
app.command("kumofire_core.cli.new_project:template", name="template", help="Print this release's template.yaml.")
app.command("kumofire_core.cli.completion:install", name="--install-completion", help="Install completion for a shell.")
app.command("kumofire_core.cli.completion:show", name="--show-completion", help="Print a shell's completion script.")

app.meta.suppress_keyboard_interrupt = False
app.meta.group_parameters = Group("Options of every command")

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


@app.meta.default
def _launch(
    *tokens: Tokens,
    stack_name: Annotated[
        str | None, Parameter(help="The deployment's CloudFormation stack (or KUMOFIRE_STACK_NAME).")
    ] = None,
    table: Annotated[str | None, Parameter(help="The deployment's table (or KUMOFIRE_TABLE).")] = None,
    queue_url: Annotated[str | None, Parameter(help="The deployment's queue (or KUMOFIRE_QUEUE_URL).")] = None,
    region: Annotated[str | None, Parameter(help="The AWS region (or AWS_REGION).")] = None,
    profile: Annotated[str | None, Parameter(help="The AWS profile (or AWS_PROFILE).")] = None,
    endpoint_url: Annotated[str | None, Parameter(help="Another endpoint than AWS's (or AWS_ENDPOINT_URL).")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print one JSON object.")] = False,
    debug: Annotated[bool, Parameter(negative=(), help="Show the traceback of an error.")] = False,
) -> Any:
    _choose_aws(region=region, profile=profile, endpoint_url=endpoint_url)
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if "here" in ignored:
        bound.arguments["here"] = Invocation(stack_name=stack_name, table=table, queue_url=queue_url, as_json=as_json)
    return command(*bound.args, **bound.kwargs)


def _forget_output() -> None:
    """Let what is still buffered go nowhere, or Python would fail at its end to write it to a reader that is gone.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    with contextlib.suppress(OSError):  # it may be no file at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default this process's, and return its exit code. Errors are told on standard error."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = app.meta(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return int(result or 0)
    except BrokenPipeError:
        _forget_output()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return Exit.INTERRUPTED
    except Exception as error:
        if "--debug" in tokens:
            import traceback

            traceback.print_exc()
        code, sentence = _explained(error)
        print(f"kumofire: {plain(sentence)}", file=sys.stderr)
        return code


def _explained(error: Exception) -> tuple[int, str]:
    """Return the exit code for an error and the sentence that explains it."""
    if isinstance(error, CommandError):
        return error.code, str(error)
    if isinstance(error, CycloptsError):
        return Exit.USAGE, f"{_one_line(str(error))} (--help shows what there is)"
    from kumofire_core.cli.failures import explained

    return explained(error)


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")


def _choose_aws(*, region: str | None, profile: str | None, endpoint_url: str | None) -> None:
    """Set AWS's own variables: every client of this process, KMS's too, then asks the same place as the same user."""
    variables = {
        "AWS_REGION": region,
        # botocore reads this one only, Lambda and other SDKs the other.
        "AWS_DEFAULT_REGION": region or os.environ.get("AWS_REGION"),
        "AWS_PROFILE": profile,
        "AWS_ENDPOINT_URL": endpoint_url,
    }
    os.environ.update({name: value for name, value in variables.items() if value})
    if profile:
        # botocore would take credentials in the environment before those of a profile that the environment names.
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)
