"""What is said at the end of a training."""

from pathlib import Path

import pytest
from fakes.runs import RUN, plan_and_train
from fakes.trainer import FakeSimpleTuner

from glance.run import Manifest, Measured, RunFolder, load_manifest
from glance.schedule import Phase
from glance.training.summary import summarise, usual_losses

pytest_plugins = ["fakes.plugin"]
pytestmark = pytest.mark.usefixtures("pair")


def with_losses(first: float, last: float) -> Manifest:
    manifest = load_manifest(RUN)
    (attempt,) = manifest.phases[Phase.SLOW].attempts
    measured = Measured(steps=5, first_loss=first, last_loss=last)
    return manifest.with_phase(
        Phase.SLOW, attempts=(attempt.model_copy(update={"measured": measured}),)
    )


def test_losses_are_set_beside_those_of_runs_like_it(simpletuner: FakeSimpleTuner) -> None:
    for name in ("one", "two"):
        plan_and_train(run=Path("runs", name))
    plan_and_train(run=Path("runs/other"), schedule="paper")
    plan_and_train()

    lines = summarise(RUN, load_manifest(RUN))

    assert "slow: loss 0.7500 -> 0.2250; 2 runs like it end at 0.2250" in lines
    other = RunFolder(Path("runs/other"))
    assert usual_losses(other, load_manifest(other), Phase.SLOW) == ()


def test_a_loss_that_rises_is_said(simpletuner: FakeSimpleTuner) -> None:
    plan_and_train()

    risen, noisy = with_losses(0.1, 0.3), with_losses(0.1, 0.15)

    remedy = "slow: that is far above its beginning: try a lower --learning-rate"
    assert remedy in summarise(RUN, risen)
    assert remedy not in summarise(RUN, noisy)
