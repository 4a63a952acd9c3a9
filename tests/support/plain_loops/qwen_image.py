"""Qwen-Image: a pass for each prompt, and the guided velocity as long as the unguided one."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, in_two_passes, packed_noise, unnormalised, unpacked


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    said, unsaid = (pipeline.encode_prompt(text)[:1] for text in (prompt, ""))
    return packed_noise(pipeline, generator), guided(pipeline, said, unsaid)


def guided(
    pipeline: Any, said: Any, unsaid: Any, beside: Tensor | None = None, *shapes: tuple[int, ...]
) -> Velocity:
    """`beside`: the reference's tokens, with their `shapes`, of a family that edits."""

    def forward(x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        return pipeline.transformer(
            hidden_states=x if beside is None else torch.cat([x, beside], dim=1),
            timestep=sigma,
            encoder_hidden_states=embeds,
            img_shapes=[[(1, SIDE // 16, SIDE // 16), *shapes]],
            return_dict=False,
        )[0][:, : x.shape[1]]

    return in_two_passes(forward, said, unsaid, keeps_length=True)


def end(pipeline: Any, latents: Tensor) -> Tensor:
    return unnormalised(pipeline, unpacked(pipeline, latents))
