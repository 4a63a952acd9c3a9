"""Stable Diffusion 3.5: both prompts in one pass."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, in_one_pass, noise, unscaled

end = unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    # SimpleTuner reads 154 tokens
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(
        prompt, None, None, max_sequence_length=154
    )

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma * 1000,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]

    velocity = in_one_pass(forward, [embeds, pooled], [negative, negative_pooled])
    return noise(generator), velocity
