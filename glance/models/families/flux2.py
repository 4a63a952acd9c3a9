"""FLUX.2-dev, whose guidance is embedded, and klein, 4B and 9B, with real guidance and Qwen3."""

from typing import Final

from glance.models.families.family import (
    FLUX2_VAE,
    QWEN3_4B,
    Architecture,
    Borrowed,
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
from glance.schedule.shift import EmpiricalShift

_ATTENTION: Final = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    "attn.to_qkv_mlp_proj",
)

FAMILY = Family(
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
    text=Text(tokens=512, outputs=("prompt_embeds", None)),
    # diffusers' default; SimpleTuner trains with an embedded guidance of 1.
    guidance=Guidance("guidance_scale", slow=4.0, fast=1.0),
    marks=Marks(
        diffusers=(
            "double_stream_modulation_img.linear.weight",
            "time_guidance_embed.guidance_embedder.linear_1.weight",
        ),
        original=("double_stream_modulation_img.lin.weight", "guidance_in.in_layer.weight"),
    ),
    lora_targets=_ATTENTION,
    # The modulation is one for all blocks, and outside of them.
    block_layers=(
        *_ATTENTION,
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
        # By number: in the other blocks, what ends in attn.to_out is no layer but a list of them.
        *(f"single_transformer_blocks.{index}.attn.to_out" for index in range(48)),
    ),
    learning_rate=5e-4,
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

KLEIN = Family(
    name="flux2_klein",
    title="FLUX.2 klein",
    architecture=Architecture(
        "Flux.2-klein-4b",
        "flux_2_klein_4b",
        {"9b": Architecture("Flux.2-klein-9b", "flux_2_klein_9b")},
    ),
    simpletuner_name="flux2",
    pipeline="Flux2KleinPipeline",
    default_model="black-forest-labs/FLUX.2-klein-base-4B",
    size=Size(3.88, (4.02,), {"9b": 9.08}),
    distilled=("klein-4b", "klein-9b"),  # the others are klein-base-4b and klein-base-9b
    training_multiple=16,
    latents=Latents.TOKENS_FROM_GRID,
    told=Told.SIGMA,
    shift=EmpiricalShift(),
    text=Text(tokens=512, outputs=("prompt_embeds", None), negative=Negative.APART),
    guidance=Guidance("guidance_scale", slow=4.0, fast=1.0),  # diffusers' default; none
    marks=Marks(
        diffusers=("double_stream_modulation_img.linear.weight",),
        original=("double_stream_modulation_img.lin.weight",),
        absent=(
            "time_guidance_embed.guidance_embedder.linear_1.weight",
            "guidance_in.in_layer.weight",
        ),
    ),
    lora_targets=_ATTENTION,
    block_layers=FAMILY.block_layers,  # for the 48 single blocks of dev; klein has fewer
    learning_rate=5e-4,
    trains_on_mps=True,
    # Any klein's: without it SimpleTuner would fetch FLUX.2-dev's Mistral.
    training_options={"model_flavour": "klein-4b"},
    comfyui=ComfyUI(
        model_id="flux.2-klein-base-4b",
        model=split_file("flux-2-klein-base-4b.safetensors", "diffusion_models", "flux2-klein"),
        text_encoders=(QWEN3_4B,),
        text_type="flux2",
        vae=FLUX2_VAE,
        latent="EmptyFlux2LatentImage",
    ),
)
