"""FLUX models with random weights, of a size that is worth measuring, and a pair of LoRAs for each.

`python -m benchmarks.models SIZE DEVICE FOLDER` makes one: a process of its own, as a child's peak
memory is never below what its parent held when it was started.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.rounds import SMALL_MODEL, call
from glance.core.device import Device
from glance.core.phase import Phase

RANK: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large transformer and T5 are; tokenizers, CLIP and VAE are the small model's."""

    text_width: int
    text_widening: int
    """Of the feed-forward parts, which are gated."""
    text_heads: int
    text_layers: int
    vocabulary: int | None
    """None: no more than the tokenizer has."""
    double_blocks: int
    single_blocks: int
    heads: int
    head_axes: tuple[int, int, int]
    """The sizes of a head's parts that the rotary embedding turns; their sum is the head's."""


SIZES: Final[Mapping[str, Size]] = {
    # 37 million parameters in the transformer and 134 million in the T5, most of them words:
    # most of the weights without most of the time, as T5 is to FLUX.1's transformer
    "hundredths": Size(
        text_width=768,
        text_widening=2,
        text_heads=12,
        text_layers=6,
        vocabulary=128_000,
        double_blocks=2,
        single_blocks=4,
        heads=8,
        head_axes=(16, 24, 24),
    ),
    # 0.64 and 0.4 billion
    "twentieth": Size(
        text_width=1024,
        text_widening=4,
        text_heads=16,
        text_layers=24,
        vocabulary=None,
        double_blocks=4,
        single_blocks=8,
        heads=24,
        head_axes=(16, 24, 24),
    ),
    # FLUX.1's width with a fifth of its depth, and a T5 of a billion: what a GPU is busy with
    "fifth": Size(
        text_width=2048,
        text_widening=2,
        text_heads=32,
        text_layers=24,
        vocabulary=None,
        double_blocks=4,
        single_blocks=8,
        heads=24,
        head_axes=(16, 56, 56),
    ),
    "tiny": Size(
        text_width=64,
        text_widening=2,
        text_heads=1,
        text_layers=1,
        vocabulary=None,
        double_blocks=1,
        single_blocks=1,
        heads=2,
        head_axes=(8, 12, 12),
    ),
}


def main() -> None:
    """Write `model`, `slow` and `fast` into the folder."""
    size, device, folder = sys.argv[1:]
    make_model(Path(folder), size=size, device=Device(device))


def start_making(folder: Path, *, size: str, device: Device) -> None:
    """Do `make_model` in a process of its own; raises RuntimeError where that fails."""
    call([sys.executable, "-m", "benchmarks.models", size, device.value, str(folder)])


def make_model(folder: Path, *, size: str, device: Device) -> None:
    """Write `model` (diffusers' layout) and two LoRAs, in the precision that `device` samples in.

    Each LoRA lies at `<phase>/pytorch_lora_weights.safetensors`, on every projection of the
    attention.
    """
    import torch
    from diffusers import FluxPipeline

    torch.manual_seed(0)
    pipeline = FluxPipeline.from_pretrained(SMALL_MODEL, torch_dtype=torch.float32)
    with torch.device(device.value):  # billions of random numbers take a CPU minutes
        parts = _make_parts(SIZES[size], pipeline)
    pipeline.register_modules(**parts)
    pipeline.to(torch.bfloat16 if device is Device.CUDA else torch.float32)
    pipeline.save_pretrained(folder / "model")
    make_loras(pipeline.transformer, folder)


def _make_parts(size: Size, pipeline: Any) -> dict[str, Any]:
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    t5 = T5Config(
        vocab_size=size.vocabulary or pipeline.text_encoder_2.config.vocab_size,
        d_model=size.text_width,
        d_ff=size.text_widening * size.text_width,
        d_kv=64,
        num_heads=size.text_heads,
        num_layers=size.text_layers,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    transformer = FluxTransformer2DModel(
        in_channels=pipeline.transformer.config.in_channels,
        num_layers=size.double_blocks,
        num_single_layers=size.single_blocks,
        attention_head_dim=sum(size.head_axes),
        num_attention_heads=size.heads,
        joint_attention_dim=size.text_width,
        pooled_projection_dim=pipeline.transformer.config.pooled_projection_dim,
        guidance_embeds=True,
        axes_dims_rope=size.head_axes,
    )
    return {"text_encoder_2": T5EncoderModel(t5), "transformer": transformer}


def make_loras(transformer: Any, folder: Path, covered: str = r"\.attn\.") -> None:
    """Write a random LoRA of rank RANK for each phase, in float32.

    It is on every linear layer in whose name the pattern `covered` is found.
    """
    import torch
    from safetensors.torch import save_file

    layers = {
        name: layer
        for name, layer in transformer.named_modules()
        if re.search(covered, name) and isinstance(layer, torch.nn.Linear)
    }
    for seed, phase in enumerate(Phase):
        noise = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, layer in layers.items():
            down = torch.randn(RANK, layer.in_features, generator=noise)
            up = torch.randn(layer.out_features, RANK, generator=noise)
            tensors[f"transformer.{name}.lora_A.weight"] = down * layer.in_features**-0.5
            tensors[f"transformer.{name}.lora_B.weight"] = up * 0.02
        (folder / phase).mkdir(parents=True)
        path = folder / phase / "pytorch_lora_weights.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
