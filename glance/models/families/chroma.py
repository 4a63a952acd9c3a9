"""Chroma1: a de-distilled FLUX.1-schnell with real guidance; padding is masked."""

from typing import Final

from glance.models.families.family import (
    FLUX_VAE,
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
    flux_text_encoder,
)

_ATTENTION: Final = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)

FAMILY = Family(
    name="chroma",
    title="Chroma1",
    architecture=Architecture("chroma", "chroma"),
    simpletuner_name="chroma",
    pipeline="ChromaPipeline",
    default_model="lodestones/Chroma1-Base",
    size=Size(8.9, (4.76,)),
    distilled=("flash",),
    latents=Latents.TOKENS,
    told=Told.SIGMA,
    shift=None,
    text=Text(
        tokens=512,
        outputs=(
            "prompt_embeds",
            None,
            "prompt_attention_mask",
            "negative_prompt_embeds",
            None,
            "negative_prompt_attention_mask",
        ),
        negative=Negative.TOGETHER,
        # diffusers returns floats, which attention adds instead of masking with them
        has_bool_masks=True,
    ),
    guidance=Guidance("guidance_scale", slow=5.0, fast=1.0),  # diffusers' default; none
    marks=Marks(
        diffusers=(
            "distilled_guidance_layer.in_proj.bias",
            "single_transformer_blocks.0.proj_mlp.weight",
        ),
        original=("distilled_guidance_layer.in_proj.bias", "double_blocks.0.img_attn.qkv.weight"),
    ),
    lora_targets=_ATTENTION,
    block_layers=(
        *_ATTENTION,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        *("proj_mlp", "proj_out"),  # the model's last layer, proj_out, ends like the blocks'
    ),
    learning_rate=5e-4,
    trains_on_mps=True,  # "works well" (SimpleTuner's CHROMA.md)
    # Otherwise SimpleTuner squares the list towards both ends: 886.7 becomes 987.2.
    training_options={"flow_use_uniform_schedule": True},
    comfyui=ComfyUI(
        weighs_words=True,
        model_id="chroma1-base",
        model=ComfyFile("Chroma1-Base.safetensors", "diffusion_models", "lodestones/Chroma1-Base"),
        others={
            "chroma1-hd": ComfyFile(
                "Chroma1-HD.safetensors", "diffusion_models", "lodestones/Chroma1-HD"
            )
        },
        text_encoders=(flux_text_encoder("t5xxl_fp16.safetensors"),),
        text_type="chroma",
        vae=FLUX_VAE,
    ),
)
