"""Qwen-Image-Edit-2509: paints a picture anew as the caption says."""

from dataclasses import replace
from types import MappingProxyType

from glance.models.families import qwen_image
from glance.models.families.family import Architecture, Family, split_file

FAMILY: Family = replace(
    qwen_image.FAMILY,
    name="qwen_image_edit_2509",
    title="Qwen-Image-Edit-2509",
    architecture=Architecture("qwen-image-edit-plus", "qwen_image_edit"),
    pipeline="QwenImageEditPlusPipeline",
    default_model="Qwen/Qwen-Image-Edit-2509",
    size_multiple=32,
    published="nothing: Qwen-Image's",
    edits=True,
    transformer_config=MappingProxyType({"zero_cond_t": False}),
    training_options=MappingProxyType({"model_flavour": "edit-v2"}),
    comfyui=replace(
        qwen_image.FAMILY.comfyui,
        model_id="qwen-image-edit-2509",
        model=split_file(
            "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
            "diffusion_models",
            "Qwen-Image-Edit_ComfyUI",
        ),
        others=MappingProxyType({}),
    ),
)
