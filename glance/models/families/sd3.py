"""Stable Diffusion 3.5, medium and large."""

from typing import Final

from glance.models.families.family import (
    ADDED_ATTENTION,
    ATTENTION,
    Architecture,
    ComfyFile,
    ComfyUI,
    Family,
    Guidance,
    Latents,
    Marks,
    Negative,
    Size,
    Text,
    Told,
)
from glance.schedule.shift import Spacing, StaticShift

# 3.5-medium has a second attention, to the picture alone, in its first blocks
_ATTENTION: Final = (*ATTENTION, *("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"))

FAMILY = Family(
    name="sd3",
    title="Stable Diffusion 3.5",
    architecture=Architecture(
        "stable-diffusion-v3.5-medium",
        others={"large": Architecture("stable-diffusion-v3.5-large")},
    ),
    simpletuner_name="sd3",
    pipeline="StableDiffusion3Pipeline",
    default_model="stabilityai/stable-diffusion-3.5-medium",
    size=Size(2.24, (0.12, 0.69, 4.76), {"large": Size(8.06, (0.12, 0.69, 4.76))}),
    stays_in_fp16=True,
    distilled=("turbo",),
    latents=Latents.GRID,
    told=Told.TIMESTEP,
    shift=StaticShift(3.0),  # its scheduler_config.json
    spacing=Spacing.SCHEDULER,
    text=Text(
        tokens=154,  # SimpleTuner's T5; diffusers' own default is 256
        outputs=(
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        ),
        negative=Negative.TOGETHER,
        arguments={"prompt_2": None, "prompt_3": None, "max_sequence_length": 154},
    ),
    guidance=Guidance("guidance_scale", slow=7.0, fast=1.0),  # diffusers' default; none
    marks=Marks(
        diffusers=(
            "pos_embed.pos_embed",
            "transformer_blocks.0.attn.add_q_proj.weight",
            "time_text_embed.text_embedder.linear_1.weight",
        ),
        original=("joint_blocks.0.context_block.adaLN_modulation.1.bias", "x_embedder.proj.weight"),
    ),
    lora_targets=_ATTENTION,
    block_layers=(
        *_ATTENTION,
        *ADDED_ATTENTION,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        *("norm1.linear", "norm1_context.linear"),
    ),
    trains_on_mps=True,
    comfyui=ComfyUI(
        weighs_words=True,
        model_id="stable-diffusion-3.5-medium",
        model=ComfyFile(
            "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors",
            "checkpoints",
            "Comfy-Org/stable-diffusion-3.5-fp8",
        ),
        others={
            "stable-diffusion-3.5-large": ComfyFile(
                "sd3.5_large_fp8_scaled.safetensors",
                "checkpoints",
                "Comfy-Org/stable-diffusion-3.5-fp8",
            )
        },
    ),
)
