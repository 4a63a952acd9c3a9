"""plan_training and run_training in this process; below them one that plays SimpleTuner."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.runs import RUN, Trained, make_plan, plan_and_train
from fakes.trainer import FakeSimpleTuner
from PIL import Image
from safetensors.numpy import save_file

from glance.core.errors import (
    DeviceUnavailable,
    RunError,
    SetupError,
    SimpleTunerNotFound,
    TrainingFailed,
)
from glance.core.events import CheckpointSaved, Event, PhaseSkipped, StageEntered, StepDone, Warned
from glance.core.phase import Phase
from glance.models.base import recorded_model
from glance.models.families import FAMILIES, find_family
from glance.models.lora.file import hash_file, read_header, read_lora, rewrite_metadata
from glance.runs.folder import RunFolder
from glance.runs.manifest import PhaseState, load_manifest
from glance.training.execute import run_training

pytest_plugins = ["fakes.plugin"]

SLOW, FAST = Phase.SLOW, Phase.FAST

type Train = Callable[..., list[Event]]


@pytest.fixture
def train(pair: Path, simpletuner: FakeSimpleTuner) -> Train:
    """Plan and train; return the events."""
    return plan_and_train


needs_half = pytest.mark.usefixtures("half_trained")
needs_whole = pytest.mark.usefixtures("fully_trained")


def states(run: RunFolder = RUN) -> tuple[str, str]:
    phases = load_manifest(run).phases
    return phases[SLOW].state.value, phases[FAST].state.value


def make_editing_model(folder: Path) -> None:
    (folder / "transformer").mkdir(parents=True)
    index = '{"_class_name": "QwenImageEditPlusPipeline"}'
    (folder / "model_index.json").write_text(index)
    (folder / "transformer/config.json").write_text('{"zero_cond_t": true}')


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The good way


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


@needs_whole
def test_alpha_is_folded_into_the_finished_file() -> None:
    lora = read_lora(RUN.lora(SLOW))
    key = f"transformer.{lora.modules[0]}.lora_B.weight"
    np.testing.assert_array_equal(lora.tensors[key].to_float(), np.full((8, 4), 4 * 0.25))
    assert lora.metadata["glance.folded_scale"] == "4.0"
    assert lora.metadata["glance.phase"] == "slow"


@needs_whole
def test_a_finished_run_holds_no_absolute_path(trained: Trained) -> None:
    assert list(trained.half.rglob("aspect_ratio_bucket_*"))  # so there was something to tidy
    assert not list(RUN.path.rglob("aspect_ratio_bucket_*"))
    shutil.rmtree(RUN.path / "logs")

    place = str(trained.whole.parent).encode()
    assert [path for path, content in contents(RUN.path).items() if place in content] == []


@needs_whole
def test_what_simpletuner_says_of_the_lora_is_not_kept(trained: Trained) -> None:
    for place in (trained.half, trained.whole):
        assert not list(place.rglob("README.md"))


def test_progress_is_told_in_order(trained: Trained) -> None:
    steps = [event for event in trained.events if isinstance(event, StepDone)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5] * 2
    assert steps[1] == StepDone(SLOW, 2, 5, loss=0.5, eta_seconds=3.0)
    assert StageEntered(SLOW, "Loading the model") in trained.events
    assert CheckpointSaved(SLOW, "output/glance-slow/checkpoint-5") in trained.events


def test_the_trainer_is_started_in_the_run_with_its_config(trained: Trained) -> None:
    slow, fast = trained.starts
    assert slow["argv"][1:] == ["train", "--env", "glance-slow"]
    assert fast["argv"][1:] == ["train", "--env", "glance-fast"]
    assert slow["cwd"] == str(trained.whole)
    config = trained.whole / "config/glance-slow/config.json"
    assert slow["config"] == json.loads(config.read_text())
    assert slow["data"] == ["cat.png", "cat.txt"]


def test_a_hostile_environment_does_not_reach_the_trainer(
    train: Train, simpletuner: FakeSimpleTuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = {
        "ACCELERATE_CONFIG_FILE": "/nonexistent/theirs.yaml",
        "ACCELERATE_CONFIG_PATH": "/nonexistent/theirs.yaml",
        "ACCELERATE_EXTRA_ARGS": "--multi_gpu",
        "ACCELERATE_MIXED_PRECISION": "fp8",
        "CONFIG_BACKEND": "toml",
        "CONFIG_PATH": "/nonexistent/theirs",
        "ENV": "theirs",
        "GLANCE_WEBHOOK": "[]",
        "MIXED_PRECISION": "fp8",
        "SIMPLETUNER_CONFIG_BACKEND": "env",
        "TRAINING_DYNAMO_BACKEND": "inductor",
        "TRAINING_NUM_MACHINES": "2",
        "TRAINING_NUM_PROCESSES": "4",
        "WORLD_SIZE": "4",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)

    train(phases=(SLOW,))

    (start,) = simpletuner.starts
    got = {name: value for name, value in start["environment"].items() if name in hostile}
    assert json.loads(got.pop("GLANCE_WEBHOOK"))["webhook_type"] == "raw"
    assert got == {
        "ACCELERATE_CONFIG_PATH": "config/accelerate.json",
        "CONFIG_BACKEND": "json",
        "MIXED_PRECISION": "no",
        "TRAINING_DYNAMO_BACKEND": "no",
        "TRAINING_NUM_MACHINES": "1",
        "TRAINING_NUM_PROCESSES": "1",
    }
    accelerate = json.loads((RUN.path / got["ACCELERATE_CONFIG_PATH"]).read_text())
    assert (accelerate["num_processes"], accelerate["mixed_precision"]) == (1, "no")


def test_raving_output_does_no_harm(train: Train, simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(slow="raving")

    train(phases=(SLOW,))

    assert states() == ("done", "pending")
    assert RUN.log(SLOW).stat().st_size > 40_000_000


@pytest.mark.parametrize("name", ['it\'s "quoted"; $HOME', "new\nline 猫 é", "\udcff"])
def test_any_file_name_is_trained(
    train: Train, simpletuner: FakeSimpleTuner, pair: Path, name: str
) -> None:
    image = pair.rename(f"{name}.png")
    pair.with_suffix(".txt").rename(f"{name}.txt")

    train(image=Path(image.name), run=Path(name), phases=(SLOW,))

    assert states(RunFolder(Path(name))) == ("done", "pending")
    assert simpletuner.starts[0]["config"]["output_dir"] == "output/glance-slow"


def make_model(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    Path(folder, "model_index.json").write_text('{"_class_name": "FluxPipeline"}')


def test_a_model_folder_elsewhere_is_told_to_the_trainer_and_its_place_to_nobody(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    make_model("a customer/bases/flux")

    train(model="a customer/bases/flux", phases=(SLOW,))

    (start,) = simpletuner.starts
    assert start["config"]["pretrained_model_name_or_path"] == "{env:GLANCE_MODEL}"
    assert start["environment"]["GLANCE_MODEL"] == "../../a customer/bases/flux"
    assert start["environment"]["HF_HUB_OFFLINE"] == "1"
    names = (b"customer", b"bases")
    told = [path for path, text in contents(RUN.path).items() if any(n in text for n in names)]
    assert told == []
    options = json.loads((RUN.output(SLOW) / "simpletuner_config.json").read_text())
    assert options["pretrained_model_name_or_path"] == "flux"


def test_a_model_that_is_moved_together_with_the_run_is_found(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    make_model("here/bases/flux")
    train(model="here/bases/flux", run=Path("here/runs/x"), phases=(SLOW,))
    Path("here").rename("there")
    settings = load_manifest(RunFolder(Path("there/runs/x"))).settings

    found = recorded_model(settings.model, family=find_family("flux"), run=Path("there/runs/x"))

    assert Path(found) == Path("there/bases/flux").resolve()
    train(model="there/bases/flux", run=Path("there/runs/x"))
    assert simpletuner.starts[-1]["environment"]["GLANCE_MODEL"] == "../../bases/flux"


def test_a_model_in_the_run_is_named_as_it_is(train: Train, simpletuner: FakeSimpleTuner) -> None:
    make_model(str(RUN.model))

    train(model=str(RUN.model), phases=(SLOW,))

    (start,) = simpletuner.starts
    assert start["config"]["pretrained_model_name_or_path"] == "model"
    assert "GLANCE_MODEL" not in start["environment"]


def test_a_family_that_edits_is_trained_with_its_reference(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    make_editing_model(Path("model"))
    Image.new("RGB", (64, 64), (0, 90, 0)).save("before.png")

    train(model="model", reference=Path("before.png"), phases=(SLOW,))
    (RUN.path / "cache/reference/stray.png").touch()
    train(model="model", reference=Path("before.png"), phases=(FAST,))

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


def test_another_reference_is_another_run(train: Train, simpletuner: FakeSimpleTuner) -> None:
    make_editing_model(Path("model"))
    Image.new("RGB", (64, 64), (0, 90, 0)).save("before.png")
    train(model="model", reference=Path("before.png"), phases=(SLOW,))
    Image.new("RGB", (64, 64), (0, 0, 90)).save("before.png")

    with pytest.raises(RunError, match=r"reference: other pixels there than in before\.png"):
        train(model="model", reference=Path("before.png"), run=RUN.path)


def test_a_file_that_may_be_of_several_families_is_warned_of(pair: Path) -> None:
    marks = FAMILIES["qwen_image"].marks.diffusers
    save_file({name: np.zeros(1) for name in marks}, "mine.safetensors")

    _, warning = make_plan(model="mine.safetensors").warnings  # FLUX at 64 is the first

    assert warning.message == (
        "mine.safetensors is taken for Qwen-Image; "
        "by its tensors it may also be Qwen-Image-Edit-2509 or Qwen-Image-Edit-2511"
    )
    assert warning.hint == "say which with --family, for example --family qwen_image_edit_2509"
    (size,) = make_plan(model="mine.safetensors", family="qwen_image").warnings
    assert size.message.startswith("--resolution 64: ")


def test_pictures_while_training_show_the_caption_unless_told(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    train(sample_every=2, phases=(SLOW,))

    assert simpletuner.starts[0]["config"]["validation_prompt"] == "a grey circle"
    assert simpletuner.starts[0]["config"]["validation_step_interval"] == 2
    plan = make_plan(sample_every=2, sample_prompt="a fox", run=Path("other"))
    assert plan.settings.sample_prompt == "a fox"
    (warning,) = make_plan(sample_prompt="a fox", run=Path("other")).warnings
    assert warning.hint == "add --sample-every 20"


def test_what_an_override_replaces_is_said(train: Train, simpletuner: FakeSimpleTuner) -> None:
    events = train(overrides=("lora_dropout=0.1", "lora_alpha=4"), steps=4, phases=(SLOW,))

    assert [event.message for event in events if isinstance(event, Warned)] == [
        "--set lora_dropout=0.1: replaces glance's 0.0",
        "--set lora_alpha=4.0: replaces glance's 16.0",
        "4 steps cannot visit the slow phase's 5 timesteps",
        "4 steps cannot visit the fast phase's 5 timesteps",
    ]
    assert simpletuner.starts[0]["config"]["lora_dropout"] == 0.1
    assert read_lora(RUN.lora(SLOW)).metadata["glance.folded_scale"] == "1.0"


@pytest.mark.parametrize("model", ["acme/FLUX.1-schnell", "acme/flux-schnell-v2"])
def test_a_model_that_is_distilled_already_is_warned_of(pair: Path, model: str) -> None:
    (warning,) = make_plan(model=model, family="flux").warnings

    assert warning.message.startswith(f"{model.split('/')[1]} is distilled to a few steps already")
    assert warning.hint == "train on a base model such as black-forest-labs/FLUX.1-dev"


# Again


@needs_whole
def test_a_finished_run_starts_nothing(train: Train, simpletuner: FakeSimpleTuner) -> None:
    before = load_manifest(RUN)

    events = train()

    assert events == [PhaseSkipped(SLOW), PhaseSkipped(FAST)]
    assert simpletuner.starts == []
    assert load_manifest(RUN) == before


@needs_half
def test_the_phases_can_be_trained_one_by_one(train: Train, simpletuner: FakeSimpleTuner) -> None:
    assert states() == ("done", "pending")

    train(phases=(FAST,))

    assert states() == ("done", "done")
    assert simpletuner.phases == ["fast"]


def test_the_fast_phase_can_come_first(train: Train, simpletuner: FakeSimpleTuner) -> None:
    train(phases=(FAST,))

    assert states() == ("pending", "done")
    assert simpletuner.phases == ["fast"]


def test_after_a_failure_only_the_unfinished_phase_is_started(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(fast="out of memory")
    with pytest.raises(TrainingFailed):
        train()
    assert states() == ("done", "failed")

    simpletuner.behave()
    train()

    assert states() == ("done", "done")
    assert simpletuner.phases == ["slow", "fast", "fast"]
    attempts = load_manifest(RUN).phases[FAST].attempts
    assert [attempt.returncode for attempt in attempts] == [1, 0]


@needs_half
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_a_phase_whose_file_is_not_the_recorded_one_is_trained_again(
    train: Train, simpletuner: FakeSimpleTuner, damage: Callable[[Path], object]
) -> None:
    damage(RUN.lora(SLOW))

    train(phases=(SLOW,))

    assert simpletuner.phases == ["slow"]
    assert states() == ("done", "pending")


@needs_half
def test_a_finished_file_that_was_not_recorded_is_taken(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    before = RUN.lora(SLOW).read_bytes()
    load_manifest(RUN).with_phase(SLOW, state=PhaseState.TRAINING, lora=None).save(RUN)

    train(phases=(SLOW,))

    assert simpletuner.phases == []
    assert states() == ("done", "pending")
    assert RUN.lora(SLOW).read_bytes() == before


@needs_half
def test_a_run_from_elsewhere_is_continued_without_its_old_paths(
    train: Train, simpletuner: FakeSimpleTuner, trained: Trained
) -> None:
    place = str(trained.whole.parent).encode()
    old_latents = RUN.path / "cache/vae" / trained.whole.relative_to("/")
    assert old_latents.exists()

    train(phases=(SLOW,))

    assert not old_latents.exists()
    shutil.rmtree(RUN.path / "logs")
    assert [path for path, content in contents(RUN.path).items() if place in content] == []


@pytest.mark.parametrize("name", ["moved", 'é "quoted"'])
def test_a_run_that_is_continued_knows_what_it_has_seen_wherever_it_is(
    train: Train, simpletuner: FakeSimpleTuner, name: str
) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    with pytest.raises(TrainingFailed):
        train(phases=(SLOW,))
    moved = RunFolder(RUN.path.rename(name))
    simpletuner.behave(slow="unknown")  # it takes no step any more

    with pytest.raises(TrainingFailed):
        train(phases=(SLOW,), run=moved.path)

    state = moved.output(SLOW) / "checkpoint-3/training_state-glance.json"
    seen = json.loads(state.read_text())["seen_images"]
    place = moved.path.resolve()
    assert seen == {f"{place}/data/cat.png": 3, f"{place}/cache/pictures/64/cat.png": 3}


@needs_half
def test_a_renamed_picture_is_the_same_sample(train: Train, simpletuner: FakeSimpleTuner) -> None:
    Path("cat.png").rename("dog.png")
    Path("cat.txt").rename("dog.txt")

    train(image=Path("dog.png"), run=RUN.path)

    assert [(start["phase"], start["data"]) for start in simpletuner.starts] == [
        ("fast", ["dog.png", "dog.txt"])
    ]
    assert load_manifest(RUN).sample.image == "data/dog.png"


# The pair's id


def said(key: str) -> list[str]:
    return [read_lora(RUN.lora(phase)).metadata.get(key, "") for phase in Phase]


@needs_half
def test_a_pair_gets_its_id_with_its_second_lora(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    half = read_lora(RUN.lora(SLOW)).metadata
    assert load_manifest(RUN).pair_id is None
    assert "glance.pair_id" not in half
    assert half["modelspec.title"] == "cat (slow)"

    train()

    manifest = load_manifest(RUN)
    assert said("glance.pair_id") == [manifest.pair_id] * 2
    assert said("ss_output_name") == [f"cat-{str(manifest.pair_id)[:8]}-{p}" for p in Phase]
    for phase in Phase:
        record = manifest.phases[phase].lora
        assert record is not None
        assert record.sha256 == hash_file(RUN.lora(phase))


@needs_half
def test_a_run_that_an_older_glance_began_becomes_one_pair(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    header = read_header(RUN.lora(SLOW))
    rewrite_metadata(header, {**header.metadata, "glance.pair_id": "0" * 16}, RUN.lora(SLOW))
    manifest = load_manifest(RUN)
    record = manifest.phases[SLOW].lora
    assert record is not None
    older = record.model_copy(update={"sha256": hash_file(RUN.lora(SLOW)), "data_sha256": None})
    manifest.with_phase(SLOW, lora=older).save(RUN)

    train()

    assert simpletuner.phases == ["fast"]
    after = load_manifest(RUN)
    assert said("glance.pair_id") == [after.pair_id] * 2
    assert "0" * 16 not in said("modelspec.description")[0]


@needs_whole
def test_a_pair_that_an_older_glance_trained_keeps_its_id(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    manifest = load_manifest(RUN)
    for phase in Phase:
        record = manifest.phases[phase].lora
        assert record is not None
        manifest = manifest.with_phase(phase, lora=record.model_copy(update={"data_sha256": None}))
    manifest.save(RUN)
    before = load_manifest(RUN).pair_id

    train()

    assert simpletuner.phases == []
    assert before == load_manifest(RUN).pair_id == json.loads(RUN.manifest.read_text())["pair_id"]


@needs_whole
def test_equal_trainings_are_equal_files_and_one_pair(
    train: Train, simpletuner: FakeSimpleTuner, trained: Trained
) -> None:
    train(restart=True, phases=(FAST,))
    train(restart=True)

    for phase in Phase:
        whole = RunFolder(trained.whole)
        assert RUN.lora(phase).read_bytes() == whole.lora(phase).read_bytes()


@needs_whole
def test_the_same_settings_with_other_tensors_are_another_pair(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    before = load_manifest(RUN).pair_id
    simpletuner.behave(fast="other tensors")

    train(restart=True, phases=(FAST,))

    after = load_manifest(RUN).pair_id
    assert after != before
    assert said("glance.pair_id") == [after, after]
    assert said("modelspec.title")[0] == f"cat-{str(after)[:8]} (slow)"


@needs_whole
@pytest.mark.parametrize("last", Phase)
def test_a_crash_between_the_headers_and_their_record_loses_nothing(
    train: Train, simpletuner: FakeSimpleTuner, trained: Trained, last: Phase
) -> None:
    before = load_manifest(RUN)
    (other,) = (phase for phase in Phase if phase is not last)
    record = before.phases[other].lora
    assert record is not None
    older = record.model_copy(update={"sha256": "0" * 64})  # without the id it had another header
    before.with_phase(other, lora=older).with_phase(
        last, state=PhaseState.TRAINING, lora=None
    ).save(RUN)

    train()

    assert simpletuner.phases == []
    after = load_manifest(RUN)
    assert after.pair_id == before.pair_id
    assert [after.phases[phase].lora for phase in Phase] == [
        before.phases[phase].lora for phase in Phase
    ]


@needs_half
def test_a_pair_whose_other_file_has_gone_meanwhile_is_recorded_all_the_same(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    def lose_the_slow_one(event: Event) -> None:
        if isinstance(event, StepDone):
            RUN.lora(SLOW).unlink(missing_ok=True)

    run_training(make_plan(phases=(FAST,)), lose_the_slow_one)

    assert states() == ("done", "done")
    train()
    assert simpletuner.phases == ["fast", "slow"]
    assert said("glance.pair_id") == [load_manifest(RUN).pair_id] * 2


# Another run than this


@needs_half
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"steps": 6}, "steps: 5 there, 6 asked"),
        ({"rank": 8}, "rank: 4 there, 8 asked"),
        ({"seed": 2}, "seed: 1 there, 2 asked"),
        ({"learning_rate": 1e-4}, "learning_rate: 0.0005 there, 0.0001 asked"),
        ({"model": "acme/other"}, "model: acme/tiny there, acme/other asked"),
        ({"overrides": ["lora_dropout=0.1"]}, "--set: none there, lora_dropout=0.1 asked"),
        ({"schedule": "paper"}, "1000.0,986.9786,973.2042,958.6094,943.1188 | 926.6473,825.7017"),
        (
            {"caption": "a black circle"},
            "caption: 'a grey circle' there, 'a black circle' asked",
        ),
    ],
)
def test_a_run_of_something_else_is_refused(
    train: Train, simpletuner: FakeSimpleTuner, changes: dict[str, Any], difference: str
) -> None:
    before = contents(RUN.path)

    with pytest.raises(RunError) as caught:
        train(**changes)

    (problem,) = caught.value.problems
    assert difference in problem.message
    assert problem.hint == "give another --run; --restart would discard what this one has trained"
    assert contents(RUN.path) == before


@needs_half
@pytest.mark.parametrize(
    ("size", "difference"),
    [
        ((64, 64), "picture: other pixels there than in cat.png"),
        ((128, 64), "picture: 64x64 there, 128x64 asked"),
    ],
)
def test_of_another_picture_it_is_said_that_it_is_the_picture(
    train: Train, size: tuple[int, int], difference: str
) -> None:
    Image.linear_gradient("L").resize(size).convert("RGB").save("cat.png")

    with pytest.raises(RunError) as caught:
        train()

    [problem] = caught.value.problems
    assert problem.message.endswith(difference)


@needs_half
def test_of_a_pair_whose_copy_is_gone_the_hashes_are_told(train: Train) -> None:
    (RUN.data / "cat.txt").unlink()

    with pytest.raises(RunError, match=r"sample: \w{12} there, \w{12} asked"):
        train(caption="a black circle")


def test_of_long_captions_the_part_that_differs_is_shown(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    long = "a grey circle, " * 20
    train(caption=f"{long}a fox in snow", phases=(SLOW,))

    with pytest.raises(RunError) as caught:
        train(caption=f"{long}a hen in snow", phases=(SLOW,))

    [problem] = caught.value.problems
    assert problem.message.endswith(
        "caption: '...e, a grey circle, a fox in snow' there, "
        "'...e, a grey circle, a hen in snow' asked"
    )


@needs_half
def test_every_difference_is_named(train: Train) -> None:
    with pytest.raises(RunError) as caught:
        train(steps=6, seed=2)

    assert [problem.message for problem in caught.value.problems] == [
        "run runs/cat was trained with other settings: steps: 5 there, 6 asked",
        "run runs/cat was trained with other settings: seed: 1 there, 2 asked",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overrides": ("lora_dropout=0.1",)}, "--set: none there, lora_dropout=0.1 asked"),
        ({"crop": "whole,center"}, "--crop: whole there, whole,center asked"),
        ({"sample_every": 2, "sample_prompt": "x"}, "sample_every: none there, 2 asked"),
    ],
)
def test_what_differs_is_said_as_people_write_it(
    simpletuner: FakeSimpleTuner, pair: Path, changes: dict[str, Any], said: str
) -> None:
    plan_and_train()

    with pytest.raises(RunError) as refused:
        make_plan(**changes)

    assert refused.value.problems[0].message.endswith(f"other settings: {said}")


def test_a_strangers_folder_is_refused_and_untouched(train: Train) -> None:
    Path("thesis/data").mkdir(parents=True)
    Path("thesis/data/chapter.txt").write_text("years of work")

    for restart in (False, True):
        with pytest.raises(RunError, match="thesis is no run folder: it holds data"):
            train(run=Path("thesis"), restart=restart)

    assert contents(Path("thesis")) == {"thesis/data/chapter.txt": b"years of work"}


def test_what_a_killed_glance_was_writing_is_no_obstacle_and_goes(train: Train) -> None:
    for name in (".glance.json.x1_y2abc.json", "config/glance-slow/.config.json.abc.json"):
        (RUN.path / name).parent.mkdir(parents=True, exist_ok=True)
        (RUN.path / name).write_text("{")
    shutil.rmtree(RUN.path / "config")  # the very first write

    train(phases=(SLOW,))
    (RUN.output(SLOW) / ".pytorch_lora_weights.safetensors.abc.safetensors").touch()
    train(phases=(FAST,))

    assert not [path for path in RUN.path.rglob(".*") if path.name != ".guard"]


def test_a_file_is_no_run_folder(train: Train) -> None:
    with pytest.raises(RunError, match=r"cat\.txt is not a folder"):
        train(run=Path("cat.txt"))


def test_a_damaged_manifest_is_refused(train: Train) -> None:
    RUN.path.mkdir(parents=True)
    RUN.manifest.write_text("{")

    with pytest.raises(RunError, match="damaged"):
        train()


def test_a_folder_that_holds_only_a_model_may_become_a_run(train: Train) -> None:
    RUN.model.mkdir(parents=True)
    (RUN.model / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')

    train(model=str(RUN.model), phases=(SLOW,))

    assert load_manifest(RUN).settings.model == "model"


# Restart


@needs_whole
def test_restart_discards_what_was_trained(train: Train, simpletuner: FakeSimpleTuner) -> None:
    train(steps=6, restart=True)

    assert simpletuner.phases == ["slow", "fast"]
    assert [start["resumed"] for start in simpletuner.starts] == [0, 0]
    assert load_manifest(RUN).settings.steps == 6
    assert states() == ("done", "done")


@needs_whole
def test_restart_of_one_phase_keeps_the_other(train: Train, simpletuner: FakeSimpleTuner) -> None:
    slow = RUN.lora(SLOW).read_bytes()

    train(phases=(FAST,), restart=True)

    assert [(start["phase"], start["resumed"]) for start in simpletuner.starts] == [("fast", 0)]
    assert RUN.lora(SLOW).read_bytes() == slow
    assert states() == ("done", "done")


@needs_whole
def test_restart_of_one_phase_cannot_change_what_both_share(train: Train) -> None:
    with pytest.raises(RunError) as caught:
        train(phases=(FAST,), restart=True, rank=8)

    hint = "give another --run; --phase both would discard the slow phase as well"
    assert caught.value.problems[-1].hint == hint


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


@needs_whole
def test_restart_from_the_runs_own_pair_does_not_lose_it(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    pair = contents(RUN.data)

    train(image=RUN.data / "cat.png", restart=True)

    assert simpletuner.starts[0]["data"] == ["cat.png", "cat.txt"]
    assert contents(RUN.data) == pair


# What the machine lacks: nothing is written


@pytest.fixture
def no_simpletuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on PATH nor beside the interpreter."""
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))


