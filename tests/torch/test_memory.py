"""Smaller weights beside which LoRAs still switch; and where the parts are while one samples.

Placing is tried on a CPU that pretends to have a GPU beside it.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.hooks.group_offloading import ModuleGroup
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torchao.quantization import Int8Tensor

from glance.core.device import Device, Memory, Quantize
from glance.models.families import FAMILIES, find_family
from glance.sampling.pipeline.memory import (
    apply_fp8,
    large_parts,
    part_sizes,
    place,
    quantization_config,
    quantize_loaded,
    staying_placed,
)

PARTS = ("text_encoder", "text_encoder_2", "transformer", "vae")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BF16 = torch.bfloat16
type Load = Callable[..., Any]


@pytest.fixture
def load(tiny_flux: Path, loras: dict[str, Path]) -> Load:
    """Load the model with both LoRAs, in bf16 quantized as `load_pipeline` does it."""

    def load(quantize: Quantize, *, dtype: torch.dtype = BF16, **parts: Any) -> Any:
        config = quantization_config(quantize, dtype, ("transformer", "text_encoder_2"))
        pipeline = FluxPipeline.from_pretrained(
            tiny_flux, torch_dtype=dtype, quantization_config=config, **parts
        )
        pipeline.set_progress_bar_config(disable=True)
        for name, path in loras.items():
            pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
        if quantize is Quantize.FP8:
            apply_fp8(pipeline, dtype)
        return pipeline

    return load


@pytest.fixture
def pipeline(load: Load) -> Any:
    return load(Quantize.NONE, dtype=torch.float32)


def generate(pipeline: Any, adapter: str | None) -> torch.Tensor:
    if adapter is None:
        pipeline.disable_lora()
    else:
        pipeline.enable_lora()
        pipeline.set_adapters(adapter)
    return pipeline(
        "a lighthouse",
        **{"width": 64, "height": 64, "num_inference_steps": 2, "output_type": "latent"},
        generator=torch.Generator().manual_seed(3),
    ).images.float()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean() / other.abs().mean())


@pytest.mark.parametrize("quantize", [Quantize.BIT8, Quantize.FP8])
def test_both_loras_change_the_picture_on_quantized_weights(quantize: Quantize, load: Load) -> None:
    plain, quantized = load(Quantize.NONE), load(quantize)
    layer = quantized.transformer.transformer_blocks[0].attn.to_q.base_layer

    before = layer.weight.dtype
    made = {adapter: generate(quantized, adapter) for adapter in ("slow", "fast", None)}
    again = generate(quantized, "slow")

    for adapter, picture in made.items():
        assert 0 < distance(picture, generate(plain, adapter)) < 0.03
    slow, fast, base = made.values()
    assert torch.equal(slow, again)
    assert min(distance(slow, fast), distance(slow, base), distance(fast, base)) > 0.03
    # what is smaller stays so, and the LoRAs and the rest keep their precision
    encoder = quantized.text_encoder_2.parameters()
    if quantize is Quantize.FP8:
        assert (before, layer.weight.dtype) == (torch.float8_e4m3fn, torch.float8_e4m3fn)
        assert {tensor.dtype for tensor in encoder} == {BF16}
    else:
        assert layer.weight.qdata.dtype is torch.int8
        assert any(isinstance(tensor, Int8Tensor) for tensor in encoder)
    assert {tensor.dtype for tensor in quantized.vae.parameters()} == {BF16}
    named = quantized.transformer.named_parameters()
    assert {tensor.dtype for name, tensor in named if "lora_" in name} == {BF16}


def test_sizes_are_those_in_memory(load: Load) -> None:
    plain, eight, fp8 = (
        part_sizes(load(quantize)) for quantize in (Quantize.NONE, Quantize.BIT8, Quantize.FP8)
    )

    assert plain["transformer"] == 2 * (81_664 + 3_072)  # bf16: weights and LoRAs
    assert eight["transformer"] < 0.6 * plain["transformer"]
    assert fp8["transformer"] == plain["transformer"] - 61_504  # those that are kept in fp8
    assert eight["vae"] == plain["vae"]


def test_a_single_file_is_quantized_as_a_model_is(load: Load, tiny_flux: Path) -> None:
    tensors = load_file(tiny_flux / "transformer/diffusion_pytorch_model.safetensors")
    usual = {"config": str(tiny_flux), "subfolder": "transformer", "torch_dtype": BF16}
    transformer = FluxTransformer2DModel.from_single_file(tensors, **usual)
    quantize_loaded(transformer, Quantize.BIT8)
    pipeline = load(Quantize.BIT8, transformer=transformer)

    assert torch.equal(generate(pipeline, "fast"), generate(load(Quantize.BIT8), "fast"))


LARGE = {
    "flux": ("transformer", "text_encoder_2"),
    "sd3": ("transformer", "text_encoder_3"),
    "qwen_image": ("transformer", "text_encoder"),
    "hidream": ("transformer", "text_encoder_3", "text_encoder_4"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_only_large_parts_are_quantized_by_the_pipelines_names(name: str) -> None:
    family = find_family(name)
    known = inspect.signature(getattr(diffusers, family.pipeline).__init__).parameters

    parts = large_parts(family)

    assert set(parts) <= set(known)
    assert parts == LARGE.get(name, parts)


@pytest.fixture
def offloads(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows each time all parts of the placed pipeline are sent back."""
    calls: list[None] = []
    place(pipeline, Device.CPU, Memory.OFFLOAD, pixels=64 * 64)
    send = pipeline.enable_model_cpu_offload
    monkeypatch.setattr(
        pipeline, "enable_model_cpu_offload", lambda **how: (calls.append(None), send(**how))
    )
    return calls


