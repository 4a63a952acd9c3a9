"""HiDream-I1: both prompts in one pass, and the velocity with its sign turned."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import Velocity, in_one_pass, noise, unscaled

end = unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    encoded = pipeline.encode_prompt(prompt)  # of T5, of Llama, pooled: each with its negative

    def forward(x: Tensor, sigma: Tensor, t5: Tensor, llama: Tensor, pooled: Tensor) -> Tensor:
        return -pipeline.transformer(
            hidden_states=x,
            timesteps=sigma * 1000,
            encoder_hidden_states_t5=t5,
            encoder_hidden_states_llama3=llama,
            pooled_embeds=pooled,
            return_dict=False,
        )[0]

    # of Llama's, layers come first
    return noise(generator), in_one_pass(forward, encoded[::2], encoded[1::2], batch_axes=(0, 1, 0))
