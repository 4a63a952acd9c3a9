"""A request as a document and as a command line: what is written is what is read back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from glance.core.errors import SettingsError
from glance.core.options import (
    Flag,
    Group,
    command_line,
    declared,
    from_document,
    to_document,
)
from glance.core.phase import Phase
from glance.evaluation.request import CompareRequest, Metric, OptimizeRequest
from glance.interop.request import ImportRequest
from glance.sampling.request import InferRequest
from glance.schedule.options import ScheduleOptions
from glance.training.request import DistillRequest, TrainRequest

TRAIN = TrainRequest(
    image=Path("a b.png"),
    caption="-x",
    phases=(Phase.SLOW,),
    learning_rate=1e-5,
    schedule=ScheduleOptions(name="auto", slow_steps=4),
    overrides=("a=1",),
    device="cpu",
    resolution="1024,512",
    restart=True,
)
INFER = InferRequest(
    prompts=("x", "y"), size=(1024, 768), guidance=(3.5, 1.0), metadata=False, seeds=(1, 2)
)
REQUESTS = (
    TRAIN,
    INFER,
    DistillRequest(sizes=("64x64", "32x64"), compares=False),
    InferRequest(width=8, guidance=(2.0, 2.0)),
    CompareRequest(metrics=(Metric.LPIPS,), finds_worth=False),
    OptimizeRequest(size=(8, 16), steps=4),
    ImportRequest(image=Path("x.png"), schedule=ScheduleOptions(slow_timesteps="1,0.5")),
)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("only_changed", [True, False])
def test_what_is_written_is_what_is_read(request_: Any, *, only_changed: bool) -> None:
    document = to_document(request_, only_changed=only_changed)

    assert from_document(type(request_), document, owner="glance x") == request_
    texts = {key: [*map(str, one)] if isinstance(one, list) else str(one)
             for key, one in document.items()}  # fmt: skip
    assert from_document(type(request_), texts, owner="glance x") == request_


def test_what_a_request_is_without_is_not_said() -> None:
    assert to_document(TRAIN) == {
        "learning-rate": 1e-05, "phase": "slow", "set": ["a=1"], "schedule": "auto",
        "slow-steps": 4, "device": "cpu", "restart": True, "image": ["a b.png"], "caption": "-x",
        "resolution": "1024,512",
    }  # fmt: skip
    assert command_line(INFER) == [
        *("--prompt", "x", "--prompt", "y", "--seed", "1", "--seed", "2"),
        *("--size", "1024x768", "--no-metadata", "--guidance", "3.5,1"),
    ]  # neither --width nor --slow-guidance, which follow from the others
    assert "--caption=-x" in command_line(TRAIN)
    assert command_line(DistillRequest()) == []
    assert to_document(DistillRequest(), only_changed=False)["phase"] == "both"


@pytest.mark.parametrize("kind", dict.fromkeys(map(type, REQUESTS)), ids=lambda one: one.__name__)
def test_what_is_parsed_can_be_shown(kind: type) -> None:
    assert [one.key for one in declared(kind) if bool(one.flag.parse) != bool(one.flag.show)] == []


def test_a_document_may_be_written_as_people_would() -> None:
    document = {
        "image": "x.png", "resolution": [1024, 512], "set": {"a": 0.1, "b": True}, "steps": "80",
        "restart": "no", "vram": 24, "lr": 0.0001, "slow_timesteps": [1, 0.5], "run": None,
    }  # fmt: skip

    assert from_document(TrainRequest, document, owner="glance train") == TrainRequest(
        image=Path("x.png"),
        resolution="1024,512",
        overrides=("a=0.1", "b=true"),
        steps=80,
        vram="24",
        learning_rate=1e-4,
        schedule=ScheduleOptions(slow_timesteps="1,0.5"),
    )


def test_all_that_is_wrong_is_said_at_once() -> None:
    document = {
        "lerning_rate": 1, "learning-rate": "abc", "lr": 2, "steps": [1, 2], "device": "tpu",
        "phase": "x", "set": {"a": {}}, "qqq": 1,
    }  # fmt: skip

    with pytest.raises(SettingsError) as refusal:
        from_document(TrainRequest, document, owner="glance train")

    said = [(one.message, one.hint) for one in refusal.value.problems]
    assert said[0] == (
        "lerning_rate is no option of glance train", "write learning-rate, or leave it out",
    )  # fmt: skip
    assert [message for message, _ in said[1:]] == [
        "lr is the same as learning-rate, and said twice",
        "qqq is no option of glance train",
        "learning-rate abc: it must be a number",
        "steps holds one value, not a list",
        "device tpu: it must be 'auto', 'cuda', 'mps' or 'cpu'",
        "phase x: it must be one of both, slow, fast",
        "a: a text or a number belongs there, no list, mapping or null",
    ]


@dataclass(frozen=True)
class Needy:
    image: Annotated[Path, Flag("An image.", Group.DATA)]


def test_what_must_be_said_is_missed() -> None:
    with pytest.raises(SettingsError, match=r"^image is missing$"):
        from_document(Needy, {"image": None}, owner="glance x")
    assert to_document(Needy(Path("x"))) == {"image": "x"}
