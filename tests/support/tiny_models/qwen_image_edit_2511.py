"""Qwen-Image-Edit-2511, only narrow: its transformer tells the reference that it is clean."""

from diffusers import QwenImageEditPlusPipeline

from tiny_models import qwen_image_edit_2509


def make() -> QwenImageEditPlusPipeline:
    return qwen_image_edit_2509.make(zero_cond_t=True)
