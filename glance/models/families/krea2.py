"""Krea 2: twelve layers of Qwen3-VL are read."""

from glance.models.families.family import (
    ATTENTION,
    QWEN_VAE,
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
from glance.schedule.shift import DynamicShift

FAMILY = Family(
    name="krea2",
    title="Krea 2",
    architecture=Architecture("krea-2", "krea2"),
    simpletuner_name="krea2",
    pipeline="Krea2Pipeline",
    default_model="krea/Krea-2-Raw",
    size=Size(12.82, (4.44,)),
    distilled=("turbo",),
    training_multiple=16,
    latents=Latents.TOKENS,
    told=Told.SIGMA,
    shift=DynamicShift(most_tokens=6400),  # what diffusers' pipeline falls back to
    text=Text(tokens=512, outputs=("prompt_embeds", "prompt_embeds_mask"), negative=Negative.APART),
    # cond + scale x (cond - uncond): 0 is none. The slow one is diffusers' default.
    guidance=Guidance("guidance_scale", slow=4.5, fast=0.0, off=0.0),
    marks=Marks(
        diffusers=("text_fusion.projector.weight", "time_mod_proj.weight"),
        original=("txtfusion.projector.weight", "tmlp.0.weight"),
    ),
    lora_targets=ATTENTION,
    block_layers=(*ATTENTION, "attn.to_gate", "ff.gate", "ff.up", "ff.down"),
    trains_on_mps=False,  # "not recommended" (SimpleTuner's KREA2.md)
    comfyui=ComfyUI(
        model_id="krea-2-raw",
        model=ComfyFile(
            "krea2_raw_fp8_scaled.safetensors",
            "diffusion_models",
            "Comfy-Org/Krea-2",
            "diffusion_models",
        ),
        text_encoders=(
            ComfyFile(
                "qwen3vl_4b_fp8_scaled.safetensors",
                "text_encoders",
                "Comfy-Org/Krea-2",
                "text_encoders",
            ),
        ),
        text_type="krea2",
        vae=QWEN_VAE,
    ),
)
