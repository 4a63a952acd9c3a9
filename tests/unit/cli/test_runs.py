"""`glance runs`: what lies there, and what may go."""

import fcntl
import re
import shutil
from pathlib import Path

import pytest
import typer
from fakes.commands import Glance
from fakes.runs import RUN, plan_and_train
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import TrainingFailed
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest

OLDER = Path(__file__).parents[2] / "fixtures/older/runs"
needs_whole = pytest.mark.usefixtures("fully_trained")


@needs_whole
def test_the_list_says_how_far_each_run_is(invoke: Glance) -> None:
    Path("runs/broken").mkdir()
    Path("runs/broken/glance.json").write_text("{")

    header, line = invoke("runs", "list").out.splitlines()
    (item,) = invoke("runs", "list", "--json").document["runs"]

    assert header.split()[:4] == ["run", "method", "from", "steps"]
    assert line.startswith("runs/cat   train  cat.png      5     4    64     0.3839     0.3839 ")
    assert item["states"] == {"slow": "done", "fast": "done"}
    assert item["bytes"] > 1000
    Path("empty").mkdir()
    nothing = invoke("runs", "list", "empty", "--json")
    assert (nothing.document, nothing.err) == ({"runs": []}, "there are no runs in empty\n")


@needs_whole
def test_what_differs_between_runs_is_said_and_what_they_came_to(invoke: Glance) -> None:
    shutil.copytree(OLDER / "distilled", "runs/taught")
    shutil.copytree(RUN.path, "runs/cat-2")
    manifest = load_manifest(RUN)
    settings = manifest.settings.model_copy(update={"rank": 8})
    manifest.model_copy(update={"settings": settings}).save(RunFolder(Path("runs/cat-2")))

    both = invoke("runs", "compare", "runs/cat", "runs/cat-2", "--json").document["differences"]
    shown = invoke("runs", "compare", "runs/cat", "runs/taught").out

    assert both["rank"] == [4, 8]
    assert set(both) == {"rank", "last_loss", "verdict"}
    assert re.search(r"^method +train +distill$", shown, re.MULTILINE)
    assert re.search(r"^sizes +- +64x64$", shown, re.MULTILINE)
    assert invoke("runs", "compare", "runs/cat").code == 2
    assert invoke("runs", "compare", "runs/cat", "runs").code == 4


@needs_whole
def test_a_renamed_run_goes_on(invoke: Glance) -> None:
    done = invoke("runs", "rename", "runs/cat/", "low-rank")

    assert (done.code, done.out) == (0, "runs/low-rank\n")
    assert [path.name for path in Path("runs").rglob("*.lock")] == []
    again = invoke("train", "--resume", "runs/low-rank", "--dry-run", "--json")
    assert again.document["run"] == "runs/low-rank"
    Path("runs/taken").symlink_to("nowhere")
    for name in ("taken", "a b", "../x", "", "-x", "x/y"):
        assert invoke("runs", "rename", "runs/low-rank", "--", name).code == 4, name


@needs_whole
def test_only_runs_are_removed_and_only_if_that_is_meant(invoke: Glance) -> None:
    shutil.copytree(RUN.path, "runs/my run")
    Path("runs/link").symlink_to("cat")
    kept = sorted(Path("runs").rglob("*"))
    for folders in (["runs/cat", "runs/gone"], ["runs/cat", "runs"], ["runs/cat", "runs/link"]):
        assert invoke("runs", "rm", *folders, "--yes").code == 4
    unasked = invoke("runs", "rm", "runs/cat", "runs/my run")
    assert (unasked.code, unasked.out) == (2, "")
    assert "runs rm removes runs/cat, 'runs/my run' for good" in unasked.err
    assert sorted(Path("runs").rglob("*")) == kept

    done = invoke("runs", "rm", "runs/cat", "runs/my run", "runs/cat", "--yes", "--json")

    assert set(done.document["freed_bytes"]) == {"runs/cat", "runs/my run"}
    assert [path.name for path in Path("runs").iterdir()] == ["link"]


@needs_whole
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 0), (None, 130)])
def test_the_answer_decides(
    invoke: Glance, monkeypatch: pytest.MonkeyPatch, answer: str | None, code: int
) -> None:
    def ask(*_: object, **__: object) -> bool:
        if answer is None:  # Ctrl-C
            raise typer.Abort
        return answer == "y"

    monkeypatch.setattr("typer.confirm", ask)
    monkeypatch.setattr("glance.cli.runs._is_asked", lambda: True)

    assert invoke("runs", "rm", "runs/cat").code == code
    assert RUN.path.exists() == (answer != "y")


@needs_whole
def test_the_run_that_one_is_in_stays(invoke: Glance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RUN.data)

    assert invoke("runs", "rm", "..", "--yes").code == 4
    assert invoke("runs", "rename", "..", "x").code == 4


@needs_whole
def test_a_run_is_shown_with_the_state_of_its_files(invoke: Glance) -> None:
    done = invoke("runs", "show", "runs/cat")

    assert done.code == 0
    assert "slow: done, timesteps 1000, 979.192, 957.516, 934.917, 911.335" in done.out
    assert "5 steps, last loss 0.3839" in done.out
    assert done.out.count("MB, sound") == 2
    with RUN.lora(Phase.SLOW).open("ab") as file:
        file.write(b"x")
    RUN.lora(Phase.FAST).unlink()
    files = invoke("runs", "show", "runs/cat", "--json").document["files"]
    assert list(files.values()) == ["changed", "missing"]


