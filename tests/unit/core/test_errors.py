"""What an error carries, and pydantic's findings in our own words."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glance.core.device import Device
from glance.core.errors import (
    InputError,
    Problem,
    assigned,
    describe_fault,
    locate_fault,
    reason_of,
)


def test_several_problems_are_one_error() -> None:
    error = InputError(Problem(f"{number} is odd") for number in (1, 3))
    assert error.problems == (Problem("1 is odd"), Problem("3 is odd"))
    assert str(error) == "1 is odd; 3 is odd"
    assert InputError("it is broken", hint="mend it").problems == (
        Problem("it is broken", "mend it"),
    )


class Part(BaseModel):
    """One value of every kind that our files and settings hold."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    whole: Annotated[int, Field(ge=1, le=9, multiple_of=2)] = 2
    above: Annotated[float, Field(gt=0, lt=1)] = 0.5
    text: Annotated[str, Field(min_length=1, max_length=3, pattern="^a")] = "a"
    flag: bool = True
    choice: Literal["a", "b"] = "a"
    device: Device = Device.CPU
    several: tuple[int, ...] = Field(default=(1,), min_length=1, max_length=2)
    named: Mapping[str, float] = {}
    inner: "Part | None" = None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"whole": 0}, "it must be at least 1"),
        ({"whole": 10}, "it must be at most 9"),
        ({"whole": 3}, "it must be a multiple of 2"),
        *(
            ({"whole": value}, "it must be a whole number")
            for value in (1.5, "x", None, "9" * 5000)
        ),
        ({"above": 0}, "it must be above 0"),
        ({"above": 1.0}, "it must be below 1"),
        ({"above": float("nan")}, "it must be a finite number"),
        *(({"above": value}, "it must be a number") for value in ("x", [], None)),
        ({"text": 1}, "it must be text"),
        ({"text": ""}, "it must have at least 1 characters"),
        ({"text": "aaaa"}, "it must have at most 3 characters"),
        ({"text": "b"}, "it cannot be used"),
        ({"flag": "perhaps"}, "it must be true or false"),
        ({"choice": "c"}, "it must be 'a' or 'b'"),
        ({"device": "tpu"}, "it must be 'cuda', 'mps' or 'cpu'"),
        ({"several": 1}, "it must be a list"),
        ({"several": []}, "it must hold at least 1"),
        ({"several": [1, 2, 3]}, "it must hold at most 2"),
        ({"named": 1}, "it must be an object"),
        ({"inner": 1}, "it must be an object"),
        ({"colour": "red"}, "nothing of that name is known here"),
    ],
)
def test_what_is_wrong_is_said_in_our_own_words(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Part.model_validate(values)

    assert [describe_fault(fault) for fault in caught.value.errors()] == [said]


def test_a_place_in_a_file_is_said_as_a_path() -> None:
    fault = {"loc": ("slow", "timesteps", 2), "type": "missing", "input": None}

    assert locate_fault(fault) == "slow.timesteps[2]: it is missing"
    assert locate_fault({**fault, "loc": (0, "prompt")}) == "[0].prompt: it is missing"


def test_a_value_is_said_as_it_was_typed() -> None:
    assert assigned("width", 1000.0) == "width: 1000"
    assert assigned("--rate", 1e-05) == "--rate 1e-05"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("cannot write mode P"), "cannot write mode P"),
        (ValueError("\nfirst\nsecond"), "first"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_reason_is_one_line_and_never_empty(failure: Exception, reason: str) -> None:
    assert reason_of(failure) == reason
