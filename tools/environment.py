"""Makes virtual environments from the locks in ``requirements/``, and removes them. Standard library only.

An environment is made again if its lock has changed. Only a virtual environment is ever removed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

STAMP = "made-from"
"""The file with digests of what an environment was made from. It is written last, so an incomplete one lacks it."""

PIP_SETTINGS = (
    *("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "TRUSTED_HOST", "KEYRING_PROVIDER", "CERT"),
    *("CLIENT_CERT", "PROXY", "TIMEOUT", "DEFAULT_TIMEOUT", "RETRIES", "CACHE_DIR", "NO_CACHE_DIR", "CONFIG_FILE"),
)
"""pip's settings that say where packages come from. The others, which say what to do with them, could spoil a lock."""


class ToolError(Exception):
    """A tool can't do what it was asked for; the text says why."""


def main(given: Sequence[str] | None = None) -> int:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make_parser = commands.add_parser("make", help="make an environment, unless it is there and up to date")
    make_parser.add_argument("folder", type=Path)
    make_parser.add_argument("lock", type=Path, help="a requirements file with hashes")
    make_parser.add_argument(
        "--project",
        action="store_true",
        help="install this project, too, as it is here; the environment is then of the Python that runs this",
    )
    remove_parser = commands.add_parser("remove", help="remove environments")
    remove_parser.add_argument("folders", nargs="*", type=Path, metavar="folder")
    arguments = parser.parse_args(given)
    try:
        if arguments.command == "remove":
            for folder in arguments.folders:
                remove(folder)
        elif not os.path.isfile(arguments.lock):
            parser.error(f"there is no file {str(arguments.lock)!r}")
        else:
            make(arguments.folder, arguments.lock, project=arguments.project)
    except (ToolError, OSError, ValueError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def make(folder: Path, lock: Path, *, project: bool = False) -> None:
    """Make ``folder`` an environment with exactly what ``lock`` pins, and this project where ``project`` asks for it.

    A tool's environment may stay with the Python that it was made with, because no code of this project runs in it.
    """
    python, stamp = folder / "bin" / "python", folder / STAMP
    packages, installed = digest(lock.read_bytes()), ""
    if project:
        packages += digest(sys.version.encode() + sys.base_prefix.encode())
        installed = digest((PROJECT / "pyproject.toml").read_bytes())
    # A python that leads nowhere is that of an interpreter that was removed since.
    runs = stamp.is_file() and python.exists()
    found = stamp.read_text(encoding="utf-8") if runs else ""
    if found == f"{packages} {installed}":
        return
    if found.partition(" ")[0] != packages:
        remove(folder)
        print(f"making {folder} with Python {platform.python_version()} from {lock} (about half a minute)", flush=True)
        run([sys.executable, "-m", "venv", str(folder)])
        pip_install(python, "--no-compile", "--require-hashes", "--no-deps", "-r", str(lock))
    if project:
        # The build backend is in the lock, so nothing is fetched here.
        stamp.unlink(missing_ok=True)
        pip_install(python, "--no-index", "--no-deps", "--no-build-isolation", "--editable", str(PROJECT))
    stamp.write_text(f"{packages} {installed}", encoding="utf-8")


def remove(folder: Path) -> None:
    """Remove an environment, or an empty folder. Raises ``ToolError`` for any other folder or file."""
    if not os.path.lexists(folder):
        return
    is_environment = (folder / "pyvenv.cfg").is_file()  # PEP 405: every one has it
    if folder.is_symlink() or not folder.is_dir() or (any(folder.iterdir()) and not is_environment):
        raise ToolError(
            f"{str(folder)!r} is not a virtual environment, so it stays; move it away, or name another folder"
        )
    if folder.resolve() in (PROJECT, *PROJECT.parents):
        raise ToolError(f"{str(folder)!r} holds this project, so it stays; name another folder")
    shutil.rmtree(folder)


def digest(content: bytes) -> str:
    """Return a digest of ``content``."""
    return hashlib.sha256(content).hexdigest()


def pip_install(python: Path | str, *arguments: str) -> None:
    """Call ``pip install`` in an environment."""
    run([str(python), "-m", "pip", "install", "-qq", *arguments])


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a call of pip: of pip's own settings only those that say where packages come from."""
    kept = {f"PIP_{name}" for name in PIP_SETTINGS}
    others = {name: value for name, value in environ.items() if not name.startswith("PIP_") or name in kept}
    return {**others, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(command: list[str]) -> None:
    """Run a command, its words shown. Raises ``ToolError`` when it fails."""
    status = subprocess.run(command, check=False, env=pip_settings(os.environ)).returncode
    if status:
        raise ToolError(f"`{' '.join(command)}` ended with status {status}; what it said is above")


if __name__ == "__main__":
    sys.exit(main())
