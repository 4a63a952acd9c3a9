"""Lumina-Image 2: Gemma 2 reads, time runs from noise (0) to picture (1)."""

from typing import Final

from glance.models.families.family import (
    FLUX_VAE,
    Architecture,
    ComfyUI,
    Family,
    Guidance,
    Latents,
    Marks,
    Negative,
    Size,
    Text,
    Told,
    split_file,
)
from glance.schedule.shift import StaticShift

_ATTENTION: Final = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")

FAMILY = Family(
    name="lumina2",
    title="Lumina-Image 2",
    architecture=Architecture("lumina-2", "lumina2"),
    simpletuner_name="lumina2",
    pipeline="Lumina2Pipeline",
    default_model="Alpha-VLLM/Lumina-Image-2.0",
    size=Size(2.61, (2.61,)),
    latents=Latents.GRID,
    told=Told.PROGRESS,
    shift=StaticShift(6.0),  # ComfyUI's
    text=Text(
        tokens=256,
        outputs=(
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        ),
        negative=Negative.TOGETHER,
    ),
    guidance=Guidance("guidance_scale", slow=4.0, fast=1.0),  # diffusers' default; none
    marks=Marks(
        diffusers=("time_caption_embed.caption_embedder.0.weight", "layers.0.norm1.linear.weight"),
        original=("cap_embedder.0.weight", "layers.0.attention.qkv.weight"),
        absent=("cap_pad_token",),
    ),
    lora_targets=_ATTENTION,
    block_layers=(
        *_ATTENTION,
        *("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3"),
        "norm1.linear",
    ),
    learning_rate=5e-4,
    trains_on_mps=True,
    comfyui=ComfyUI(
        rescales_guidance=True,
        weighs_words=True,
        model_id="lumina-image-2.0",
        model=split_file(
            "lumina_2_model_bf16.safetensors", "diffusion_models", "Lumina_Image_2.0_Repackaged"
        ),
        text_encoders=(
            split_file(
                "gemma_2_2b_fp16.safetensors", "text_encoders", "Lumina_Image_2.0_Repackaged"
            ),
        ),
        text_type="lumina2",
        vae=FLUX_VAE,
        prompt_prefix="You are an assistant designed to generate superior images with the superior "
        "degree of image-text alignment based on textual prompts or user prompts. <Prompt Start> ",
        fuses_qkv=True,
        layer_names={
            "attn.to_out.0": "attention.out",
            "feed_forward.linear_1": "feed_forward.w1",
            "feed_forward.linear_2": "feed_forward.w2",
            "feed_forward.linear_3": "feed_forward.w3",
            "norm1.linear": "adaLN_modulation.1",
        },
    ),
)
