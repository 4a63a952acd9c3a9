"""Qwen-Image, the model that the guide's timesteps belong to, Qwen-Image-2512, and Edit."""

from dataclasses import replace
from typing import Final

from glance.models.families.family import (
    ATTENTION,
    JOINT_ATTENTION,
    QWEN_TEXT,
    QWEN_VAE,
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
from glance.schedule.shift import DynamicShift

FAMILY = Family(
    name="qwen_image",
    title="Qwen-Image",
    architecture=Architecture("qwen-image", "qwen_image"),
    simpletuner_name="qwen_image",
    pipeline="QwenImagePipeline",
    default_model="Qwen/Qwen-Image",
    size=Size(20.43, (8.29,)),
    distilled=("lightning",),
    training_multiple=32,
    latents=Latents.TOKENS,
    told=Told.SIGMA,
    # its scheduler_config.json, which SimpleTuner repeats
    shift=DynamicShift(most=0.9, most_tokens=8192, terminal=0.02),
    text=Text(
        tokens=1024,
        outputs=("prompt_embeds", "prompt_embeds_mask"),
        negative=Negative.APART,
        arguments={"max_sequence_length": 1024},
    ),
    guidance=Guidance("true_cfg_scale", slow=4.0, fast=1.0),  # diffusers' default; none
    marks=Marks(diffusers=("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight")),
    lora_targets=ATTENTION,
    block_layers=(
        *JOINT_ATTENTION,
        *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
        *("img_mod.1", "txt_mod.1"),
    ),
    learning_rate=3e-4,
    published="rank 32, 3e-4, alpha 4 x rank",
    trains_on_mps=False,  # "not supported" (SimpleTuner's QWEN_IMAGE.md)
    # Without it SimpleTuner 4.10 would take another architecture for its default.
    training_options={"model_flavour": "v1.0"},
    # The pipeline cuts given embeddings at 512 otherwise.
    sampling_options={"max_sequence_length": 1024},
    comfyui=ComfyUI(
        rescales_guidance=True,
        model_id="qwen-image",
        model=split_file(
            "qwen_image_fp8_e4m3fn.safetensors", "diffusion_models", "Qwen-Image_ComfyUI"
        ),
        others={
            "qwen-image-2512": split_file(
                "qwen_image_2512_fp8_e4m3fn.safetensors", "diffusion_models", "Qwen-Image_ComfyUI"
            )
        },
        text_encoders=(QWEN_TEXT,),
        text_type="qwen_image",
        vae=QWEN_VAE,
    ),
)

EDIT_2509: Final = replace(
    FAMILY,
    name="qwen_image_edit_2509",
    title="Qwen-Image-Edit-2509",
    architecture=Architecture("qwen-image-edit-plus", "qwen_image_edit"),
    pipeline="QwenImageEditPlusPipeline",
    default_model="Qwen/Qwen-Image-Edit-2509",
    size_multiple=32,
    published="nothing: Qwen-Image's",
    edits=True,
    transformer_config={"zero_cond_t": False},
    training_options={"model_flavour": "edit-v2"},
    comfyui=replace(
        FAMILY.comfyui,
        model_id="qwen-image-edit-2509",
        model=split_file(
            "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
            "diffusion_models",
            "Qwen-Image-Edit_ComfyUI",
        ),
        others={},
    ),
)

EDIT_2511: Final = replace(  # its transformer takes the reference for a clean picture
    EDIT_2509,
    name="qwen_image_edit_2511",
    title="Qwen-Image-Edit-2511",
    architecture=Architecture("qwen-image-edit-2511", "qwen_image_edit"),
    default_model="Qwen/Qwen-Image-Edit-2511",
    transformer_config={"zero_cond_t": True},
    training_options={"model_flavour": "edit-v3"},
    comfyui=replace(
        EDIT_2509.comfyui,
        model_id="qwen-image-edit-2511",
        model=split_file(
            "qwen_image_edit_2511_fp8mixed.safetensors",
            "diffusion_models",
            "Qwen-Image-Edit_ComfyUI",
        ),
        reference_method="index_timestep_zero",
    ),
)
