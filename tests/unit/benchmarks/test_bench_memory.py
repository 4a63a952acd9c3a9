"""What the benchmark of a training's memory reads in the events."""

from typing import Any

from benchmarks.memory import measure_events


def events(*, gpu: int | None) -> list[dict[str, Any]]:
    used = [{"event": "MemoryUsed", "resident": size, "gpu": gpu} for size in (10**9, 3 * 10**9)]
    steps = [{"event": "StepDone", "time": time} for time in (100.0, 102.0, 106.0)]
    return [{"event": "PhaseStarted", "time": 0.0}, *used, *steps]


def test_the_peak_counts_and_the_pace_after_the_first_step() -> None:
    assert measure_events(events(gpu=None)) == {"GB of system memory": 3, "seconds a step": 3}


def test_the_card_is_there_where_it_is_told() -> None:
    assert measure_events(events(gpu=2 * 10**9))["GB of the card"] == 2
