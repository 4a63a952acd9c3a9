"""What the figures beside a progress bar say."""

import pytest

from glance.core.events import MemoryUsed, Pace, PhaseStarted, StepDone, format_duration
from glance.core.phase import Phase

SLOW = Phase.SLOW


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, loss: float | None = 0.5, eta: float | None = 30.0) -> StepDone:
    return StepDone(SLOW, number, 10, loss, eta)


def test_the_pace_is_that_of_the_last_steps() -> None:
    clock = Clock()
    pace = Pace(clock)
    for number in range(1, 40):
        clock.now += 100 if number == 2 else 2  # the first one compiled
        pace.note(step(number))

    assert pace.describe(step(40), drawn=False) == "  loss 0.5000  2.00 s a step  30 s left"


def test_a_further_phase_takes_what_this_one_does() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.note(PhaseStarted(SLOW, 10, phases_after=1))
    clock.now += 60
    pace.note(step(1))

    told = pace.describe(step(1), drawn=False)

    assert told == "  loss 0.5000  30 s left, 2 min 00 s in all"


@pytest.mark.parametrize(
    ("gpu", "said"), [(None, "  3.1 GB"), (int(20.9e9), "  20.9 GB of the card")]
)
def test_memory_is_the_cards_where_that_is_told(gpu: int | None, said: str) -> None:
    pace = Pace()
    pace.note(MemoryUsed(SLOW, int(3.1e9), gpu))

    assert pace.describe(step(1, None, None), drawn=False) == said


def test_the_loss_is_drawn_from_its_lowest_to_its_highest() -> None:
    pace = Pace()
    for number, loss in enumerate((0.8, 0.4, 0.1), 1):
        pace.note(step(number, loss))

    assert "loss 0.1000 █▄▁     " in pace.describe(step(3, 0.1), drawn=True)


def test_the_loss_is_the_mean_over_the_list() -> None:
    pace = Pace()
    pace.note(PhaseStarted(SLOW, 10, timesteps=2))

    told = []
    for number, loss in enumerate((0.8, 0.2, 0.2), 1):
        pace.note(step(number, loss, None))
        told.append(pace.describe(step(number, loss, None), drawn=False).partition(" s a")[0])

    # of one step alone it says nothing; then the square roots of 0.8 * 0.2 and of 0.2 * 0.2
    assert [text.split("  ")[1] for text in told[1:]] == ["loss 0.4000", "loss 0.2000"]
    assert told[0] == ""


def test_a_new_phase_begins_a_new_line_and_a_loss_that_stays_is_flat() -> None:
    pace = Pace()
    for number in (1, 2):
        pace.note(step(number))
    assert pace.sparkline() == "▁▁"

    pace.note(PhaseStarted(Phase.FAST, 10))

    assert pace.describe(step(1, None, None), drawn=True) == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (3600 + 125, "1 h 02 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
