"""Train the small FLUX's picture codec: an AutoencoderKL with 16 latent channels, 8x down.

    python recipes/small_flux/train_vae.py --work DIR --minutes 6

Resumes from DIR/vae.pt; without one it starts from the shipped weights where --warm is given.
The result, in diffusers layout, is DIR/vae.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from muon import make_optimizers
from session import Average, Clock, Log, load_checkpoint, save_checkpoint
from torch import Tensor
from torch.nn import functional

from glance.evaluation.small_world.draw import draw
from glance.evaluation.small_world.world import training_scene

SEED = 1
BATCH = 16
MUON_RATE, ADAM_RATE = 1.5e-3, 2e-3
KL_WEIGHT = 3e-4
EDGE_WEIGHT = 1.0


def main() -> None:
    """Train, measure, write."""
    arguments = _arguments()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    vae = build_vae(arguments.warm)
    pictures = draw_pictures(arguments.pictures, seed=SEED)
    log = Log(arguments.work / "vae.jsonl")
    _train(vae, pictures, arguments, log)
    _set_latent_scale(vae, pictures[:1024])
    log.write(event="scaled", factor=vae.config.scaling_factor, shift=vae.config.shift_factor)
    vae.save_pretrained(arguments.work / "vae")


def build_vae(warm: Path | None) -> AutoencoderKL:
    """Return a fresh codec, or the one of a model folder."""
    if warm is not None:
        return AutoencoderKL.from_pretrained(warm, subfolder="vae", torch_dtype=torch.float32)
    widths = (8, 16, 32, 64)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,  # more groups learn slower here
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def draw_pictures(count: int, *, seed: int) -> Tensor:
    """Draw training scenes, (count, 3, 64, 64) bytes."""
    random = np.random.default_rng(seed)
    drawn = np.stack([draw(training_scene(random)) for _ in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()


def as_input(pictures: Tensor) -> Tensor:
    """Return bytes as the codec's numbers, -1 to 1."""
    return pictures.float() / 127.5 - 1


def _train(vae: AutoencoderKL, pictures: Tensor, arguments: Any, log: Log) -> None:
    named = dict(vae.named_parameters())
    optimizers = make_optimizers(
        [p for p in named.values() if p.ndim >= 2],
        [p for p in named.values() if p.ndim < 2],
        lr=MUON_RATE,
        rest_lr=ADAM_RATE,
    )
    average = Average(named)
    path = arguments.work / "vae.pt"
    state = load_checkpoint(path)
    step, before = 0, 0.0
    if state:
        vae.load_state_dict(state["model"])
        average.values, average.steps = state["average"], state["step"]
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        step, before = state["step"], state["seconds"]
    rates = [group["lr"] for o in optimizers for group in o.param_groups]
    rates = [MUON_RATE, ADAM_RATE] if state else rates
    clock = Clock(arguments.minutes, before=before)
    while not clock.over:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * clock.schedule()
        batch = as_input(pictures[torch.randint(len(pictures), (BATCH,))])
        loss, parts = _loss(vae, batch)
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(named)
        step += 1
        if step % 25 == 0:
            log.write(event="step", step=step, seconds=clock.total, **parts)
        if step % 200 == 0:
            _save(path, vae, average, optimizers, step, clock)
    _save(path, vae, average, optimizers, step, clock)
    vae.load_state_dict(average.values, strict=False)


def _save(path: Path, vae: Any, average: Any, optimizers: Any, step: int, clock: Clock) -> None:
    save_checkpoint(
        path,
        {
            "model": vae.state_dict(),
            "average": average.values,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
            "seconds": clock.total,
        },
    )


def _loss(vae: AutoencoderKL, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
    posterior = vae.encode(batch).latent_dist
    rebuilt = vae.decode(posterior.sample()).sample
    away = (rebuilt - batch).abs()
    # small things (a light, a roof) are few pixels: weight pixels by how far they are
    # from the row they lie in, which is sky or ground
    unusual = (batch - batch.median(dim=3, keepdim=True).values).abs().mean(1, keepdim=True)
    weight = 1 + 2 * (unusual > 0.15).float()
    across = functional.l1_loss(rebuilt.diff(dim=3), batch.diff(dim=3))
    edges = across + functional.l1_loss(rebuilt.diff(dim=2), batch.diff(dim=2))
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = (weight * away).mean() + EDGE_WEIGHT * edges + KL_WEIGHT * kl
    return loss, {
        "l1": float(away.mean().detach()),
        "edges": float(edges.detach()),
        "kl": float(kl.detach()),
    }


@torch.no_grad()
def _set_latent_scale(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Make the model's latents zero on average and of unit variance."""
    means = torch.cat([vae.encode(as_input(p)).latent_dist.mean for p in torch.split(pictures, 64)])
    vae.register_to_config(
        scaling_factor=round(float(1 / means.std()), 5), shift_factor=round(float(means.mean()), 5)
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints, log and result")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--warm", type=Path, help="start from this model folder's vae")
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
