"""FLUX.2 klein: FLUX.2, only that a pass for each prompt guides."""

from typing import Any

import torch
from torch import Tensor

from plain_loops import flux2
from plain_loops.parts import Velocity, in_two_passes

end = flux2.end


def begin(pipeline: Any, prompt: str, generator: torch.Generator) -> tuple[Tensor, Velocity]:
    said, unsaid = ((*pipeline.encode_prompt(text), None) for text in (prompt, ""))
    latents, forward = flux2.start(pipeline, generator)
    return latents, in_two_passes(forward, said, unsaid)
