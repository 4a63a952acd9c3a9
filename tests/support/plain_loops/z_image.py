"""Z-Image: both prompts in one pass, guidance 0 is none, and time runs from noise at 0."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, noise, unscaled

end = unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, negative = pipeline.encode_prompt(prompt)  # lists

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        if guidance <= 0:
            return forward(x, sigma, embeds)
        with_, without = forward(torch.cat([x, x]), sigma.expand(2), embeds + negative).chunk(2)
        return with_ + guidance * (with_ - without)

    def forward(x: Tensor, sigma: Tensor, embeds: list[Tensor]) -> Tensor:
        frames = list(x.unsqueeze(2).unbind(0))
        time = (1000 - sigma * 1000) / 1000
        predicted = pipeline.transformer(frames, time, embeds, return_dict=False)[0]
        return -torch.stack(predicted)[:, :, 0]

    return noise(generator), velocity
