"""The tree of errors, and what each carries."""

import re
from pathlib import Path

import pytest

import glance.errors
from glance.errors import GlanceError, InputError, Problem, Stopped, TrainingFailed

type Row = tuple[str, str | None, int | None]  # name, parent, its own exit code


def drawn_tree() -> list[Row]:
    rows: list[Row] = []
    above: dict[int, str] = {}
    branch = re.compile(r"((?:[│ ]   )*)([├└]── )?([A-Z]\w+)(?: +(\d+))?")
    drawing = (glance.errors.__doc__ or "").split("\n\n")[1]
    for line in drawing.splitlines():
        found = branch.match(line)
        assert found, line
        level = len(found[1]) // 4 + bool(found[2])
        above[level] = found[3]
        rows.append((found[3], above.get(level - 1), int(found[4]) if found[4] else None))
    return rows


def real_tree(error: type[GlanceError] = GlanceError, parent: str | None = None) -> list[Row]:
    rows: list[Row] = [(error.__name__, parent, vars(error).get("exit_code"))]
    for child in error.__subclasses__():
        rows += real_tree(child, error.__name__)
    return rows


def test_docstring_draws_the_tree() -> None:
    assert drawn_tree() == real_tree()


@pytest.mark.parametrize("name", [name for name, *_ in real_tree()])
def test_every_error_says_what_it_means(name: str) -> None:
    assert (getattr(glance.errors, name).__doc__ or "").strip().endswith(".")


def test_one_problem_is_a_message_and_a_hint() -> None:
    error = InputError("it is broken", hint="mend it")
    assert error.problems == (Problem("it is broken", "mend it"),)
    assert str(error) == "it is broken"


def test_several_problems_are_one_error() -> None:
    error = InputError(Problem(f"{number} is odd") for number in (1, 3))
    assert error.problems == (Problem("1 is odd"), Problem("3 is odd"))
    assert str(error) == "1 is odd; 3 is odd"


def test_failed_training_keeps_what_the_trainer_left() -> None:
    error = TrainingFailed("it failed", returncode=1, log=Path("slow.log"), tail=("oops",))
    assert (error.returncode, error.log, error.tail) == (1, Path("slow.log"), ("oops",))
    assert error.exit_code == 5


def test_stopping_passes_handlers_of_errors() -> None:
    stopped = Stopped(15)
    assert not isinstance(stopped, Exception)
    assert stopped.exit_code == 143
