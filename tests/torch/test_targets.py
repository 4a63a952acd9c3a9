"""What the trainer's model learns in a distillation, on a stand-in for SimpleTuner's foundation."""

import json
import os
import re
import runpy
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

SIGMAS = (1.0, 0.8261, 0.6129, 0.3454, 0.0)
SHAPE = (4, 8, 6)
"""Channels, rows and columns."""
MODULE = Path(__file__).parents[2] / "glance/training/simpletuner/inside/glance_targets.py"


def make_foundation() -> Any:
    """Return a class that does to a batch what SimpleTuner 4.10.1 does in helpers/models/common.py.

    `state["sigmas"]` are those that are sampled.
    """

    class Foundation:
        def sample_flow_sigmas(self, batch: dict, state: dict) -> tuple[Any, Any]:
            sigmas = torch.tensor(state["sigmas"])
            return sigmas, sigmas * 1000

        def prepare_batch(self, batch: dict, state: dict) -> dict:
            batch["noise"] = batch["input_noise"] = torch.randn_like(batch["latents"])
            sigmas, batch["timesteps"] = self.sample_flow_sigmas(batch=batch, state=state)
            batch["sigmas"] = sigmas.view(-1, 1, 1, 1).to(batch["latents"].dtype)
            clean, noisy = (1.0 - batch["sigmas"]) * batch["latents"], batch["sigmas"]
            batch["noisy_latents"] = clean + noisy * batch["input_noise"]
            return batch

        def get_prediction_target(self, batch: dict) -> Any:
            if batch.get("target") is not None:
                return batch["target"]
            return batch["noise"] - batch["latents"]

    return Foundation


def teach(foundation: Any, folder: Path, **changes: Any) -> Any:
    """Let a class learn the recordings in `folder`; `changes` are of targets.json."""
    document = {
        "simpletuner": version("simpletuner"),
        "folder": str(folder),
        "sigmas": SIGMAS,
        "receipt": str(folder / "receipt.txt"),
        **changes,
    }
    path = folder / "targets.json"
    path.write_text(json.dumps(document))
    runpy.run_path(str(MODULE))["teach"](foundation, path)
    return foundation


def write_recording(folder: Path, name: str, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    """Write a random path of that name and return its states, one a sigma."""
    states = torch.randn(len(SIGMAS), *shape)
    save_file({"states": states}, folder / f"{name}.safetensors")
    return states


def make_batch(*names: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return what SimpleTuner's collate makes of pictures of these names."""
    return {
        "filepaths": [f"/run/data/{name}.png" for name in names],
        "latents": torch.randn(len(names), *SHAPE, dtype=dtype),
    }


def prepare(foundation: Any, *sigmas: float, batch: dict | None = None) -> dict[str, Any]:
    """Prepare a batch at these sigmas, of the picture `a` if nothing else is said."""
    batch = make_batch(*"a" * len(sigmas)) if batch is None else batch
    return foundation().prepare_batch(batch, {"sigmas": sigmas})


def velocity(states: torch.Tensor, place: int) -> torch.Tensor:
    """By definition: that of the one Euler step from a state to the next."""
    return (states[place + 1] - states[place]) / (SIGMAS[place + 1] - SIGMAS[place])


@pytest.fixture
def foundation(tmp_path: Path) -> Any:
    return teach(make_foundation(), tmp_path)


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


def test_the_first_batch_writes_the_receipt_once(foundation: Any, tmp_path: Path) -> None:
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
    foundation = teach(make_foundation(), tmp_path, guidance=3.5)
    write_recording(tmp_path, "a")

    assert prepare(foundation, SIGMAS[0], SIGMAS[1])["guidance"].tolist() == [3.5, 3.5]


def test_a_picture_of_another_size_is_learnt_at_the_size_it_was_recorded_at(
    foundation: Any, tmp_path: Path
) -> None:
    states = write_recording(tmp_path, "wide", (SHAPE[0], 4, 16))

    batch = prepare(foundation, SIGMAS[0], batch=make_batch("wide"))

    close(batch["noisy_latents"][0], states[0])


def has_another_signature(folder: Path) -> None:
    class Foundation:
        def sample_flow_sigmas(self, batch: dict, state: dict, more: int = 1) -> None: ...

    teach(Foundation, folder)


def samples_in_its_own_way(folder: Path) -> None:
    class Model(teach(make_foundation(), folder)):
        def sample_flow_sigmas(self, batch: dict, state: dict) -> Any:
            return super().sample_flow_sigmas(batch=batch, state=state)

    prepare(Model, 1.0)


def meets(sigmas: tuple[float, ...], *names: str, **more: Any) -> Callable[[Path], object]:
    return lambda folder: prepare(
        teach(make_foundation(), folder), *sigmas, batch=make_batch(*names) | more
    )


class Ended(BaseException):
    """In place of the end of this process."""


@pytest.mark.parametrize(
    ("misfit", "said"),
    [
        (
            lambda folder: teach(make_foundation(), folder, simpletuner="4.9.0"),
            f"it is made for SimpleTuner 4.9.0, this is {version('simpletuner')}",
        ),
        (has_another_signature, r"sample_flow_sigmas\(self, batch: .+ is not as it was"),
        (samples_in_its_own_way, "Model samples sigmas in its own way"),
        (meets((1.0, 0.5), "a", "a"), "nothing is recorded at sigma 0.5"),
        (meets((0.0,), "a"), "nothing is recorded at sigma 0.0"),
        (meets((1.0,), "nobody"), ".+/nobody.safetensors cannot be read: .+"),
        (meets((1.0,), "half"), ".+/half.safetensors cannot be read: .+"),
        (meets((1.0,), "else"), ".+/else.safetensors cannot be read: .+"),
        (meets(SIGMAS[-2:-1], "few"), ".+/few.safetensors cannot be read: .+"),
        (meets((1.0,), "wide"), r"its latents are \(1, 4, 8, 6\), the recorded \(1, 8, 8, 6\)"),
        (meets((1.0,), "video"), r"its latents are .+, the recorded \(1, 4, 1, 8, 6\)"),
        (meets((1.0, 1.0), "a", "large"), "a batch has images of several sizes"),
        (meets((1.0,), "a", target=torch.zeros(1, *SHAPE)), "a batch has a target already"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_ends_the_process_with_one_line(
    misfit: Callable[[Path], object],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    channels, rows, columns = SHAPE
    shapes = {"a": SHAPE, "wide": (2 * channels, rows, columns), "large": (channels, 16, 16)}
    for name, shape in {**shapes, "video": (channels, 1, rows, columns)}.items():
        write_recording(tmp_path, name, shape)
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"other": torch.zeros(1)}, tmp_path / "else.safetensors")
    save_file({"states": torch.randn(4, *SHAPE)}, tmp_path / "few.safetensors")

    with pytest.raises(Ended, match=r"^1$"):
        misfit(tmp_path)

    assert re.fullmatch(f"glance cannot teach SimpleTuner: {said}\n", capsys.readouterr().err)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
