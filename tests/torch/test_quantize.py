"""Smaller weights, and LoRAs beside them that stay as they are and still switch."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file
from torchao.quantization import Int8Tensor

from glance.core.device import Quantize
from glance.models.families import FAMILIES, find_family
from glance.sampling.pipeline.memory import (
    apply_fp8,
    large_parts,
    part_config,
    part_sizes,
    quantization_config,
    quantize_loaded,
)

DTYPE = torch.bfloat16
type Load = Callable[[Quantize], Any]


@pytest.fixture
def load(tiny_flux: Path, loras: dict[str, Path]) -> Load:
    """Load it with both LoRAs, as `load_pipeline` does it."""

    def load(quantize: Quantize) -> Any:
        config = quantization_config(quantize, DTYPE, ("transformer", "text_encoder_2"))
        pipeline = FluxPipeline.from_pretrained(
            tiny_flux,
            torch_dtype=DTYPE,
            **({} if config is None else {"quantization_config": config}),
        )
        pipeline.set_progress_bar_config(disable=True)
        add_loras(pipeline, loras)
        if quantize is Quantize.FP8:
            apply_fp8(pipeline, DTYPE)
        return pipeline

    return load


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
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images.float()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().mean() / other.abs().mean())


def lora_dtypes(pipeline: Any) -> set[torch.dtype]:
    named = pipeline.transformer.named_parameters()
    return {tensor.dtype for name, tensor in named if "lora_" in name}


@pytest.mark.parametrize("quantize", [Quantize.BIT8, Quantize.FP8])
def test_both_loras_change_the_picture_on_quantized_weights(quantize: Quantize, load: Load) -> None:
    plain, quantized = load(Quantize.NONE), load(quantize)

    for adapter in ("slow", "fast", None, "slow"):
        assert 0 < distance(generate(quantized, adapter), generate(plain, adapter)) < 0.03
    slow, fast, base = (generate(quantized, adapter) for adapter in ("slow", "fast", None))
    assert min(distance(slow, fast), distance(slow, base), distance(fast, base)) > 0.03


@pytest.mark.parametrize("quantize", Quantize)
def test_loras_keep_their_precision(quantize: Quantize, load: Load) -> None:
    if quantize is Quantize.BIT4:
        pytest.skip("bitsandbytes' 4 bits need a GPU")
    pipeline = load(quantize)

    generate(pipeline, "slow")

    assert lora_dtypes(pipeline) == {DTYPE}


def test_eight_bits_are_in_memory(load: Load) -> None:
    pipeline = load(Quantize.BIT8)

    layer = pipeline.transformer.transformer_blocks[0].attn.to_q.base_layer
    assert isinstance(layer.weight, Int8Tensor)
    assert layer.weight.qdata.dtype is torch.int8
    assert any(isinstance(tensor, Int8Tensor) for tensor in pipeline.text_encoder_2.parameters())
    assert {tensor.dtype for tensor in pipeline.vae.parameters()} == {DTYPE}


def test_fp8_is_in_memory_before_and_after_sampling(load: Load) -> None:
    pipeline = load(Quantize.FP8)
    layer = pipeline.transformer.transformer_blocks[0].attn.to_q.base_layer

    before = layer.weight.dtype
    generate(pipeline, "slow")

    assert (before, layer.weight.dtype) == (torch.float8_e4m3fn, torch.float8_e4m3fn)
    assert {tensor.dtype for tensor in pipeline.text_encoder_2.parameters()} == {DTYPE}


def test_a_lora_that_comes_after_fp8_would_be_fp8(tiny_flux: Path, loras: dict[str, Path]) -> None:
    pipeline = FluxPipeline.from_pretrained(tiny_flux, torch_dtype=DTYPE)
    apply_fp8(pipeline, DTYPE)

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


@pytest.fixture
def of_single_file(tiny_flux: Path) -> Callable[..., FluxTransformer2DModel]:
    """Load the transformer as `load_transformer` does it."""
    tensors = load_file(tiny_flux / "transformer/diffusion_pytorch_model.safetensors")

    def load(**options: Any) -> FluxTransformer2DModel:
        return FluxTransformer2DModel.from_single_file(
            dict(tensors),
            config=str(tiny_flux),
            subfolder="transformer",
            torch_dtype=DTYPE,
            **options,
        )

    return load


def is_int8(transformer: Any) -> bool:
    return isinstance(transformer.transformer_blocks[0].attn.to_q.weight, Int8Tensor)


def test_diffusers_does_not_quantize_a_single_file(
    of_single_file: Callable[..., FluxTransformer2DModel],
) -> None:
    config = part_config("transformer", Quantize.BIT8, DTYPE)

    transformer = of_single_file(quantization_config=config)

    assert not is_int8(transformer)  # the reason for quantize_loaded


def test_a_single_file_is_quantized_as_a_model_is(
    of_single_file: Callable[..., FluxTransformer2DModel],
    load: Load,
    tiny_flux: Path,
    loras: dict[str, Path],
) -> None:
    transformer = of_single_file()
    quantize_loaded(transformer, Quantize.BIT8)
    pipeline = FluxPipeline.from_pretrained(
        tiny_flux,
        torch_dtype=DTYPE,
        transformer=transformer,
        quantization_config=quantization_config(
            Quantize.BIT8, DTYPE, ("transformer", "text_encoder_2")
        ),
    )
    add_loras(pipeline, loras)

    assert torch.equal(generate(pipeline, "fast"), generate(load(Quantize.BIT8), "fast"))


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.FP8])
def test_what_is_not_quantized_while_loading_has_no_config(quantize: Quantize) -> None:
    assert quantization_config(quantize, DTYPE, ("transformer",)) is None
    assert part_config("transformer", quantize, DTYPE) is None


def test_four_bits_are_nf4_and_compute_in_the_models_precision() -> None:
    pytest.importorskip("bitsandbytes")

    config = part_config("text_encoder_2", Quantize.BIT4, DTYPE)

    assert config is not None
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", DTYPE)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("flux", ("transformer", "text_encoder_2")),
        ("sd3", ("transformer", "text_encoder_3")),
        ("qwen_image", ("transformer", "text_encoder")),
        ("hidream", ("transformer", "text_encoder_3", "text_encoder_4")),
    ],
)
def test_only_large_parts_are_quantized(name: str, parts: tuple[str, ...]) -> None:
    assert large_parts(find_family(name)) == parts


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_names_are_the_pipelines(name: str) -> None:
    family = find_family(name)

    known = inspect.signature(getattr(diffusers, family.pipeline).__init__).parameters

    assert set(large_parts(family)) <= set(known)
