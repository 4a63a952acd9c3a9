"""A distilled run from its recordings on: trained by the fake trainer, continued, refused, used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.distillations import MODEL, PROMPTS, RUN, distil, make_model, record_nothing
from fakes.pairs import write_lora
from fakes.runs import make_plan
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.cli._description import describe
from glance.core.device import Quantize
from glance.core.errors import RunError, TrainingFailed
from glance.core.events import Event, Noted, PhaseSkipped
from glance.core.phase import Phase
from glance.interop.comfyui import export_comfyui, plan_comfyui
from glance.interop.diffusers import export_diffusers
from glance.interop.export import open_source
from glance.interop.hub import HubRequest, plan_hub
from glance.interop.importing import plan_import, run_import
from glance.interop.request import ImportRequest
from glance.models.lora.file import read_lora
from glance.runs.folder import RunFolder
from glance.runs.manifest import PhaseState, load_manifest
from glance.sampling.plan import GenerationPlan, plan_generation
from glance.sampling.request import InferRequest
from glance.training import recording
from glance.training.distillation import DistillationPlan
from glance.training.execute import run_training
from glance.training.recording import DistillationResult, is_recorded, run_distillation

SLOW, FAST = Phase
STYLE = Path("style.safetensors")


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FLUX in the current folder, which nothing may load."""
    make_model()

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was to be loaded")

    monkeypatch.setattr(recording, "load_planned", load)


def train(plan: DistillationPlan) -> tuple[DistillationResult, list[Event]]:
    events: list[Event] = []
    return run_distillation(plan, events.append), events


def record_nothing_yet(plan: DistillationPlan) -> None:
    """Make the run folder what it is when its paths are recorded and no phase is trained."""
    with pytest.raises(AssertionError, match="was to be loaded"):
        train(plan)
    record_nothing(plan)


@pytest.fixture
def planned(simpletuner: FakeSimpleTuner) -> DistillationPlan:
    """A plan whose paths are recorded."""
    plan = distil()
    record_nothing_yet(plan)
    return plan


def distil_whole(**changes: Any) -> DistillationPlan:
    """Train both phases on recordings of nothing."""
    plan = distil(**changes)
    record_nothing_yet(plan)
    train(plan)
    return plan


def states() -> list[PhaseState]:
    return [load_manifest(RUN).phases[phase].state for phase in Phase]


def differences(**changes: Any) -> list[str]:
    with pytest.raises(RunError) as caught:
        distil(run=RUN.path, **changes)
    hints = {one.hint for one in caught.value.problems} - {None}
    assert hints == {"give another --run; --restart would discard what this one has trained"}
    before = f"run {RUN.path} was trained with other settings: "
    return [one.message.removeprefix(before) for one in caught.value.problems]


def test_both_phases_learn_what_is_recorded_and_nothing_is_loaded(
    planned: DistillationPlan, simpletuner: FakeSimpleTuner
) -> None:
    result, events = train(planned)

    assert states() == ["done", "done"]
    assert simpletuner.phases == ["slow", "fast"]
    assert Noted("4 of 4 paths are recorded already") in events
    assert result.report is None
    for start in simpletuner.starts:
        targets = f"config/glance-{start['phase']}/targets.json"
        assert start["environment"]["GLANCE_TARGETS"] == targets
    assert len(simpletuner.starts[0]["data"]) == 2 * 4
    assert read_lora(RUN.lora(SLOW)).metadata["glance.folded_scale"] == "1.0"
    assert read_lora(RUN.lora(FAST)).metadata["glance.guidance"] == "3.5"
    # the pictures stay
    assert not RUN.recordings.exists()
    assert len(list(RUN.data.glob("*.png"))) == len(list(RUN.data.glob("*.txt"))) == 4
    assert list(RUN.path.glob("config/*/targets-in-use.txt")) == []

    _, events = train(planned)

    assert simpletuner.phases == ["slow", "fast"]
    assert events[-2:] == [PhaseSkipped(SLOW), PhaseSkipped(FAST)]


def test_recordings_stay_until_both_phases_have_learnt_them(simpletuner: FakeSimpleTuner) -> None:
    plan = distil(phases=(SLOW,))
    record_nothing_yet(plan)

    train(plan)

    assert states() == ["done", "pending"]
    assert all(is_recorded(plan, one) for one in plan.paths)
    with pytest.raises(RunError) as caught:
        open_source(RUN.path)
    assert caught.value.problems[0].hint == f"glance distill --resume {RUN.path}"
    train(distil(phases=(FAST,)))
    assert states() == ["done", "done"]
    assert not RUN.recordings.exists()


RECORDING, ANOTHER = (RUN.recordings / f"000{n}-2.safetensors" for n in (1, 2))


