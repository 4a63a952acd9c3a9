"""Every family: two-phase sampling against a plain Euler loop that shares no code with glance."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from plain_loops import FAMILIES as LOOPS
from plain_loops import paint
from tiny_models import build_tiny, lend_parts
from tiny_models.adapters import make_loras

from glance.families import FAMILIES, find_family

PROMPT = "a lighthouse"


def test_every_family_has_a_loop() -> None:
    assert set(LOOPS) == set(FAMILIES)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_phases_equal_a_plain_euler_loop(name: str, guided: bool, tmp_path: Path) -> None:
    from glance.device import Device, Precision
    from glance.diffusion.inference import sample_image
    from glance.diffusion.pipeline import load_pipeline
    from glance.schedule import PRESETS, Phase
    from glance.settings import resolve_sample_settings

    family = find_family(name)
    model = build_tiny(name, tmp_path / "model", seed=1)
    lend_parts(name, model)
    loras = make_loras(model, tmp_path)
    guidance = (3.0, 2.0) if guided else (family.guidance.off, family.guidance.off)
    reference = None
    if family.edits:
        reference = tmp_path / "before.png"
        Image.radial_gradient("L").resize((128, 64)).convert("RGB").save(reference)
    settings = resolve_sample_settings(
        family,
        prompt=PROMPT,
        seed=3,
        width=64,
        height=64,
        resolution=64,
        reference=reference,
        slow_guidance=guidance[0],
        fast_guidance=guidance[1],
    )
    pipeline = load_pipeline(
        family,
        str(model),
        {phase: loras[phase] for phase in Phase},
        device=Device.CPU,
        dtype=Precision.FP32,
    )

    image = sample_image(pipeline, family, PRESETS["seed"].schedule, settings).image

    plain = paint(
        name,
        load_plainly(model, loras),
        PROMPT,
        seed=3,
        guidance=guidance,
        reference=reference and Image.open(reference),
    )
    assert same(image, plain)


def load_plainly(model: Path, loras: dict[str, Path]) -> Any:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(model)
    for name, path in loras.items():
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    return pipeline


def same(one: Image.Image, other: Image.Image) -> bool:
    """To the bit."""
    return one.size == other.size and one.tobytes() == other.tobytes()
