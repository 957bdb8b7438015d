"""Fixtures: pages in a browser, opened as files; those of `attnviz explore` with the network off.

A test module has them by `pytest_plugins = ["browsing"]`.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import explored
import pytest
from page_decoder import Decoded

from attnviz import explore

Show = Callable[..., Decoded]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install 'attnviz[test]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    # Chromium's own sandbox wants a user that is not root.
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Makes pages; what they complain of, or ask of the network, fails the test."""
    wrong: list[str] = []
    asked: list[str] = []
    contexts = []

    def make(**more: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 900}, "offline": True, **more}
        contexts.append(browser.new_context(**settings))
        opened = contexts[-1].new_page()
        opened.on("console", lambda message: wrong.append(message.text))
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("dialog", lambda dialog: wrong.append(dialog.message))
        opened.on("request", lambda request: asked.append(request.url))
        return opened

    yield make
    for context in contexts:
        context.close()
    assert wrong == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "blob"}


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    return new_page()


@pytest.fixture
def settled() -> Callable[[Any], None]:
    """Waits until a page has drawn what was last asked of it."""
    return lambda page: page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


@pytest.fixture
def until() -> Callable[[Any, str], None]:
    """Waits until an expression holds in a page, 10 s at most."""

    def wait(page: Any, expression: str) -> None:
        end = time.monotonic() + 10
        while not page.evaluate(expression):
            assert time.monotonic() < end, f"never: {expression}"
            page.wait_for_timeout(20)

    return wait


@pytest.fixture
def refused() -> Callable[[Any], list[str]]:
    """What the policy of a page forbids of a script, a style, a picture and a request."""
    return _refused


def _refused(page: Any) -> list[str]:
    found, ran = page.evaluate(
        """async () => {
            const found = [];
            document.addEventListener("securitypolicyviolation",
                (event) => found.push(event.effectiveDirective));
            document.body.append(Object.assign(document.createElement("script"),
                {textContent: "window.ran = true"}));
            document.body.insertAdjacentHTML("beforeend",
                "<p style='color: red'>x</p><img src='http://127.0.0.1:9/a.png'>");
            await fetch("http://127.0.0.1:9/").catch(() => 0);
            await new Promise((done) => setTimeout(done, 100));
            return [[...new Set(found)].sort(), window.ran !== undefined];
        }"""
    )
    assert not ran
    return [str(directive) for directive in found]


@cache
def made(name: str, **more: Any) -> str:
    """The page of an observation of tests/explored.py."""
    return explore(explored.seen(name), **{"localized": 0, **more}).html


@pytest.fixture
def show(page: Any, tmp_path: Path) -> Show:
    """Opens the page of an observation, by its name, and reads what it holds."""

    def opened(name: str, fragment: str = "", on: Any = page, **more: Any) -> Decoded:
        file = tmp_path / "page.html"
        file.write_text(made(name, **more), encoding="utf-8")
        on.goto(file.as_uri() + fragment)
        on.evaluate("attnviz.drawn")
        return Decoded(made(name, **more))

    return opened
