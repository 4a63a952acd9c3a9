"""FLUX.2-dev, only narrow: Mistral's layers 10, 20 and 30 are read, 32 latent channels.

klein is built of the same parts; its text encoder is another.
"""

from diffusers import AutoencoderKLFlux2, Flux2Pipeline, Flux2Transformer2DModel

from tiny_models.parts import mistral3, scheduler
from tiny_models.vocabularies import pixtral_processor

LENT = {"text_encoder": ".", "tokenizer": "."}
_LATENT_CHANNELS = 32
_TEXT_WIDTH = 16


def make() -> Flux2Pipeline:
    processor = pixtral_processor()
    return Flux2Pipeline(
        # FLUX.1's; SimpleTuner repeats it in flux2/model.py. The pipelines compute mu on their own,
        # from the size and the number of steps.
        scheduler=scheduler(),
        vae=vae(),
        text_encoder=mistral3(width=_TEXT_WIDTH, layers=30, image_token=processor.image_token_id),
        tokenizer=processor,
        transformer=transformer(text_width=3 * _TEXT_WIDTH, guidance_embeds=True),
    )


def vae() -> AutoencoderKLFlux2:
    widths = (8, 8, 16, 16)
    made = AutoencoderKLFlux2(
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=64,
    ).eval()
    # Latents are normalised with these; at 0 and 1 nobody would see who forgets it.
    made.bn.running_mean.normal_(std=0.1)
    made.bn.running_var.uniform_(0.5, 2.0)
    return made


def transformer(*, text_width: int, guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        patch_size=1,  # the 2x2 packing happens before
        in_channels=_LATENT_CHANNELS * 4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text_width,
        axes_dims_rope=(4, 4, 4, 4),  # sums to attention_head_dim
        guidance_embeds=guidance_embeds,
    ).eval()
