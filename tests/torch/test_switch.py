"""How one LoRA gives way to the other: as adapters, or swapped into a compiled model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from plain_loops import furthest
from safetensors.torch import save_file

from glance.core.device import Device, Memory, Precision, Quantize
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.sampling.pipeline.adapters import level, load_swapped, prepare_adapter
from glance.sampling.pipeline.encodings import Encodings
from glance.sampling.pipeline.glance_pipeline import GlancePipeline
from glance.sampling.pipeline.load import (
    Fit,
    compile_transformer,
    exchange_pair,
    load_pipeline,
)
from glance.sampling.request import ExtraLora
from glance.schedule.lists import PRESETS

FIT = Fit(device=Device.CPU, dtype=Precision.FP32)
SIZE = {"width": 64, "height": 64}


def load_swapping(model: Path, loras: dict[str, Path]) -> GlancePipeline:
    pipeline, *_ = load_pipeline(BaseModel(find_family("flux"), str(model)), {}, FIT)
    return GlancePipeline(
        pipeline, switch=load_swapped(pipeline, {phase: loras[phase] for phase in Phase})
    )


@pytest.fixture(scope="module")
def resident(sampler: GlancePipeline) -> GlancePipeline:
    return sampler


@pytest.fixture(scope="module")
def swapped(tiny_flux: Path, loras: dict[str, Path]) -> GlancePipeline:
    return load_swapping(tiny_flux, loras)


@pytest.mark.parametrize(
    "settings",
    [{}, {"slow_scale": 0.5, "fast_scale": -1.0}, {"loras": (Phase.FAST,)}, {"loras": ()}],
    ids=str,
)
def test_swapping_generates_what_adapters_generate(
    resident: GlancePipeline, swapped: GlancePipeline, settings: dict[str, Any]
) -> None:
    (one,), (other,) = (it("a hill", **SIZE, **settings) for it in (resident, swapped))

    assert one.tobytes() == other.tobytes()
    assert swapped("a hill", **SIZE, **settings)[0].tobytes() == other.tobytes()


def test_scale_0_is_the_base_model_alone(resident: GlancePipeline) -> None:
    (without,) = resident("a hill", **SIZE, loras=())
    (zero,) = resident("a hill", **SIZE, slow_scale=0.0, fast_scale=0.0)
    (usual,) = resident("a hill", **SIZE)

    assert furthest(without, zero) <= 1
    assert furthest(without, usual) > 1


def test_the_base_models_own_loras_work_wherever_none_of_the_pairs_does(
    resident: GlancePipeline, tiny_flux: Path, loras: dict[str, Path]
) -> None:
    """As a teacher samples with somebody's style: `glance distill --teacher-lora`."""
    family, style = find_family("flux"), loras[Phase.FAST]
    teachers = [ExtraLora(style, with_pair=False)]
    pipeline, switch, _ = load_pipeline(
        BaseModel(family, str(tiny_flux)), {Phase.SLOW: loras[Phase.SLOW]}, FIT, extras=teachers
    )
    styled = GlancePipeline(pipeline, schedule=PRESETS["guide"].schedule, switch=switch)

    # the slow phase has the pair's LoRA, the fast one the style: what `resident` has throughout
    (mixed,) = styled("a hill", **SIZE, loras=(Phase.SLOW,))
    (both,) = resident("a hill", **SIZE)
    (alone,) = styled("a hill", **SIZE, loras=())

    assert mixed.tobytes() == both.tobytes()
    assert furthest(alone, resident("a hill", **SIZE, loras=())[0]) > 1


def test_a_compiled_model_is_built_once_for_both_loras_all_scales_and_the_base_alone(
    tiny_flux: Path, loras: dict[str, Path], swapped: GlancePipeline
) -> None:
    compiled = load_swapping(tiny_flux, loras)
    compile_transformer(compiled.pipeline, backend="eager")
    torch._dynamo.reset()
    (first,) = compiled("a hill", **SIZE)

    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled("a sea", **SIZE, slow_scale=0.5)
        compiled("a sea", **SIZE, loras=())
        (again,) = compiled("a hill", **SIZE)

    assert first.tobytes() == again.tobytes()
    assert furthest(first, swapped("a hill", **SIZE)[0]) <= 1


@pytest.mark.parametrize("memory", [Memory.FULL, Memory.GROUP, Memory.OFFLOAD])
def test_exchanged_loras_generate_what_a_fresh_model_with_them_generates(
    tiny_flux: Path, loras: dict[str, Path], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a style; wherever the weights wait. The other pair has fewer layers."""
    pairs = [{phase: loras[phase] for phase in Phase}, {Phase.FAST: loras[Phase.SLOW]}]
    base, extras = BaseModel(find_family("flux"), str(tiny_flux)), [ExtraLora(loras["fast"], 0.3)]

    def load(pair: dict[Phase, Path], memory: Memory = Memory.FULL) -> GlancePipeline:
        fit = Fit(device=Device.CPU, dtype=Precision.FP32, memory=memory)
        pipeline, switch, _ = load_pipeline(base, pair, fit, extras=extras)
        return GlancePipeline(pipeline, schedule=PRESETS["guide"].schedule, switch=switch)

    def generate(pipeline: GlancePipeline) -> bytes:
        return pipeline("a hill", **SIZE)[0].tobytes()

    def offload(pipeline: Any, device: str = "cpu") -> None:  # diffusers means an accelerator
        offload_parts(pipeline, device=device)

    offload_parts = FluxPipeline.enable_model_cpu_offload
    monkeypatch.setattr(FluxPipeline, "enable_model_cpu_offload", offload)
    expected = [generate(load(pair)) for pair in pairs]
    kept = load(pairs[0], memory)
    kept.encodings = Encodings()
    found = [generate(kept)]
    for pair in (pairs[1], pairs[0]):
        exchange_pair(kept.pipeline, pair, Quantize.NONE, Precision.FP32)
        found.append(generate(kept))

    assert found == [expected[0], expected[1], expected[0]]
    assert expected[0] != expected[1]


def test_other_layers_and_ranks_are_levelled(resident: GlancePipeline, tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.0.attn.to_"
    files = {Phase.SLOW: ("q", 2), Phase.FAST: ("k", 3)}
    prepared = {}
    for phase, (end, rank) in files.items():
        path = tmp_path / f"{phase}.safetensors"
        tensors = {
            f"{layer}{end}.lora_A.weight": torch.ones(rank, 32),
            f"{layer}{end}.lora_B.weight": torch.ones(32, rank),
        }
        save_file(tensors, path)
        prepared[phase] = prepare_adapter(resident.pipeline, path)

    slow, fast = level(prepared).values()

    assert slow.state.keys() == fast.state.keys()
    assert {tensor.shape for tensor in slow.state.values()} == {(3, 32), (32, 3)}
    for lora, own, other, rank in ((slow, "q", "k", 2), (fast, "k", "q", 3)):
        down, up = (
            {end: lora.state[f"{layer}{end}.lora_{half}.weight"] for end in "qk"} for half in "AB"
        )
        assert (up[own] @ down[own]).max() == rank
        assert not (up[other] @ down[other]).any()
