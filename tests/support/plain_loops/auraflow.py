"""AuraFlow: both prompts in one pass, four latent channels."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, in_one_pass, noise


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    # SimpleTuner reads 120 tokens. Padding is zeroed: the masks are done with.
    embeds, _, negative, _ = pipeline.encode_prompt(prompt, max_sequence_length=120)

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma * 1000 / 1000,
            encoder_hidden_states=embeds,
            return_dict=False,
        )[0]

    return noise(generator, channels=4), in_one_pass(forward, [embeds], [negative])


def end(pipeline: Any, latents: Tensor) -> Tensor:
    return latents / pipeline.vae.config.scaling_factor
