"""Fills the folder that ``sam build`` asks for: this project, your jobs, locked dependencies, and nothing else.

Called by the Makefile's ``build-*`` targets. It runs on any Python with pip, needs no container, and fetches for the
platform of the function, not for its own. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.environment import PROJECT, pip_settings

SOURCES = ("handler", "kumofire_core")

NOT_SHIPPED = {"kumofire_core": ("cli", "console", "deployment", "testing", "text.py")}
"""Parts of a source that no function imports: what people look at a deployment with, and what their tests use."""

# Amazon Linux 2, under python3.11, has glibc 2.26; Amazon Linux 2023, under the later ones, has 2.34.
PLATFORMS = {
    "arm64": ("manylinux_2_28_aarch64", "manylinux2014_aarch64"),
    "x86_64": ("manylinux_2_28_x86_64", "manylinux2014_x86_64"),
}
OLD_GLIBC = ("python3.11",)

DEFAULT_JOBS = "handler.jobs:jobs"

WHERE_LAMBDA_UNPACKS = "/var/task"

NEVER_USED = (
    "bin",
    # Says which files pip installed, and would be wrong after the cuts.
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    # A web page for HTTP APIs.
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.js",
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.css",
    "boto3/examples",
    "botocore/data/**/examples-1.json",
)

DATED_SECONDS = 315_619_200
"""2 January 1980 UTC: the date of every file, so that equal contents make equal zips. Zip has no years before 1980."""


def main(given: Sequence[str] | None = None) -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="the folder to fill")
    parser.add_argument("--runtime", required=True, help="of the function, for example python3.13")
    parser.add_argument("--architecture", required=True, choices=PLATFORMS)
    parser.add_argument("--services", required=True, help='AWS services whose clients boto3 can make, or "all"')
    parser.add_argument(
        "--encryption", choices=("true", "false"), default="false", help="whether the extra for encryption comes along"
    )
    parser.add_argument("--jobs", default=DEFAULT_JOBS, help="where your Jobs is, as module:attribute")
    parser.add_argument("--packages", default="", help="further packages and modules of yours to ship, apart by spaces")
    parser.add_argument("--check-jobs", choices=("true", "false"), default="true", help="whether to import your Jobs")
    parser.add_argument("--cache", type=Path, default=PROJECT / "build", help="where dependencies are kept")
    arguments = parser.parse_args(given)
    if not re.fullmatch(r"python3\.[0-9]{1,2}", arguments.runtime):
        parser.error(f"the runtime is {arguments.runtime!r}; it must be of the form python3.13")
    lock, services = PROJECT / "requirements/runtime.txt", arguments.services.split()
    if not services or not all(re.fullmatch("[a-z0-9-]+", service) for service in services):
        parser.error(f"the services are {arguments.services!r}; name them as boto3 does, apart by spaces")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*", arguments.jobs):
        parser.error(f"the jobs are {arguments.jobs!r}; JOBS_MODULE must be of the form {DEFAULT_JOBS}")
    packages = [arguments.jobs.partition(":")[0].partition(".")[0], *arguments.packages.split()]
    if not all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", package) for package in packages):
        parser.error(f"the packages are {arguments.packages!r}; PACKAGES takes names that are imported, without dots")
    for folder in (arguments.target, arguments.cache):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            parser.error(f"{str(folder)!r} can't be made: {error}")
    if arguments.encryption == "true":
        lock = PROJECT / "requirements/encryption.txt"
        services += ["kms"] if not {"all", "kms"} & set(services) else []
    build(arguments.target, lock, arguments.runtime, arguments.architecture, services, arguments.cache, packages)
    if arguments.check_jobs == "true":
        check(arguments.target, arguments.runtime, arguments.architecture, arguments.jobs)


def build(
    target: Path,
    lock: Path,
    runtime: str,
    architecture: str,
    services: list[str],
    cache: Path,
    packages: Iterable[str] = (),
) -> None:
    """Fill ``target``. Dependencies are built once for each lock and platform, and copied from ``cache`` after that.

    ``packages`` are the names of packages and modules of the project that are shipped beside its own two.
    """
    compiler = interpreter_of(runtime)
    if compiler is None:
        print(
            f"warning: no {runtime} found here: built without byte code, so a cold start takes 2.6 times as long;"
            " put it on the path, or name it in BYTECODE_PYTHON",
            file=sys.stderr,
        )
    dependencies = built_dependencies(lock, runtime, architecture, services, cache, compiler)
    shutil.copytree(dependencies, target, dirs_exist_ok=True)
    for source in dict.fromkeys((*SOURCES, *packages)):
        compile_all(target, ship(source, target), compiler)
    date_all(target)
    print(f"built for {runtime} on {architecture}; boto3 and botocore know: {', '.join(services)}")


def ship(source: str, target: Path) -> Path:
    """Copy a package or a module of the project into ``target``; return where it is there."""
    for path in (PROJECT / source, PROJECT / f"{source}.py"):
        if not path.exists():
            continue
        if any((target / name).exists() for name in (source, f"{source}.py")):
            sys.exit(f"error: {path.name} of yours has the name of a dependency; give it another")
        if path.is_dir():
            return shutil.copytree(path, target / source, ignore=left_out(path, NOT_SHIPPED.get(source, ())))
        return Path(shutil.copy(path, target))
    sys.exit(
        f"error: there is neither a folder {source} nor a file {source}.py in {PROJECT} to ship;"
        " correct JOBS_MODULE or PACKAGES"
    )


def left_out(root: Path, packages: Sequence[str]) -> Callable[[str, list[str]], set[str]]:
    """Return what ``copytree`` asks for what it leaves out: byte code everywhere, and these packages of ``root``."""
    always = shutil.ignore_patterns("__pycache__", "*.py[co]")
    return lambda folder, names: always(folder, names) | ({*packages} if Path(folder) == root else set())


START_BOTH_FUNCTIONS = """
import sys
sys.path.insert(0, sys.argv[1])
try:
    import handler.consumer, handler.dispatcher
