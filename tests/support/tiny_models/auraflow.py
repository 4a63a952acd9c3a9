"""AuraFlow, only narrow: SDXL's VAE with 4 latent channels, a T5 that is read by Llama's pieces."""

from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

from tiny_models.parts import TEXT_WIDTH, umt5, vae
from tiny_models.vocabularies import llama_tokenizer

_LATENT_CHANNELS = 4
LENT = {"text_encoder": "text_encoder", "tokenizer": "tokenizer"}


def make() -> AuraFlowPipeline:
    return AuraFlowPipeline(
        # AuraFlow's shift as ComfyUI has it; the checkpoint's own file was not seen here.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=vae(
            scaling_factor=0.13025,  # SDXL's vae/config.json
            shift_factor=None,
            latent_channels=_LATENT_CHANNELS,
            quant_conv=True,
        ),
        text_encoder=umt5(),
        tokenizer=llama_tokenizer(),
        transformer=AuraFlowTransformer2DModel(
            sample_size=64,
            patch_size=2,
            in_channels=_LATENT_CHANNELS,
            out_channels=_LATENT_CHANNELS,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            caption_projection_dim=32,
            pos_embed_max_size=1024,  # 32 x 32 learnt places of 16 pixels: 512 pixels a side
        ).eval(),
    )
