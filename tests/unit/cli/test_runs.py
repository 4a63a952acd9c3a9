"""`glance runs`: what lies there, and what may go."""

import fcntl
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.runs import RUN, plan_and_train
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import TrainingFailed
from glance.core.phase import Phase

pytest_plugins = ["fakes.plugin"]

needs_whole = pytest.mark.usefixtures("fully_trained")


@needs_whole
def test_the_list_says_how_far_each_run_is(glance: Callable) -> None:
    Path("runs/broken").mkdir()
    Path("runs/broken/glance.json").write_text("{")

    done = glance("runs", "list")

    header, line = done.out.splitlines()
    assert header.split() == ["run", "family", "slow", "fast", "begun", "MB"]
    assert line.split()[:4] == ["runs/cat", "flux", "done", "done"]
    (item,) = glance("runs", "list", "--json").document["runs"]
    assert item["states"] == {"slow": "done", "fast": "done"}
    assert item["bytes"] > 1000


def test_an_empty_list_says_so(glance: Callable) -> None:
    done = glance("runs", "list", "--json")

    assert (done.code, done.document, done.err) == (0, {"runs": []}, "there are no runs in runs\n")


@needs_whole
def test_a_run_is_shown_with_the_state_of_its_files(glance: Callable) -> None:
    done = glance("runs", "show", "runs/cat")

    assert done.code == 0
    assert "slow: done, timesteps 1000, 979.192, 957.516, 934.917, 911.335" in done.out
    assert "5 steps, last loss 0.3839" in done.out
    assert done.out.count("MB, sound") == 2
    with RUN.lora(Phase.SLOW).open("ab") as file:
        file.write(b"x")
    RUN.lora(Phase.FAST).unlink()
    files = glance("runs", "show", "runs/cat", "--json").document["files"]
    assert list(files.values()) == ["changed", "missing"]


@needs_whole
def test_the_losses_are_shown(glance: Callable) -> None:
    RUN.losses(Phase.FAST).unlink()  # as if another glance had trained it
    with RUN.losses(Phase.SLOW).open("a") as file:
        file.writelines(f"2,{step},{1 / step}\n" for step in range(6, 11))

    done = glance("runs", "show", "runs/cat")

    assert "  loss of a round: 0.3839 at first, 0.127 at last (-67%)\n" in done.out
    assert re.search(r"^ +step 1 +start 2 +10$", done.out, re.MULTILINE)
    assert "  no losses of its steps are kept\n" in done.out
    assert glance("info", "runs/cat").out == done.out
    losses = glance("runs", "show", "runs/cat", "--json").document["losses"]
    assert losses["slow"][:2] == [
        {"start": 1, "step": 1, "loss": 1.0},
        {"start": 1, "step": 2, "loss": 0.5},
    ]
    assert losses["fast"] == []


@needs_whole
def test_the_losses_are_drawn_to_a_file(glance: Callable) -> None:
    done = glance("runs", "show", "runs/cat", "--plot", "x.svg")

    assert (done.code, done.err) == (0, "the losses are drawn in x.svg\n")
    assert "slow: loss of a round: 0.3839 at first, 0.3839 at last" in Path("x.svg").read_text()


@needs_whole
@pytest.mark.parametrize(
    "arguments",
    [("runs/cat", "--plot"), ("--plot", "--quiet", "runs/cat"), ("runs/cat", "--plot", "-")],
    ids=" ".join,
)
def test_without_a_file_they_are_drawn_in_the_terminal(
    arguments: tuple[str, ...], glance: Callable
) -> None:
    with RUN.losses(Phase.SLOW).open("a") as file:
        file.writelines(f"1,{step},{1 / step}\n" for step in range(6, 11))
    usual = glance("runs", "show", "runs/cat").out.splitlines()

    done = glance("runs", "show", *arguments)

    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == len(usual) + 9
    assert not Path("-").exists()


