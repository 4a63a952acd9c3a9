"""What is said at the end of a training."""

from pathlib import Path
from typing import Any

import pytest
from fakes.runs import RUN, plan_and_train
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import TrainingFailed
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.training.summary import summarise, usual_losses

pytest_plugins = ["fakes.plugin"]
pytestmark = pytest.mark.usefixtures("pair")

SLOW = Phase.SLOW


def lines() -> tuple[str, ...]:
    return summarise(RUN, load_manifest(RUN))


def test_losses_are_set_beside_those_of_runs_like_it(simpletuner: FakeSimpleTuner) -> None:
    for name in ("one", "two"):
        plan_and_train(run=Path("runs", name), seed=2)
    plan_and_train()

    loss = "slow: loss of a round: 0.3839 at first, 0.3839 at last; 2 runs like it end at 0.3839"
    assert loss in lines()  # the fifth root of 1/1 * 1/2 * 1/3 * 1/4 * 1/5


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "paper"},
        {"steps": 10},
        {"rank": 8},
        {"learning_rate": 1e-5},
        {"overrides": ("lora_dropout=0.1",)},
    ],
)
def test_runs_of_other_settings_are_not_like_it(
    simpletuner: FakeSimpleTuner, changes: dict[str, Any]
) -> None:
    plan_and_train(phases=(SLOW,))

    other = RunFolder(Path("runs/other"))
    plan_and_train(run=other.path, phases=(SLOW,), **changes)

    assert usual_losses(other, load_manifest(other), SLOW) == ()


def test_a_neighbour_whose_losses_cannot_be_read_is_left_out(simpletuner: FakeSimpleTuner) -> None:
    other = RunFolder(Path("runs/other"))
    plan_and_train(run=other.path)
    other.losses(SLOW).unlink()
    other.losses(SLOW).mkdir()
    plan_and_train()

    assert "slow: loss of a round: 0.3839 at first, 0.3839 at last" in lines()
    assert summarise(other, load_manifest(other))


def test_a_continued_training_is_told_as_a_whole(simpletuner: FakeSimpleTuner) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    with pytest.raises(TrainingFailed):
        plan_and_train(phases=(SLOW,), steps=10)
    simpletuner.behave()

    plan_and_train(phases=(SLOW,), steps=10)

    first, second, _ = lines()
    assert first.startswith("slow: 10 steps, 7 of them by the last start, ")
    assert second == "slow: loss of a round: 0.3839 at first, 0.127 at last (-67%)"


@pytest.mark.parametrize(("last", "is_said"), [(0.3, True), (0.15, False)])
def test_a_loss_that_rises_is_said(
    simpletuner: FakeSimpleTuner, last: float, *, is_said: bool
) -> None:
    plan_and_train(steps=10)
    losses = [0.1] * 5 + [last] * 5
    rows = "".join(f"1,{step},{loss}\n" for step, loss in enumerate(losses, 1))
    RUN.losses(SLOW).write_text(f"start,step,loss\n{rows}")

    remedy = "slow: that is far above its beginning: try a lower --learning-rate"
    assert (remedy in lines()) is is_said
