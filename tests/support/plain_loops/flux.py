"""FLUX.1: the transformer is told the guidance."""

from typing import Any

import torch
from torch import Tensor

from plain_loops.parts import SIDE, Velocity, packed_noise, unpacked_unscaled

end = unpacked_unscaled


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    embeds, pooled, text_ids = pipeline.encode_prompt(prompt, None)
    ids = pipeline._prepare_latent_image_ids(1, SIDE // 16, SIDE // 16, "cpu", torch.float32)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=sigma,
            guidance=torch.tensor([guidance]),
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]

    return packed_noise(pipeline, generator), velocity