@pytest.mark.parametrize(
    "damage",
    [
        lambda: RECORDING.unlink(),
        lambda: RECORDING.write_bytes(RECORDING.read_bytes()[:-1]),
        lambda: RECORDING.write_bytes(b""),
        lambda: RECORDING.write_bytes(ANOTHER.read_bytes()),
        lambda: (RUN.data / "0001-2.png").unlink(),
        lambda: (RUN.data / "0001-2.txt").unlink(),
    ],
    ids=["missing", "truncated", "empty", "of another prompt", "no image", "no caption"],
)
def test_a_path_is_recorded_when_it_is_there_whole_and_its_own(damage: Callable) -> None:
    plan = distil()
    record_nothing(plan)
    assert [is_recorded(plan, one) for one in plan.paths] == [True] * 4

    damage()

    assert [is_recorded(plan, one) for one in plan.paths] == [True, False, True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher_steps": 20},
        {"guidance": 2},
        {"slow_steps": 1},
        {"sizes": ("128x64",)},
        {"quantize": Quantize.FP8},
    ],
)
def test_a_recording_of_another_teacher_or_other_sigmas_does_not_count(changes: dict) -> None:
    record_nothing(distil(run=Path("other")))
    other = distil(run=Path("another"), **changes)
    shutil.copytree("other", "another")

    assert not any(is_recorded(other, one) for one in other.paths)


def test_what_is_not_of_the_plan_is_not_trained_on(simpletuner: FakeSimpleTuner) -> None:
    make_model("qwen_image_edit_2511")
    Image.new("RGB", (64, 64)).save("before.png")
    plan = distil(reference=Path("before.png"))
    record_nothing_yet(plan)
    strays = ("stray.png", "stray.txt", "0003-1.png", "._0001-1.png", "Thumbs.db", "old/0004-1.png")
    references = [RUN.references / name for name in ("stray.png", "0001-1.png")]
    for path in (*(RUN.data / stray for stray in strays), *references):
        path.parent.mkdir(exist_ok=True)
        path.touch()

    train(plan)

    names = {Path(stray).name for stray in strays}
    assert not names & set(simpletuner.starts[0]["data"])
    assert simpletuner.starts[0]["reference"] == ["0001-1.png"]


@pytest.mark.usefixtures("simpletuner")
def test_a_run_of_something_else_is_refused() -> None:
    write_lora(STYLE)
    distil_whole(phases=(SLOW,), teacher_loras=(STYLE,))

    for changes, expected in (
        ({"prompts": PROMPTS[:1]}, "1 asked; number 2 is 'a red square' there, none asked"),
        ({"prompts": (PROMPTS[0], "a dog")}, "number 2 is 'a red square' there, 'a dog' asked"),
        ({"noises": 3}, "noises: 2 there, 3 asked"),
        ({"teacher_steps": 20}, "teacher_steps: 50 there, 20 asked"),
        ({"batch_size": 2}, "batch_size: 1 there, 2 asked"),
        ({"fast_timesteps": "700,400"}, "| 700.0,400.0 asked"),
        ({"sizes": ("64x64", "64x128")}, "sizes: 64x64 there, 64x64, 64x128 asked"),
        ({"teacher_loras": ()}, ") there, none asked"),
    ):
        (difference,) = differences(**{"teacher_loras": (STYLE,), **changes})
        assert difference.endswith(expected), changes

    write_lora(STYLE, fill=2)  # of the same name and another content
    found = differences(guidance=2, teacher_loras=(STYLE,))
    names = [one.partition(":")[0] for one in found]
    assert names == ["guidance", "slow_guidance", "fast_guidance", "loras"]
    assert found[-1].startswith("loras: style.safetensors (")


@pytest.mark.usefixtures("simpletuner", "pair")
def test_the_two_ways_of_training_do_not_mix() -> None:
    distil_whole()
    with pytest.raises(RunError) as caught:
        make_plan(model=str(MODEL), run=RUN.path)
    (problem,) = caught.value.problems
    ways = "trained on: the base model's own paths there, one image asked"
    assert problem.message.endswith(ways)
    assert problem.hint == "give another --run; --restart would discard what this one has trained"

    run_training(make_plan(model=str(MODEL), phases=(SLOW,)), print)
    ways = "trained on: one image there, the base model's own paths asked"
    with pytest.raises(RunError, match=f"{ways}$"):
        distil(run=Path("runs/cat"))


def test_a_distilled_run_can_be_restarted_on_a_picture_that_it_does_not_remove(
    simpletuner: FakeSimpleTuner, pair: Path
) -> None:
    distil_whole(sizes=("64x64", "64x128"))
    recorded = RUN.data / "64x64/0001-1-64x64.png"
    with pytest.raises(RunError, match="lies among the recorded images"):
        make_plan(image=recorded, model=str(MODEL), run=RUN.path, restart=True)
    assert recorded.exists()

    run_training(make_plan(model=str(MODEL), run=RUN.path, restart=True), print)

    assert simpletuner.starts[-2]["data"] == ["cat.png", "cat.txt"]
    assert not recorded.exists()
    assert load_manifest(RUN).settings.teacher is None


@pytest.mark.usefixtures("pair")
def test_a_trained_run_can_be_restarted_as_a_distilled_one(simpletuner: FakeSimpleTuner) -> None:
    run_training(make_plan(model=str(MODEL), run=RUN.path), print)
    plan = distil(restart=True)
    record_nothing_yet(plan)

    train(distil())

    assert "cat.png" not in simpletuner.starts[-1]["data"]
    assert load_manifest(RUN).settings.teacher == plan.teacher


