"""Smaller weights beside which LoRAs still switch; and where the parts are while one samples.

Placing is tried on a CPU that pretends to have a GPU beside it.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.hooks import group_offloading
from diffusers.hooks.group_offloading import GroupOffloadingHook, ModuleGroup
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torchao.quantization import Int8Tensor

from glance.core.device import Device, Memory, Quantize
from glance.models.families import FAMILIES, find_family
from glance.sampling.pipeline.memory import (
    apply_fp8,
    large_parts,
    part_config,
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
        add_loras(pipeline, loras)
        if quantize is Quantize.FP8:
            apply_fp8(pipeline, dtype)
        return pipeline

    return load


@pytest.fixture
def pipeline(load: Load) -> Any:
    return load(Quantize.NONE, dtype=torch.float32)


def add_loras(pipeline: Any, loras: dict[str, Path]) -> None:
    for name, path in loras.items():
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)


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


# --- quantising ----------------------------------------------------------------------------------


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean() / other.abs().mean())


def lora_dtypes(pipeline: Any) -> set[torch.dtype]:
    named = pipeline.transformer.named_parameters()
    return {tensor.dtype for name, tensor in named if "lora_" in name}


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
    assert lora_dtypes(quantized) == lora_dtypes(plain) == {BF16}


def test_a_lora_that_comes_after_fp8_would_be_fp8(tiny_flux: Path, loras: dict[str, Path]) -> None:
    pipeline = FluxPipeline.from_pretrained(tiny_flux, torch_dtype=BF16)
    apply_fp8(pipeline, BF16)

    add_loras(pipeline, loras)

    assert lora_dtypes(pipeline) == {torch.float8_e4m3fn}  # the reason for the order


def test_sizes_are_those_in_memory(load: Load) -> None:
    plain, eight, fp8 = (
        part_sizes(load(quantize)) for quantize in (Quantize.NONE, Quantize.BIT8, Quantize.FP8)
    )

    assert plain["transformer"] == 2 * (81_664 + 3_072)  # bf16: weights and LoRAs
    assert eight["transformer"] < 0.6 * plain["transformer"]
    assert fp8["transformer"] == plain["transformer"] - 61_504  # those that are kept in fp8
    assert eight["vae"] == plain["vae"]


def test_a_single_file_is_quantized_as_a_model_is(load: Load, tiny_flux: Path) -> None:
    def of_single_file(**options: Any) -> FluxTransformer2DModel:  # as `load_transformer` does it
        tensors = load_file(tiny_flux / "transformer/diffusion_pytorch_model.safetensors")
        usual = {"config": str(tiny_flux), "subfolder": "transformer", "torch_dtype": BF16}
        return FluxTransformer2DModel.from_single_file(tensors, **usual, **options)

    config = part_config("transformer", Quantize.BIT8, BF16)
    left = of_single_file(quantization_config=config).transformer_blocks[0].attn.to_q
    transformer = of_single_file()
    quantize_loaded(transformer, Quantize.BIT8)
    pipeline = load(Quantize.BIT8, transformer=transformer)

    assert torch.equal(generate(pipeline, "fast"), generate(load(Quantize.BIT8), "fast"))
    assert not isinstance(left.weight, Int8Tensor)  # diffusers' own, the reason for quantize_loaded


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.FP8])
def test_what_is_not_quantized_while_loading_has_no_config(quantize: Quantize) -> None:
    assert quantization_config(quantize, BF16, ("transformer",)) is None
    assert part_config("transformer", quantize, BF16) is None


def test_four_bits_are_nf4_and_compute_in_the_models_precision() -> None:
    pytest.importorskip("bitsandbytes")

    config = part_config("text_encoder_2", Quantize.BIT4, BF16)

    assert config is not None
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", BF16)


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


# --- placing -------------------------------------------------------------------------------------


def count_offloads(pipeline: Any) -> list[None]:
    """Return a list that grows each time all parts are sent back to system memory."""
    calls: list[None] = []
    original = pipeline.enable_model_cpu_offload

    def counting(*args: Any, **kwargs: Any) -> None:
        calls.append(None)
        original(*args, **kwargs)

    pipeline.enable_model_cpu_offload = counting
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
def test_one_memory_means_full(
    device: Device, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    monkeypatch.setattr(pipeline, "to", moved.append)

    assert place(pipeline, device, Memory.AUTO, pixels=64 * 64) is Memory.FULL
    assert moved == [device]


@pytest.mark.parametrize(
    ("context", "inside", "afterwards"), [(nullcontext, 2, 2), (staying_placed, 0, 1)]
)
def test_staying_placed_sends_the_parts_back_once(
    context: Any, inside: int, afterwards: int, pipeline: Any
) -> None:
    place(pipeline, Device.CPU, Memory.OFFLOAD, pixels=64 * 64)
    offloads = count_offloads(pipeline)

    with context(pipeline):
        for adapter in ("slow", "fast"):
            generate(pipeline, adapter)
        counted = len(offloads)

    assert (counted, len(offloads)) == (inside, afterwards)


def test_parts_are_sent_back_after_a_failure_too(pipeline: Any) -> None:
    place(pipeline, Device.CPU, Memory.OFFLOAD, pixels=64 * 64)
    offloads = count_offloads(pipeline)

    with pytest.raises(ZeroDivisionError), staying_placed(pipeline):
        raise ZeroDivisionError

    assert len(offloads) == 1
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


def test_offloaded_parts_take_turns(pretended: Any) -> None:
    place(pretended, Device.CUDA, Memory.OFFLOAD, pixels=64 * 64)

    stages = [on_gpu(pretended)]
    with staying_placed(pretended):
        text = read(pretended)
        stages.append(on_gpu(pretended))
        denoise(pretended, text, "slow")
        pretended.maybe_free_model_hooks()  # as the pipeline's first call ends
        stages.append(on_gpu(pretended))
        denoise(pretended, text, "fast")
        decode(pretended)
        stages.append(on_gpu(pretended))

    assert stages == [set(), {"text_encoder_2"}, {"transformer"}, {"vae"}]
    assert on_gpu(pretended) == set()


def test_in_groups_every_layer_is_where_it_computes_and_leaves(pretended: Any) -> None:
    place(pretended, Device.CUDA, Memory.GROUP, pixels=64 * 64)

    text = read(pretended)
    made = [denoise(pretended, text, adapter) for adapter in ("slow", "fast", "fast")]
    made.append(decode(pretended))

    assert {tensor.device for tensor in made} == {CUDA}
    assert on_gpu(pretended) == {"vae"}
    assert pretended._execution_device == torch.device("cuda")


class PretendedStream:
    def synchronize(self) -> None: ...


class PretendedStreams:
    """In place of a GPU's: what is asked of them is done at once."""

    Stream = current_stream = PretendedStream

    def __init__(self, device: torch.device) -> None: ...

    def stream(self, _: PretendedStream) -> nullcontext[None]:
        return nullcontext()