@pytest.mark.usefixtures("pair", "no_simpletuner")
def test_without_simpletuner_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(SimpleTunerNotFound, match=f"no `simpletuner` .* {tmp_path}/bin"):
        run_training(make_plan(), print)

    assert not RUN.path.exists()


def test_a_device_that_is_not_here_is_refused(train: Train) -> None:
    with pytest.raises(DeviceUnavailable):  # on a Mac it is here, but FLUX does not train on it
        train(device="mps")

    assert not RUN.path.exists()


@pytest.mark.parametrize("run", ["cat.txt/run", "/proc/run", "a" * 300])
def test_a_run_folder_that_cannot_be_made_is_refused(
    train: Train, simpletuner: FakeSimpleTuner, run: str
) -> None:
    with pytest.raises(SetupError, match=r"cannot write|there are 0\.0 free"):
        train(run=Path(run))

    assert simpletuner.starts == []


def test_a_log_that_cannot_be_written_is_refused(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="unknown")
    with pytest.raises(TrainingFailed):
        train()
    shutil.rmtree(RUN.path / "logs")
    (RUN.path / "logs").touch()

    with pytest.raises(SetupError, match="cannot write runs/cat/logs"):
        train()

    assert states() == ("stopped", "pending")


# The bad ways


@pytest.mark.parametrize(
    ("behaviour", "cause", "remedy"),
    [
        ("out of memory", "the accelerator ran out of memory", "--resolution"),
        ("gated", "the base model is gated", "accept the licence"),
        ("disk full", "the disk is full", "free some space"),
    ],
)
def test_a_failure_says_phase_cause_and_remedy(
    train: Train, simpletuner: FakeSimpleTuner, behaviour: str, cause: str, remedy: str
) -> None:
    simpletuner.behave(slow=behaviour)

    with pytest.raises(TrainingFailed) as caught:
        train()

    (problem,) = caught.value.problems
    assert problem.message.startswith(f"the slow phase failed (SimpleTuner returned 1): {cause}")
    assert remedy in (problem.hint or "")
    assert (caught.value.exit_code, caught.value.log) == (5, RUN.log(SLOW))
    assert caught.value.tail[-1] == RUN.log(SLOW).read_text().splitlines()[-1]
    assert states() == ("failed", "pending")