def test_restart_throws_old_pictures_and_recordings_away(simpletuner: FakeSimpleTuner) -> None:
    distil_whole(keep_recording=True, sizes=("64x64", "128x64"))
    plan = distil(prompts=("a hill",), restart=True)

    with pytest.raises(AssertionError, match="was to be loaded"):
        train(plan)

    assert not RUN.recordings.exists()
    assert not list(RUN.path.rglob("*.png"))
    assert states() == ["pending", "pending"]
    assert load_manifest(RUN).settings.teacher == plan.teacher


def test_restart_of_one_phase_keeps_the_recordings(simpletuner: FakeSimpleTuner) -> None:
    distil_whole(keep_recording=True)
    slow = RUN.lora(SLOW).read_bytes()

    train(distil(restart=True, phases=(FAST,)))

    assert simpletuner.phases == ["slow", "fast", "fast"]
    assert RUN.lora(SLOW).read_bytes() == slow


def test_a_trainer_that_ignores_the_targets_leaves_no_lora(
    planned: DistillationPlan, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    with pytest.raises(TrainingFailed, match="the slow phase failed"):
        train(planned)
    simpletuner.behave(slow="ignores the targets")  # the receipt of before does not pass for its

    with pytest.raises(TrainingFailed) as caught:
        train(planned)

    (problem,) = caught.value.problems
    assert problem.message == "the slow phase was trained on images, not on what was recorded"
    assert "--launcher direct" in (problem.hint or "")
    assert caught.value.exit_code == 5
    assert not RUN.lora(SLOW).exists()
    assert states() == ["failed", "pending"]
    simpletuner.behave()
    train(planned)
    assert simpletuner.starts[2]["resumed"] == 3, "none of its checkpoints is gone on from"


def paint(**request: Any) -> GenerationPlan:
    return plan_generation(InferRequest(**{"prompts": ("a hill",), "device": "cpu", **request}))


def guidance(plan: GenerationPlan) -> tuple[float, float]:
    return plan.settings.slow_guidance, plan.settings.fast_guidance


@pytest.mark.usefixtures("simpletuner")
def test_run_and_files_alone_are_sampled_as_trained_unless_the_user_says_otherwise() -> None:
    make_model("sd3")  # a teacher with classifier-free guidance
    distil_whole(sizes=("128x64", "64x64"))
    usual, own = paint(), paint(slow_guidance=5.0, height=256)

    assert guidance(usual) == (1, 1)
    assert (usual.settings.width, usual.settings.height) == (128, 64)
    assert not usual.settings.needs_negative(usual.base.family)
    assert guidance(own) == (5, 1)
    assert (own.settings.width, own.settings.height) == (128, 256)

    files = {f"{phase}_lora": str(RUN.lora(phase)) for phase in Phase}
    plan = paint(model=str(MODEL), **files)

    assert guidance(plan) == (1, 1)
    assert plan.schedule.to_json() == load_manifest(RUN).resolve_schedule().to_json()
    assert paint(model=str(MODEL), fast_guidance=3.0, **files).settings.fast_guidance == 3
    taught = "the base model, 50 steps at guidance 7: 2 prompts x 2 noises at 128x64, 64x64"
    assert any("taught by" in line and taught in line for line in describe(RUN.path).lines)
    assert describe(RUN.lora(SLOW)).document["guidance"] == 1

    run_import(plan_import(ImportRequest(**files, model=str(MODEL), run=Path("runs/theirs"))))

    assert guidance(paint(run=Path("runs/theirs"))) == (1, 1)
    assert load_manifest(RunFolder(Path("runs/theirs"))).is_taught


@pytest.mark.usefixtures("simpletuner")
def test_exports_use_what_was_trained() -> None:
    distil_whole(model="acme/tiny", sizes=("128x64",), guidance=2.5)
    source = open_source(Path("runs/tiny-distilled"))

    export_comfyui(plan_comfyui(source), Path("comfy"))
    export_diffusers(source, Path("diffusers"))
    card = plan_hub(HubRequest(source=source, repo="anna/tiny")).card

    workflow = json.loads(Path("comfy/workflow-api.json").read_text())
    inputs = {node["class_type"]: node["inputs"] for node in workflow.values()}
    assert inputs["FluxGuidance"]["guidance"] == 2.5
    texts = [node["inputs"]["text"] for node in workflow.values() if "text" in node["inputs"]]
    assert PROMPTS[0] in texts
    note = Path("comfy/workflow.json").read_text()
    assert "trained together on the base model's own many steps" in note
    script = Path("diffusers/generate.py").read_text()
    assert 'GUIDANCE = {"slow": 2.5, "fast": 2.5}' in script
    (size,) = (one for one in workflow.values() if "width" in one["inputs"])
    assert (size["inputs"]["width"], size["inputs"]["height"]) == (128, 64)
    assert "| taught by | the base model, 50 steps at guidance 2.5&#58; 2 prompts x 2" in card
    assert "to take the base model's own many steps in few" in card
