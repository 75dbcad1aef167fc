"""How a command ends: its exit codes, and the errors that choose one. docs/cli.md promises them to scripts."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of ``kumofire``."""

    DONE = 0
    NOT_DONE = 1
    """Nothing was changed, something that was named is not there, or a watched run did not succeed."""
    USAGE = 2
    """The command line, a value in it or a setting is wrong; nothing was asked of AWS."""
    TROUBLE = 3
    """AWS refused or could not be reached, or the deployment is not as it has to be."""
    FINDINGS = 4
    """``doctor`` found something to do."""
    STUCK = 5
    """``work`` ended by itself: all its places are held by code that was cut and does not stop."""
    UNEXPECTED = 70
    """A mistake in this program."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(Exception):
    """A command can't go on. The text is a sentence for a person."""

    code = Exit.TROUBLE


class UsageError(CommandError):
    """What was given can't be used."""

    code = Exit.USAGE


class NotDoneError(CommandError):
    """Nothing was changed, or what was named is not there."""

    code = Exit.NOT_DONE
