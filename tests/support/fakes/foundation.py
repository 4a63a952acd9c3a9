"""A stand-in for SimpleTuner's ModelFoundation, taught by the module of the trainer's process.

What does not fit ends the process, so each misfit is tried in a process of its own:
`python foundation.py FOLDER` tries them all and prints the exit code and stderr of each.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

SIGMAS: Final = (1.0, 0.8261, 0.6129, 0.3454, 0.0)
SHAPE: Final = (4, 8, 6)
"""Channels, rows and columns."""
_MODULE: Final = Path(__file__).parents[3] / "glance/training/simpletuner/inside/glance_targets.py"


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


def teach(foundation: Any, folder: Path, **changes: Any) -> None:
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
    spec = importlib.util.spec_from_file_location("glance_targets", _MODULE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.teach(foundation, path)


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
    prepared: dict[str, Any] = foundation().prepare_batch(batch, {"sigmas": sigmas})
    return prepared


def taught(folder: Path) -> Any:
    """Return a class that has learnt the recordings in `folder`."""
    foundation = make_foundation()
    teach(foundation, folder)
    return foundation


def _has_another_signature(folder: Path) -> None:
    class Foundation:
        def sample_flow_sigmas(self, batch: dict, state: dict, more: int = 1) -> None: ...

    teach(Foundation, folder)


def _samples_in_its_own_way(folder: Path) -> None:
    class Model(taught(folder)):  # type: ignore[misc]
        def sample_flow_sigmas(self, batch: dict, state: dict) -> Any:
            return super().sample_flow_sigmas(batch=batch, state=state)

    prepare(Model, 1.0)


def _meet(sigmas: tuple[float, ...], *names: str, **more: Any) -> Callable[[Path], object]:
    return lambda folder: prepare(taught(folder), *sigmas, batch=make_batch(*names) | more)


_SHAPE = r"its latents are \(1, 4, 8, 6\), the recorded "
MISFITS: Final[Mapping[str, tuple[Callable[[Path], object], str]]] = {
    "is_of_another_version": (
        lambda folder: teach(make_foundation(), folder, simpletuner="4.9.0"),
        f"it is made for SimpleTuner 4.9.0, this is {version('simpletuner')}",
    ),
    "has_another_signature": (
        _has_another_signature,
        r"sample_flow_sigmas\(self, batch: .+ is not as it was",
    ),
    "samples_in_its_own_way": (_samples_in_its_own_way, "Model samples sigmas in its own way"),
    "samples_a_sigma_that_is_not_recorded": (
        _meet((1.0, 0.5), "a", "a"),
        "nothing is recorded at sigma 0.5",
    ),
    "samples_the_last_sigma": (_meet((0.0,), "a"), "nothing is recorded at sigma 0.0"),
    "lacks_a_recording": (_meet((1.0,), "nobody"), ".+/nobody.safetensors cannot be read: .+"),
    "has_a_damaged_recording": (_meet((1.0,), "half"), ".+/half.safetensors cannot be read: .+"),
    "has_a_recording_of_something_else": (
        _meet((1.0,), "else"),
        ".+/else.safetensors cannot be read: .+",
    ),
    "has_too_few_states": (_meet(SIGMAS[-2:-1], "few"), ".+/few.safetensors cannot be read: .+"),
    "has_other_channels": (_meet((1.0,), "wide"), _SHAPE + r"\(1, 8, 8, 6\)"),
    "has_other_axes": (_meet((1.0,), "video"), _SHAPE + r"\(1, 4, 1, 8, 6\)"),
    "has_sizes_in_one_batch": (
        _meet((1.0, 1.0), "a", "large"),
        "a batch has pictures of several sizes",
    ),
    "has_a_target_already": (
        _meet((1.0,), "a", target=torch.zeros(1, *SHAPE)),
        "a batch has a target already",
    ),
}
"""What does not fit -> how to meet with it, and what is said of it, as a regular expression."""


def _write_recordings(folder: Path) -> None:
    """Write a sound one, `a`, and those that do not fit."""
    channels, rows, columns = SHAPE
    write_recording(folder, "a")
    whole = (folder / "a.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    save_file({"other": torch.zeros(1)}, folder / "else.safetensors")
    save_file({"states": torch.randn(4, *SHAPE)}, folder / "few.safetensors")
    write_recording(folder, "wide", (2 * channels, rows, columns))
    write_recording(folder, "video", (channels, 1, rows, columns))
    write_recording(folder, "large", (channels, 16, 16))


def _try_alone(misfit: Callable[[Path], object], folder: Path) -> tuple[int, str]:
    """Return the exit code and stderr of a copy of this process that meets with the misfit."""
    said = folder / "stderr.txt"
    child = os.fork()
    if child == 0:
        with said.open("w") as file:
            os.dup2(file.fileno(), 2)
        misfit(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text()


def _main() -> None:
    folder = Path(sys.argv[1])
    _write_recordings(folder)
    json.dump(
        {name: _try_alone(misfit, folder) for name, (misfit, _) in MISFITS.items()}, sys.stdout
    )


if __name__ == "__main__":
    _main()