def test_an_unknown_failure_shows_the_last_lines(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(fast="unknown")

    with pytest.raises(TrainingFailed) as caught:
        train()

    assert str(caught.value) == "the fast phase failed (SimpleTuner returned 1)"
    assert caught.value.tail[-2:] == (
        "Traceback (most recent call last):",
        "RuntimeError: the flux capacitor is missing",
    )
    assert states() == ("done", "failed")


def test_a_killed_trainer_is_told_from_a_failed_one(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="killed")

    with pytest.raises(TrainingFailed, match=r"returned 137\): it was killed"):
        train()

    assert load_manifest(RUN).phases[SLOW].attempts[-1].returncode == 137


@pytest.mark.parametrize(("behaviour", "code"), [("mute", 0), ("mute failure", 3)])
def test_a_trainer_that_says_nothing_has_failed_too(
    train: Train, simpletuner: FakeSimpleTuner, behaviour: str, code: int
) -> None:
    simpletuner.behave(slow=behaviour)

    with pytest.raises(TrainingFailed, match="the slow phase") as caught:
        train()

    assert (caught.value.returncode, caught.value.tail) == (code, ())
    assert states() == ("failed", "pending")


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [
        ("no file", "LoRA not found: "),
        ("truncated", "not a whole safetensors file"),
        ("nan", "attn.to_k.lora_B.weight holds NaN or infinity (and 1 more)"),
        ("zero", "every lora_B is zero: nothing was learnt"),
        ("wrong rank", "has rank 5, not 4 (and 3 more)"),
    ],
)
def test_a_return_code_of_0_is_not_believed(
    train: Train, simpletuner: FakeSimpleTuner, behaviour: str, fault: str
) -> None:
    simpletuner.behave(slow=behaviour)

    with pytest.raises(TrainingFailed) as caught:
        train()

    message = "the slow phase left no sound LoRA, though SimpleTuner returned 0: "
    assert str(caught.value).startswith(message)
    assert fault in str(caught.value)
    assert caught.value.problems[0].hint
    assert caught.value.tail[-1] == "Training complete"
    assert states() == ("failed", "pending")


