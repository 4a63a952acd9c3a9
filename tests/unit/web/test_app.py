"""What pages plan, start and read: the functions and the run folders of the commands."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from fakes.commands import SMALL, Glance
from fakes.trainer import FakeSimpleTuner, wait_for
from starlette.testclient import TestClient

from glance.core.errors import SetupError
from glance.core.options import declared
from glance.web.app import Site
from glance.web.forms import FORMS, TRAIN
from glance.web.guard import Door, Workspace
from glance.web.request import WebRequest
from glance.web.serve import serve

DOCUMENT: dict[str, Any] = {
    "image": ["cat.png"],
    "model": "acme/tiny",
    "device": "cpu",
    "steps": "5",
    "rank": "4",
    "resolution": "64",
}


class Browser:
    """A tab of the page."""

    def __init__(self) -> None:
        self.site = Site(Workspace(Path.cwd().resolve()), os.environ)
        self.client = TestClient(self.site.app(Door("127.0.0.1")), base_url="http://127.0.0.1")

    def get(self, address: str, **query: str) -> Any:
        return self.client.get(address, params=query)

    def ask(self, address: str, **said: Any) -> Any:
        return self.client.post(address, json=said).json()

    def plan(self, document: dict[str, Any], command: str = "train") -> Any:
        return self.ask("/api/plan", command=command, document=document)

    def start(self, document: dict[str, Any], command: str = "train") -> Any:
        return self.ask("/api/start", command=command, document=document)

    def wait(self, run: str = "runs/cat") -> Any:
        wait_for(lambda: not self.get("/api/run", path=run).json()["is_running"])
        return self.get("/api/run", path=run).json()


@pytest.fixture
def tab(simpletuner: FakeSimpleTuner) -> Iterator[Browser]:
    """A tab; what it has started is gone at the end."""
    # the server does so itself: where tests run in the background, SIGINT is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    made = Browser()
    yield made
    for job in made.site.jobs.running():
        os.kill(job.pid, signal.SIGKILL)
    for child in made.site.jobs._children.values():
        child.wait()
    signal.signal(signal.SIGINT, before)


def test_a_form_has_all_that_its_command_has_but_what_is_listed() -> None:
    """No option is declared again: a new flag is on the page by itself."""
    for form in FORMS.values():
        shown = [*form.entries, *(one for some in form.sections.values() for one in some)]
        keys = [one.key for one in shown]
        assert len(keys) == len(set(keys))
        assert set(keys) == set(form.fields)
        hidden = {one.key for one in declared(form.request)} - set(keys)
        assert "set" not in keys
        assert "trust" not in keys
        assert len(hidden) < 12


def test_a_plan_is_that_of_the_command(tab: Browser, pair: Path, glance: Glance) -> None:
    planned = tab.plan(DOCUMENT)

    told = glance("train", "--image", "cat.png", "--device", "cpu", *SMALL, "--dry-run", "--json")
    assert planned["files"] == told.document["files"]
    assert planned["schedule"] == told.document["schedule"]
    words = glance(*planned["command"].split()[1:], "--dry-run")
    rows = [line for row in planned["rows"] for line in row["lines"]]
    assert all(line in words.out for line in rows)


def test_all_that_is_wrong_is_told_at_once_by_the_readers_of_the_flags(
    tab: Browser, pair: Path
) -> None:
    problems = tab.plan({**DOCUMENT, "steps": "many", "model": "../x", "crop": "whole"})["problems"]

    assert [one["message"].split()[0] for one in problems] == ["model", "steps"]
    Path("cat.txt").unlink()
    (problem,) = tab.plan(DOCUMENT)["problems"]
    assert "caption" in problem["message"]
    assert problem["hint"]


def test_a_run_of_the_page_is_that_of_the_command(
    tab: Browser, pair: Path, glance: Glance, simpletuner: FakeSimpleTuner
) -> None:
    started = tab.start(DOCUMENT)
    assert started["run"] == "runs/cat"
    state = tab.wait()
    assert state["is_finished"], state
    Path("runs").rename("page")

    assert glance("train", "--image", "cat.png", "--device", "cpu", *SMALL).code == 0

    ours, theirs = _contents(Path("page/cat")), _contents(Path("runs/cat"))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def _contents(run: Path) -> dict[str, bytes]:
    """All files of a run, its dates and what it measured taken out."""
    found = {}
    for path in sorted(run.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "glance.json":
                document = json.loads(content)
                del document["created"], document["origin"]  # a mark of that date
                for phase in document["phases"].values():
                    for attempt in phase["attempts"]:
                        del attempt["started"], attempt["ended"]
                        attempt["measured"] = sorted(attempt["measured"])
                content = json.dumps(document).encode()
            found[path.relative_to(run).as_posix()] = re.sub(
                rb"20\d\d-\d\d-\d\d[T ][\d:.+]*Z?", b"", content
            )
    return found


def test_of_two_tabs_that_start_the_same_one_is_told(
    tab: Browser, pair: Path, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    assert "job" in tab.start(DOCUMENT)

    (problem,) = Browser().start(DOCUMENT)["problems"]

    assert "runs/cat" in problem["message"]
    assert len(tab.site.jobs.running()) == 1


def test_a_training_outlives_its_server_and_the_next_one_finds_and_stops_it(
    tab: Browser, pair: Path, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="hang")
    tab.start(DOCUMENT)
    simpletuner.wait_until_ready()

    later = Browser()
    state = later.get("/api/run", path="runs/cat").json()
    assert state["is_running"]
    assert state["phases"]["slow"]["state"] == "training"
    assert later.ask("/api/remove", run="runs/cat")["problems"]
    job = {"id": state["job"]["id"]}
    later.ask("/api/stop", **job)
    # two signals that come together are one
    wait_for(lambda: "stopping" in later.get("/api/job", **job).json()["said"][-1])
    later.ask("/api/stop", **job)
    tab.wait()
    state = later.wait()
    assert state["job"]["state"] == "stopped"
    assert state["can_continue"]
    simpletuner.behave()
    assert "job" in later.ask("/api/continue", run="runs/cat")
    assert later.wait()["is_finished"]
    for child in later.site.jobs._children.values():
        child.wait()


def test_a_training_that_fails_says_why_on_its_page(
    tab: Browser, pair: Path, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(fast="killed")
    tab.start(DOCUMENT)

    state = tab.wait()

    assert state["job"]["state"] == "failed"
    assert state["job"]["problems"][0]["message"]
    assert state["phases"]["slow"]["state"] == "done"
    assert "runs/cat" in tab.get("/runs").text
    assert tab.get("/run", path="runs/cat").status_code == 200


def test_what_a_finished_run_gives_away(tab: Browser, fully_trained: None) -> None:
    state = tab.get("/api/run", path="runs/cat").json()
    assert state["is_finished"]
    assert state["phases"]["slow"]["losses"]

    archive = ZipFile(BytesIO(tab.get("/export", run="runs/cat", kind="comfyui").content))
    names = [Path(name).name for name in archive.namelist()]
    assert {"workflow.json", "workflow-api.json", "README.md"} <= set(names)
    assert sum(name.endswith(".safetensors") for name in names) == 2
    page = json.loads(tab.get("/export", run="runs/cat", kind="workflow").content)
    assert page["nodes"]
    lora = tab.get("/file", path=state["phases"]["fast"]["lora"])
    assert lora.headers["content-disposition"].startswith("attachment")
    assert lora.content == Path(state["phases"]["fast"]["lora"]).read_bytes()


def test_a_run_is_removed_once(tab: Browser, fully_trained: None) -> None:
    assert tab.ask("/api/remove", run="runs/cat")["freed_bytes"] > 0
    assert not Path("runs/cat").exists()
    assert tab.ask("/api/remove", run="runs/cat")["problems"]


def test_an_export_may_have_any_name(tab: Browser, fully_trained: None) -> None:
    manifest = Path("runs/cat/glance.json")
    document = json.loads(manifest.read_text())
    document["sample"]["image"] = "data/\u732b.png"
    manifest.write_text(json.dumps(document))

    answer = tab.get("/export", run="runs/cat", kind="workflow")

    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith(
        "attachment; filename*=utf-8''%E7%8C%AB"
    )


def test_names_from_files_are_text_on_a_page(tab: Browser, fully_trained: None) -> None:
    Path("runs/cat").rename("runs/<img src=x onerror=alert(1)>")

    page = tab.get("/runs").text

    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_other_commands_know_nothing_of_the_page() -> None:
    script = (
        "import sys, glance.cli; "
        "sys.exit(any(one in sys.modules for one in ('starlette', 'uvicorn', 'jinja2')))"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_its_packages_the_command_says_what_to_install(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "uvicorn.py").write_text("raise ModuleNotFoundError('no', name='uvicorn')")
    done = subprocess.run(
        [sys.executable, "-m", "glance", "web", "--no-open", "--port", "0"],
        env={**os.environ, "PYTHONPATH": str(hidden)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert 'pip install "starlette' in done.stderr


def test_ctrl_c_ends_the_server_and_its_address_is_told() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    server = subprocess.Popen(
        [sys.executable, "-m", "glance", "web", "--no-open", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    server.send_signal(signal.SIGINT)
    _, said = server.communicate(timeout=20)
    assert server.returncode == 0
    assert "Traceback" not in said


def test_another_host_and_sharing_nothing_exclude_each_other(glance: Glance) -> None:
    done = glance("web", "--host", "0.0.0.0", "--share-nothing", "--no-open")

    assert done.code == 2
    assert "--share-nothing" in done.err


@pytest.mark.parametrize(
    ("host", "hint"), [("127.0.0.1", "--port 0"), ("nosuch.invalid", "--host 127.0.0.1")]
)
def test_an_address_that_cannot_be_had_is_told_with_its_remedy(host: str, hint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SetupError) as refused:
            serve(WebRequest(host=host, port=port), on_ready=lambda _: None)

    assert hint in refused.value.problems[0].hint


def test_a_page_says_what_it_does_not_ask(tab: Browser, pair: Path) -> None:
    (problem,) = tab.plan({**DOCUMENT, "set": ["a=b"]})["problems"]

    assert problem["message"] == "set is not asked by a page"
    assert TRAIN.owner in problem["hint"]
