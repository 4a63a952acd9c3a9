"""Qwen-Image-Edit-2509, only narrow: Qwen-Image, whose language model also sees the reference."""

from diffusers import QwenImageEditPlusPipeline
from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

from tiny_models import qwen_image


def make(**transformer: bool) -> QwenImageEditPlusPipeline:
    base = qwen_image.make(**transformer)
    processor = Qwen2VLProcessor(
        # 2509's preprocessor_config.json
        image_processor=Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056),
        tokenizer=base.tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=base.tokenizer.chat_template,
    )
    return QwenImageEditPlusPipeline(**base.components, processor=processor)
