"""`glance distill` as users meet it: what a dry run says, its streams, and its exit codes."""

import re
from pathlib import Path

import pytest
from fakes.commands import Glance, files, states
from fakes.distillations import RUN, distil, make_model, record_nothing
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import InferenceFailed
from glance.training import recording

DISTIL = [
    *("distill", "--model", "model", "--size", "64x64", "--device", "cpu", "--no-compare"),
    *("--steps", "5", "--batch-size", "1", "--rank", "4", "--noises", "2"),
]
PROMPTS = ["--prompt", "a grey circle", "--prompt", "a red square"]


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FLUX in the current folder, whose weights are missing."""
    make_model()

    def load(*_: object, **__: object) -> None:
        raise InferenceFailed("there are no weights")

    monkeypatch.setattr(recording, "load_planned", load)


def test_a_dry_run_says_what_it_takes_and_writes_nothing(invoke: Glance, tmp_path: Path) -> None:
    before = files(tmp_path)

    shown = invoke(*DISTIL, *PROMPTS, "--dry-run")
    document = invoke(*DISTIL, *PROMPTS, "--dry-run", "--json").document

    assert shown.code == 0
    assert document["run"] == "runs/model-distilled"
    assert document["guidance"] == {"slow": 3.5, "fast": 3.5}
    assert document["recording"] == {
        "prompts": 2,
        "noises": 2,
        "sizes": ["64x64"],
        "paths": 4,
        "forwards": 200,
        "disk_bytes": 4 * 5 * 16 * 8 * 8 * 4,
        "teacher": {"steps": 50, "guidance": 3.5, "loras": []},
    }
    assert "{" not in shown.out
    paths = "recording  4 paths: the base model, 50 steps at guidance 3.5: 2 prompts x 2"
    assert paths in shown.out
    assert "           200 forward passes, 8.2e-05 GB on the disk\n" in shown.out
    assert "config/glance-slow/targets.json\n" in shown.out
    assert files(tmp_path) == before


def test_the_examples_of_the_help_work(invoke: Glance) -> None:
    examples = re.findall(r"^\s*glance (distill .+)$", invoke("distill", "--help").out, re.M)

    assert [invoke(*example.split()).code for example in examples] == [0, 0]


def test_what_was_interrupted_is_continued_by_the_same_command(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    failed = invoke(*DISTIL, *PROMPTS)
    assert (failed.code, states(RUN.manifest)) == (6, ["pending", "pending"])
    record_nothing(distil())

    done = invoke(*DISTIL, *PROMPTS)

    assert (done.code, done.out) == (0, f"{RUN.path}\n")
    assert states(RUN.manifest) == ["done", "done"]
    assert done.err.endswith(f'next: glance infer --run {RUN.path} --prompt "..."\n')
    other = invoke(*DISTIL, *PROMPTS, "--prompt", "a hill", "--run", str(RUN.path))
    assert (other.code, other.out) == (4, "")
    assert (
        other.err
        == f"""\
error: run {RUN.path} was trained with other settings: prompts: 2 there, 3 asked; number 3 is \
none there, 'a hill' asked
  hint: give another --run; --restart would discard what this one has trained
"""
    )
