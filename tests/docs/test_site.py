"""The tools that build the site: what they notice on built pages, what they write, and what they refuse."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tools.environment import PROJECT, ToolError
from tools.site import __main__ as site
from tools.site import pages
from tools.site.check import problems_of


def built(folder: Path, **files: str) -> Path:
    """Write a site of these pages, which are in a folder with two levels."""
    (folder / "below").mkdir()
    (folder / "index.html").write_text("<h1 id=top>Home</h1>")
    for name, text in files.items():
        (folder / "below" / f"{name}.html").write_text(text)
    return folder


@pytest.mark.parametrize(
    "fine",
    [
        '<a href="../index.html#top">x</a>',
        '<a href="..">x</a> <a href="/index.html">x</a> <a href="#">x</a>',
        '<a href="https://example.com">a link is no request</a> <a href="mailto:a@example.com">x</a>',
        '<a id="here"></a><a href="#here">x</a><a href="page.html#here">x</a>',
        '<img src="data:image/png;base64,x">',
    ],
)
def test_a_page_whose_links_lead_is_fine(fine: str, tmp_path: Path) -> None:
    assert problems_of(built(tmp_path, page=fine)) == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ('<a href="none.html">x</a>', "below/page.html links to 'none.html': there is no such file"),
        ('<a href="../index.html#none">x</a>', "'../index.html#none': that page has no such anchor"),
        ('<img src="none.png">', "'none.png': there is no such file"),
        ('<img srcset="none.png 2x">', "'none.png': there is no such file"),
        ('<script src="https://example.com/x.js"></script>', "requests https://example.com/x.js"),
        ('<link rel="stylesheet" href="//example.com/x.css">', "requests //example.com/x.css"),
        ('<link rel="preconnect" href="https://fonts.example.com">', "requests https://fonts.example.com"),
        ('<iframe src="http://example.com"></iframe>', "requests http://example.com"),
    ],
)
def test_a_link_that_does_not_lead_and_a_request_elsewhere_are_noticed(
    wrong: str, problem: str, tmp_path: Path
) -> None:
    (found,) = problems_of(built(tmp_path, page=wrong))

    assert problem in found


def test_a_style_that_requests_elsewhere_is_noticed(tmp_path: Path) -> None:
    style = (
        "@import 'https://example.com/a.css'; a { background: url(//example.com/b.png) } b { background: url(c.png) }"
    )
    (built(tmp_path) / "below/site.css").write_text(style)

    assert problems_of(tmp_path) == [
        f"below/site.css requests {address}; ship the file with the site"
        for address in ("https://example.com/a.css", "//example.com/b.png")
    ]


def test_a_published_site_knows_its_address_and_differs_in_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PUBLISHED", tmp_path / "zensical.toml")

    text = site.with_address('https://example.com/a"b/').read_text()

    found, here = tomllib.loads(text)["project"], tomllib.loads(site.CONFIGURATION.read_text())["project"]
    assert found.pop("site_url") == 'https://example.com/a"b/'
    assert (found.pop("docs_dir"), found.pop("site_dir")) == ("docs", "site")
    assert found["plugins"]["mkdocstrings"]["handlers"]["python"].pop("paths") == [".."]
    del here["docs_dir"], here["site_dir"], here["plugins"]["mkdocstrings"]["handlers"]["python"]["paths"]
    assert found == here


def test_what_is_prepared_is_written_once_and_what_is_gone_is_removed(tmp_path: Path) -> None:
    pages.write(tmp_path, {"a/b.md": b"1", "c.md": b"2"})
    unchanged = (tmp_path / "c.md").stat().st_mtime_ns

    pages.write(tmp_path, {"a/d.md": b"3", "c.md": b"2"})

    assert sorted(path.name for path in tmp_path.rglob("*.md")) == ["c.md", "d.md"]
    assert (tmp_path / "c.md").stat().st_mtime_ns == unchanged


def test_everything_that_the_pages_need_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PREPARED", tmp_path)

    pages.prepare({})

    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"index.md", "project/readme.md", "reference/jobs.md", "llms.txt", "llms-full.txt"} <= written
    assert {path.name for path in (PROJECT / "docs").iterdir()} <= written
    assert {"assets/site.css", pages.MERMAID, "assets/vendor/LICENSE.txt"} <= written


def test_without_the_builder_it_says_what_to_call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*words: object) -> int:
        raise ToolError("there is no zensical")

    monkeypatch.setattr(site, "prepare", lambda: None)
    monkeypatch.setattr(site, "zensical", none)

    assert site.main(["build"]) == 1
    assert capsys.readouterr().err == "error: there is no zensical\n"
