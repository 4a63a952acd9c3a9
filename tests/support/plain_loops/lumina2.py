"""Lumina-Image 2: a pass for each prompt, lengths as Qwen-Image's, and noise at time 0."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, noise, unscaled

end = unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, mask, negative, negative_mask = pipeline.encode_prompt(prompt)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, embeds, mask)
        if guidance <= 1:
            return -with_
        without = forward(x, sigma, negative, negative_mask)
        guided = without + guidance * (with_ - without)
        return -guided * (with_.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=1 - sigma * 1000 / 1000,
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]

    return noise(generator), velocity