@pytest.mark.parametrize("memory", [Memory.OFFLOAD, Memory.GROUP])
def test_offloading_changes_no_picture(memory: Memory, pipeline: Any) -> None:
    expected = [generate(pipeline, adapter) for adapter in ("slow", "fast")]

    used = place(pipeline, Device.CPU, memory, pixels=64 * 64)

    assert used is memory
    assert (expected[0] - expected[1]).abs().mean() > 0.01
    for adapter, picture in zip(("slow", "fast"), expected, strict=True):
        torch.testing.assert_close(generate(pipeline, adapter), picture)


@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_one_memory_is_full(device: Device, pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    monkeypatch.setattr(pipeline, "to", moved.append)

    assert place(pipeline, device, Memory.AUTO, pixels=64 * 64) is Memory.FULL
    assert moved == [device]


@pytest.mark.parametrize(
    ("context", "inside", "afterwards"), [(nullcontext, 2, 2), (staying_placed, 0, 1)]
)
def test_staying_placed_sends_the_parts_back_once_after_a_failure_too(
    context: Any, inside: int, afterwards: int, pipeline: Any, offloads: list[None]
) -> None:
    with suppress(ZeroDivisionError), context(pipeline):
        for adapter in ("slow", "fast"):
            generate(pipeline, adapter)
        counted = len(offloads)
        raise ZeroDivisionError

    assert (counted, len(offloads)) == (inside, afterwards)
    assert pipeline.maybe_free_model_hooks.__func__ is FluxPipeline.maybe_free_model_hooks


# What follows computes nothing: tensors have a shape, and a device that is checked in every
# operation as a real one would be. Only torch's and diffusers' way of moving a parameter in place
# does not know such tensors, and is replaced.


@pytest.fixture
def pretended(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The pipeline in the CPU's memory of a machine that has a GPU."""
    monkeypatch.setattr(torch.nn.Module, "_apply", replace_tensors)
    monkeypatch.setattr(ModuleGroup, "_onload_from_memory", lambda group: move(group, CUDA))
    monkeypatch.setattr(ModuleGroup, "_offload_to_memory", lambda group: move(group, CPU))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 * 10**9, 24 * 10**9))
    with FakeTensorMode(), torch.no_grad():
        for name in PARTS:
            getattr(pipeline, name)._apply(lambda old: torch.empty(old.shape, dtype=old.dtype))
        yield pipeline


def replace_tensors(module: Any, change: Any, recurse: bool = True) -> Any:
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, old in module._parameters.items():
        if old is not None:
            module._parameters[name] = torch.nn.Parameter(change(old), requires_grad=False)
    for name, old in module._buffers.items():
        if old is not None:
            module._buffers[name] = change(old)
    return module


def move(group: ModuleGroup, device: torch.device) -> None:
    of_modules = [tensor for module in group.modules for tensor in module.parameters()]
    of_modules += [tensor for module in group.modules for tensor in module.buffers()]
    for tensor in [*of_modules, *group.parameters, *group.buffers]:
        tensor.fake_device = device


