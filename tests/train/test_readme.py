"""The README's commands, one after the other in one folder, as who has just cloned it types them.

Those of its blocks that bear no mark; tests/unit/test_docs.py looks at the others.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from glance.core.files import find_place

ROOT = Path(__file__).parents[2]
CHEAPER = {
    "demo": "--steps 5 --json",
    "train --image": "--steps 5 --rank 4 --launcher direct --phase slow",
    "train --resume": "--launcher direct",
    "distill": "--dry-run",
    "compare": "--teacher-steps 8 --no-worth",
}
"""What is added to commands that take minutes: fewer steps, prompts and imports. The first training
ends after one LoRA, so that --resume has something to go on with. The demo has just distilled a
pair: without --run that one is sampled with and judged. `glance distill` is run by others."""
FEWER = """
from functools import partial
from glance.batch import demo
from glance.cli import main
demo.TAUGHT = 6
demo.CompareRequest = partial(demo.CompareRequest, teacher_steps=12)
main()
"""
"""`glance`, whose demo records fewer prompts and compares with fewer steps: there are no flags."""
VERDICT = re.compile(r"^(it helps|it does not help|too close to call)", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """A command of the README that ran to its end."""

    words: tuple[str, ...]
    out: str
    err: str


def commands() -> Iterator[tuple[str, ...]]:
    """Yield the words behind `glance` of every command without a mark, in the README's order."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```bash\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL):
        for line in re.findall(r"uv run glance (.*)", block):
            yield tuple(shlex.split(line, comments=True))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Done]]:
    """The folder in which all of them ran, and what each said."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data").symlink_to(ROOT / "data")
    # as `.venv/bin/glance` is run without activating anything: no scripts on PATH
    own = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(folder / "cache")}
    done = []
    for words in commands():
        cheaper = next((CHEAPER[one] for one in CHEAPER if " ".join(words).startswith(one)), "")
        found = subprocess.run(
            [sys.executable, "-c", FEWER, *words, *shlex.split(cheaper)],
            cwd=folder,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode == 0, (words, found.stderr)
        done.append(Done(words, found.stdout, found.stderr))
    return folder, done


def said(done: list[Done], *begin: str) -> list[Done]:
    return [one for one in done if one.words[: len(begin)] == begin]


def test_the_demo_ends_with_a_verdict(walked: tuple[Path, list[Done]]) -> None:
    folder, done = walked
    document = json.loads(said(done, "demo")[0].out)

    assert (document["run"], document["distilled"]["run"]) == ("runs/demo", "runs/demo-distilled")
    phases = [*document["phases"].values(), *document["distilled"]["phases"].values()]
    assert [phase["state"] for phase in phases] == ["done"] * 4
    assert document["images"] == ["runs/demo/images/sheet.png"]
    assert Image.open(folder / "runs/demo/images/sheet.png").width == 4 * 168 + 8
    labels = ["base, 12 steps", "base, 4 steps", "distilled pair, 4", "guide's pair, 10"]
    for pictures in document["comparison"].values():
        assert [one["variant"] for one in pictures] == labels
        assert [one["distance"] is None for one in pictures] == [True, False, False, False]
    assert VERDICT.search(document["sentence"])
    assert document["verdict"]["images"] == 8
    run = folder / "runs/demo-distilled"
    manifest = json.loads((run / "glance.json").read_text())
    assert find_place(manifest["settings"]["model"], run) == (folder / "runs/demo/model").resolve()
    assert not (run / "cache/teacher").exists()


def test_a_distilled_pair_has_its_verdict(walked: tuple[Path, list[Done]]) -> None:
    folder, done = walked

    assert "runs/small-flux-distilled, new" in said(done, "distill")[0].out
    assert VERDICT.search(said(done, "compare")[0].out)
    assert (folder / "runs/demo-distilled/images/compare/sheet.png").is_file()


def test_there_are_images_and_a_workflow_for_comfyui(walked: tuple[Path, list[Done]]) -> None:
    folder, done = walked
    images = [folder / line for one in said(done, "infer") for line in one.out.splitlines()]

    assert len(images) == 5
    assert all("class_type" in Image.open(image).info["prompt"] for image in images)
    exports = [folder / one.out.splitlines()[0] for one in said(done, "export")]
    assert (exports[0] / "workflow.json").is_file()
    assert (exports[1] / "generate.py").is_file()


def test_a_training_goes_on_where_it_stopped(walked: tuple[Path, list[Done]]) -> None:
    folder, done = walked
    first, resumed = said(done, "train")

    assert "fast: training 5 steps" not in first.err
    assert "slow: already done\nfast: training 5 steps\n" in resumed.err
    phases = json.loads((folder / "runs/glance/glance.json").read_text())["phases"]
    assert [phase["state"] for phase in phases.values()] == ["done", "done"]
    assert "glance" in said(done, "runs", "list")[0].out
