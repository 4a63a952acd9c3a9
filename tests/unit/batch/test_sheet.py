"""The contact sheet of a batch: what cannot be sampled is left out, and that is said."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fakes.pairs import write_run

from glance.batch.board import State, Status
from glance.batch.sheet import make_sheets
from glance.core.events import Event, Warned


def test_a_run_that_lost_its_caption_is_left_out() -> None:
    run = write_run(Path("runs/cat"))  # without a copy of its image and caption
    board: Any = SimpleNamespace(jobs=[Status(1, "cat", run.path, "runs/cat", State.DONE)])
    told: list[Event] = []

    sheets = make_sheets(board, Path("out"), "cpu", told.append)

    [warned] = told
    assert isinstance(warned, Warned)
    assert warned.message.startswith("cat is not on the sheet: the run's caption cannot be read:")
    assert sheets == []
