"""Krea 2: a pass for each prompt, and guidance 0 is none."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, packed_noise, unnormalised


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    said, unsaid = pipeline.encode_prompt(prompt), pipeline.encode_prompt("")
    places = pipeline.prepare_position_ids(said[0].shape[1], SIDE // 16, SIDE // 16, "cpu")

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, *said)
        if guidance <= 0:
            return with_
        return with_ + guidance * (with_ - forward(x, sigma, *unsaid))

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            encoder_hidden_states=embeds,
            timestep=sigma * 1000 / 1000,
            position_ids=places,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]

    return packed_noise(pipeline, generator), velocity


def end(pipeline: Any, latents: Tensor) -> Tensor:
    return unnormalised(pipeline, pipeline._unpack_latents(latents, SIDE, SIDE))
