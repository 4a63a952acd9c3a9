"""plan_sweep and run_sweep in this process; below them one that plays SimpleTuner."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.compare.trial import NEUTRAL_PROMPT
from glance.device import Device
from glance.errors import GlanceError, InputError, RunError, SettingsError
from glance.events import Event, Noted, PhaseSkipped, Warned
from glance.run import RunFolder, load_manifest
from glance.schedule import PRESETS, Phase
from glance.sweep import SweepPlan, SweepRequest, SweepResult, plan_sweep, run_sweep
from glance.sweep.grid import format_rate
from glance.training.execute import run_training
from glance.training.plan import plan_training
from glance.training.request import TrainRequest

pytest_plugins = ["fakes.plugin"]
pytestmark = pytest.mark.usefixtures("pair")

SWEEP = Path("runs/cat-sweep")

type Sweep = Callable[..., SweepResult]


def plan(image: str = "cat.png", **lists: Any) -> SweepPlan:
    shared = TrainRequest(
        image=Path(image), model="acme/tiny", resolution=64, device=Device.CPU.value
    )
    usual = {"ranks": "4", "steps": "5", "pictures": False}
    return plan_sweep(SweepRequest(shared=shared, **{**usual, **lists}))


def names(planned: SweepPlan) -> list[str]:
    return [point.name for point in planned.points]


def messages(refusal: GlanceError) -> list[str]:
    return [problem.message for problem in refusal.problems]


def states(result: SweepResult) -> dict[str, str]:
    return {point.point.name: point.state for point in result.points}


@pytest.fixture
def sweep(simpletuner: FakeSimpleTuner) -> Sweep:
    """Plan and run, by default two ranks."""

    def sweep(on_event: Callable[[Event], None] = lambda _: None, **lists: Any) -> SweepResult:
        return run_sweep(plan(**{"ranks": "4,8", **lists}), on_event)

    return sweep


# The grid


def test_points_are_all_combinations_named_by_what_varies() -> None:
    assert names(plan(ranks="4,16", learning_rates="1e-4,5e-4")) == [
        "rank-4-rate-1e-4",
        "rank-4-rate-5e-4",
        "rank-16-rate-1e-4",
        "rank-16-rate-5e-4",
    ]


def test_steps_and_schedules_are_in_the_name_too() -> None:
    assert names(plan(steps="5, 10", schedules="seed,paper")) == [
        "steps-5-seed",
        "steps-5-paper",
        "steps-10-seed",
        "steps-10-paper",
    ]


def test_a_single_point_is_named_by_everything() -> None:
    assert names(plan()) == ["rank-4-rate-default-steps-5-seed"]
    assert names(plan(learning_rates="0.001")) == ["rank-4-rate-1e-3-steps-5-seed"]


def test_the_same_value_twice_is_one_point() -> None:
    planned = plan(ranks="4,8,4", learning_rates="1e-4,0.0001")

    assert names(planned) == ["rank-4", "rank-8"]


def test_schedules_of_the_same_levels_are_one_point() -> None:
    Path("twin.json").write_text(json.dumps(PRESETS["seed"].schedule.to_json()))

    assert names(plan(schedules="seed,twin.json,paper")) == ["seed", "paper"]


def test_each_point_is_the_training_that_train_would_plan() -> None:
    (point,) = plan(ranks="8", steps="7", learning_rates="2e-4", schedules="paper").points

    alone = plan_training(
        TrainRequest(
            image=Path("cat.png"),
            model="acme/tiny",
            resolution=64,
            device="cpu",
            run=SWEEP / point.name,
            rank=8,
            steps=7,
            learning_rate=2e-4,
            schedule="paper",
        )
    )
    assert point.training == alone


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(1e-4, "1e-4"), (0.00015, "1.5e-4"), (5e-05, "5e-5"), (1.0, "1e0"), (0.123, "1.23e-1")],
)
def test_rates_are_named_as_people_write_them(rate: float, shown: str) -> None:
    assert format_rate(rate) == shown


def test_by_default_the_caption_and_a_neutral_prompt_are_painted() -> None:
    assert plan(pictures=True).prompts == ("a grey circle", NEUTRAL_PROMPT)


def test_a_family_that_edits_paints_the_caption_alone() -> None:
    edited = TrainRequest(
        image=Path("cat.png"),
        reference=Path("cat.png"),
        family="qwen_image_edit_2509",
        resolution=64,
        device="cpu",
    )

    assert plan_sweep(SweepRequest(shared=edited)).prompts == ("a grey circle",)


# Refusals


def test_every_value_that_is_no_number_is_refused_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        plan(ranks="4,x", steps="5,,6", learning_rates="1e-4,nan")

    assert messages(caught.value) == [
        "--rank 4,x: 'x' is not a whole number",
        "--learning-rate 1e-4,nan: 'nan' is not a number",
        "--steps 5,,6: '' is not a whole number",
    ]


def test_what_some_points_have_names_them_and_what_all_have_is_said_once() -> None:
    Path("cat.txt").unlink()

    with pytest.raises(InputError) as caught:
        plan(ranks="4,0", schedules="seed,nope")

    assert messages(caught.value) == [
        "no caption for cat.png: neither cat.txt nor cat.caption exists",
        "rank-4-nope, rank-0-nope: schedule 'nope' is not known",
        "rank-0-seed, rank-0-nope: --rank 0: it must be at least 1",
    ]


def test_no_training_starts_when_one_point_is_bad(sweep: Sweep, simpletuner: Any) -> None:
    with pytest.raises(SettingsError, match="rank-9000: --rank 9000"):
        sweep(ranks="4,9000")

    assert simpletuner.starts == []
    assert not SWEEP.exists()


def test_pictures_that_cannot_be_painted_are_refused_before() -> None:
    with pytest.raises(SettingsError) as caught:
        plan(pictures=True, prompts=("a hill", " "), picture_seeds=(0, -1))

    assert messages(caught.value) == [
        "--prompt: it is empty",
        "--picture-seed -1: it must be at least 0",
    ]


def test_more_points_or_pictures_than_anybody_waits_for_are_refused_before_one_is_planned() -> None:
    ranks = ",".join(map(str, range(1, 2001)))
    rates = ",".join(f"{number}e-9" for number in range(1, 2001))

    with pytest.raises(SettingsError, match="4,000,000 combinations, and one sweep trains at most"):
        plan(ranks=ranks, learning_rates=rates)
    with pytest.raises(SettingsError, match="2 points paint 1 prompts from 2000 noises each, 12,0"):
        plan(ranks="4,8", pictures=True, prompts=("a",), picture_seeds=tuple(range(2000)))


def test_two_schedule_files_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="both would be named levels"):
        plan(schedules="a/levels.json,b/levels.json")


def test_another_pictures_sweep_is_refused(sweep: Sweep) -> None:
    sweep()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save("cat.png")

    with pytest.raises(RunError, match=r"begun with another picture or caption: .* in rank-4"):
        plan(ranks="16")  # none of the points that are there


def test_a_point_with_other_settings_is_refused_with_what_differs(sweep: Sweep) -> None:
    sweep()

    with pytest.raises(RunError) as caught:
        plan(ranks="4,8", steps="6")

    assert messages(caught.value) == [
        f"{name}: run {SWEEP}/{name} was trained with other settings: steps: 5 there, 6 asked"
        for name in ("rank-4", "rank-8")
    ]
    assert caught.value.problems[0].hint == (
        f"give --output another folder, or remove {SWEEP}/rank-4"
    )


@pytest.mark.parametrize("stranger", ["letter.txt", "glance.json"])
def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path, stranger: str) -> None:
    (tmp_path / stranger).write_text("{}")

    with pytest.raises(RunError, match=f"is no sweep: it holds {stranger}"):
        plan(output=tmp_path)


def test_a_file_is_no_folder() -> None:
    with pytest.raises(RunError, match=r"cat\.png is not a folder"):
        plan(output=Path("cat.png"))


# Training and going on


def test_every_point_is_a_run_of_its_own(sweep: Sweep) -> None:
    assert states(sweep()) == {"rank-4": "done", "rank-8": "done"}

    for rank in (4, 8):
        manifest = load_manifest(RunFolder(SWEEP / f"rank-{rank}"))
        assert manifest.is_finished
        assert manifest.settings.rank == rank


def test_the_same_again_starts_nothing(sweep: Sweep, simpletuner: FakeSimpleTuner) -> None:
    first = sweep()
    starts = len(simpletuner.starts)
    events: list[Event] = []

    again = sweep(events.append)

    assert len(simpletuner.starts) == starts == 4
    assert len([event for event in events if isinstance(event, PhaseSkipped)]) == 4
    assert again.to_json() == first.to_json()


def test_a_grown_list_trains_only_what_is_new(sweep: Sweep, simpletuner: FakeSimpleTuner) -> None:
    sweep()

    planned = plan(ranks="4,8,16")

    assert planned.starts == 2
    run_sweep(planned, lambda _: None)
    assert len(simpletuner.starts) == 6


def test_what_was_begun_is_continued(sweep: Sweep, simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(fast="unknown after checkpoints")
    sweep()
    simpletuner.behave()

    assert states(sweep()) == {"rank-4": "done", "rank-8": "done"}

    assert [(start["phase"], start["resumed"]) for start in simpletuner.starts[4:]] == [
        ("fast", 3)
    ] * 2


def test_one_that_fails_does_not_stop_the_others(
    sweep: Sweep, simpletuner: FakeSimpleTuner
) -> None:
    events: list[Event] = []
    simpletuner.behave(slow="wrong rank")
    run_training_of_the_second(simpletuner)

    result = sweep(events.append)

    assert states(result) == {"rank-4": "failed", "rank-8": "done"}
    (failure,) = result.failures
    assert str(failure).startswith("rank-4: the slow phase left no sound LoRA")
    assert failure.log == SWEEP / "rank-4/logs/glance-slow.log"
    assert Warned(str(failure), "the other points go on") in events


def run_training_of_the_second(simpletuner: FakeSimpleTuner) -> None:
    """Train rank 8 while all goes well, so that only the other point can fail."""
    simpletuner.behave()
    run_training(plan(ranks="4,8").points[1].training, lambda _: None)
    simpletuner.behave(slow="wrong rank")


def test_ctrl_c_stops_all_of_it(sweep: Sweep, simpletuner: FakeSimpleTuner) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Noted) and event.message == "point 2 of 2: rank-8":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(interrupt)

    assert simpletuner.phases == ["slow", "fast"]
    assert plan(ranks="4,8").starts == 2


def test_a_warning_that_all_points_share_is_said_once(sweep: Sweep) -> None:
    events: list[Event] = []

    sweep(events.append, steps="3")

    warned = [event.message for event in events if isinstance(event, Warned)]
    assert len(warned) == 2  # each phase has five levels
    assert "cannot visit the slow phase's 5 timesteps" in warned[0]


def test_sweep_json_tells_how_each_point_went(sweep: Sweep) -> None:
    result = sweep()

    document = json.loads((SWEEP / "sweep.json").read_text())
    assert [point["run"] for point in document["points"]] == ["rank-4", "rank-8"]
    point = document["points"][0]
    assert (point["rank"], point["state"], point["problem"]) == (4, "done", None)
    assert point["last_loss"] == {
        phase.value: pytest.approx((1 / 120) ** (1 / 5)) for phase in Phase
    }
    assert result.to_json()["points"][0]["run"] == str(SWEEP / "rank-4")


def test_a_moved_sweep_goes_on(sweep: Sweep, simpletuner: FakeSimpleTuner) -> None:
    sweep()
    shutil.move(SWEEP, "elsewhere")

    assert plan(ranks="4,8", output=Path("elsewhere")).starts == 0