except BaseException as error:
    while error is not None:
        found = [getattr(error, part, None) or "" for part in ("name", "name_from", "path")]
        print(*found, sep="\t")
        error = error.__cause__ or error.__context__
    raise
"""


def check(target: Path, runtime: str, architecture: str, jobs: str) -> None:
    """Start both functions as a cold start does, with the artifact and the standard library and nothing else.

    End the build where they don't start. Code for another processor, system or Python can't be imported here: where a
    start ends at such code the build goes on, and says how far it was checked.
    """
    found = interpreter_of(runtime)
    ended = subprocess.run(
        [found or sys.executable, "-I", "-S", "-B", "-c", START_BOTH_FUNCTIONS, str(target.resolve())],
        cwd=target,
        env={
            **os.environ,
            # Enough to start; an import that calls AWS gets no further than this machine.
            "KUMOFIRE_JOBS": jobs,
            "KUMOFIRE_TABLE": "table",
            "KUMOFIRE_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/queue",
            "KUMOFIRE_PAYLOAD_KEY_ARN": "",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    under = f"{runtime}" if found else f"Python {platform.python_version()}, since there is no {runtime} here"
    if ended.returncode == 0:
        print(f"checked: both functions start with {jobs} (under {under})")
        return
    foreign = found is None or MACHINES.get(platform.machine()) != architecture or sys.platform != "linux"
    if foreign and (native := native_module(target, ended.stdout)):
        print(
            f"warning: {jobs} was checked only up to the import of {native}, which is native code for {runtime} on"
            f" {architecture} (under {under})",
            file=sys.stderr,
        )
        return
    sys.exit(
        f"{ended.stderr}error: with {jobs} the functions would not start (tried under {under}); see above. A missing"
        " module has to be among the dependencies in pyproject.toml (then `make lock`) or, where it is yours, in"
        " PACKAGES. A setting that an import reads has to be set while you build; CHECK_JOBS=false skips this check"
    )


MACHINES = {"aarch64": "arm64", "arm64": "arm64", "x86_64": "x86_64", "AMD64": "x86_64"}


def native_module(target: Path, causes: str) -> str | None:
    """Return the native module of the artifact at which an import failed, or ``None`` where it failed otherwise."""
    for name, member, path in (line.split("\t") for line in causes.splitlines() if line.count("\t") == 2):
        if path.endswith(".so"):
            return name
        for module in (name, f"{name}.{member}"):
            if re.fullmatch(r"\w+(\.\w+)*", module) and any(target.glob(f"{module.replace('.', '/')}.*so")):
                return module
    return None


def built_dependencies(
    lock: Path, runtime: str, architecture: str, services: list[str], cache: Path, compiler: str | None
) -> Path:
    """Return a folder with the locked dependencies, cut and compiled; it appears whole or not at all."""
    inputs = (lock.read_bytes(), Path(__file__).read_bytes(), repr((runtime, architecture, services, bool(compiler))))
    digest = hashlib.sha256(b"\0".join(part if isinstance(part, bytes) else part.encode() for part in inputs))
    finished = cache / f"dependencies-{digest.hexdigest()[:16]}"
    if finished.is_dir():
        return finished
    with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as name:
        folder = Path(name) / "dependencies"
        install(lock, folder, runtime, architecture)
        for pattern in NEVER_USED:
            remove(folder.glob(pattern))
        if services != ["all"]:
            cut_aws_data(folder, services)
        compile_all(folder, folder, compiler)
        # Another build may have been faster; what it made is the same.
        with contextlib.suppress(OSError):
            folder.rename(finished)
    return finished


def install(lock: Path, folder: Path, runtime: str, architecture: str) -> None:
    """Install what the lock pins, hashes checked, as wheels for the function's platform."""
    platforms = PLATFORMS[architecture][runtime in OLD_GLIBC :]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={runtime.removeprefix('python')}"]
    command += [f"--platform={platform}" for platform in platforms]
    command += [f"--target={folder}", f"--requirement={lock}"]
    if subprocess.run(command, check=False, env=pip_settings(os.environ)).returncode:
        sys.exit(f"error: pip could not install {lock.name} for {runtime} on {architecture}; its words are above")


