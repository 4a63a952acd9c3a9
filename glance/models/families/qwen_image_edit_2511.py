"""Qwen-Image-Edit-2511: as 2509, but its transformer takes the reference for a clean picture."""

from dataclasses import replace
from types import MappingProxyType

from glance.models.families import qwen_image_edit_2509
from glance.models.families.family import Architecture, Family, split_file

FAMILY: Family = replace(
    qwen_image_edit_2509.FAMILY,
    name="qwen_image_edit_2511",
    title="Qwen-Image-Edit-2511",
    architecture=Architecture("qwen-image-edit-2511", "qwen_image_edit"),
    default_model="Qwen/Qwen-Image-Edit-2511",
    transformer_config=MappingProxyType({"zero_cond_t": True}),
    training_options=MappingProxyType({"model_flavour": "edit-v3"}),
    comfyui=replace(
        qwen_image_edit_2509.FAMILY.comfyui,
        model_id="qwen-image-edit-2511",
        model=split_file(
            "qwen_image_edit_2511_fp8mixed.safetensors",
            "diffusion_models",
            "Qwen-Image-Edit_ComfyUI",
        ),
        reference_method="index_timestep_zero",
    ),
)
