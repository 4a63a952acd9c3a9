"""FLUX.2 klein, only narrow: Qwen3's layers 9, 18 and 27 are read, and guidance is real."""

from diffusers import Flux2KleinPipeline

from tiny_models.flux2 import transformer, vae
from tiny_models.parts import qwen3, scheduler
from tiny_models.vocabularies import qwen_tokenizer

_TEXT_WIDTH = 16


def make() -> Flux2KleinPipeline:
    return Flux2KleinPipeline(
        scheduler=scheduler(),
        vae=vae(),
        text_encoder=qwen3(width=_TEXT_WIDTH, layers=28),
        tokenizer=qwen_tokenizer(),
        transformer=transformer(text_width=3 * _TEXT_WIDTH, guidance_embeds=False),
    )