@needs_whole
def test_a_terminal_that_knows_ascii_only_gets_that(glance: Callable) -> None:
    with RUN.losses(Phase.SLOW).open("a") as file:
        file.write("1,6,0.1\n")

    done = glance("runs", "show", "runs/cat", PYTHONIOENCODING="ascii")

    assert done.code == 0
    assert "+-----" in done.out


@needs_whole
def test_what_cannot_be_drawn_is_refused(glance: Callable) -> None:
    ending = glance("runs", "show", "runs/cat", "--plot", "x.jpg")
    for phase in Phase:
        RUN.losses(phase).unlink()
    nothing = glance("runs", "show", "runs/cat", "--plot", "x.png")

    assert (ending.code, nothing.code) == (4, 4)
    assert "end it with one of .png, .svg" in ending.err
    assert "run runs/cat has no losses to draw" in nothing.err
    assert not list(Path().glob("x.*"))


@needs_whole
def test_cleaning_keeps_the_losses(glance: Callable) -> None:
    glance("runs", "clean", "runs/cat")

    assert RUN.losses(Phase.SLOW).read_text().startswith("start,step,loss\n1,1,1.0\n")


@needs_whole
def test_a_log_is_printed(glance: Callable) -> None:
    assert "Training complete" in glance("runs", "log", "runs/cat").out
    assert glance("runs", "log", "runs/cat", "--phase", "fast", "--lines", 1).out == (
        "Training complete\n"
    )
    document = glance("runs", "log", "runs/cat", "--lines", 1, "--json").document
    assert document == {"lines": ["Training complete"]}


@needs_whole
def test_cleaning_leaves_what_sampling_needs(glance: Callable) -> None:
    kept = {path for path in RUN.path.rglob("*") if path.is_file()}
    gone = {path for path in kept if "checkpoint-" in str(path) or "cache" in path.parts}
    assert gone
    page = RUN.output(Phase.SLOW) / "README.md"  # SimpleTuner's: an older glance left it
    page.touch()
    kept.add(page)
    gone.add(page)

    looked = glance("runs", "clean", "runs/cat", "--dry-run", "--json").document
    assert {path for path in RUN.path.rglob("*") if path.is_file()} == kept
    done = glance("runs", "clean", "runs/cat", "--json").document

    assert done["freed_bytes"] == looked["freed_bytes"]
    assert done["freed_bytes"]["runs/cat"] > 0
    assert {path for path in RUN.path.rglob("*") if path.is_file()} == kept - gone
    assert glance("runs", "clean", "runs/cat").out == "runs/cat: 0.0 MB freed\n"


def test_an_unfinished_run_keeps_what_it_goes_on_from(
    glance: Callable, pair: Path, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    with pytest.raises(TrainingFailed):
        plan_and_train()
    output = RUN.output(Phase.SLOW)
    (output / "checkpoint-3").rename(output / "set-aside-checkpoint-3")

    assert glance("runs", "clean", "runs/cat").code == 0

    assert sorted(path.name for path in output.glob("*checkpoint*")) == [
        *("checkpoint-1", "checkpoint-2")
    ]


@needs_whole
def test_a_run_that_is_being_trained_is_left_alone(glance: Callable) -> None:
    with RUN.lock.open("w") as file:
        file.write('{"pid": 1, "started": "now"}')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)

        done = glance("runs", "clean", "runs/cat")

    assert done.code == 4
    assert "is being trained by process 1" in done.err


@pytest.mark.parametrize("command", ["show", "log", "clean"])
def test_what_is_no_run_is_refused(command: str, glance: Callable) -> None:
    done = glance("runs", command, "nowhere")

    assert done.code == 4
    assert "not a run folder: nowhere" in done.err
    assert not Path("nowhere").exists()


@needs_whole
def test_a_phase_that_was_never_started_has_no_log(glance: Callable) -> None:
    RUN.log(Phase.FAST).unlink()

    done = glance("runs", "log", "runs/cat", "--phase", "fast")

    assert done.code == 4
    assert "has no log of its fast phase" in done.err