def cut_aws_data(folder: Path, services: list[str]) -> None:
    """Keep the descriptions of these services only, without the parts that requests and replies do not need.

    Every operation of a service that is kept stays, as do its endpoints in every region.
    """
    data = folder / "botocore/data"
    known = {path.name for path in data.iterdir() if path.is_dir()}
    if unknown := sorted(set(services) - known):
        sys.exit(f"error: botocore knows no service {', '.join(unknown)}; correct BOTO3_SERVICES")
    for root in (data, folder / "boto3/data"):
        remove(path for path in root.iterdir() if path.is_dir() and path.name not in services)
    for path in data.rglob("*.json.gz"):
        # Plain, because the artifact is zipped as a whole.
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    for path in data.rglob("*.json"):
        content = json.loads(path.read_bytes())
        if path.name == "service-2.json":
            content = without_documentation(content)
        elif path.name == "endpoints.json":
            for partition in content["partitions"]:
                partition["services"] = {
                    name: found for name, found in partition["services"].items() if name in services
                }
        path.write_text(json.dumps(content, separators=(",", ":")))


def without_documentation(model: Any) -> Any:
    """Return a service model without its documentation. Members of structures that have this name stay."""
    if isinstance(model, dict):
        return {
            name: without_documentation(value)
            for name, value in model.items()
            if name != "documentation" or not isinstance(value, str)
        }
    return [without_documentation(value) for value in model] if isinstance(model, list) else model


def interpreter_of(runtime: str) -> str | None:
    """Return an interpreter of the runtime's version, or ``None``: the runtime ignores another version's byte code."""
    wanted = runtime.removeprefix("python")
    for candidate in (sys.executable, os.environ.get("BYTECODE_PYTHON"), runtime):
        if not candidate:
            continue
        ask = [candidate, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
        with contextlib.suppress(OSError):
            answer = subprocess.run(
                ask,
                # pyenv's python3.13 answers only where that version is chosen.
                env={**os.environ, "PYENV_VERSION": wanted},
                capture_output=True,
                text=True,
                check=False,
            )
            version, _, path = answer.stdout.strip().partition(" ")
            if answer.returncode == 0 and version == wanted:
                return path
    return None


def compile_all(root: Path, folder: Path, interpreter: str | None) -> None:
    """Add byte code that is valid whatever the files are dated after unpacking, and the same wherever it is made."""
    if interpreter is None:
        return
    command = [interpreter, "-I", "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(root), "-p", WHERE_LAMBDA_UNPACKS, str(folder)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"error: {interpreter} could not compile the files above")


def date_all(folder: Path) -> None:
    """Give every file and folder the same date."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (DATED_SECONDS, DATED_SECONDS))


def remove(paths: Iterable[Path]) -> None:
    """Remove files and folders."""
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main()
