"""One browser for all tests of the page, and tabs for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.web.browsing import ARGUMENTS, CHROMIUM, Screen

Open = Callable[..., Screen]


@pytest.fixture(scope="package")  # no longer: while playwright runs, asyncio.run() does not work in this thread
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens the page of a service, in a browser that knows nothing yet; at the end its console must be empty."""
    screens: list[Screen] = []
    contexts = []

    def open_page(url: str, **options: Any) -> Screen:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        screens.append(Screen(context.new_page(), url))
        return screens[-1]

    yield open_page
    said = [line for screen in screens for line in screen.console]
    for context in contexts:
        context.close()
    assert said == []
