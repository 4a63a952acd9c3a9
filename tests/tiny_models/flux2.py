"""FLUX.2 klein, only narrow: Qwen3's layers 9, 18 and 27 read, 32 latent channels, real guidance.

FLUX.2-dev differs in its text encoder (Mistral, with a picture processor) and in embedding the
guidance.
"""

from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)

from tiny_models.parts import qwen3
from tiny_models.vocabularies import qwen_tokenizer

_LATENT_CHANNELS = 32
_TEXT_WIDTH = 16


def make() -> Flux2KleinPipeline:
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            # FLUX.1's; SimpleTuner repeats it in flux2/model.py. The pipelines compute mu on
            # their own, from the size and the number of steps.
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
            shift=3.0,
            use_dynamic_shifting=True,
        ),
        vae=_vae(),
        text_encoder=qwen3(width=_TEXT_WIDTH, layers=28),
        tokenizer=qwen_tokenizer(),
        transformer=_transformer(),
    )


def _vae() -> AutoencoderKLFlux2:
    widths = (8, 8, 16, 16)
    vae = AutoencoderKLFlux2(
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
    ).eval()
    # Latents are normalised with these; at 0 and 1 nobody would see who forgets it.
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def _transformer() -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        patch_size=1,  # the 2x2 packing happens before
        in_channels=_LATENT_CHANNELS * 4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * _TEXT_WIDTH,  # three layers of the text encoder
        axes_dims_rope=(4, 4, 4, 4),  # sums to attention_head_dim
        guidance_embeds=False,  # klein's
    ).eval()