def test_an_old_file_does_not_pass_for_the_new_one(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="wrong rank")
    with pytest.raises(TrainingFailed):
        train()
    simpletuner.behave(slow="no file")

    with pytest.raises(TrainingFailed, match="LoRA not found"):
        train()


def test_a_failure_is_told_even_if_it_cannot_be_recorded(
    train: Train, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="broken manifest")

    with pytest.raises(TrainingFailed, match="the disk is full"):
        train()


def test_a_listener_that_fails_ends_the_training(pair: Path, simpletuner: FakeSimpleTuner) -> None:
    def fail_at_a_step(event: Event) -> None:
        if isinstance(event, StepDone):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_training(make_plan(), fail_at_a_step)

    assert states() == ("stopped", "pending")
    assert simpletuner.processes() == []


def test_no_token_is_written_anywhere(
    train: Train, simpletuner: FakeSimpleTuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "Secret" * 5
    monkeypatch.setenv("HF_TOKEN", token)
    simpletuner.behave(slow="secret")

    with pytest.raises(TrainingFailed) as caught:
        train()

    assert caught.value.tail[-1] == "401 Client Error for token=***"
    assert "logging in with ***" in RUN.log(SLOW).read_text()
    assert [path for path, content in contents(RUN.path).items() if token.encode() in content] == []
