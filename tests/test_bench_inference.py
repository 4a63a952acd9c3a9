"""What the benchmark of sampling makes of its measurements."""

import pytest

from benchmarks.inference.report import NAMES, Round, ratios, reckoned, seconds

PARTS = {"base": 2.0, "lora": 1.0, "encode": 1.0, "forward": 10.0, "decode": 1.0}


def measured(*, bases: int = 1, encodings: int = 1) -> dict[str, float]:
    parts = {**PARTS, "base": 2.0 * bases, "encode": 1.0 * encodings}
    total = sum(parts.values())
    counts = {"count base": bases, "count encode": encodings, "count lora": 2}
    memory = {"peak": 2e9, "peak above imports": 1e9}
    others = {"import": 5.0, "denoising": 10.0, "wall": total, "fusing": 1.0, "total": total}
    return {**parts, **counts, "count forward": 10, "count decode": 1, **memory, **others}


@pytest.fixture
def round_as_reckoned() -> Round:
    """The guide loads and encodes twice, and nothing else is different."""
    return {way: measured() for way in NAMES} | {"guide": measured(bases=2, encodings=2)}


def test_the_guide_is_reckoned_by_what_it_does_twice(round_as_reckoned: Round) -> None:
    assert reckoned(round_as_reckoned) == (15 + 2 + 1) / 15
    assert "| measured / reckoned | 1.000 | 1.000 | 1.000 |" in ratios([round_as_reckoned])


def test_ratios_are_medians_of_those_within_a_round(round_as_reckoned: Round) -> None:
    slower = {way: {**one, "total": one["total"] * 3} for way, one in round_as_reckoned.items()}
    off = slower | {"glance": {**slower["glance"], "total": slower["hand"]["total"] * 2}}

    table = ratios([round_as_reckoned, slower, off])

    assert "| glance / by hand, after imports | 1.000 | 1.000 | 2.000 |" in table


def test_every_way_has_a_row_with_its_counts(round_as_reckoned: Round) -> None:
    rows = seconds([round_as_reckoned]).splitlines()[2:]

    assert len(rows) == len(NAMES)
    assert "| 2 x, 4.00 | 2 x, 1.00 | 2 x, 2.00 | 10 x, 10.00 | 1 x, 1.00 | 18.00 |" in rows[2]
