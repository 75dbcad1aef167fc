"""Prepares the pages for the builder: what is read on GitHub becomes a folder of Markdown in which every link leads.

The pages at the repository's root come along, the API reference is written, and a link to another file of the
repository leads to the repository's address. Where that is not known, the link's text stays without the link.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tools.environment import PROJECT, ToolError
from tools.site.llms import full_text, summary
from tools.site.markdown import Link, blocks_of, outside_blocks, replace_links
from tools.site.reference import TOPICS, page_of

PREPARED = PROJECT / "build/docs"
STATIC = Path(__file__).with_name("static")
MERMAID = "assets/vendor/mermaid.tiny.js"

AT_THE_ROOT = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "LICENSE": "project/license.md",
}
"""The pages outside docs/ by their places on the site."""

PICTURE = re.compile(
    r"<picture>\s*<source[^>]*srcset=\"([^\"]+)\">\s*<img src=\"([^\"]+)\" alt=\"([^\"]*)\">\s*</picture>"
)

DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.MULTILINE | re.DOTALL)
DIAGRAM_BEGINS = '<div class="diagram" tabindex="0" role="group" aria-label="Diagram" markdown="1">'
"""A diagram is scrolled on a narrow screen, by the keyboard too; scaled down, its text could not be read."""

LIST_AFTER_TEXT = re.compile(r"^((?![-*#|>] |\d+\. | )\S.*)\n(?=(?:[-*]|1\.) )", re.MULTILINE)
"""A list that begins in the line after a paragraph: GitHub takes it for a list, and the builder needs an empty line."""


def prepare(environ: Mapping[str, str] = os.environ) -> None:
    """Write the folder that the builder reads. Raises ``ToolError`` for a link to a file that does not exist."""
    address = repository_address(environ)
    wanted: dict[str, bytes] = {}
    for source, target in places().items():
        text = (PROJECT / source).read_text(encoding="utf-8")
        if source == "LICENSE":
            text = f"# Licence\n\n{text}"
        wanted[target] = page_for_site(text, source, address).encode()
    for topic in TOPICS:
        wanted[f"reference/{topic.slug}.md"] = page_of(topic).encode()
    for path in (PROJECT / "docs").iterdir():
        if path.is_file() and path.suffix != ".md":
            wanted[path.name] = path.read_bytes()
    for path in STATIC.rglob("*"):
        if path.is_file():
            wanted[f"assets/{path.relative_to(STATIC).as_posix()}"] = path.read_bytes()
    wanted["llms.txt"] = summary().encode()
    wanted["llms-full.txt"] = full_text().encode()
    write(PREPARED, wanted)


def write(folder: Path, wanted: Mapping[str, bytes]) -> None:
    """Give a folder these files and no others; what is there already is not written again."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = folder / name
        if path.is_file() and path.read_bytes() == content:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def places() -> dict[str, str]:
    """Return the pages of the repository by their paths, with their places on the site: docs/, examples, the root."""
    pages = {f"docs/{path.name}": path.name for path in sorted((PROJECT / "docs").glob("*.md"))}
    examples = {
        path.relative_to(PROJECT).as_posix(): f"examples/{path.parent.name}.md"
        for path in sorted((PROJECT / "examples").glob("*/README.md"))
    }
    return {**pages, "examples/README.md": "examples/index.md", **examples, **AT_THE_ROOT}


def repository_address(environ: Mapping[str, str]) -> str | None:
    """Return the address of the repository's files, without a slash at its end, or ``None`` where nobody names it.

    ``[project.urls]`` in pyproject.toml names it as ``Repository``; in a workflow of GitHub its environment does.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")
    if address is None and environ.get("GITHUB_REPOSITORY"):
        address = f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{environ['GITHUB_REPOSITORY']}"
    return None if address is None else f"{address.rstrip('/')}/blob/main"


def page_for_site(text: str, source: str, address: str | None) -> str:
    """Return a page with its links as the site needs them; ``source`` is its path in the repository."""
    here = places()

    def moved(link: Link) -> str | None:
        if link.leaves or not link.path:
            return None
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), link.path))
        if not (PROJECT / found).exists():
            raise ToolError(f"{source} links to {link.target!r}, and there is no {found!r}; mend the link")
        in_docs = found.removeprefix("docs/") if found.startswith("docs/") else None
        target = here.get(found) or here.get(f"{found}/README.md") or in_docs
        if target is None and address is None:
            return link.text
        if target is None:
            new = f"{address}/{found}"
        else:
            new = posixpath.relpath(target, posixpath.dirname(here[source]) or ".")
        return link.written.replace(link.target, new + (f"#{link.anchor}" if link.anchor else ""))

    # The theme has its own switch between light and dark, which <picture> does not follow.
    page = PICTURE.sub(r"![\3](\2#only-light)\n![\3](\1#only-dark)", replace_links(text, moved))
    page = outside_blocks(page, lambda prose: LIST_AFTER_TEXT.sub(r"\1\n\n", prose))
    if any(block.language == "mermaid" for block in blocks_of(page)):
        page = DIAGRAM.sub(rf"{DIAGRAM_BEGINS}\n\n\g<0>\n\n</div>", page)
        script = posixpath.relpath(MERMAID, posixpath.dirname(here[source]) or ".")
        page += f'\n<script src="{script}"></script>\n'
    return page
