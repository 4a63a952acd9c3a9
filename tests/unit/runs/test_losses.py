"""The losses of each step: kept while a phase is trained, and read as the way to its LoRA."""

import os
from pathlib import Path

import pytest
from fakes.runs import RUN, plan_and_train
from fakes.trainer import FakeSimpleTuner

from glance.core.errors import RunError, TrainingFailed
from glance.core.phase import Phase
from glance.runs.losses import LossLog, StepLoss, read_courses, read_losses
from glance.runs.manifest import load_manifest

FILE = RUN.losses(Phase.SLOW)


def write(*starts: tuple[int, range]) -> None:
    """Let starts, by their numbers, do steps, each with ten times its start as its loss."""
    for start, steps in starts:
        log = LossLog(FILE, start=start)
        for step in steps:
            log.note(step, 10.0 * start)


def read() -> list[tuple[int, int]]:
    return [(row.start, row.step) for row in read_losses(RUN, Phase.SLOW)]


def test_every_step_is_on_the_disk_at_once() -> None:
    log = LossLog(FILE, start=1)

    log.note(1, 0.5)
    log.note(2, 1e-07)

    assert FILE.read_text() == "start,step,loss\n1,1,0.5\n1,2,1e-07\n"
    assert read_losses(RUN, Phase.SLOW) == (StepLoss(1, 1, 0.5), StepLoss(1, 2, 1e-07))


def test_what_a_later_start_does_again_takes_the_place_of_what_was() -> None:
    write((1, range(1, 5)), (2, range(3, 6)))

    assert read() == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)]
    assert len(FILE.read_text().splitlines()) == 1 + 4 + 3
    write((3, range(2, 4)))
    assert read() == [(1, 1), (3, 2), (3, 3)], "and of what lies beyond"


def test_half_a_line_of_a_crash_is_not_read_and_not_continued() -> None:
    write((1, range(1, 4)))
    os.truncate(FILE, FILE.stat().st_size - 3)  # "1,3,10.0" has become "1,3,10"

    before = read()
    write((2, range(3, 4)))

    assert before == [(1, 1), (1, 2)]
    assert FILE.read_text() == "start,step,loss\n1,1,10.0\n1,2,10.0\n2,3,20.0\n"


def test_lines_that_are_none_are_passed_over() -> None:
    write((1, range(1, 3)))
    with FILE.open("ab") as file:
        file.write(b"\n1,3\n1,x,1\n1,4,nan\n1,-5,1\n\xff,6,1\n1,7,0.25\n")

    assert read() == [(1, 1), (1, 2), (1, 7)]


def test_a_file_that_cannot_be_written_stops_nothing() -> None:
    FILE.mkdir(parents=True)

    LossLog(FILE, start=1).note(1, 0.5)

    assert list(FILE.iterdir()) == []
    with pytest.raises(RunError, match=r"losses\.csv cannot be read: it is a folder"):
        read()


def test_a_training_that_is_continued_goes_on_with_the_file(
    pair: Path, simpletuner: FakeSimpleTuner
) -> None:
    simpletuner.behave(slow="unknown after checkpoints")
    with pytest.raises(TrainingFailed):
        plan_and_train(phases=(Phase.SLOW,))
    first = FILE.read_text()
    simpletuner.behave()

    plan_and_train(phases=(Phase.SLOW,))

    assert FILE.read_text().startswith(first)
    assert read() == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
    course, _ = read_courses(RUN, load_manifest(RUN))
    assert [row.step for row in course.resumptions] == [4]


@pytest.mark.usefixtures("fully_trained")
def test_a_restart_of_one_phase_leaves_the_others_file(
    pair: Path, simpletuner: FakeSimpleTuner
) -> None:
    slow = FILE.read_bytes()

    plan_and_train(restart=True, phases=(Phase.FAST,))

    assert FILE.read_bytes() == slow
    assert RUN.losses(Phase.FAST).read_text().count("\n") == 1 + 5, "begun anew"


@pytest.mark.usefixtures("fully_trained")
def test_a_step_is_known_to_be_of_the_next_timestep_of_the_list() -> None:
    manifest = load_manifest(RUN)
    overrides = {"gradient_accumulation_steps": 2}
    settings = manifest.settings.model_copy(update={"overrides": overrides})

    slow, fast = read_courses(RUN, manifest)
    mixed, _ = read_courses(RUN, manifest.model_copy(update={"settings": settings}))

    assert [slow.timestep(step) for step in (1, 5, 6)] == [1000.0, 911.3354, 1000.0]
    assert fast.timestep(5) == 20.0
    assert mixed.timestep(1) is None
