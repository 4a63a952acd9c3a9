"""The run folder: what may be continued, and what a restart discards."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.distillations import distil, make_model, record_nothing
from fakes.runs import FAST, RUN, SLOW, Train, contents, make_plan, needs_half, needs_whole, states
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.core.errors import Problem, RunError
from glance.core.files import find_place
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.training.execute import run_training


def refused(train: Train, **changes: Any) -> list[Problem]:
    with pytest.raises(RunError) as caught:
        train(**{"run": RUN.path, **changes})
    return list(caught.value.problems)


@needs_half
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"steps": 4}, "steps: 5 there, 4 asked"),
        ({"rank": 8}, "rank: 4 there, 8 asked"),
        ({"seed": 2}, "seed: 1 there, 2 asked"),
        ({"learning_rate": 1e-4}, "learning_rate: 0.0005 there, 0.0001 asked"),
        ({"model": "acme/other"}, "model: acme/tiny there, acme/other asked"),
        ({"overrides": ["lora_dropout=0.1"]}, "--set: none there, lora_dropout=0.1 asked"),
        ({"crop": "whole,center"}, "--crop: whole there, whole,center asked"),
        ({"schedule": "paper"}, "1000.0,986.9786,973.2042,958.6094,943.1188 | 926.6473,825.7017"),
        ({"caption": "a black circle"}, "caption: 'a grey circle' there, 'a black circle' asked"),
    ],
)
def test_a_run_of_something_else_is_refused(
    train: Train, changes: dict[str, Any], difference: str
) -> None:
    before = contents(RUN.path)

    problem = refused(train, **changes)[0]

    assert problem.message.startswith("run runs/cat was trained with other settings: ")
    assert difference in problem.message
    assert contents(RUN.path) == before


@needs_half
def test_of_another_picture_it_is_said_that_it_is_the_picture(train: Train) -> None:
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save("cat.png")
    assert refused(train)[0].message.endswith("image: other pixels there than in cat.png")
    Image.linear_gradient("L").resize((128, 64)).convert("RGB").save("cat.png")
    assert refused(train)[0].message.endswith("image: 64x64 there, 128x64 asked")
    (RUN.data / "cat.txt").unlink()  # of a pair whose copy is gone the hashes are told
    with pytest.raises(RunError, match=r"sample: \w{12} there, \w{12} asked"):
        train(run=RUN.path)


def test_of_long_captions_the_part_that_differs_is_shown(train: Train) -> None:
    long = "a grey circle, " * 20
    train(caption=f"{long}a fox in snow", phases=(SLOW,))

    (problem,) = refused(train, caption=f"{long}a hen in snow", phases=(SLOW,))

    assert problem.message.endswith(
        "caption: '...e, a grey circle, a fox in snow' there, "
        "'...e, a grey circle, a hen in snow' asked"
    )


def test_a_strangers_folder_is_refused_and_untouched(train: Train) -> None:
    Path("thesis/data").mkdir(parents=True)
    Path("thesis/data/chapter.txt").write_text("years of work")

    for restart in (False, True):
        with pytest.raises(RunError, match="thesis is no run folder: it holds data"):
            train(run=Path("thesis"), restart=restart)

    assert contents(Path("thesis")) == {"thesis/data/chapter.txt": b"years of work"}
    with pytest.raises(RunError, match=r"cat\.txt is not a folder"):
        train(run=Path("cat.txt"))
    RUN.path.mkdir(parents=True)
    RUN.manifest.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        train()


def test_what_a_killed_glance_was_writing_is_no_obstacle_and_goes(train: Train) -> None:
    for name in (".glance.json.x1_y2abc.json", "config/glance-slow/.config.json.abc.json"):
        (RUN.path / name).parent.mkdir(parents=True, exist_ok=True)
        (RUN.path / name).write_text("{")
    shutil.rmtree(RUN.path / "config")  # the very first write

    train(phases=(SLOW,))
    (RUN.output(SLOW) / ".pytorch_lora_weights.safetensors.abc.safetensors").touch()
    train(phases=(FAST,))

    assert not [path for path in RUN.path.rglob(".*") if path.name != ".guard"]


@needs_whole
def test_restart_discards_what_was_trained(train: Train, simpletuner: FakeSimpleTuner) -> None:
    pair = contents(RUN.data)

    train(image=RUN.data / "cat.png", steps=6, restart=True)  # from the run's own pair

    assert simpletuner.phases == ["slow", "fast"]
    assert [start["resumed"] for start in simpletuner.starts] == [0, 0]
    assert simpletuner.starts[0]["data"] == ["cat.png", "cat.txt"]
    assert contents(RUN.data) == pair
    assert load_manifest(RUN).settings.steps == 6
    assert states() == ("done", "done")


@needs_whole
def test_restart_of_one_phase_keeps_the_other_and_what_both_share(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    slow, begun = RUN.lora(SLOW).read_bytes(), load_manifest(RUN).created
    hint = "give another --run; --phase both would discard the slow phase as well"
    assert refused(train, phases=(FAST,), restart=True, rank=8)[-1].hint == hint

    train(phases=(FAST,), restart=True)

    assert [(start["phase"], start["resumed"]) for start in simpletuner.starts] == [("fast", 0)]
    assert RUN.lora(SLOW).read_bytes() == slow
    assert load_manifest(RUN).created == begun
    assert states() == ("done", "done")


@needs_half
@pytest.mark.parametrize("phases", [(SLOW,), (SLOW, FAST)])
def test_restart_with_another_picture_trains_on_that_alone(
    train: Train, simpletuner: FakeSimpleTuner, phases: tuple[Phase, ...]
) -> None:
    shutil.copy("cat.png", "dog.png")
    (RUN.path / "cache/text").mkdir()
    (RUN.path / "cache/text/old.pt").touch()

    train(image=Path("dog.png"), caption="dog", run=RUN.path, phases=phases, restart=True)

    assert simpletuner.starts[0]["data"] == ["dog.png", "dog.txt"]
    assert not (RUN.path / "cache/text/old.pt").exists()


@needs_half
@pytest.mark.parametrize("folder", ["data", "cache/pictures/whole-64x64"])
@pytest.mark.parametrize("restart", [True, False])
def test_nothing_but_the_pair_is_trained_whatever_else_lies_there(
    train: Train, simpletuner: FakeSimpleTuner, folder: str, *, restart: bool
) -> None:
    for name in (".ipynb_checkpoints/cat-checkpoint.png", "._cat.png", "dog.png", "old/cat.png"):
        path = RUN.path / folder / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), "red").save(path)
    (RUN.path / folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")

    train(phases=(SLOW, FAST) if restart else (FAST,), restart=restart)

    assert simpletuner.starts[0]["data"] == ["cat.png", "cat.txt"]
    with Image.open(RUN.path / "cache/pictures/whole-64x64/cat.png") as trained:
        assert trained.getpixel((0, 0)) != (255, 0, 0)
    assert folder != "data" or (RUN.data / "dog.png").exists()  # the user's, and not in the way


# A second experiment with the same image


def trained(*names: str) -> None:
    """Leave runs of those names, all of the fixture's experiment."""
    for name in names:
        shutil.copytree(RUN.path, RUN.path.with_name(name))


