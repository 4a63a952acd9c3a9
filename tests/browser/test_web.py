"""`glance web` in a real browser: from an image or prompts to a pair and its proof.

Real SimpleTuner, on the small model of the package. GLANCE_SCREENSHOTS names a folder that gets a
picture of each page: those in docs/ are made so.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fakes.trainer import FakeSimpleTuner
from PIL import Image

ROOT = Path(__file__).parents[2]
TRAINED = 400_000  # ms: two LoRAs, each with a start of SimpleTuner
SAMPLED = 300_000
SCREENSHOTS = os.environ.get("GLANCE_SCREENSHOTS")  # no test sees what is GLANCE's
FINE = "Nothing is wrong with it."


@dataclass
class Server:
    """A `glance web` that serves a folder."""

    url: str
    process: "subprocess.Popen[str]"
    folder: Path

    @classmethod
    def start(cls, folder: Path) -> "Server":
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "glance", "web", "--no-open", "--port", "0"],
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        assert process.stdout is not None
        return cls(process.stdout.readline().strip(), process, folder)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=30)

    def restart(self) -> None:
        """Stop it, and start another one."""
        self.stop()
        another = Server.start(self.folder)
        self.url, self.process = another.url, another.process

    def end_jobs(self) -> None:
        """End what a failing test has left running."""
        for record in self.folder.glob(".glance/jobs/*/job.json"):
            with suppress(ProcessLookupError):
                os.kill(json.loads(record.read_text())["pid"], signal.SIGTERM)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    started = Server.start(folder)
    yield started
    started.stop()
    started.end_jobs()


def take_picture(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=str(Path(SCREENSHOTS, f"{name}.png")))


def field_of(page: Any, key: str) -> Any:
    """The field, shown if it is not."""
    field = page.locator(f"[name='{key}']")
    if not field.is_visible():
        field.evaluate("one => one.closest('details').open = true")
    return field


def fill(page: Any, key: str, text: str) -> None:
    field_of(page, key).fill(text)


def tick(page: Any, key: str) -> None:
    field_of(page, key).check()


def drop(page: Any, place: str, path: Path) -> None:
    """Drop a file there, as from a file manager."""
    content = base64.b64encode(path.read_bytes()).decode()
    carried = page.evaluate_handle(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name));
            return carried;
        }""",
        [path.name, content],
    )
    page.dispatch_event(place, "drop", {"dataTransfer": carried})


def wait_for_state(page: Any, words: str, timeout: int) -> None:
    page.wait_for_function(
        "words => new RegExp(words).test(document.getElementById('state').textContent)",
        arg=words,
        timeout=timeout,
    )


def test_an_image_becomes_a_pair_with_its_proof(server: Server, page: Any, tmp_path: Path) -> None:
    faults: list[str] = []
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).hostname or "blob"))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if "Security" in told.text else None)

    _see_a_refusal_and_mend_it(server, page, tmp_path)
    _train_and_look_again(server, page)
    _take_away(page)
    _sample(server, page)
    _compare(server, page)
    _remove(server, page)
    assert faults == []
    assert asked == {"127.0.0.1"}


