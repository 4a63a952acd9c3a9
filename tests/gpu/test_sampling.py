"""On a real accelerator: each way to place the weights gives the same, quantised ones nearly."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glance.core.device import Device, Memory, Precision, Quantize
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.pipeline.encodings import Encodings
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.load import Fit, exchange_pair, load_pipeline
from glance.sampling.request import ExtraLora
from glance.schedule.lists import PRESETS

OFFLOADS = (Memory.OFFLOAD, Memory.GROUP, Memory.SEQUENTIAL)


def load(
    model: Path, loras: dict[str, Path], device: Device = Device.CUDA, **fit: object
) -> GlancePipeline:
    chosen = Fit(device=device, **{"dtype": Precision.BF16, "pixels": 64 * 64, **fit})
    family = find_family("flux")
    files = {phase: loras[phase] for phase in Phase}
    style = [ExtraLora(loras["fast"], -0.25)]  # beside the pair, in every way of fitting a model
    pipeline, switch, _ = load_pipeline(BaseModel(family, str(model)), files, chosen, extras=style)
    return GlancePipeline(pipeline, schedule=PRESETS["guide"].schedule, switch=switch)


def generate(
    model: Path, loras: dict[str, Path], device: Device = Device.CUDA, **fit: object
) -> Image.Image:
    """Generate one picture with a model that is loaded for it."""
    (picture,) = load(model, loras, device, **fit)("a hill", seed=3, width=64, height=64)
    return picture


def away(one: Image.Image, other: Image.Image) -> float:
    """Return the mean distance in grey levels of 255."""
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean())


@pytest.mark.parametrize("memory", OFFLOADS)
def test_placing_changes_no_image(tiny_flux: Path, loras: dict[str, Path], memory: Memory) -> None:
    full = generate(tiny_flux, loras, memory=Memory.FULL)

    assert generate(tiny_flux, loras, memory=memory).tobytes() == full.tobytes()


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.FP8])
@pytest.mark.parametrize("memory", [Memory.FULL, *OFFLOADS])
def test_exchanged_loras_change_the_image_as_if_they_were_loaded_with_the_model(
    tiny_flux: Path, loras: dict[str, Path], memory: Memory, quantize: Quantize
) -> None:
    fit = {"memory": memory, "quantize": quantize}
    expected = generate(tiny_flux, loras, **fit)
    kept = load(tiny_flux, {"slow": loras["fast"], "fast": loras["slow"]}, **fit)
    kept.encodings = Encodings()
    (other,) = kept("a hill", seed=3, width=64, height=64)

    exchange_pair(kept.pipeline, {one: loras[one] for one in Phase}, quantize, Precision.BF16)
    (found,) = kept("a hill", seed=3, width=64, height=64)

    assert found.tobytes() == expected.tobytes() != other.tobytes()


@pytest.mark.parametrize("memory", [Memory.FULL, Memory.OFFLOAD])
@pytest.mark.parametrize("quantize", [Quantize.BIT8, Quantize.BIT4, Quantize.FP8])
def test_small_weights_generate_nearly_the_same(
    tiny_flux: Path, loras: dict[str, Path], quantize: Quantize, memory: Memory
) -> None:
    if quantize is Quantize.BIT4:
        pytest.importorskip("bitsandbytes")
    exact = generate(tiny_flux, loras)

    assert away(generate(tiny_flux, loras, quantize=quantize, memory=memory), exact) < 16


def test_a_seed_is_the_same_picture_as_on_the_cpu(tiny_flux: Path, loras: dict[str, Path]) -> None:
    here, there = (
        generate(tiny_flux, loras, device, dtype=Precision.FP32)
        for device in (Device.CUDA, Device.CPU)
    )

    assert away(here, there) < 1


def test_a_compiled_model_generates_the_same(tiny_flux: Path, loras: dict[str, Path]) -> None:
    plain = generate(tiny_flux, loras)

    assert away(generate(tiny_flux, loras, compiled=True), plain) < 4


def test_auto_keeps_everything_where_there_is_room(tiny_flux: Path, loras: dict[str, Path]) -> None:
    pipe = load(tiny_flux, loras, memory=Memory.AUTO).pipeline

    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {weight.device.type for part in parts for weight in part.parameters()} == {"cuda"}
