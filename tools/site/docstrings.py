"""Makes Markdown of this project's docstrings, for the API reference.

A docstring is prose. ``::`` alone in a line begins an example, ``(docs/steps.md)`` names a page of docs/, and a public
name in double backticks becomes a link to its place in the reference.
"""

from __future__ import annotations

import re

from tools.site.reference import MEMBERS_APART, TOPICS

PAGE = re.compile(r"\bdocs/(?P<name>[\w-]+)\.md\b")
EXAMPLE = re.compile(r"^::\n\n(?P<text>(?:(?: {4}.*)?\n)+)", re.MULTILINE)
LITERAL = re.compile(r"``(?P<text>[^`]+)``")
ADDRESS = re.compile(r"(?<![<(\"`])https://[^\s)>]*[^\s)>.,;:]")
LINKED = {entry for topic in TOPICS for part in topic.parts for entry in part.entries}


def markdown_of(docstring: str, *, owner: str = "") -> str:
    """Return a docstring as Markdown of a page in reference/; ``owner`` is the path of the object that has it."""
    text = EXAMPLE.sub(_example, f"{docstring}\n")
    pieces = re.split(r"(^```python\n.*?^```\n)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(piece if piece.startswith("```") else _prose(piece, owner) for piece in pieces).rstrip()


def _example(match: re.Match[str]) -> str:
    code = "".join(line[4:] if line.strip() else "\n" for line in match["text"].splitlines(keepends=True))
    return f"```python\n{code.rstrip()}\n```\n\n"


def _prose(text: str, owner: str) -> str:
    def literal(match: re.Match[str]) -> str:
        name = match["text"]
        if name in LINKED and not owner.endswith(f".{name}"):
            return f"[`{name}`][kumofire_core.{name}]"
        for kind in MEMBERS_APART:
            if f"{kind}.{name}" in LINKED and f".{kind}." in f"{owner}." and not owner.endswith(f".{name}"):
                return f"[`{name}`][kumofire_core.{kind}.{name}]"
        return match[0]

    text = LITERAL.sub(literal, text)
    text = ADDRESS.sub(lambda match: f"<{match[0]}>", text)
    return PAGE.sub(lambda match: f"[docs/{match['name']}.md](../{match['name']}.md)", text)
