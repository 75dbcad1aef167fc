"""The API reference and docs/api.md have everything that is public; the built site is whole."""

from __future__ import annotations

import importlib
import re

import kumofire_core
from kumofire_core import JobContext, Jobs, edge, testing
from tools.site.docstrings import markdown_of
from tools.site.reference import MEMBERS_APART, TOPICS, page_of

ENTRIES = [entry for topic in TOPICS for part in topic.parts for entry in part.entries]


def members_of(kind: type) -> set[str]:
    """Return the public members of a class that it defines itself."""
    return {name for name in vars(kind) if not name.startswith("_")}


def test_every_public_name_is_in_the_reference_once() -> None:
    assert len(ENTRIES) == len(set(ENTRIES))
    assert set(kumofire_core.__all__) - kumofire_core._RENAMED.keys() <= set(ENTRIES)
    for module in (edge, testing):
        assert {f"{module.__name__.removeprefix('kumofire_core.')}.{name}" for name in module.__all__} <= set(ENTRIES)
    for entry in ENTRIES:
        owner, _, name = entry.rpartition(".")
        if owner not in MEMBERS_APART:
            assert hasattr(importlib.import_module(f"kumofire_core.{owner}".rstrip(".")), name), entry


def test_every_member_of_jobs_and_of_the_context_is_in_the_reference() -> None:
    for kind in (Jobs, JobContext):
        listed = {entry.partition(".")[2] for entry in ENTRIES if entry.startswith(f"{kind.__name__}.")}
        assert listed == members_of(kind) - {"read_payload"}, kind


def test_a_page_of_the_reference_has_a_directive_for_each_object() -> None:
    for topic in TOPICS:
        page = page_of(topic)
        assert re.findall(r"^::: kumofire_core\.(\S+)$", page, re.MULTILINE) == [
            entry for part in topic.parts for entry in part.entries
        ]


def test_a_docstring_becomes_markdown_with_its_examples_pages_and_names_linked() -> None:
    docstring = (
        "Store ``Run`` and ``x`` (docs/steps.md); see https://example.com/a.\n\n"
        "::\n\n    @jobs.on(1)\n    def f(): ...\n\n        pass  # docs/runs.md\n\n"
        "Raises ``UnknownJobError`` as ``create`` does."
    )

    assert markdown_of(docstring, owner="kumofire_core.jobs.Jobs.cancel") == (
        "Store [`Run`][kumofire_core.Run] and ``x`` ([docs/steps.md](../steps.md)); see <https://example.com/a>.\n\n"
        "```python\n@jobs.on(1)\ndef f(): ...\n\n    pass  # docs/runs.md\n```\n\n"
        "Raises [`UnknownJobError`][kumofire_core.UnknownJobError] as [`create`][kumofire_core.Jobs.create] does."
    )
    assert markdown_of("The ``Run``.", owner="kumofire_core.model.run.Run") == "The ``Run``."
    assert markdown_of("``create`` it.", owner="kumofire_core.errors.StepError") == "``create`` it."
