"""Black Forest Labs' models, and what was made of them: FLUX.1 (dev, Krea), Chroma1, FLUX.2-dev,
whose guidance is embedded, and klein, 4B and 9B, with real guidance and Qwen3."""

from dataclasses import replace
from typing import Final

from glance.models.families.family import (
    ADDED_ATTENTION,
    ATTENTION,
    FLUX2_VAE,
    FLUX_VAE,
    JOINT_ATTENTION,
    QWEN3_4B,
    Architecture,
    Borrowed,
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
    split_file,
)
from glance.schedule.shift import DynamicShift, EmpiricalShift

_FLUX2_ATTENTION: Final = (*ATTENTION, "attn.to_qkv_mlp_proj")

FAMILY = Family(
    name="flux",
    title="FLUX.1",
    architecture=Architecture(
        "flux-1-dev", "flux1", {"schnell": Architecture("flux-1-schnell", "flux1")}
    ),
    simpletuner_name="flux",
    pipeline="FluxPipeline",
    default_model="black-forest-labs/FLUX.1-dev",
    size=Size(11.89, (0.12, 4.76)),
    stays_in_fp16=True,
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
    lora_targets=JOINT_ATTENTION,
    block_layers=(
        *JOINT_ATTENTION,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        *("norm1.linear", "norm1_context.linear", "norm.linear"),
        *("proj_mlp", "proj_out"),  # the model's last layer, proj_out, ends like the blocks'
    ),
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

# A de-distilled FLUX.1-schnell with real guidance; padding is masked.
CHROMA = Family(
    name="chroma",
    title="Chroma1",
    architecture=Architecture("chroma", "chroma"),
    simpletuner_name="chroma",
    pipeline="ChromaPipeline",
    default_model="lodestones/Chroma1-Base",
    size=Size(8.9, (4.76,)),
    stays_in_fp16=True,
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
    lora_targets=JOINT_ATTENTION,
    block_layers=(
        *JOINT_ATTENTION,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
        *("proj_mlp", "proj_out"),  # the model's last layer, proj_out, ends like the blocks'
    ),
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

FLUX2 = Family(
    name="flux2",
    title="FLUX.2-dev",
    architecture=Architecture("Flux.2-dev", "flux_2_dev"),
    simpletuner_name="flux2",
    pipeline="Flux2Pipeline",
    default_model="black-forest-labs/FLUX.2-dev",
    size=Size(32.22, (24.0,)),
    distilled=("turbo",),
    training_multiple=16,
    latents=Latents.TOKENS_FROM_GRID,
    told=Told.SIGMA,
    shift=EmpiricalShift(),
    text=Text(tokens=512, outputs=("prompt_embeds", None), trains_in_nf4=False),
    # diffusers' default; SimpleTuner trains with an embedded guidance of 1.
    guidance=Guidance("guidance_scale", slow=4.0, fast=1.0),
    marks=Marks(
        diffusers=(
            "double_stream_modulation_img.linear.weight",
            "time_guidance_embed.guidance_embedder.linear_1.weight",
        ),
        original=("double_stream_modulation_img.lin.weight", "guidance_in.in_layer.weight"),
    ),
    lora_targets=_FLUX2_ATTENTION,
    # The modulation is one for all blocks, and outside of them.
    block_layers=(
        *_FLUX2_ATTENTION,
        *ADDED_ATTENTION,
        *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
        # By number: in the other blocks, what ends in attn.to_out is no layer but a list of them.
        *(f"single_transformer_blocks.{index}.attn.to_out" for index in range(48)),
    ),
    trains_on_mps=True,
    borrowed=Borrowed("mistralai/Mistral-Small-3.1-24B-Instruct-2503"),
    training_options={"model_flavour": "dev"},
    comfyui=ComfyUI(
        model_id="flux.2-dev",
        model=split_file("flux2_dev_fp8mixed.safetensors", "diffusion_models", "flux2-dev"),
        text_encoders=(
            split_file("mistral_3_small_flux2_bf16.safetensors", "text_encoders", "flux2-dev"),
        ),
        text_type="flux2",
        vae=FLUX2_VAE,
        latent="EmptyFlux2LatentImage",
    ),
)

KLEIN = replace(  # fewer single blocks than the 48 that block_layers counts
    FLUX2,
    name="flux2_klein",
    title="FLUX.2 klein",
    architecture=Architecture(
        "Flux.2-klein-4b",
        "flux_2_klein_4b",
        {"9b": Architecture("Flux.2-klein-9b", "flux_2_klein_9b")},
    ),
    pipeline="Flux2KleinPipeline",
    default_model="black-forest-labs/FLUX.2-klein-base-4B",
    size=Size(3.88, (4.02,), {"9b": Size(9.08, (8.19,))}),
    borrowed=None,
    distilled=("klein-4b", "klein-9b"),  # the others are klein-base-4b and klein-base-9b
    text=Text(
        tokens=512,
        outputs=("prompt_embeds", None),
        negative=Negative.APART,
        trains_in_nf4=False,
    ),
    guidance=Guidance("guidance_scale", slow=4.0, fast=1.0),  # diffusers' default; none
    marks=Marks(
        diffusers=("double_stream_modulation_img.linear.weight",),
        original=("double_stream_modulation_img.lin.weight",),
        absent=(
            "time_guidance_embed.guidance_embedder.linear_1.weight",
            "guidance_in.in_layer.weight",
        ),
    ),
    # Any klein's: without it SimpleTuner would fetch FLUX.2-dev's Mistral.
    training_options={"model_flavour": "klein-4b"},
    comfyui=replace(
        FLUX2.comfyui,
        model_id="flux.2-klein-base-4b",
        model=split_file("flux-2-klein-base-4b.safetensors", "diffusion_models", "flux2-klein"),
        text_encoders=(QWEN3_4B,),
        others_text_encoders={
            "9b": (
                split_file(
                    "qwen_3_8b_fp8mixed.safetensors",
                    "text_encoders",
                    "vae-text-encorder-for-flux-klein-9b",
                ),
            )
        },
    ),
)
