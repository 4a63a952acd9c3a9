"""Chroma: FLUX.1, only that a pass for each prompt guides and that padding is masked."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, packed_noise, unpacked_unscaled

end = unpacked_unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    encoded = pipeline.encode_prompt(prompt)
    said, unsaid = encoded[:3], encoded[3:]
    ids = pipeline._prepare_latent_image_ids(1, SIDE // 16, SIDE // 16, "cpu", torch.float32)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, *said)
        if guidance <= 1:
            return with_
        without = forward(x, sigma, *unsaid)
        return without + guidance * (with_ - without)

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

    return packed_noise(pipeline, generator), velocity
