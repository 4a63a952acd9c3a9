"""The latents between the phases, as a file: see generation.handover for what it is."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glance.core.errors import InputError
from glance.core.files import replacing

_TENSOR = "latents"


def save_latents(latents: torch.Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the latents of one picture, (1, ...), atomically; raises OSError."""
    with replacing(path) as temporary:
        save_file({_TENSOR: latents.contiguous()}, temporary, metadata=dict(metadata))


def load_latents(path: Path) -> torch.Tensor:
    """Return the latents of one picture, (1, ...), on the CPU; raises InputError."""
    try:
        latents = load_file(path)[_TENSOR]
    except (OSError, SafetensorError, KeyError) as exc:
        raise InputError(f"{path} can be read no more: {exc}") from exc
    if not bool(torch.isfinite(latents).all()):
        raise InputError(f"{path} holds NaN or infinity", hint="make it anew with --save-latents")
    return latents
