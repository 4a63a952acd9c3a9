"""Stable Diffusion 3.5: both prompts in one pass."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, noise, unscaled

end = unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    # SimpleTuner reads 154 tokens
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(
        prompt, None, None, max_sequence_length=154
    )

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        if guidance <= 1:
            return forward(x, sigma, embeds, pooled)
        both = forward(
            torch.cat([x, x]),
            sigma.expand(2),
            torch.cat([negative, embeds]),
            torch.cat([negative_pooled, pooled]),
        )
        without, with_ = both.chunk(2)
        return without + guidance * (with_ - without)

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma * 1000,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]

    return noise(generator), velocity
