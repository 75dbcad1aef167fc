"""A person at the console, with a clock of their own, and what they read and press there."""

from __future__ import annotations

import html
import re
from typing import Any

from starlette.testclient import TestClient

from kumofire_core import Jobs
from kumofire_core.console.access import Access
from kumofire_core.console.app import build
from kumofire_core.console.guard import COOKIE, HEADER
from tests.builders import Clock


class Person(TestClient):
    """A person with a browser, who may do what their ``Access`` says."""

    def __init__(self, jobs: Jobs, clock: Clock, **access: Any) -> None:
        def none() -> Any:
            raise AssertionError("none of these pages asks for dead letters")

        super().__init__(
            build(
                jobs,
                authorize=lambda request: Access(**({"act": True, "payloads": True} | access)),
                read_only=False,
                hosts=None,
                title="a deployment",
                dead_letters_of=none,
                clock=clock,
            )
        )
        self.get("/missing")
        self.headers[HEADER] = self.cookies[COOKIE]

    def text(self, address: str, **options: Any) -> str:
        """Return what a page shows, without its markup."""
        return words(self.get(address, **options).text)

    def press(self, address: str, **form: Any) -> Any:
        """Press a button, with scripts."""
        return self.post(address, data=form, headers={"HX-Request": "true"})


def words(markup: str) -> str:
    """Return the text of some markup. What stands in boxes of its own is apart."""
    markup = re.sub(r"<div|</(?:p|t[dhr]|d[dt]|h[12]|label|option)>", r" \g<0>", markup)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())


def hidden(markup: str) -> dict[str, str]:
    """Return what a form sends that nobody has touched."""
    fields = dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', markup))
    fields |= dict(re.findall(r'<input id="[^"]*" name="([^"]*)"[^>]*? value="([^"]*)"', markup))
    for select in re.findall(r"<select .*?</select>", markup, re.DOTALL):
        [name] = re.findall(r'name="([^"]*)"', select)
        [fields[name]] = re.findall(r'<option value="([^"]*)" selected>', select)
    fields |= dict(re.findall(r'<textarea [^>]*name="([^"]*)"[^>]*>(.*?)</textarea>', markup, re.DOTALL))
    return {name: html.unescape(value) for name, value in fields.items()}


def undo_of(answer: Any) -> str:
    """Return the address that undoes what an answer tells."""
    [address] = re.findall(r'hx-post="([^"]*)"', answer.text)
    return html.unescape(address)
