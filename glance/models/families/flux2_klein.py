"""FLUX.2 klein, 4B and 9B: real guidance, Qwen3 reads the prompt."""

from types import MappingProxyType

from glance.models.families import flux2
from glance.models.families.family import (
    FLUX2_VAE,
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
from glance.schedule.shift import EmpiricalShift

FAMILY = Family(
    name="flux2_klein",
    title="FLUX.2 klein",
    architecture=Architecture(
        "Flux.2-klein-4b",
        "flux_2_klein_4b",
        MappingProxyType({"9b": Architecture("Flux.2-klein-9b", "flux_2_klein_9b")}),
    ),
    simpletuner_name="flux2",
    pipeline="Flux2KleinPipeline",
    default_model="black-forest-labs/FLUX.2-klein-base-4B",
    size=Size(3.88, (4.02,), MappingProxyType({"9b": 9.08})),
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
    lora_targets=flux2.FAMILY.lora_targets,
    block_layers=flux2.FAMILY.block_layers,  # for the 48 single blocks of dev; klein has fewer
    learning_rate=5e-4,
    trains_on_mps=True,
    # Any klein's: without it SimpleTuner would fetch FLUX.2-dev's Mistral.
    training_options=MappingProxyType({"model_flavour": "klein-4b"}),
    comfyui=ComfyUI(
        model_id="flux.2-klein-base-4b",
        model=split_file("flux-2-klein-base-4b.safetensors", "diffusion_models", "flux2-klein"),
        text_encoders=(QWEN3_4B,),
        text_type="flux2",
        vae=FLUX2_VAE,
        latent="EmptyFlux2LatentImage",
    ),
)
