"""What the transformer learns from: drawn scenes as latents, with captions worded anew."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from flux import pack
from session import load_checkpoint, save_checkpoint
from torch import Tensor
from train_vae import as_input

from glance.evaluation.small_world.draw import draw
from glance.evaluation.small_world.world import Scene, describe, describe_loosely, training_scene

SEED = 1
FULL_SHARE = 0.55


class Examples:
    """Scenes with their latents; captions are worded anew each time."""

    def __init__(self, work: Path, vae: AutoencoderKL, count: int, *, seed: int) -> None:
        """Draw and encode, or read what an earlier session encoded; `seed` is the order's."""
        random = np.random.default_rng(SEED)
        self.scenes = [training_scene(random) for _ in range(count)]
        path = work / f"latents-{count}.pt"
        if not path.exists():
            save_checkpoint(path, {"latents": _encode(vae, self.scenes)})
        self.latents = (load_checkpoint(path) or {})["latents"]
        self.random = np.random.default_rng(seed)

    def batch(self, size: int, *, dropout: float) -> tuple[Tensor, list[str]]:
        """Return tokens and captions."""
        numbers = self.random.integers(len(self.scenes), size=size)
        captions = [self._caption(self.scenes[number], dropout) for number in numbers]
        return pack(self.latents[numbers].float()), captions

    def _caption(self, scene: Scene, dropout: float) -> str:
        draw_ = self.random.random()
        if draw_ < dropout:
            return ""
        if draw_ < dropout + FULL_SHARE:
            return describe(scene, self.random)
        return describe_loosely(scene, self.random)


@torch.no_grad()
def _encode(vae: AutoencoderKL, scenes: list[Scene]) -> Tensor:
    batches = []
    for start in range(0, len(scenes), 64):
        drawn = np.stack([draw(scene) for scene in scenes[start : start + 64]])
        pictures = as_input(torch.from_numpy(drawn).permute(0, 3, 1, 2))
        means = vae.encode(pictures).latent_dist.mean
        batches.append((means - vae.config.shift_factor) * vae.config.scaling_factor)
    return torch.cat(batches).half()
