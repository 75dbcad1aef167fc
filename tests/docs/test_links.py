"""Every link and picture of the documentation leads somewhere, as GitHub shows the pages and as the site does."""

from __future__ import annotations

import posixpath
from functools import cache

import pytest

from examples.deployment import PROJECT
from tools.environment import ToolError
from tools.site import pages
from tools.site.llms import LLMS, full_text, navigation, summary
from tools.site.markdown import Link, anchors_of, blocks_of, links_of, replace_links, slug_of

PAGES = [*sorted(path.name for path in PROJECT.glob("*.md")), *(name for name in pages.places() if "/" in name)]


@cache
def text_of(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


@cache
def anchors_in(page: str) -> list[str]:
    return anchors_of(text_of(page))


def broken(page: str, link: Link) -> bool:
    """Return whether a link of a page leads nowhere."""
    if link.leaves:
        return False
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), link.path)) if link.path else page
    if not (PROJECT / target).exists():
        return True
    return bool(link.anchor) and (not target.endswith(".md") or link.anchor not in anchors_in(target))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_picture_of_a_page_leads_somewhere(page: str) -> None:
    assert [link.target for link in links_of(text_of(page)) if broken(page, link)] == []


def test_the_links_are_found_and_none_in_code() -> None:
    page = (
        "# A `b` c\n[x](a.md#b) ![y](c.png) `[no](d.md)` [`code`](e.md)\n\n```sh\n[no](f.md)\n```\n"
        '<!-- [no](g.md) --><img src="h.png" alt="[no]">\n- see [two\n  lines](i.md)\n'
    )

    assert [link.target for link in links_of(page)] == ["a.md#b", "c.png", "e.md", "i.md", "h.png"]
    assert broken("README.md", Link("docs/none.md", "", ""))
    assert broken("README.md", Link("docs/steps.md#none", "", ""))
    assert not broken("README.md", Link("docs/steps.md", "", ""))
    assert replace_links(page, lambda link: None) == page


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("What holds, whatever crashes", "what-holds-whatever-crashes"),
        ("`kumofire init`: a *new* [project](x.md)", "kumofire-init-a-new-project"),
        ("A — B & C", "a--b--c"),
        ("wake_shards", "wake_shards"),
    ],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert slug_of(heading) == anchor
    assert anchors_of(f"## {heading}\n\n```sh\n# no\n```\n\n### {heading}\n") == [anchor, f"{anchor}-1"]


def test_every_page_is_in_the_navigation_once_with_a_line_about_it() -> None:
    named = [entry.path for entry in navigation()]

    assert len(named) == len(set(named))
    assert set(named) == {*pages.places().values(), *(f"reference/{topic.slug}.md" for topic in pages.TOPICS)}
    for entry in navigation():
        assert len(entry.about) < 120, entry
        assert not entry.about.endswith("."), entry


def test_the_list_for_programs_is_up_to_date() -> None:
    assert LLMS.read_text(encoding="utf-8") == summary(), "call `make llms`"
    links = links_of(summary())
    assert [link.target for link in links] == [entry.path for entry in navigation() if entry.source]
    assert all(text_of(f"docs/{link.target}").strip() in full_text() for link in links)


def test_on_the_site_a_link_leads_to_the_page_or_to_the_repository_or_is_plain_text() -> None:
    text = "[a](steps.md#x) [b](../README.md#y) [c](../kumofire_core/jobs.py) ![d](growth-cost.svg) [e](https://x.org)"

    known = pages.page_for_site(text, "docs/runs.md", "https://example.com/us/it/blob/main")
    unknown = pages.page_for_site(text, "docs/runs.md", None)

    assert known == (
        "[a](steps.md#x) [b](project/readme.md#y) [c](https://example.com/us/it/blob/main/kumofire_core/jobs.py) "
        "![d](growth-cost.svg) [e](https://x.org)"
    )
    assert " c " in unknown
    assert "jobs.py" not in unknown
    assert pages.page_for_site("[a](docs/steps.md)", "README.md", None) == "[a](../steps.md)"
    assert pages.page_for_site("[a](email/)", "examples/README.md", None) == "[a](email.md)"
    assert pages.page_for_site("[a](jobs.py)", "examples/email/README.md", None) == "a"
    with pytest.raises(ToolError, match=r"docs/runs\.md links to 'none\.md'"):
        pages.page_for_site("[a](none.md)", "docs/runs.md", None)


def test_the_repository_s_address_is_the_workflow_s_where_the_project_names_none() -> None:
    found = pages.repository_address({"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "us/it"})

    assert found is not None
    assert found.endswith("/blob/main")


def test_a_page_with_a_diagram_brings_the_script_that_draws_it_and_a_picture_follows_the_theme() -> None:
    diagram = "```mermaid\ngraph LR\n  a --> b\n```\n"
    picture = (
        '<picture>\n  <source media="x" srcset="growth-cost.svg">\n  <img src="growth-payload.svg" alt="P">\n</picture>'
    )

    page = pages.page_for_site(diagram, "docs/runs.md", None)
    assert f'<script src="{pages.MERMAID}"></script>' in page
    assert f"{pages.DIAGRAM_BEGINS}\n\n{diagram}\n</div>" in page
    assert f"../{pages.MERMAID}" in pages.page_for_site(diagram, "README.md", None)
    assert (pages.STATIC / pages.MERMAID.removeprefix("assets/")).is_file()
    assert pages.page_for_site(picture, "docs/runs.md", None) == (
        "![P](growth-payload.svg#only-light)\n![P](growth-cost.svg#only-dark)"
    )


def test_the_blocks_of_a_page_are_found_with_their_lines() -> None:
    blocks = blocks_of("a\n```python\nx = 1\n\ny\n```\n- b\n  ```sh\n  z\n  ```\n")

    assert [(block.language, block.text, block.line) for block in blocks] == [
        ("python", "x = 1\n\ny\n", 3),
        ("sh", "z\n", 9),
    ]
