"""What the trials of reliability do, and the page that they make; no training is started."""

import random
from pathlib import Path

import pytest

from benchmarks.reliability import TITLES, Series, Trial, fill_disk, find_traceback, parse, render


def test_all_kinds_of_trouble_are_tried_twenty_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["reliability"])

    options = parse()

    assert (options.trials, options.series) == (20, None)
    assert list(TITLES) == ["killed", "at-once", "disk"]


def test_the_page_counts_what_went_well() -> None:
    good = Trial(1.5, "trainer", "slow: StepDone 3", 5, 1, ())
    bad = Trial(2.5, "glance", "fast: StepDone 3", -9, 0, ("fast: other bits than undisturbed",))

    page = render([Series(*TITLES[name], [good, bad], 80.0) for name in TITLES])

    assert "**3 of 6** trainings" in page
    assert page.count("\n## ") == 3
    assert page.count("| 2 | 2.5 | fast: StepDone 3 | glance | -9 | 0 | fast: other bits") == 3


def test_a_traceback_of_glances_is_a_fault() -> None:
    trace = "Traceback (most recent call last):\n  File x\nOSError: [Errno 28] full\n"

    assert find_traceback(f"slow: step 1\n{trace}stopped\n") == [
        "a traceback: OSError: [Errno 28] full"
    ]
    assert find_traceback("  | " + trace.replace("\n", "\n  | ")) == []


def test_a_full_disk_is_full_but_for_what_is_spared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "disk/0"
    place.mkdir(parents=True)
    real = Path.open

    class Small:
        """A file of a disk of a megabyte."""

        def __init__(self, path: Path) -> None:
            self._file = real(path, "wb", buffering=0)

        def write(self, content: bytes) -> int:
            if self._file.tell() + len(content) > 1_000_000:
                raise OSError(28, "No space left on device")
            return self._file.write(content) or 0

        def __enter__(self) -> "Small":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Small(path))
    said, mend = fill_disk(random.Random(1), place, {})
    (ballast,) = place.parent.glob("ballast")

    assert 600_000 < ballast.stat().st_size <= 1_000_000
    assert said.startswith("all but ")
    mend()
    assert not ballast.exists()
