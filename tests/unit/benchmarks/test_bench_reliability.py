"""The page that the trials of reliability make, and what they take for a fault."""

from benchmarks.reliability import TITLES, Series, Trial, find_traceback, render


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
