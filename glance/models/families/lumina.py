"""Lumina-Image 2, which Gemma 2 reads for, and Z-Image, made of its architecture: for both time
runs from noise (0) to picture (1)."""

from typing import Final

from glance.models.families.family import (
    ATTENTION,
    FLUX_VAE,
    QWEN3_4B,
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

_Z_ATTENTION: Final = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")

LUMINA2 = Family(
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
    lora_targets=ATTENTION,
    block_layers=(
        *ATTENTION,
        *("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3"),
        "norm1.linear",
    ),
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

Z_IMAGE = Family(
    name="z_image",
    title="Z-Image",
    architecture=Architecture("z-image", "z_image"),
    simpletuner_name="z_image",
    pipeline="ZImagePipeline",
    default_model="Tongyi-MAI/Z-Image",
    size=Size(6.16, (4.02,)),
    distilled=("turbo",),
    training_multiple=16,
    latents=Latents.GRID,
    told=Told.PROGRESS,
    shift=StaticShift(6.0),  # as reported; Z-Image-Turbo's is 3
    text=Text(
        tokens=512, outputs=("prompt_embeds", "negative_prompt_embeds"), negative=Negative.TOGETHER
    ),
    # cond + scale x (cond - uncond): 0 is none. The slow one is diffusers' default.
    guidance=Guidance("guidance_scale", slow=5.0, fast=0.0, off=0.0),
    marks=Marks(
        diffusers=("cap_pad_token", "all_x_embedder.2-1.weight"),
        original=("cap_pad_token", "x_embedder.weight"),
    ),
    lora_targets=_Z_ATTENTION,
    block_layers=(
        *_Z_ATTENTION,
        *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
        # By number: in the model's last layer, what ends in adaLN_modulation.0 is no linear layer.
        *(f"{index}.adaLN_modulation.0" for index in range(30)),
    ),
    trains_on_mps=False,  # "not recommended" (SimpleTuner's ZIMAGE.md)
    comfyui=ComfyUI(
        model_id="z-image",
        model=split_file("z_image_bf16.safetensors", "diffusion_models", "z_image"),
        text_encoders=(QWEN3_4B,),
        text_type="lumina2",
        vae=FLUX_VAE,
        fuses_qkv=True,
        layer_names={
            "attention.to_out.0": "attention.out",
            "feed_forward.w1": "feed_forward.w1",
            "feed_forward.w2": "feed_forward.w2",
            "feed_forward.w3": "feed_forward.w3",
            "adaLN_modulation.0": "adaLN_modulation.0",
        },
    ),
)
