"""Fixtures for everything that starts the trainer, or what stands for it."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fakes.runs import RUN, Trained, plan_and_train, train_in
from fakes.trainer import FakeSimpleTuner, RunningGlance, find_processes

from glance.core.events import Event


@pytest.fixture
def simpletuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSimpleTuner]:
    """A fake `simpletuner`, first on PATH. Whatever a failing test leaves of it is killed."""
    fake = FakeSimpleTuner(tmp_path / "trainer")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    yield fake
    kill_all(str(fake.folder))


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
def train(pair: Path, simpletuner: FakeSimpleTuner) -> Callable[..., list[Event]]:
    """Plan and train; return the events."""
    return plan_and_train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that is trained once, for tests that only look at it or go on from it."""
    return train_in(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def half_trained(trained: Trained) -> None:
    """Put a run here whose slow phase is done."""
    shutil.copytree(trained.half, RUN.path)


@pytest.fixture
def fully_trained(trained: Trained) -> None:
    """Put a finished run here."""
    shutil.copytree(trained.whole, RUN.path)


def kill_all(marker: str) -> None:
    for process in find_processes(marker):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
