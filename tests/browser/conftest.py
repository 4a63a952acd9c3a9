"""A real browser for the tests of pages. Where there is none they are skipped, and say what to do.

On Debian and its like: apt-get install -y --no-install-recommends chromium-headless-shell
"""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a browser of Playwright's; GLANCE_TEST_BROWSER names another program."""
    program = os.environ.get("GLANCE_TEST_BROWSER") or next(
        filter(None, map(shutil.which, PROGRAMS)), None
    )
    if program is None:
        pytest.skip(
            "no browser: apt-get install -y --no-install-recommends chromium-headless-shell"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """Return a fresh profile: no cookie, no cache."""
    made = browser.new_context(viewport={"width": 1200, "height": 900})
    made.set_default_timeout(60_000)
    yield made
    made.close()


@pytest.fixture
def page(context: Any) -> Any:
    """Return an empty tab of a fresh profile."""
    return context.new_page()