@needs_whole
def test_the_losses_are_shown(invoke: Glance) -> None:
    RUN.losses(Phase.FAST).unlink()  # as if another glance had trained it
    with RUN.losses(Phase.SLOW).open("a") as file:
        file.writelines(f"2,{step},{1 / step}\n" for step in range(6, 11))

    done = invoke("runs", "show", "runs/cat")

    assert "  loss of a round: 0.3839 at first, 0.127 at last (-67%)\n" in done.out
    assert re.search(r"^ +step 1 +start 2 +10$", done.out, re.MULTILINE)
    assert "  no losses of its steps are kept\n" in done.out
    assert invoke("info", "runs/cat").out == done.out
    losses = invoke("runs", "show", "runs/cat", "--json").document["losses"]
    assert losses["slow"][:2] == [
        {"start": 1, "step": 1, "loss": 1.0},
        {"start": 1, "step": 2, "loss": 0.5},
    ]
    assert losses["fast"] == []


@needs_whole
def test_the_losses_are_drawn_to_a_file_or_in_the_terminal(invoke: Glance) -> None:
    to_file = invoke("runs", "show", "runs/cat", "--plot", "x.svg")
    with RUN.losses(Phase.SLOW).open("a") as file:
        file.writelines(f"1,{step},{1 / step}\n" for step in range(6, 11))
    usual = invoke("runs", "show", "runs/cat").out.splitlines()

    assert (to_file.code, to_file.err) == (0, "the losses are drawn in x.svg\n")
    assert "slow: loss of a round: 0.3839 at first, 0.3839 at last" in Path("x.svg").read_text()
    for words in ("runs/cat --plot", "--plot --quiet runs/cat", "runs/cat --plot -"):
        done = invoke("runs", "show", *words.split())
        assert (done.code, done.err) == (0, "")
        assert len(done.out.splitlines()) == len(usual) + 9
    assert not Path("-").exists()
    for phase in Phase:
        RUN.losses(phase).unlink()
    none = invoke("runs", "show", "runs/cat", "--plot", "x.png")
    assert (none.code, Path("x.png").exists()) == (4, False)
    assert "run runs/cat has no losses to draw" in none.err


@needs_whole
def test_a_terminal_that_knows_ascii_only_gets_that(glance: Glance) -> None:
    with RUN.losses(Phase.SLOW).open("a") as file:
        file.write("1,6,0.1\n")

    done = glance("runs", "show", "runs/cat", PYTHONIOENCODING="ascii")

    assert done.code == 0
    assert "+-----" in done.out


@needs_whole
def test_a_log_is_printed(invoke: Glance) -> None:
    log = ("runs", "log", "runs/cat", "--phase", "fast")

    assert "Using environment" in invoke("runs", "log", "runs/cat").out
    assert invoke(*log, "--lines", 1).out == "Training complete\n"
    assert invoke(*log, "--lines", 1, "--json").document == {"lines": ["Training complete"]}
    RUN.log(Phase.FAST).unlink()
    gone = invoke(*log)
    assert gone.code == 4
    assert "has no log of its fast phase" in gone.err


@needs_whole
def test_cleaning_leaves_what_sampling_and_looking_need(invoke: Glance) -> None:
    kept = {path for path in RUN.path.rglob("*") if path.is_file()}
    gone = {path for path in kept if "checkpoint-" in str(path) or "cache" in path.parts}
    assert gone
    assert RUN.losses(Phase.SLOW) in kept - gone
    page = RUN.output(Phase.SLOW) / "README.md"  # SimpleTuner's: an older glance left it
    page.touch()
    kept.add(page)
    gone.add(page)

    looked = invoke("runs", "clean", "runs/cat", "--dry-run", "--json").document
    assert {path for path in RUN.path.rglob("*") if path.is_file()} == kept
    done = invoke("runs", "clean", "runs/cat", "--json").document

    assert done["freed_bytes"] == looked["freed_bytes"]
    assert done["freed_bytes"]["runs/cat"] > 0
    assert {path for path in RUN.path.rglob("*") if path.is_file()} == kept - gone
    assert invoke("runs", "clean", "runs/cat").out == "runs/cat: 0.0 MB freed\n"


@pytest.mark.usefixtures("pair")
def test_an_unfinished_run_keeps_what_it_goes_on_from(
    invoke: Glance, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    with pytest.raises(TrainingFailed):
        plan_and_train()
    output = RUN.output(Phase.SLOW)
    (output / "checkpoint-3").rename(output / "set-aside-checkpoint-3")

    assert invoke("runs", "clean", "runs/cat").code == 0

    left = sorted(path.name for path in output.glob("*checkpoint*"))
    assert left == ["checkpoint-1", "checkpoint-2"]


@needs_whole
def test_a_run_that_is_being_trained_is_left_alone(invoke: Glance) -> None:
    with RUN.lock.open("w") as file:
        file.write('{"pid": 1, "started": "now"}')
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)

        tried = ("clean runs/cat", "rm runs/cat --yes", "rename runs/cat dog")
        for done in [invoke("runs", *one.split()) for one in tried]:
            assert done.code == 4
            assert "is being trained by process 1" in done.err
    assert RUN.manifest.exists()