def on_gpu(pipeline: Any) -> set[str]:
    """Return the names of the parts that have any weight there."""
    return {
        name
        for name in PARTS
        if CUDA in {tensor.device for tensor in getattr(pipeline, name).parameters()}
    }


def read(pipeline: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.zeros(1, 16, dtype=torch.long, device=CUDA)
    pooled = pipeline.text_encoder(tokens).pooler_output
    return pooled, pipeline.text_encoder_2(tokens)[0]


def denoise(pipeline: Any, text: tuple[torch.Tensor, torch.Tensor], adapter: str) -> torch.Tensor:
    pipeline.set_adapters(adapter)
    return pipeline.transformer(
        hidden_states=torch.zeros(1, 16, 64, device=CUDA),
        timestep=torch.ones(1, device=CUDA),
        guidance=torch.ones(1, device=CUDA),
        pooled_projections=text[0],
        encoder_hidden_states=text[1],
        txt_ids=torch.zeros(16, 3, device=CUDA),
        img_ids=torch.zeros(16, 3, device=CUDA),
    ).sample


def decode(pipeline: Any) -> torch.Tensor:
    return pipeline.vae.decode(torch.zeros(1, 16, 8, 8, device=CUDA)).sample


def test_in_groups_every_layer_is_where_it_computes_and_leaves(pretended: Any) -> None:
    place(pretended, Device.CUDA, Memory.GROUP, pixels=64 * 64)

    text = read(pretended)
    made = [denoise(pretended, text, adapter) for adapter in ("slow", "fast", "fast")]
    made.append(decode(pretended))

    assert {tensor.device for tensor in made} == {CUDA}
    assert on_gpu(pretended) == {"vae"}
    assert pretended._execution_device == torch.device("cuda")
    # single layers would be fetched in the slow phase's order, a third of them late in the fast one
    hooks = [module._diffusers_hook for module in pretended.transformer.transformer_blocks]
    hooks += [module._diffusers_hook for module in pretended.transformer.single_transformer_blocks]
    assert all(hook.get_hook("group_offloading") for hook in hooks)


@pytest.mark.parametrize(("free", "pins_each_time"), [(10**6, True), (10**12, False)])
def test_a_pinned_copy_is_kept_where_the_systems_memory_has_room(
    pretended: Any, free: int, pins_each_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    there = SimpleNamespace(available=free)
    monkeypatch.setattr("glance.sampling.pipeline.memory.virtual_memory", lambda: there)
    monkeypatch.setattr(pretended.transformer, "enable_group_offload", asked.update)

    place(pretended, Device.CUDA, Memory.GROUP, pixels=64 * 64)

    assert asked["low_cpu_mem_usage"] is pins_each_time


@pytest.mark.parametrize(("side", "tiles"), [(64, False), (2048, True)])
def test_an_image_too_large_for_the_card_is_decoded_in_tiles(
    side: int, tiles: bool, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * 10**9, 12 * 10**9))

    place(pretended, Device.CUDA, Memory.GROUP, pixels=side * side)

    assert pretended.vae.use_tiling is tiles


def test_torch_rounds_what_it_pins_up_to_a_mebibyte_at_most() -> None:
    setting = "pinned_max_round_threshold_mb:1"

    assert os.environ["PYTORCH_ALLOC_CONF"] == setting
    torch._C._accelerator_setAllocatorSettings(setting)  # raises if it knows no such key


@pytest.mark.parametrize(
    ("free", "there", "expected"),
    [
        (10**9, "cpu", Memory.FULL),
        (500_000, "cpu", Memory.OFFLOAD),
        (500_000, "cuda", Memory.FULL),  # as bitsandbytes leaves it
        (200_000, "cpu", Memory.GROUP),
    ],
)
def test_auto_takes_what_fits_into_free_memory_beside_what_is_there(
    free: int, there: str, expected: Memory, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 10**9))
    pretended.transformer.to(there)

    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is expected
    assert (on_gpu(pretended) == set(PARTS)) == (expected is Memory.FULL)


@pytest.mark.parametrize(("is_4bit", "swaps_loras"), [(True, False), (False, True)])
def test_auto_does_not_move_four_bits_nor_what_is_swapped_in_pieces(
    is_4bit: bool, swaps_loras: bool, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 10**9))
    pretended.transformer.is_loaded_in_4bit = is_4bit

    used = place(pretended, Device.CUDA, Memory.AUTO, pixels=1, swaps_loras=swaps_loras)

    assert used is Memory.OFFLOAD
