"""HiDream-I1, only narrow: four text encoders, experts, and the velocity with its sign turned."""

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
)

from tiny_models.parts import LATENT_CHANNELS, TEXT_WIDTH, clip_with_projection, llama, t5, vae
from tiny_models.vocabularies import clip_tokenizer, llama_tokenizer, t5_tokenizer

_CLIP_TOKENS = 248  # a CLIP that was lengthened
LENT = {
    "text_encoder_4": "text_encoder_4",
    "tokenizer_4": "tokenizer_4",
    # AutoTokenizer asks for it, and offline nobody may answer that there is none.
    "text_encoder_4/config.json": "tokenizer_4/config.json",
}


def make() -> HiDreamImagePipeline:
    return HiDreamImagePipeline(
        # I1-Full's shift; the checkpoint itself names a UniPC scheduler.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),  # FLUX.1's
        text_encoder=clip_with_projection(tokens=_CLIP_TOKENS),
        tokenizer=clip_tokenizer(tokens=_CLIP_TOKENS),
        text_encoder_2=clip_with_projection(tokens=_CLIP_TOKENS),
        tokenizer_2=clip_tokenizer(tokens=_CLIP_TOKENS),
        text_encoder_3=t5(),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=llama(),
        tokenizer_4=llama_tokenizer(),
        transformer=HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[TEXT_WIDTH, TEXT_WIDTH],  # T5's width and Llama's
            text_emb_dim=2 * TEXT_WIDTH,  # both CLIPs beside each other
            num_routed_experts=4,
            num_activated_experts=2,
            axes_dims_rope=(4, 2, 2),  # sums to attention_head_dim
            max_resolution=(128, 128),
            llama_layers=[0, 1],  # the layer of Llama that each block reads
        ).eval(),
    )