@needs_whole
@pytest.mark.parametrize(
    ("there", "changes", "expected", "note"),
    [
        ((), {}, "cat", None),
        ((), {"rank": 8}, "cat-2", "another experiment than runs/cat (rank: 4 there, 8 asked)"),
        (("cat-2", "cat-9"), {"rank": 8}, "cat-3", ": this one is runs/cat-3"),
        ((), {"steps": 4}, "cat-2", "steps: 5 there, 4 asked"),
        ((), {"steps": 6}, "cat", "goes on to 6"),
        ((), {"steps": 6, "phases": (SLOW,)}, "cat-2", "steps: 5 there, 6 asked"),
        (("cat-two", "cat-02", "cat-1", "my-cat-2"), {"rank": 8}, "cat-2", "runs/cat-2"),
    ],
)
def test_another_experiment_gets_a_name_of_its_own(
    train: Train, there: tuple[str, ...], changes: dict[str, Any], expected: str, note: str | None
) -> None:
    trained(*there)
    before = contents(RUN.path.parent)

    plan = make_plan(**changes)

    assert plan.run.path == Path("runs") / expected
    assert contents(RUN.path.parent) == before
    assert note is None or any(note in one for one in plan.notes)


@needs_whole
def test_the_very_experiment_goes_before_a_shorter_one_and_that_before_a_new_one(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    train(rank=8)
    train(rank=8, steps=6, run=Path("runs/cat-7"))

    assert make_plan(rank=8).run.path.name == "cat-2"
    assert make_plan(rank=8, steps=6).run.path.name == "cat-7"
    assert make_plan(rank=8, steps=9).run.path.name == "cat-7", "the longest goes on"
    shutil.rmtree("runs/cat")  # one that went leaves the others where they are
    assert make_plan(rank=8).run.path.name == "cat-2"
    assert make_plan().run.path.name == "cat"


@needs_whole
def test_what_is_no_run_is_passed_over_and_what_cannot_be_read_is_not(train: Train) -> None:
    Path("runs/cat").rename("runs/dog")
    Path("runs/cat").mkdir()
    Path("runs/cat/thesis.txt").write_text("years of work")
    Path("runs/cat-2").write_text("a file")

    plan = make_plan()

    assert plan.run.path == Path("runs/cat-3")
    assert any("runs/cat is no run folder" in one for one in plan.notes)
    trained_there = Path("runs/dog").rename("runs/cat-3")
    (Path("runs/cat-4")).mkdir()
    Path("runs/cat-4/glance.json").write_text("{")
    assert make_plan().run.path == trained_there
    with pytest.raises(RunError, match=r"cat-4/glance\.json: it is damaged"):
        make_plan(rank=8)


@needs_whole
def test_a_restart_discards_the_one_run_there_is_or_asks_which(train: Train) -> None:
    assert make_plan(rank=8, restart=True).run == RUN
    trained("cat-2")
    with pytest.raises(RunError, match=r"none of runs/cat, runs/cat-2 holds this") as caught:
        make_plan(rank=8, restart=True)

    assert caught.value.problems[0].hint == "say which one is to be discarded: --run runs/cat-2"
    assert make_plan(restart=True).run == RUN


@pytest.mark.usefixtures("pair")
def test_a_model_within_another_run_is_found_from_the_new_one(train: Train) -> None:
    train(phases=(SLOW,))
    make_model(folder=RUN.path / "model")

    plan = make_plan(model=str(RUN.path / "model"), rank=8)

    assert plan.run.path.name == "cat-2"
    assert find_place(plan.settings.model, plan.run.path) == (RUN.path / "model").resolve()


@pytest.mark.usefixtures("simpletuner")
def test_a_second_distillation_gets_a_name_and_finds_its_loras() -> None:
    make_model()
    plan = distil()
    run_training(plan.training, print, make_ready=lambda: record_nothing(plan))
    style = RunFolder(plan.run.path).lora(SLOW)

    second = distil(teacher_loras=(str(style),))

    assert second.run.path.name == "model-distilled-2"
    assert second.training.settings.teacher is not None
    (place,) = second.training.settings.teacher.places.values()
    assert find_place(place, second.run.path) == style.resolve()
