"""Z-Image, only narrow: lists instead of batches, time runs from noise (0) to picture (1)."""

from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import nn

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, qwen3, vae
from tiny_models.vocabularies import qwen_tokenizer


def make() -> ZImagePipeline:
    return ZImagePipeline(
        # What others report of Z-Image's scheduler_config.json (Turbo: 3); not seen here.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=vae(),  # FLUX.1's
        text_encoder=qwen3(width=TEXT_WIDTH, layers=2),
        tokenizer=qwen_tokenizer(),
        transformer=_transformer(),
    )


def _transformer() -> ZImageTransformer2DModel:
    # Z-Image-Turbo's transformer/config.json but for the sizes
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=LATENT_CHANNELS,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[4, 4, 8],  # sums to dim / n_heads
        axes_lens=[1536, 512, 512],
    ).eval()
    # Left as whatever was in memory by the constructor.
    nn.init.normal_(transformer.x_pad_token, std=0.02)
    nn.init.normal_(transformer.cap_pad_token, std=0.02)
    return transformer
