"""The model that every way samples with: random weights, a few hundredths of FLUX.1.

`python -m benchmarks.inference.model FOLDER` makes it, and two LoRAs.
"""

import sys
from pathlib import Path

from glance.schedule import Phase

SMALL = Path(__file__).parents[2] / "glance/assets/small-flux"
RANK = 16
_TEXT_WIDTH = 768
_HEADS = 8  # of 64 each


def main() -> None:
    """Write the model and the LoRAs."""
    folder = Path(sys.argv[1])
    make_model(folder / "model")
    make_loras(folder / "model", folder)


def make_model(folder: Path) -> None:
    """Put a larger transformer and a larger T5 into the small FLUX of the package."""
    import torch
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    pipeline = FluxPipeline.from_pretrained(SMALL, torch_dtype=torch.float32)
    t5 = T5Config(
        # most of the weights without most of the time, as T5 is to FLUX.1's transformer
        vocab_size=128_000,
        d_model=_TEXT_WIDTH,
        d_ff=2 * _TEXT_WIDTH,
        d_kv=64,
        num_heads=12,
        num_layers=6,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    transformer = FluxTransformer2DModel(
        in_channels=pipeline.transformer.config.in_channels,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=64,
        num_attention_heads=_HEADS,
        joint_attention_dim=_TEXT_WIDTH,
        pooled_projection_dim=pipeline.transformer.config.pooled_projection_dim,
        guidance_embeds=True,
        axes_dims_rope=(16, 24, 24),
    )
    pipeline.register_modules(text_encoder_2=T5EncoderModel(t5), transformer=transformer)
    pipeline.save_pretrained(folder)


def make_loras(model: Path, folder: Path) -> None:
    """Write `<phase>/pytorch_lora_weights.safetensors`, on every projection of the attention."""
    import torch
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import save_file

    transformer = FluxTransformer2DModel.from_pretrained(model / "transformer")
    layers = {
        name: layer
        for name, layer in transformer.named_modules()
        if ".attn." in name and isinstance(layer, torch.nn.Linear)
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
