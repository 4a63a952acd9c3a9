"""FLUX.1: dev, Krea, and what was made of them."""

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
    Size,
    Text,
    Told,
    flux_text_encoder,
    split_file,
)
from glance.schedule.shift import DynamicShift

_ATTENTION: Final = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)

FAMILY = Family(
    name="flux",
    title="FLUX.1",
    architecture=Architecture(
        "flux-1-dev",
        "flux1",
        {"schnell": Architecture("flux-1-schnell", "flux1")},
    ),
    simpletuner_name="flux",
    pipeline="FluxPipeline",
    default_model="black-forest-labs/FLUX.1-dev",
    size=Size(11.89, (0.12, 4.76)),
    distilled=("schnell",),
    latents=Latents.TOKENS,
    told=Told.SIGMA,
    shift=DynamicShift(),  # FLUX.1-dev's scheduler_config.json
    text=Text(
        tokens=512,  # T5; SimpleTuner pads to it
        outputs=("prompt_embeds", "pooled_prompt_embeds", None),
    ),
    # The guide leaves the pipeline's default in the slow phase and asks for 1.0 in the fast one.
    guidance=Guidance(
        "guidance_scale",
        slow=3.5,
        fast=1.0,
        true_cfg="true_cfg_scale",
        training_option="flux_guidance_value",
    ),
    marks=Marks(
        diffusers=(
            "single_transformer_blocks.0.proj_mlp.weight",
            "time_text_embed.text_embedder.linear_1.weight",
            "context_embedder.weight",
        ),
        original=(
            "double_blocks.0.img_mod.lin.weight",
            "vector_in.in_layer.weight",
            "txt_in.weight",
            "double_blocks.0.img_attn.norm.key_norm.scale",
        ),
    ),
    lora_targets=_ATTENTION,
    block_layers=(
        *_ATTENTION,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        *("norm1.linear", "norm1_context.linear", "norm.linear"),
        *("proj_mlp", "proj_out"),  # the model's last layer, proj_out, ends like the blocks'
    ),
    learning_rate=5e-4,
    published="rank 16, 5e-4, guidance 1, alpha 4 x rank",
    trains_on_mps=False,  # "Apple GPUs do not currently work" (SimpleTuner's FLUX.md)
    training_options={
        # Every attention projection of both block kinds: SimpleTuner's default, stated.
        "flux_lora_target": "all",
        # The method trains the guidance-distilled model at guidance 1.
        "flux_guidance_mode": "constant",
        "flux_guidance_value": 1.0,
    },
    comfyui=ComfyUI(
        weighs_words=True,
        model_id="flux.1-dev",
        model=ComfyFile("flux1-dev.safetensors", "diffusion_models", "Comfy-Org/flux1-dev"),
        others={
            "flux.1-krea-dev": split_file(
                "flux1-krea-dev_fp8_scaled.safetensors",
                "diffusion_models",
                "FLUX.1-Krea-dev_ComfyUI",
            )
        },
        text_encoders=(
            flux_text_encoder("clip_l.safetensors"),
            flux_text_encoder("t5xxl_fp16.safetensors"),
        ),
        text_type="flux",
        vae=FLUX_VAE,
    ),
)
