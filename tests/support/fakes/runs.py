"""Small trainings through the fake, and one that was done before, to go on from."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from fakes.trainer import FakeSimpleTuner
from PIL import Image

from glance.core.errors import TrainingFailed
from glance.core.events import Event
from glance.core.phase import Phase
from glance.runs.folder import RunFolder
from glance.runs.manifest import load_manifest
from glance.schedule.options import ScheduleOptions
from glance.training.execute import run_training
from glance.training.plan import TrainingPlan, plan_training
from glance.training.request import TrainRequest

RUN = RunFolder(Path("runs/cat"))
SLOW, FAST = Phase

type Train = Callable[..., list[Event]]

needs_half = pytest.mark.usefixtures("half_trained")
needs_whole = pytest.mark.usefixtures("fully_trained")


def make_plan(**changes: Any) -> TrainingPlan:
    """A plan for the pair in the current folder: five steps of rank 4."""
    usual = {"model": "acme/tiny", "steps": 5, "rank": 4, "resolution": 64, "device": "cpu"}
    asked = {"image": Path("cat.png"), **usual, **with_options(changes)}
    return plan_training(TrainRequest(**asked))


def with_options(changes: dict[str, Any]) -> dict[str, Any]:
    """Gather the flags of the schedule: a request holds them as one."""
    names = [field.name for field in fields(ScheduleOptions)]
    given = {name: changes[name] for name in names if name in changes}
    options = ScheduleOptions(**{"name": changes.get("schedule"), **given})
    return {**{k: v for k, v in changes.items() if k not in names}, "schedule": options}


def plan_and_train(**changes: Any) -> list[Event]:
    """Train as planned; return the events."""
    events: list[Event] = []
    run_training(make_plan(**changes), events.append)
    return events


def fail(**changes: Any) -> TrainingFailed:
    """Train what fails; return how."""
    with pytest.raises(TrainingFailed) as caught:
        plan_and_train(**changes)
    return caught.value


def states(run: RunFolder = RUN) -> tuple[str, str]:
    """How far both phases are."""
    phases = load_manifest(run).phases
    return phases[Phase.SLOW].state.value, phases[Phase.FAST].state.value


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Trained:
    """A run as it was after its first phase and after both."""

    half: Path
    whole: Path
    events: list[Event]
    starts: list[dict[str, Any]]


def train_in(folder: Path) -> Trained:
    """Train the pair of the fixture `pair` in `folder`."""
    simpletuner = FakeSimpleTuner(folder / "trainer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(simpletuner.folder), prepend=os.pathsep)
        patch.chdir(folder)
        Image.radial_gradient("L").resize((64, 64)).convert("RGB").save("cat.png")
        Path("cat.txt").write_text("a grey circle\n", encoding="utf-8")
        events = plan_and_train(phases=(Phase.SLOW,))
        shutil.copytree(RUN.path, "half")
        events += plan_and_train(phases=(Phase.FAST,))
    return Trained(folder / "half", folder / RUN.path, events, simpletuner.starts)
