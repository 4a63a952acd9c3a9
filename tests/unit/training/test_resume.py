"""--resume, and the command that makes a run: what a run was made with is asked for again."""

import inspect
import shlex
import shutil
from collections.abc import Callable
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fakes.distillations import RUN as TAUGHT
from fakes.distillations import distil, make_model, record_nothing
from fakes.runs import FAST, RUN, SLOW, make_plan, needs_half, needs_whole, states, with_options
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.core.device import Quantize
from glance.core.errors import GlanceError, Problem, RunError, UsageError
from glance.core.events import Event
from glance.core.phase import Phase
from glance.models.base import PACKAGED
from glance.runs.checkpoints import Sealer
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.training import resume as recalled
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.execute import run_training
from glance.training.folder import prepare_run
from glance.training.plan import TrainingPlan, plan_training
from glance.training.request import DistillRequest, TrainRequest
from glance.training.resume import made_by

type Invoke = Callable[..., Any]
OLDER = Path(__file__).parents[2] / "fixtures/older/runs"


def resume(run: Path = RUN.path, **said: Any) -> TrainingPlan:
    return plan_training(TrainRequest(resume=run, **with_options(said)))


def resume_distilled(**said: Any) -> DistillationPlan:
    return plan_distillation(DistillRequest(resume=TAUGHT.path, **with_options(said)))


def problem(ask: Callable[..., object], **said: Any) -> Problem:
    with pytest.raises(GlanceError) as caught:
        ask(**said)
    return caught.value.problems[0]


def begin(**changes: Any) -> None:
    """Train a first phase with other options than the usual ones."""
    run_training(make_plan(**changes, phases=(SLOW,)), lambda _: None)


def train(plan: DistillationPlan) -> DistillationPlan:
    run_training(plan.training, lambda _: None, make_ready=lambda: record_nothing(plan))
    return plan


@pytest.fixture
def taught(simpletuner: FakeSimpleTuner) -> DistillationPlan:
    """A distilled run whose paths are recorded, with all that a teacher can have."""
    make_model()
    Path("loras").mkdir()
    (Path("loras") / "style.safetensors").write_bytes(
        (OLDER / "trained/output/glance-slow/pytorch_lora_weights.safetensors").read_bytes()
    )
    plan = distil(
        teacher_loras=("loras/style.safetensors",),
        quantize=Quantize.FP8,
        guidance=2.0,
        sizes=("64x64", "64x128"),
        overrides=("lora_dropout=0.1",),
    )
    return train(plan)


# --resume needs no other flag


@needs_half
def test_an_unfinished_run_goes_on_as_it_was_begun(simpletuner: FakeSimpleTuner) -> None:
    assert not Path("cat.png").exists()  # its own copy is enough

    run_training(resume(), lambda _: None)

    assert (simpletuner.phases, states()) == (["fast"], ("done", "done"))


@pytest.mark.usefixtures("pair", "simpletuner")
@pytest.mark.parametrize(
    "changes",
    [
        {
            "overrides": (
                "use_ema=true",
                "lora_dropout=0.1",
                "lr_scheduler=cosine",
                "ema_decay=1e-7",
            )
        },
        {"overrides": ("validation_prompt=a 'red' fox, in  snow; $HOME",)},
        {"slow_timesteps": "1.0,0.97915", "fast_timesteps": "900,0.5"},
        {"schedule": "paper", "crop": "whole,center", "seed": 7, "learning_rate": 3e-5},
        {"image": (Path("-odd name.png"), Path("other/-odd name.png"))},
    ],
)
def test_what_was_said_is_what_is_resumed_and_what_info_says(
    changes: dict[str, Any], invoke: Invoke
) -> None:
    for folder in (".", "other"):
        Path(folder).mkdir(exist_ok=True)
        Image.new("RGB", (64, 128), folder and "red").save(Path(folder) / "-odd name.png")
        (Path(folder) / "-odd name.txt").write_text(f"it's in {folder}\n")
    begin(run=Path("my runs/x"), **changes)
    made = load_manifest(RunFolder(Path("my runs/x")))

    plan = resume(Path("my runs/x"))
    typed = invoke("info", "my runs/x", "--json").document["made_by"]

    assert plan.settings == made.settings
    assert plan.schedule.to_json() == made.resolve_schedule().to_json()
    assert [one.sha256 for one in plan.samples] == [one.sha256 for one in made.samples]
    assert [f"data/{one.name}.png" for one in plan.samples] == [one.image for one in made.samples]
    words = shlex.split(typed)
    assert words[:2] == ["glance", "train"]
    dry = invoke(*words[1:], "--dry-run", "--json")
    assert dry.document["files"] == plan.files


