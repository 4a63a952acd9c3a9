"""Fixtures for everything that starts the trainer, or what stands for it.

Every test may ask for them; what they need of glance is imported when one does.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from fakes.trainer import FakeSimpleTuner, RunningGlance, find_processes

if TYPE_CHECKING:
    from fakes.runs import Trained

    from glance.core.events import Event


@pytest.fixture
def simpletuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSimpleTuner]:
    """A fake `simpletuner`, first on PATH. Whatever a failing test leaves of it is killed."""
    fake = FakeSimpleTuner(tmp_path / "trainer")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    yield fake
    for process in find_processes(str(fake.folder)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def start_glance() -> Iterator[Callable[..., RunningGlance]]:
    """Start `glance` without waiting for its end."""
    started: list[RunningGlance] = []

    def start(*arguments: object) -> RunningGlance:
        started.append(RunningGlance(arguments))
        return started[-1]

    yield start
    for running in started:
        running.discard()


@pytest.fixture
def train(pair: Path, simpletuner: FakeSimpleTuner) -> "Callable[..., list[Event]]":
    """Plan and train; return the events."""
    from fakes.runs import plan_and_train

    return plan_and_train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> "Trained":
    """A run that is trained once, for tests that only look at it or go on from it."""
    from fakes.runs import train_in

    return train_in(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def half_trained(trained: "Trained") -> None:
    """Put a run here whose slow phase is done."""
    shutil.copytree(trained.half, "runs/cat")


@pytest.fixture
def fully_trained(trained: "Trained") -> None:
    """Put a finished run here."""
    shutil.copytree(trained.whole, "runs/cat")
