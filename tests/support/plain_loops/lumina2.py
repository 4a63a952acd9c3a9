"""Lumina-Image 2: a pass for each prompt, lengths as Qwen-Image's, and noise at time 0."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, in_two_passes, noise, unscaled

end = unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    encoded = pipeline.encode_prompt(prompt)

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        return -pipeline.transformer(
            hidden_states=x,
            timestep=1 - sigma * 1000 / 1000,
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]

    velocity = in_two_passes(forward, encoded[:2], encoded[2:], keeps_length=True)
    return noise(generator), velocity
