"""Chroma: FLUX.1, only that a pass for each prompt guides and that padding is masked."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, in_two_passes, packed_noise, unpacked_unscaled

end = unpacked_unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    encoded = pipeline.encode_prompt(prompt)
    ids = pipeline._prepare_latent_image_ids(1, SIDE // 16, SIDE // 16, "cpu", torch.float32)

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, text_ids: Tensor, mask: Tensor) -> Tensor:
        # diffusers would add its mask of numbers to the scores; the trainer's hides
        visible = torch.cat([mask.bool(), torch.ones(1, x.shape[1], dtype=torch.bool)], dim=1)
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma * 1000 / 1000,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=ids,
            attention_mask=visible,
            return_dict=False,
        )[0]

    velocity = in_two_passes(forward, encoded[:3], encoded[3:])
    return packed_noise(pipeline, generator), velocity
