"""What watches a start of the trainer: no checkpoint that is whole is lost, whenever it ends."""

import random
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fakes.checkpoints import OUTPUT, SLOW, make_checkpoint
from fakes.runs import RUN

from glance.core.events import CheckpointSaved, Event
from glance.core.files import state_folder
from glance.runs.losses import LossLog
from glance.training.checkpoints import Resumption, Sealer, choose_checkpoint
from glance.training.meter import Meter
from glance.training.observer import CheckpointSealed, Observer
from glance.training.stopping import Stopping

REPETITIONS = 200


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(state_folder())


def observe(sealer: Sealer, told: list[Event]) -> Observer:
    meter = Meter(SLOW, 5, 0, LossLog(RUN.losses(SLOW), start=1), lambda _: None)
    return Observer(RUN, SLOW, meter=meter, sealer=sealer, sink=told.append)


def resume(sealer: Sealer) -> Resumption:
    return choose_checkpoint(RUN, SLOW, sealer, is_ours=True, trust=False)


def test_a_checkpoint_survives_an_end_at_any_moment_after_it_is_written(sealer: Sealer) -> None:
    """The trainer is gone before its event is sent, while it is heard, or while it is sealed."""
    rng = random.Random(20261129)
    unheard = 0
    for _ in range(REPETITIONS):
        shutil.rmtree(OUTPUT, ignore_errors=True)
        told: list[Event] = []
        observer = observe(sealer, told)

        def tell(observer: Observer, delay: float) -> None:
            time.sleep(delay)
            observer.on_event(CheckpointSaved(SLOW, f"{OUTPUT}/checkpoint-12"))

        with suppress(KeyboardInterrupt), observer.observing(list):
            make_checkpoint(12)
            telling = threading.Thread(target=tell, args=(observer, rng.uniform(0, 0.002)))
            telling.start()
            time.sleep(rng.uniform(0, 0.002))
            raise KeyboardInterrupt
        telling.join()

        assert resume(sealer) == Resumption(12, ())
        unheard += not any(isinstance(event, CheckpointSealed) for event in told)
    assert 0 < unheard < REPETITIONS, "both ways were tried"


def test_a_checkpoint_that_is_told_too_late_makes_no_noise(
    sealer: Sealer, capsys: pytest.CaptureFixture[str]
) -> None:
    observer = observe(sealer, [])
    with observer.observing(list):
        make_checkpoint(12)

    observer.on_event(CheckpointSaved(SLOW, f"{OUTPUT}/checkpoint-12"))

    assert resume(sealer) == Resumption(12, ())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["checkpoint-12-rolling", "checkpoint-12-tmp", "gone"])
def test_what_is_no_checkpoint_is_not_sealed(name: str, sealer: Sealer) -> None:
    told: list[Event] = []
    observer = observe(sealer, told)
    with observer.observing(list):
        if name != "gone":
            make_checkpoint(12).rename(OUTPUT / name)
        observer.on_event(CheckpointSaved(SLOW, f"{OUTPUT}/{name}"))

    assert not any(isinstance(event, CheckpointSealed) for event in told)
    assert not list(Path(OUTPUT).glob("*/glance.seal"))


def test_an_earlier_checkpoint_is_not_the_one_that_was_asked_for() -> None:
    stopping = Stopping(RUN, seconds=60)
    stopping.ask({SLOW: 25})

    stopping.note_saved(SLOW, 24)
    waits = stopping.seconds_left()
    stopping.note_saved(SLOW, 25)

    assert waits
    assert stopping.seconds_left() == 0
