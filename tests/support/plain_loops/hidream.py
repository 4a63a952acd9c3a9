"""HiDream-I1: both prompts in one pass, and the velocity with its sign turned."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, noise, unscaled

end = unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    t5, negative_t5, llama, negative_llama, pooled, negative_pooled = pipeline.encode_prompt(prompt)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        if guidance <= 1:
            return forward(x, sigma, t5, llama, pooled)
        both = forward(
            torch.cat([x, x]),
            sigma.expand(2),
            torch.cat([negative_t5, t5]),
            torch.cat([negative_llama, llama], dim=1),  # layers come first
            torch.cat([negative_pooled, pooled]),
        )
        without, with_ = both.chunk(2)
        return without + guidance * (with_ - without)

    def forward(x: Tensor, sigma: Tensor, t5: Tensor, llama: Tensor, pooled: Tensor) -> Tensor:
        return -pipeline.transformer(
            hidden_states=x,
            timesteps=sigma * 1000,
            encoder_hidden_states_t5=t5,
            encoder_hidden_states_llama3=llama,
            pooled_embeds=pooled,
            return_dict=False,
        )[0]

    return noise(generator), velocity
