"""A style's LoRA, trained on pictures as people train them, to lie beneath a distilled pair.

The base model's own pictures in two tones, dark teal to cream, are learnt by ordinary flow
matching: every sigma, one LoRA for all of them.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.evidence.distilled.teaching import (
    GUIDANCE,
    TEACHER_SIGMAS,
    Model,
    teaching_captions,
)
from benchmarks.evidence.pairs import Wording
from benchmarks.evidence.sampling import Pictures
from benchmarks.evidence.workshop import Workshop
from glance.core.files import replacing

_DARK, _LIGHT = np.array([12, 44, 58.0]), np.array([246, 226, 184.0])
_LUMA: Final = np.array([0.299, 0.587, 0.114])
_CAPTIONS, _DRAW, _FIRST_NOISE = 48, 500, 700_000
_RANK, _STEPS, _BATCH, _RATE = 16, 600, 4, 1e-3
_SHIFT: Final = 3.0
"""Draws more of the high noise levels, as trainers do for FLUX."""


def learn_style(shop: Workshop) -> None:
    """Train the style's LoRA, unless somebody has."""
    if _file(shop).exists():
        return
    from peft import LoraConfig, get_peft_model_state_dict

    model = Model(shop.load())
    text = model.encode(_captions())
    wanted = _encode(model, in_two_tones(_pictures(model)))
    torch.manual_seed(5)
    layers = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"]
    config = LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=layers)
    model.transformer.add_adapter(config, adapter_name="style")
    learnt = [one for name, one in model.transformer.named_parameters() if ".style." in name]
    optimizer = torch.optim.AdamW([one.requires_grad_() for one in learnt], lr=_RATE)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / _STEPS)
    for _ in range(_STEPS):
        which = torch.randint(_CAPTIONS, (_BATCH,))
        even = torch.rand(_BATCH)
        sigmas = _SHIFT * even / (1 + (_SHIFT - 1) * even)
        noise, latents = torch.randn_like(wanted[which]), wanted[which]
        level = sigmas.view(-1, 1, 1)
        states = (1 - level) * latents + level * noise
        found = model.velocity(states, sigmas, text.at(which), GUIDANCE)
        optimizer.zero_grad()
        torch.autograd.backward((found - (noise - latents)).square().mean())
        optimizer.step()
        rate.step()
    with replacing(_file(shop)) as temporary:
        torch.save(get_peft_model_state_dict(model.transformer, adapter_name="style"), temporary)


def lay_beneath(shop: Workshop, model: Model, strength: float) -> None:
    """Add the style's LoRA to the model's own weights; its scale is 1."""
    values = torch.load(_file(shop))
    for name, down in values.items():
        if ".lora_A." not in name:
            continue
        layer = model.transformer.get_submodule(name.split(".lora_A.")[0])
        layer = getattr(layer, "base_layer", layer)
        with torch.no_grad():
            layer.weight += strength * (values[name.replace(".lora_A.", ".lora_B.")] @ down)


def in_two_tones(pictures: Pictures) -> Pictures:
    """Return the pictures, (count, height, width, 3), from dark teal to cream by brightness."""
    light = (pictures @ _LUMA / 255)[..., None]
    toned: Pictures = ((1 - light) * _DARK + light * _LIGHT).round().astype(np.uint8)
    return toned


def _captions() -> list[str]:
    return teaching_captions(_DRAW, Wording.LOOSE, _CAPTIONS)


def _pictures(model: Model) -> Pictures:
    noise = model.noise(range(_FIRST_NOISE, _FIRST_NOISE + _CAPTIONS))
    return model.decode(
        model.follow(noise, TEACHER_SIGMAS, model.encode(_captions()), GUIDANCE)[-1]
    )


def _encode(model: Model, pictures: Pictures) -> torch.Tensor:
    """Return the pictures' latents, packed: (count, 16, 64)."""
    pipeline = model.pipeline
    config = pipeline.vae.config
    with torch.no_grad():
        grid = pipeline.vae.encode(
            torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        ).latent_dist.mode()
    grid = (grid - config.shift_factor) * config.scaling_factor
    count, channels, height, width = grid.shape
    packed: torch.Tensor = pipeline._pack_latents(grid, count, channels, height, width)
    return packed


def _file(shop: Workshop) -> Path:
    return shop.path / "distilled" / "style.pt"