def count_late(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that says of each group, when it is run, whether it must still be fetched."""
    late: list[bool] = []
    original = GroupOffloadingHook.pre_forward

    def counting(hook: Any, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if hook.group.stream is not None:
            weights = [tensor for part in hook.group.modules for tensor in part.parameters()]
            late.append(CPU in {tensor.device for tensor in weights})
        return original(hook, module, *args, **kwargs)

    monkeypatch.setattr(GroupOffloadingHook, "pre_forward", counting)
    return late


def test_blocks_are_fetched_ahead_in_both_phases(
    pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", PretendedStreams)
    monkeypatch.setattr(ModuleGroup, "_init_cpu_param_dict", lambda _: {})
    late = count_late(monkeypatch)
    place(pretended, Device.CUDA, Memory.GROUP, pixels=64 * 64)
    text = read(pretended)
    denoise(pretended, text, "slow")  # the first pass learns the order
    first = len(late)

    for adapter in ("slow", "fast", "fast"):
        denoise(pretended, text, adapter)

    # with single layers, a third of them would come late in the fast phase
    assert late == [True] * first + [False] * 3 * first
    assert first == 2  # the tiny model's blocks


@pytest.mark.parametrize(
    ("free", "expected"),
    [(10**9, Memory.FULL), (400_000, Memory.OFFLOAD), (200_000, Memory.GROUP)],
)
def test_auto_takes_what_fits_into_free_memory(
    free: int, expected: Memory, pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 10**9))

    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is expected
    assert (on_gpu(pretended) == set(PARTS)) == (expected is Memory.FULL)


def test_auto_counts_what_is_there_already(pretended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (500_000, 10**9))
    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is Memory.OFFLOAD
    pretended.remove_all_hooks()

    pretended.transformer.to("cuda")  # as bitsandbytes leaves it

    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is Memory.FULL


def test_auto_does_not_move_four_bits_in_pieces(
    pretended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 10**9))
    pretended.transformer.is_loaded_in_4bit = True

    assert place(pretended, Device.CUDA, Memory.AUTO, pixels=1) is Memory.OFFLOAD
