"""Z-Image: time runs from noise (0) to picture (1)."""

from typing import Final

from glance.models.families.family import (
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

_ATTENTION: Final = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")

FAMILY = Family(
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
        tokens=512,
        outputs=("prompt_embeds", "negative_prompt_embeds"),
        negative=Negative.TOGETHER,
    ),
    # cond + scale x (cond - uncond): 0 is none. The slow one is diffusers' default.
    guidance=Guidance("guidance_scale", slow=5.0, fast=0.0, off=0.0),
    marks=Marks(
        diffusers=("cap_pad_token", "all_x_embedder.2-1.weight"),
        original=("cap_pad_token", "x_embedder.weight"),
    ),
    lora_targets=_ATTENTION,
    block_layers=(
        *_ATTENTION,
        *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
        # By number: in the model's last layer, what ends in adaLN_modulation.0 is no linear layer.
        *(f"{index}.adaLN_modulation.0" for index in range(30)),
    ),
    learning_rate=5e-4,
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
