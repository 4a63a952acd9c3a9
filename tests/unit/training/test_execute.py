"""run_training in this process; below it one that plays SimpleTuner."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.distillations import make_model
from fakes.runs import (
    FAST,
    RUN,
    SLOW,
    Train,
    Trained,
    contents,
    fail,
    needs_half,
    needs_whole,
    states,
)
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.core.errors import RunError
from glance.core.events import CheckpointSaved, StageEntered, StepDone, Warned
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.lora.file import read_lora
from glance.runs.folder import RunFolder
from glance.runs.manifest import PhaseState, load_manifest, record_schedule
from glance.schedule.lists import PRESETS
from glance.training.execute import TrainingResult, usual_losses


@needs_whole
def test_both_phases_are_recorded() -> None:
    manifest = load_manifest(RUN)
    assert states() == ("done", "done")
    for phase in Phase:
        record = manifest.phases[phase]
        assert record.lora is not None
        assert (RUN.path / record.lora.path) == RUN.lora(phase)
        assert (record.lora.rank, record.lora.bytes) == (4, RUN.lora(phase).stat().st_size)
        assert [attempt.returncode for attempt in record.attempts] == [0]

    lora = read_lora(RUN.lora(SLOW))
    key = f"transformer.{lora.modules[0]}.lora_B.weight"
    np.testing.assert_array_equal(lora.tensors[key].to_float(), np.full((8, 4), 4 * 0.25))
    assert lora.metadata["glance.folded_scale"] == "4.0"  # alpha
    assert lora.metadata["glance.phase"] == "slow"


@needs_whole
def test_a_finished_run_holds_no_absolute_path(trained: Trained) -> None:
    assert list(trained.half.rglob("aspect_ratio_bucket_*"))  # so there was something to tidy
    assert not list(RUN.path.rglob("aspect_ratio_bucket_*"))
    for place in (trained.half, trained.whole):
        assert not list(place.rglob("README.md"))  # what SimpleTuner says of the LoRA
    assert naming(str(trained.whole.parent)) == []


def naming(*places: str) -> list[str]:
    """Which files of the run name one of these, the logs aside."""
    shutil.rmtree(RUN.path / "logs")
    found = contents(RUN.path).items()
    return [path for path, text in found if any(place.encode() in text for place in places)]


def test_the_trainer_is_started_in_the_run_and_tells_of_it_in_order(trained: Trained) -> None:
    slow, fast = trained.starts
    assert slow["argv"][1:] == ["train", "--env", "glance-slow"]
    assert fast["argv"][1:] == ["train", "--env", "glance-fast"]
    assert slow["cwd"] == str(trained.whole)
    config = trained.whole / "config/glance-slow/config.json"
    assert slow["config"] == json.loads(config.read_text())
    assert slow["data"] == ["cat.png", "cat.txt"]
    steps = [event for event in trained.events if isinstance(event, StepDone)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5] * 2
    assert steps[1] == StepDone(SLOW, 2, 5, loss=0.5, eta_seconds=3.0)
    assert StageEntered(SLOW, "Loading the model") in trained.events
    assert CheckpointSaved(SLOW, "output/glance-slow/checkpoint-5") in trained.events


def test_a_name_that_is_no_text_is_trained(train: Train, pair: Path) -> None:
    image = pair.rename("\udcff.png")
    pair.with_suffix(".txt").rename("\udcff.txt")

    train(image=Path(image.name), run=Path("\udcff"), phases=(SLOW,))

    assert states(RunFolder(Path("\udcff"))) == ("done", "pending")


@pytest.mark.parametrize(
    ("folder", "named", "told", "kept"),
    [
        ("a customer/flux", "{env:GLANCE_MODEL}", "../../a customer/flux", "flux"),
        (str(RUN.model), "model", None, "model"),
    ],
    ids=["elsewhere", "in the run"],
)
def test_the_place_of_a_model_is_told_to_the_trainer_alone(
    train: Train, simpletuner: FakeSimpleTuner, folder: str, named: str, told: str, kept: str
) -> None:
    make_model(folder=Path(folder))

    train(model=folder, phases=(SLOW,))

    (start,) = simpletuner.starts
    assert start["config"]["pretrained_model_name_or_path"] == named
    assert start["environment"].get("GLANCE_MODEL") == told
    assert start["environment"]["HF_HUB_OFFLINE"] == "1"
    assert naming("customer") == []
    options = json.loads((RUN.output(SLOW) / "simpletuner_config.json").read_text())
    assert options["pretrained_model_name_or_path"] == kept


def test_a_model_that_is_moved_together_with_the_run_is_found(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    make_model(folder=Path("here/bases/flux"))
    train(model="here/bases/flux", run=Path("here/runs/x"), phases=(SLOW,))
    Path("here").rename("there")
    run = Path("there/runs/x")
    settings = load_manifest(RunFolder(run)).settings

    found = BaseModel.recorded(settings.model, None, family="flux", start=run).location

    assert Path(found) == Path("there/bases/flux").resolve()
    train(model="there/bases/flux", run=run)
    assert simpletuner.starts[-1]["environment"]["GLANCE_MODEL"] == "../../bases/flux"


def test_a_reference_is_trained_with_the_pair(train: Train, simpletuner: FakeSimpleTuner) -> None:
    make_model("qwen_image_edit_2511", Path("model"))
    Image.new("RGB", (64, 64), (0, 90, 0)).save("before.png")
    edits = {"model": "model", "reference": Path("before.png")}

    train(**edits, phases=(SLOW,))
    (RUN.path / "cache/reference/stray.png").touch()
    train(**edits, phases=(FAST,))

    for start in simpletuner.starts:
        assert start["data"] == ["cat.png", "cat.txt"]
        assert start["reference"] == ["cat.png", "cat.txt"]
        assert start["environment"]["PWD"] == start["cwd"]
        assert start["config"]["model_flavour"] == "edit-v3"
    manifest = load_manifest(RUN)
    assert manifest.settings.family == "qwen_image_edit_2511"
    assert manifest.sample.reference == "reference/cat.png"
    assert states() == ("done", "done")
    assert not (RUN.path / "cache/vae-reference").exists()
    assert not list(RUN.path.glob("cache/reference/*.json"))
    Image.new("RGB", (64, 64), (0, 0, 90)).save("before.png")
    with pytest.raises(RunError, match=r"reference: other pixels there than in before\.png"):
        train(**edits, run=RUN.path)


def test_what_was_asked_for_reaches_the_trainer(train: Train, simpletuner: FakeSimpleTuner) -> None:
    events = train(overrides=("lora_dropout=0.1", "lora_alpha=4"), phases=(SLOW,))

    said = [event.message for event in events if isinstance(event, Warned)]
    assert "--set lora_dropout=0.1: replaces glance's 0.0" in said
    assert simpletuner.starts[0]["config"]["lora_alpha"] == 4
    assert read_lora(RUN.lora(SLOW)).metadata["glance.folded_scale"] == "1.0"


@needs_half
@pytest.mark.parametrize("keeps_checkpoints", [True, False])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other"), None])
def test_a_phase_whose_file_is_not_the_recorded_one_is_made_again(
    train: Train,
    simpletuner: FakeSimpleTuner,
    damage: Callable[[Path], object] | None,
    keeps_checkpoints: bool,
) -> None:
    before = RUN.lora(SLOW).read_bytes()
    if damage is None:  # it ended before it could record a file that is sound
        load_manifest(RUN).with_phase(SLOW, state=PhaseState.TRAINING, lora=None).save(RUN)
    else:
        damage(RUN.lora(SLOW))
    if not keeps_checkpoints:
        for checkpoint in RUN.output(SLOW).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    train(phases=(SLOW,))

    # the checkpoint at the last step is the LoRA, and nothing is to be trained after it
    assert simpletuner.phases == ([] if damage is None or keeps_checkpoints else ["slow"])
    assert states() == ("done", "pending")
    assert RUN.lora(SLOW).read_bytes() == before


@needs_half
def test_a_moved_run_is_continued_without_its_old_paths(train: Train, trained: Trained) -> None:
    old_latents = RUN.path / "cache/vae" / trained.whole.relative_to("/")
    assert old_latents.exists()

    train(phases=(SLOW,))

    assert not old_latents.exists()
    assert naming(str(trained.whole.parent)) == []


@pytest.mark.parametrize("name", ["moved", 'é "quoted"'])
def test_a_run_that_is_continued_knows_what_it_has_seen_wherever_it_is(
    train: Train, simpletuner: FakeSimpleTuner, name: str
) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    fail(phases=(SLOW,))
    moved = RunFolder(RUN.path.rename(name))
    simpletuner.behave(slow="unknown")  # it takes no step any more

    fail(phases=(SLOW,), run=moved.path)

    state = moved.output(SLOW) / "checkpoint-3/training_state-glance.json"
    place = moved.path.resolve()
    assert json.loads(state.read_text())["seen_images"] == {
        f"{place}/{name}": 3 for name in ("data/cat.png", "cache/pictures/64/cat.png")
    }


@needs_half
def test_a_renamed_picture_is_the_same_sample(train: Train, simpletuner: FakeSimpleTuner) -> None:
    Path("cat.png").rename("dog.png")
    Path("cat.txt").rename("dog.txt")

    train(image=Path("dog.png"), run=RUN.path)

    assert [(start["phase"], start["data"]) for start in simpletuner.starts] == [
        ("fast", ["dog.png", "dog.txt"])
    ]
    assert load_manifest(RUN).sample.image == "data/dog.png"


def lines() -> tuple[str, ...]:
    return TrainingResult(RUN, load_manifest(RUN)).summarise()


def test_losses_are_set_beside_those_of_runs_like_it(trained: Trained) -> None:
    for name in ("one", "two", "unreadable", "cat"):
        shutil.copytree(trained.whole, f"runs/{name}")
    other = RunFolder(Path("runs/unreadable"))
    other.losses(SLOW).unlink()
    other.losses(SLOW).mkdir()

    loss = "slow: loss of a round: 0.3839 at first, 0.3839 at last; 2 runs like it end at 0.3839"
    assert loss in lines()  # the fifth root of 1/1 * 1/2 * 1/3 * 1/4 * 1/5
    assert TrainingResult(other, load_manifest(other)).summarise()


@needs_half
def test_runs_of_other_settings_are_not_like_it() -> None:
    run = load_manifest(RUN)
    other = RunFolder(Path("runs/other"))
    changes = {"steps": 10, "rank": 8, "learning_rate": 1e-5, "overrides": {"lora_dropout": 0.1}}
    for name, value in {**changes, "seed": 2}.items():
        settings = run.settings.model_copy(update={name: value})
        found = usual_losses(other, run.model_copy(update={"settings": settings}), SLOW)
        assert bool(found) is (name == "seed"), name
    paper = record_schedule(PRESETS["paper"].schedule)
    assert not usual_losses(other, run.model_copy(update={"schedule": paper}), SLOW)


def test_a_continued_run_is_told_as_a_whole(train: Train, simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    fail(phases=(SLOW,), steps=10)
    simpletuner.behave()

    train(phases=(SLOW,), steps=10)

    first, second, _ = lines()
    assert first.startswith("slow: 10 steps, 7 of them by the last start, ")
    assert second == "slow: loss of a round: 0.3839 at first, 0.127 at last (-67%)"
    remedy = "slow: that is far above its beginning: try a lower --learning-rate"
    for last, is_said in ((0.3, True), (0.15, False)):
        losses = [0.1] * 5 + [last] * 5
        rows = "".join(f"1,{step},{loss}\n" for step, loss in enumerate(losses, 1))
        RUN.losses(SLOW).write_text(f"start,step,loss\n{rows}")
        assert (remedy in lines()) is is_said