def test_what_decides_a_distillation_is_resumed(taught: DistillationPlan) -> None:
    again = resume_distilled()

    assert again.training.settings == taught.training.settings
    assert again.training.schedule.to_json() == taught.training.schedule.to_json()
    assert again.paths == taught.paths
    assert again.generation.quantize == Quantize.FP8


@pytest.mark.usefixtures("taught")
def test_the_command_of_a_distillation_makes_the_same(invoke: Invoke) -> None:
    typed = invoke("info", TAUGHT.path, "--json").document["made_by"]

    done = invoke(*shlex.split(typed)[1:], "--dry-run", "--json")

    assert done.code == 0, done.err
    assert done.document["files"] == resume_distilled().training.files


def test_of_a_model_that_travels_with_the_package_its_name_is_said() -> None:
    for name in ("trained", "distilled"):
        shutil.copytree(OLDER / name, f"runs/{name}")
        run = RunFolder(Path("runs") / name)
        manifest = load_manifest(run)
        elsewhere = {"model": "../../gone/assets/small-flux"}  # of another installation
        settings = manifest.settings.model_copy(update=elsewhere)
        words = made_by(run, manifest.model_copy(update={"settings": settings}))

        assert words[words.index("--model") + 1] == PACKAGED
        assert words == made_by(run, manifest)


OF_ONE_START = {
    *("run", "resume", "restart", "trust", "phases", "gpu_ids", "stop_within", "launcher"),
    *("caption", "prompt_file", "memory", "keep_recording", "compares"),
}


@pytest.mark.parametrize("request_", [TrainRequest, DistillRequest])
def test_each_option_is_remembered_or_of_one_start_alone(request_: type) -> None:
    source = inspect.getsource(recalled)
    forgotten = {one.name for one in fields(request_) if f'"{one.name}"' not in source}

    assert forgotten <= OF_ONE_START


# What is said beside it


@needs_whole
def test_what_is_said_beside_it_stands() -> None:
    plan = resume(stop_within=0.0, phases=(FAST,), gpu_ids="1", trust=True)

    assert (plan.stop_within, plan.phases, plan.devices, plan.trust) == (0, (FAST,), (1,), True)


@pytest.mark.usefixtures("taught")
def test_a_flag_that_says_no_stands_too() -> None:
    assert resume_distilled().compares
    assert not resume_distilled(compares=False).compares


@needs_whole
@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ({"rank": 8}, "rank: 4 there, 8 asked", "--restart would discard"),
        ({"steps": 0}, "--steps 0: it must be at least 1", ""),
        ({"steps": 4}, "steps: 5 there, 4 asked", "--steps 5 continues it"),
        ({"steps": 6, "phases": (SLOW,)}, "steps: 5 there, 6 asked", "leave out --phase"),
        ({"schedule": "paper"}, "schedule: 1000", "--restart"),
        ({"fast_timesteps": "700,20"}, "911.3354 | 700.0,20.0 asked", "--restart"),
        ({"model": "acme/other"}, "model: acme/tiny there, acme/other asked", "--restart"),
        ({"crop": "center"}, "--crop: whole there, center asked", "--restart"),
    ],
)
def test_what_contradicts_the_run_is_refused(said: dict[str, Any], message: str, hint: str) -> None:
    refused = problem(resume, **said)

    assert message in refused.message
    assert hint in (refused.hint or "")


@needs_whole
def test_what_cannot_be_resumed_is_refused_with_what_can() -> None:
    with pytest.raises(UsageError, match="--run and --resume exclude each other"):
        plan_training(TrainRequest(resume=RUN.path, run=RUN.path))
    asked = problem(lambda: plan_distillation(DistillRequest(resume=RUN.path)))
    assert asked.hint == "glance train --resume runs/cat"
    shutil.copytree(OLDER / "imported", "runs/imported")
    assert "was imported" in problem(resume, run=Path("runs/imported")).message
    with pytest.raises(RunError, match="not a run folder"):
        resume(Path("runs"))


# What a run needs, and what is gone of it