def _see_a_refusal_and_mend_it(server: Server, page: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cat.png"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("x", "y")
    page.goto(server.url)
    page.set_input_files("#file-image", archive)
    page.locator(".shown .problems li", has_text="cat.png").wait_for()
    assert page.locator("#start").is_disabled()
    drop(page, ".drop[data-for='f-image']", ROOT / "data/glance.png")
    page.locator("#findings li", has_text="caption").wait_for()
    fill(page, "caption", "a white lighthouse on a hill")
    page.locator("#toy").click()
    fill(page, "steps", "6")
    page.get_by_text(FINE).wait_for()
    page.locator("#plot").wait_for()
    take_picture(page, "web-new")
    fill(page, "schedule", "auto")  # of two steps a phase: comparing ten would take minutes
    fill(page, "slow-steps", "2")
    fill(page, "fast-steps", "2")
    page.get_by_text(FINE).wait_for()


def _train_and_look_again(server: Server, page: Any) -> None:
    """In the middle, on a page that is loaded again from another server."""
    page.locator("#start").click()
    page.wait_for_url("**/run?path=*")
    wait_for_state(page, "running", 60_000)
    page.locator("#phase-slow").wait_for()
    server.restart()
    page.goto(f"{server.url}/runs")
    page.locator(".tile a").first.click()
    wait_for_state(page, "running", 60_000)
    wait_for_state(page, "done", TRAINED)
    page.locator("#chart polyline").nth(1).wait_for(state="attached")
    take_picture(page, "web-run")


def _take_away(page: Any) -> None:
    with page.expect_download() as download:
        page.locator("#workflow").click()
    assert json.loads(Path(download.value.path()).read_text())["nodes"]


def _sample(server: Server, page: Any) -> None:
    """With the base model's image beside it; then its settings are read from the file."""
    page.locator("#sample").click()
    fill(page, "prompt", "a small sun over the sea")
    tick(page, "save-phases")
    page.get_by_text(FINE).wait_for()
    page.locator("#start").click()
    page.locator("#images .slider").wait_for(timeout=SAMPLED)
    wait_for_state(page, "done", SAMPLED)
    assert page.locator("#images details").count() == 1
    control = page.locator("#images input[type=range]")
    control.focus()
    page.keyboard.press("ArrowRight")
    assert control.input_value() == "51"
    take_picture(page, "web-sample")
    names = ("-base", "-slow")
    found = server.folder.glob("runs/*/images/*.png")
    (image,) = (one for one in found if not one.stem.endswith(names))
    fill(page, "prompt", "")
    page.set_input_files("#file-record", image)
    page.get_by_text("its settings are in the form").wait_for()
    assert page.locator("[name=prompt]").input_value() == "a small sun over the sea"


def _compare(server: Server, page: Any) -> None:
    page.goto(f"{server.url}/compare")
    fill(page, "teacher-steps", "4")
    fill(page, "count", "8")
    fill(page, "batch-size", "8")
    tick(page, "no-worth")
    page.get_by_text(FINE).wait_for()
    page.locator("#start").click()
    page.locator("#sentence").wait_for(timeout=SAMPLED)
    said = page.locator("#sentence").inner_text()
    assert re.match("it helps|it does not help|too close to call", said)
    page.locator("#intervals .interval").nth(1).wait_for(state="attached")
    take_picture(page, "web-compare")


def _remove(server: Server, page: Any) -> None:
    """Once it is asked."""
    page.goto(f"{server.url}/runs")
    take_picture(page, "web-runs")
    page.locator(".remove").click()
    page.locator("#ask button", has_text="Keep it").click()
    assert list(server.folder.glob("runs/*/glance.json"))
    page.locator(".remove").click()
    page.locator("#yes").click()
    page.get_by_text("There are no runs here yet").wait_for()
    assert not list(server.folder.glob("runs/*"))


def test_prompts_become_a_distilled_pair_and_its_picture(server: Server, page: Any) -> None:
    page.goto(f"{server.url}/new?method=distill")
    page.locator("#toy").click()
    fill(page, "steps", "2")
    fill(page, "rank", "4")
    fill(page, "teacher-steps", "8")
    tick(page, "no-compare")
    page.get_by_text(FINE).wait_for()
    page.locator("#start").click()
    page.wait_for_url("**/run?path=*")
    wait_for_state(page, "done", TRAINED)
    page.locator("#sample").click()
    fill(page, "prompt", "a large moon over snow")
    page.locator("#with-base").uncheck()
    page.get_by_text(FINE).wait_for()
    page.locator("#start").click()
    page.locator("#images img").first.wait_for(timeout=SAMPLED)

    (image,) = server.folder.glob("runs/*/images/*.png")
    assert "class_type" in Image.open(image).info["prompt"]


def test_with_the_keyboard_alone(tmp_path: Path, simpletuner: FakeSimpleTuner, page: Any) -> None:
    """Fill in, start, stop at once, continue."""
    folder = tmp_path / "keys"
    folder.mkdir()
    shutil.copy(ROOT / "data/glance.png", folder)
    server = Server.start(folder)
    simpletuner.behave(slow="hang")

    def tab_to(selector: str) -> None:
        for _ in range(80):
            if page.evaluate("one => document.activeElement.matches(one)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {selector}")

    try:
        page.goto(f"{server.url}/new")
        said = {"image": "glance.png", "caption": "a hill", "model": "acme/tiny"}
        for key, text in {**said, "resolution": "64", "steps": "5"}.items():
            tab_to(f"[name='{key}']")
            page.keyboard.type(text)
        page.get_by_text(FINE).wait_for()
        tab_to("#start")
        page.keyboard.press("Enter")
        page.wait_for_url("**/run?path=*")
        simpletuner.wait_until_ready()
        wait_for_state(page, "^running", 60_000)
        tab_to("#stop")
        page.keyboard.press("Enter")
        wait_for_state(page, "^stopping", 60_000)
        page.keyboard.press("Enter")
        wait_for_state(page, "^stopped", 100_000)
        simpletuner.behave()
        tab_to("#continue")
        page.keyboard.press("Enter")
        wait_for_state(page, "^done", 60_000)
    finally:
        server.stop()
        server.end_jobs()


@pytest.mark.usefixtures("fully_trained")
def test_on_a_narrow_screen_nothing_is_cut_off(browser: Any) -> None:
    server = Server.start(Path.cwd())
    narrow = browser.new_context(viewport={"width": 400, "height": 800})
    page = narrow.new_page()
    try:
        for address in (
            "/new",
            "/new?method=distill",
            "/runs",
            "/run?path=runs/cat",
            "/sample",
            "/compare",
        ):
            page.goto(f"{server.url}{address}", wait_until="networkidle")
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 400, address
    finally:
        narrow.close()
        server.stop()


def test_what_is_in_files_is_never_run(browser: Any, fully_trained: None) -> None:
    """HTML in a prompt, a caption and a folder's name is shown as text."""
    evil = "<img src=x onerror=\"document.title='run'\">"
    Path("runs/cat").rename(f"runs/{evil}")
    server = Server.start(Path.cwd())
    opened = browser.new_context()
    page = opened.new_page()
    try:
        page.goto(f"{server.url}/runs", wait_until="networkidle")
        assert page.get_by_text(evil).count()
        page.locator(".tile a").first.click()
        page.wait_for_load_state("networkidle")
        page.goto(f"{server.url}/new?method=distill")
        fill(page, "prompt", evil)
        fill(page, "model", evil)
        page.locator("#findings li").first.wait_for()
        assert page.title() != "run"
        assert not page.locator("img[src=x]").count()
    finally:
        opened.close()
        server.stop()
