"""What the trainer's model learns in a distillation, on a stand-in for SimpleTuner's foundation."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import foundation as fake
from fakes.foundation import (
    MISFITS,
    SHAPE,
    SIGMAS,
    make_batch,
    make_foundation,
    prepare,
    teach,
    write_recording,
)


def velocity(states: torch.Tensor, place: int) -> torch.Tensor:
    """By definition: that of the one Euler step from a state to the next."""
    return (states[place + 1] - states[place]) / (SIGMAS[place + 1] - SIGMAS[place])


@pytest.fixture
def foundation(tmp_path: Path) -> Any:
    made = make_foundation()
    teach(made, tmp_path)
    return made


@pytest.mark.parametrize("place", range(4))
def test_simpletuners_own_arithmetic_gives_the_recorded_state_and_its_velocity(
    foundation: Any, tmp_path: Path, place: int
) -> None:
    states = write_recording(tmp_path, "a")

    batch = prepare(foundation, SIGMAS[place] + 5e-5)  # it may be rounded on its way

    close(batch["noisy_latents"][0], states[place])
    close((batch["noise"] - batch["latents"])[0], velocity(states, place))
    close(foundation().get_prediction_target(batch)[0], velocity(states, place))
    step = SIGMAS[place + 1] - SIGMAS[place]  # lands on the next state
    close((batch["noisy_latents"] + step * batch["target"])[0], states[place + 1])
    assert batch["input_noise"] is batch["noise"]
    assert "guidance" not in batch


def test_each_of_a_batch_has_its_own_recording_and_sigma(foundation: Any, tmp_path: Path) -> None:
    first, second = write_recording(tmp_path, "a"), write_recording(tmp_path, "b")

    batch = prepare(foundation, SIGMAS[2], SIGMAS[0], batch=make_batch("a", "b"))

    close(batch["noisy_latents"], torch.stack([first[2], second[0]]))
    close(batch["target"], torch.stack([velocity(first, 2), velocity(second, 0)]))


def test_in_half_precision_the_target_is_exact(foundation: Any, tmp_path: Path) -> None:
    states = write_recording(tmp_path, "a")

    batch = prepare(foundation, SIGMAS[3], batch=make_batch("a", dtype=torch.bfloat16))

    close(foundation().get_prediction_target(batch)[0], velocity(states, 3))
    assert batch["noisy_latents"].dtype == batch["latents"].dtype == torch.bfloat16
    torch.testing.assert_close(batch["noisy_latents"][0].float(), states[3], rtol=0.02, atol=0.05)


def test_the_receipt_is_written_with_the_first_batch_and_once(
    foundation: Any, tmp_path: Path
) -> None:
    class Model(foundation):
        def sample_flow_sigmas(self, batch: dict, state: dict) -> Any:
            return torch.tensor(state["sigmas"]), torch.tensor(state["sigmas"])

    write_recording(tmp_path, "a")
    receipt = tmp_path / "receipt.txt"
    prepare(Model, SIGMAS[0])  # it goes its own way unnoticed
    assert not receipt.exists()

    prepare(foundation, SIGMAS[0])
    written = receipt.read_text()
    receipt.unlink()
    prepare(foundation, SIGMAS[1])

    assert written == "recorded targets are in use\n"
    assert not receipt.exists()


def test_the_guidance_is_told_where_it_is_embedded(tmp_path: Path) -> None:
    foundation = make_foundation()
    teach(foundation, tmp_path, guidance=3.5)
    write_recording(tmp_path, "a")

    assert prepare(foundation, SIGMAS[0], SIGMAS[1])["guidance"].tolist() == [3.5, 3.5]


def test_a_picture_of_another_size_is_learnt_at_the_size_it_was_recorded_at(
    foundation: Any, tmp_path: Path
) -> None:
    states = write_recording(tmp_path, "wide", (SHAPE[0], 4, 16))

    batch = prepare(foundation, SIGMAS[0], batch=make_batch("wide"))

    close(batch["noisy_latents"][0], states[0])


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("misfits")
    done = subprocess.run(
        [sys.executable, fake.__file__, folder], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, tuple[int, str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_ends_the_process_with_one_line(
    tried: dict[str, tuple[int, str]], name: str
) -> None:
    code, said = tried[name]

    assert code == 1
    (line,) = said.splitlines()
    begin, why = line.split(": ", 1)
    assert begin == "glance cannot teach SimpleTuner"
    assert re.fullmatch(MISFITS[name][1], why)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