@needs_half
@pytest.mark.usefixtures("simpletuner")
def test_a_changed_or_missing_copy_is_made_good_by_the_image_itself(pair: Path) -> None:
    caption, picture = RUN.data / "cat.txt", RUN.data / "cat.png"
    caption.write_text("a black circle\n")
    changed = problem(resume)
    picture.unlink()

    missing = problem(resume)
    run_training(resume(image=(pair,)), lambda _: None)

    assert "data/cat.png or its caption is not what it was" in changed.message
    assert missing.message == "runs/cat holds data/cat.png no longer"
    assert all("--image x.png" in str(one.hint) for one in (changed, missing))
    assert caption.read_text() == "a grey circle\n"


@pytest.mark.usefixtures("taught")
def test_a_teachers_lora_that_is_gone_is_asked_for() -> None:
    Path("loras").rename("moved")

    gone = problem(resume_distilled)
    plan = resume_distilled(teacher_loras=("moved/style.safetensors",))

    assert (
        gone.message
        == f"{TAUGHT.path} was taught with style.safetensors, which is not where it was"
    )
    assert gone.hint == "say where: --teacher-lora style.safetensors"
    assert plan.run == TAUGHT


@pytest.mark.usefixtures("simpletuner")
def test_a_model_that_has_moved_is_asked_for() -> None:
    train(distil(model=str(make_model())))
    Path("model").rename("elsewhere")

    gone = problem(resume_distilled)

    assert "--model" in (gone.hint or "")
    assert resume_distilled(model="elsewhere").run == TAUGHT


@pytest.mark.usefixtures("pair", "simpletuner")
def test_of_a_single_file_its_whole_model_is_remembered_or_asked_for() -> None:
    whole, file = make_model(folder=Path("whole")), Path("files/mine.safetensors")
    file.parent.mkdir()
    packaged = files("glance") / "assets/small-flux/transformer"
    shutil.copy(next(Path(str(packaged)).glob("*.safetensors")), file)
    begun = make_plan(model=str(file), base=str(whole))
    prepare_run(begun, Sealer(Path("state")))
    assert resume().settings == begun.settings
    file.parent.rename("moved")
    moved = "moved/mine.safetensors"

    assert "--model" in (problem(resume).hint or "")
    assert resume(model=moved).base.location == "whole"
    whole.rename("elsewhere")
    assert problem(resume, model=moved).hint == "say where that model is with --pipeline"
    assert resume(model=moved, base="elsewhere").base.location == "elsewhere"


# More steps


@needs_whole
def test_more_steps_go_on_and_the_shorter_pair_passes_for_none(
    simpletuner: FakeSimpleTuner,
) -> None:
    before, events = load_manifest(RUN), list[Event]()
    plan = resume(steps=8)

    run_training(plan, events.append)

    after = load_manifest(RUN)
    assert plan.notes[1] == "runs/cat was trained for 5 steps, and goes on to 8"
    assert [(one["phase"], one["resumed"]) for one in simpletuner.starts] == [
        ("slow", 5),
        ("fast", 5),
    ]
    assert (after.settings.steps, states()) == (8, ("done", "done"))
    assert [after.phases[one].steps for one in Phase] == [8, 8]
    assert after.pair_id is not None
    assert len(resume(steps=8).notes) == 1
    assert before.created == after.created


@needs_whole
def test_a_continuation_that_fails_goes_on_later(simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(slow="unknown")
    with pytest.raises(GlanceError):
        run_training(resume(steps=8), lambda _: None)
    assert (states(), load_manifest(RUN).pair_id) == (("failed", "stopped"), None)
    simpletuner.behave()

    run_training(resume(), lambda _: None)

    assert (states(), load_manifest(RUN).settings.steps) == (("done", "done"), 8)


@needs_whole
@pytest.mark.parametrize("loss", ["from elsewhere", "damaged", "cleaned"])
def test_a_finished_run_that_cannot_go_on_stays_finished(
    loss: str, simpletuner: FakeSimpleTuner
) -> None:
    checkpoints = [*RUN.path.glob("output/*/checkpoint-*")]
    for one in checkpoints if loss == "cleaned" else ():
        shutil.rmtree(one)
    for one in checkpoints if loss != "cleaned" else ():
        (one / "glance.seal").write_text("another's")
    if loss == "from elsewhere":
        load_manifest(RUN).model_copy(update={"origin": "another machine"}).save(RUN)
    kept = load_manifest(RUN)

    refused = problem(lambda: run_training(resume(steps=8), lambda _: None))

    remedy = {"from elsewhere": "--trust", "damaged": "--restart", "cleaned": "--restart"}[loss]
    assert remedy in (refused.hint or "")
    assert (load_manifest(RUN), simpletuner.starts) == (kept, [])
