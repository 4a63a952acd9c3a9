"""What the benchmarks of sampling and of memory make of their measurements."""

from typing import Any

import pytest

from benchmarks.inference.report import NAMES, Round, columns, ratios, reckoned, rows
from benchmarks.memory import measure_events
from benchmarks.result import Figure, Ratio

PARTS = {"base": 2.0, "move": 1.0, "lora": 1.0, "encode": 1.0, "forward": 10.0, "decode": 1.0}


def measured(*, times: int = 1) -> dict[str, float]:
    parts = {**PARTS, **{part: PARTS[part] * times for part in ("base", "move", "encode")}}
    total = sum(parts.values())
    counts = {"count base": times, "count move": times, "count encode": times, "count lora": 2}
    memory = {"peak": 2e9, "memory": 1e9}
    others = {"import": 5.0, "denoising": 10.0, "wall": total, "fusing": 1.0, "total": total}
    return {**parts, **counts, "count forward": 10, "count decode": 1, **memory, **others}


@pytest.fixture
def round_as_reckoned() -> Round:
    """The guide loads and encodes twice, and nothing else is different."""
    return {way: measured() for way in NAMES} | {"guide": measured(times=2)}


def by_name(found: tuple[Ratio, ...]) -> dict[str, Ratio]:
    return {one.name: one for one in found}


def test_the_guide_is_reckoned_by_what_it_does_twice(round_as_reckoned: Round) -> None:
    assert reckoned(round_as_reckoned) == (16 + 2 + 1 + 1) / 16
    found = by_name(ratios([round_as_reckoned], on_gpu=False))
    assert found["measured / reckoned"].figure == Figure(median=1, least=1, greatest=1)


def test_ratios_are_medians_of_those_within_a_round(round_as_reckoned: Round) -> None:
    slower = {way: {**one, "total": one["total"] * 3} for way, one in round_as_reckoned.items()}
    off = slower | {"glance": {**slower["glance"], "total": slower["hand"]["total"] * 2}}

    found = by_name(ratios([round_as_reckoned, slower, off], on_gpu=False))

    assert found["glance / by hand, after imports"].figure == Figure(median=1, least=1, greatest=2)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_every_way_has_a_row_and_every_column_is_filled(
    round_as_reckoned: Round, on_gpu: bool
) -> None:
    names = {column.name for column in columns(on_gpu=on_gpu)}
    goals = [one.goal for one in ratios([round_as_reckoned], on_gpu=on_gpu) if one.goal]

    found = rows([round_as_reckoned], on_gpu=on_gpu)

    assert [row.name for row in found] == list(NAMES.values())
    assert all(set(row.figures) == names for row in found)
    assert ("GB of the card" in names, "to the device" in names) == (on_gpu, on_gpu)
    assert len(goals) == 3
    load = found[2].figures["load"]
    assert (load.calls, load.median) == (2, 4)
    assert found[0].figures["forwards"].calls == 10


@pytest.mark.parametrize("gpu", [None, 2 * 10**9])
def test_the_peak_counts_and_the_pace_after_the_first_step(gpu: int | None) -> None:
    used = [{"event": "MemoryUsed", "resident": size, "gpu": gpu} for size in (10**9, 3 * 10**9)]
    steps = [{"event": "StepDone", "time": time} for time in (100.0, 102.0, 106.0)]
    events: list[dict[str, Any]] = [{"event": "PhaseStarted", "time": 0.0}, *used, *steps]

    found = measure_events(events)

    card = {} if gpu is None else {"GB of the card": 2}
    assert found == {"GB of system memory": 3, "seconds a step": 3, **card}
