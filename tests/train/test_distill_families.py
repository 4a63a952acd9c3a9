"""The base model teaches itself, for every family, by real SimpleTuner: `pytest -m families`.

The first one runs with every `pytest`. A probe in the trainer's process notes what it is given.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline
from fakes.hub import FakeHub
from peft import LoraConfig
from PIL import Image
from plain_loops import begin
from real_training import CLEAN_REFERENCE, TIMESTEPS, check_sampling, run_glance
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import build_tiny, lend_parts
from torch import Tensor

from glance.models.families import FAMILIES, Family, Latents, find_family
from glance.models.lora.file import read_lora

pytestmark = pytest.mark.families
FIRST = ("qwen_image",)  # guided by two passes; FLUX is taught by the demo and on the page
ALL = [
    name if name in FIRST else pytest.param(name, marks=pytest.mark.extended) for name in FAMILIES
]
STEPS = 6
BATCH = 2
PROMPTS = ("a lighthouse", "a harbour at night", "two boats")


@dataclass(frozen=True)
class Batch:
    """What one training step was made of; see the probe."""

    phase: str
    pictures: tuple[Path, ...]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Distilled:
    """A run of `glance distill` whose recordings were kept."""

    family: Family
    run: Path

    @cached_property
    def manifest(self) -> Any:
        return json.loads((self.run / "glance.json").read_text())

    @property
    def teacher(self) -> Any:
        return self.manifest["settings"]["teacher"]

    @property
    def model(self) -> Path:
        return self.run.parents[1] / "model"

    @property
    def reference(self) -> Path | None:
        return self.run.parents[1] / "before.png" if self.family.edits else None

    def timesteps(self, phase: str) -> list[float]:
        listed: list[float] = self.manifest["schedule"][phase]["timesteps"]
        return listed

    @property
    def sigmas(self) -> list[float]:
        """Of both phases, and 0."""
        both = [*self.timesteps("slow"), *self.timesteps("fast"), 0.0]
        return [timestep / 1000 for timestep in both]

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        return tuple(_read_probe(self.run / "probe"))

    def recorded(self, picture: Path, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the state at `sigma`, and the velocity of the one step from there."""
        path = self.run / "cache/teacher" / f"{picture.stem}.safetensors"
        with safe_open(path, framework="pt") as file:
            states = file.get_tensor("states").double()
        gaps = [abs(one - sigma) for one in self.sigmas]
        place = gaps.index(min(gaps))
        assert gaps[place] < 1e-6, f"sigma {sigma} is not on the list"
        here, there = self.sigmas[place : place + 2]
        velocity = (states[place + 1] - states[place]) / (there - here)
        return states[place].float(), velocity.float()

    def expected(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the recorded states and velocities that a batch must be made of."""
        sigmas = batch.tensors["loss.sigmas"].tolist()
        items = zip(batch.pictures, sigmas, strict=True)
        states, velocities = zip(*(self.recorded(*item) for item in items), strict=True)
        return torch.stack(states), torch.stack(velocities)


def distil(family: str, folder: Path, *, sizes: Sequence[str] = ("64x64",)) -> Distilled:
    """Distil a tiny model in `folder`: three prompts, four steps of its own, two phases of six.

    It is fetched from a Hub, where the trainer is offline from then on; not so for families that
    borrow of another model, which lies in the tests' cache alone.
    """
    row, model = find_family(family), build_tiny(family, folder / "model", seed=1)
    lend_parts(family, model)
    hub = serve(model, f"acme/{folder.name}")
    name = str(model) if row.borrowed else hub.model
    command = ["distill", "--family", family, "--model", name]
    command += ["--noises", "1", "--teacher-steps", "8", "--rank", "4"]
    command += ["--steps", str(STEPS), "--batch-size", str(BATCH)]
    command += ["--device", "cpu", "--launcher", "direct", "--no-compare", "--keep-recording"]
    command += [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    command += [part for size in sizes for part in ("--size", size)]
    if row.edits:
        # of the very size that it is shown at: diffusers and SimpleTuner resize in their own ways
        Image.radial_gradient("L").resize((96, 32)).convert("RGB").save(folder / "before.png")
        command += ["--source-image", "before.png"]
    online = {
        "HF_HOME": str(folder / "hf-home"),
        "HF_HUB_CACHE": f"{os.environ['HF_HOME']}/hub",  # in which these tests look for it
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
    }
    try:
        return Distilled(row, run_glance(folder, *command, **({} if row.borrowed else online)))
    finally:
        hub.close()


def serve(model: Path, name: str) -> FakeHub:
    """Put a model on a Hub as large ones lie there: its transformer in shards, and text encoders
    once more in half precision, which nobody reads."""
    served = model.with_name("served")
    shutil.copytree(model, served)
    shutil.rmtree(served / "transformer")
    transformer = AutoModel.from_pretrained(str(model / "transformer"))
    transformer.save_pretrained(served / "transformer", max_shard_size="100KB")
    assert list(served.glob("transformer/*.safetensors.index.json"))
    for weights in served.glob("text_encoder*/*.safetensors"):
        shutil.copy(weights, weights.with_suffix(f".fp16{weights.suffix}"))
    return FakeHub(name, served)


def _read_probe(folder: Path) -> Iterator[Batch]:
    for path in sorted(folder.iterdir()):
        with safe_open(path, framework="pt") as file:
            pictures = json.loads(file.metadata()["pictures"])
        yield Batch(path.stem.split("-")[1], tuple(map(Path, pictures)), load_file(path))


def pack(grid: Tensor, family: Family) -> Tensor:
    """Return (pictures, channels, rows, columns) as the family's transformer takes it."""
    if family.latents is Latents.TOKENS_FROM_GRID:
        return grid.flatten(2).transpose(1, 2)
    if family.latents is Latents.TOKENS:
        count, channels, rows, columns = grid.shape
        patches = grid.reshape(count, channels, rows // 2, 2, columns // 2, 2)
        return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return grid


@pytest.fixture(scope="module", params=ALL)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    return distil(request.param, tmp_path_factory.mktemp(f"{request.param}-distil"))


def test_each_step_learns_recorded_paths_at_the_phases_sigmas(run: Distilled) -> None:
    at_once = 1 if run.family.edits else BATCH
    assert {len(batch.pictures) for batch in run.batches} == {at_once}
    for phase in ("slow", "fast"):
        batches = [batch for batch in run.batches if batch.phase == phase]
        counted = Counter(
            round(1000 * sigma, 3)
            for batch in batches
            for sigma in batch.tensors["loss.sigmas"].tolist()
        )
        listed = run.timesteps(phase)
        assert len(listed) == 2
        assert counted == {round(one, 3): STEPS * BATCH // len(listed) for one in listed}
        learnt = {picture.name for batch in batches for picture in batch.pictures}
        assert learnt == {path.name for path in run.run.glob("data/**/*.png")}


def test_the_recorded_state_and_its_sigma_reached_the_transformer(run: Distilled) -> None:
    timestep = TIMESTEPS[run.family.name]
    for batch in run.batches:
        states, _ = run.expected(batch)
        wanted = pack(states, run.family)
        given = batch.tensors["given.hidden_states"]
        if run.family.edits:  # the reference's tokens follow
            given = given[:, : wanted.shape[1]]
        _close(given.reshape(wanted.shape), wanted)
        told = batch.tensors["given.timestep"].flatten().tolist()
        if run.family.name in CLEAN_REFERENCE:
            told, clean = told[: len(told) // 2], told[len(told) // 2 :]
            assert set(clean) == {0}
        sigmas = batch.tensors["loss.sigmas"].tolist()
        assert [timestep(one) / 1000 for one in told] == pytest.approx(sigmas, abs=1e-6)


def test_the_transformer_was_told_the_recorded_guidance(run: Distilled) -> None:
    for batch in run.batches:
        if run.family.embeds_guidance:
            told = batch.tensors["given.guidance"].tolist()
            assert told == [run.teacher[f"{batch.phase}_guidance"]] * BATCH
        else:
            assert run.teacher[f"{batch.phase}_guidance"] == run.family.guidance.off
    assert run.teacher["guidance"] == run.family.guidance.slow


def test_the_losss_target_is_the_velocity_to_the_next_state(run: Distilled) -> None:
    for batch in run.batches:
        states, velocities = run.expected(batch)
        _close(batch.tensors["loss.target"], velocities)
        _close(batch.tensors["loss.noisy_latents"], states)
        assert batch.tensors["loss.prediction"].shape == velocities.shape


def test_the_untrained_model_predicts_what_it_is_sampled_with(run: Distilled) -> None:
    family, batch = run.family, run.batches[0]
    pipeline = DiffusionPipeline.from_pretrained(run.model)
    reference = None if run.reference is None else Image.open(run.reference)
    states, _ = run.expected(batch)
    packed = pack(states, family)
    predicted = pack(batch.tensors["loss.prediction"], family)
    for number, picture in enumerate(batch.pictures):
        prompt = picture.with_suffix(".txt").read_text().strip()
        _, velocity = begin(family.name, pipeline, prompt, seed=0, reference=reference)
        sigma = batch.tensors["loss.sigmas"][number : number + 1]
        with torch.inference_mode():
            own = velocity(packed[number : number + 1], sigma, run.teacher["slow_guidance"])
        torch.testing.assert_close(predicted[number], own[0], rtol=0, atol=1e-5)


def test_every_linear_layer_of_the_blocks_was_trained_and_nothing_else(run: Distilled) -> None:
    transformer = import_module(f"tiny_models.{run.family.name}").make().transformer
    transformer.add_adapter(LoraConfig(r=2, target_modules=list(run.family.block_layers)))
    wanted = {name for name, module in transformer.named_modules() if hasattr(module, "lora_A")}
    for phase in ("slow", "fast"):
        lora = read_lora(run.run / f"output/glance-{phase}/pytorch_lora_weights.safetensors")
        assert {name.removeprefix("transformer.") for name in lora.modules} == wanted


def test_the_pair_is_sampled_with_the_guidance_that_it_was_trained_for(run: Distilled) -> None:
    check_sampling(
        run.family.name,
        run.run,
        guidance=(run.teacher["slow_guidance"], run.teacher["fast_guidance"]),
        timesteps=(run.timesteps("slow"), run.timesteps("fast")),
        is_asked_for=False,
        model=run.model,
        within=1,
    )


@pytest.mark.extended
def test_each_size_is_learnt_from_its_own_recordings(tmp_path: Path) -> None:
    run = distil("flux", tmp_path, sizes=("64x64", "128x64"))

    test_the_recorded_state_and_its_sigma_reached_the_transformer(run)
    test_the_losss_target_is_the_velocity_to_the_next_state(run)
    shapes = {tuple(batch.tensors["loss.target"].shape[1:]) for batch in run.batches}
    assert shapes == {(16, 8, 8), (16, 8, 16)}
    assert run.teacher["sizes"] == [[64, 64], [128, 64]]


def _close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
