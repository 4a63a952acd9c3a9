"""FLUX.2 klein: FLUX.2, only that a pass for each prompt guides."""

from typing import Any

import torch
from torch import Tensor

from plain_loops import flux2
from plain_loops.parts import Velocity

end = flux2.end


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    said, unsaid = pipeline.encode_prompt(prompt), pipeline.encode_prompt("")
    latents, forward = flux2.start(pipeline, generator)

    def velocity(x: Tensor, sigma: Tensor, guidance: float) -> Tensor:
        with_ = forward(x, sigma, *said, None)
        if guidance <= 1:
            return with_
        without = forward(x, sigma, *unsaid, None)
        return without + guidance * (with_ - without)

    return latents, velocity
