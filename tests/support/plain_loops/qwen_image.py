"""Qwen-Image: a pass for each prompt, and the guided velocity as long as the unguided one."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, packed_noise, unnormalised, unpacked


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, _ = pipeline.encode_prompt(prompt)
    negative, _ = pipeline.encode_prompt("")

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, embeds)
        if guidance <= 1:
            return with_
        without = forward(x, sigma, negative)
        guided = without + guidance * (with_ - without)
        return guided * (with_.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma,
            encoder_hidden_states=embeds,
            img_shapes=[[(1, SIDE // 16, SIDE // 16)]],
            return_dict=False,
        )[0]

    return packed_noise(pipeline, generator), velocity


def end(pipeline: Any, latents: Tensor) -> Tensor:
    return unnormalised(pipeline, unpacked(pipeline, latents))
