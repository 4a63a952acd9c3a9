"""What the terminal is told where nothing can move: plain lines, and as few as will do."""

from pathlib import Path

import pytest

from glance.cli.console import Console
from glance.core.events import (
    CheckpointSaved,
    Noted,
    PhaseFinished,
    PhaseSkipped,
    PhaseStarted,
    StageEntered,
    StepDone,
    TrainerSaid,
)
from glance.core.phase import Phase

STORY = [
    Noted("a note"),
    PhaseStarted(Phase.SLOW, 40),
    StageEntered(Phase.SLOW, "Loading base model"),
    *(StepDone(Phase.SLOW, step, 40, 0.5, 90.0 - step) for step in range(1, 41)),
    CheckpointSaved(Phase.SLOW, "output/checkpoint-40"),
    TrainerSaid(Phase.SLOW, "a line of the trainer"),
    PhaseFinished(Phase.SLOW, "output/x.safetensors", 75.2),
    PhaseSkipped(Phase.FAST),
]


def tell(console: Console) -> None:
    with console.progress() as sink:
        for event in STORY:
            sink(event)


def test_a_training_is_told_in_a_few_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Console())

    out, err = capsys.readouterr()
    assert out == ""
    assert err.replace("  0.00 s a step", "").splitlines() == [
        "a note",
        "slow: training 40 steps",
        "slow: Loading base model",
        *(
            f"slow: step {step} of 40  loss 0.5000  {left} left"
            for step, left in zip(
                range(4, 41, 4),
                ["1 min 26 s", "1 min 22 s", "1 min 18 s", "1 min 14 s", "1 min 10 s", "1 min 06 s",
                 "1 min 02 s", "58 s", "54 s", "50 s"],
                strict=True,
            )
        ),
        "slow: done in 1 min 15 s, output/x.safetensors",
        "fast: already done",
    ]  # fmt: skip


def test_verbose_adds_the_trainers_own_words_and_quiet_tells_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell(Console(verbose=True))

    err = capsys.readouterr().err
    assert "| a line of the trainer\n" in err
    assert "slow: saved output/checkpoint-40\n" in err
    tell(Console(quiet=True))
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_ends_the_events_and_not_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress(Path("/dev/full")) as on_event:
        for number in range(1, 4):
            on_event(StepDone(Phase.SLOW, number, 40, 0.5, None))

    told = capsys.readouterr().err
    reason = "No space left on device; no more is written there"
    assert told.count(f"warning: --events /dev/full: {reason}\n") == 1
