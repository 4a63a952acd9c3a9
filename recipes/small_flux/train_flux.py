"""Train the small FLUX's transformer and text encoders on the world's landscapes.

    python recipes/small_flux/train_flux.py --work DIR --minutes 30
    python recipes/small_flux/train_flux.py --work DIR --minutes 8 --distil

Needs DIR/vae (train_vae.py, or the one of --warm). The first line trains by flow matching with
caption dropout, at guidance 1; the second distils classifier-free guidance from 1 to
GUIDANCE_LIMIT into the guidance embedding, as FLUX.1-dev has it. Both resume from DIR/flux.pt, or
start from --warm.
"""

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from examples import SEED, Examples
from flux import SHIFT, build_transformer, predict
from measure import measure
from muon import make_optimizers
from session import Average, Clock, Log, load_checkpoint, save_checkpoint
from text import Text, build_text
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, T5EncoderModel

BATCH = 64
MUON_RATE, ADAM_RATE = 2.5e-3, 1.5e-3
EMPTY_SHARE = 0.1
GUIDANCE_LIMIT = 4.0
MEASURE_EVERY = 480.0
SAVE_EVERY = 120.0


class Learner(nn.Module):
    """Everything that learns in this recipe, under one name each."""

    def __init__(self, text: Text, transformer: FluxTransformer2DModel) -> None:
        """Take the parts."""
        super().__init__()
        self.transformer = transformer
        self.clip = text.clip
        self.t5 = text.t5
        self.text = text

    def velocity(
        self, tokens: Tensor, sigmas: Tensor, words: tuple[Tensor, Tensor], guidance: Tensor
    ) -> Tensor:
        """Predict the velocity (in float32: at this width bf16 is slower on a CPU)."""
        return predict(self.transformer, tokens, sigmas, words, guidance)


def main() -> None:
    """Train one stage for the minutes given, measuring on the way."""
    arguments = _arguments()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    log = Log(arguments.work / "flux.jsonl")
    codec = arguments.work / "vae"
    if arguments.warm and not codec.exists():
        shutil.copytree(arguments.warm / "vae", codec)
    vae = AutoencoderKL.from_pretrained(codec, torch_dtype=torch.float32).eval()
    learner = build_learner(arguments.warm)
    state = load_checkpoint(arguments.work / "flux.pt")
    seed = SEED + (state["step"] if state else 0)  # a resumed session sees other batches
    if state:
        learner.load_state_dict(state["model"])
        torch.manual_seed(seed)
    examples = Examples(arguments.work, vae, arguments.pictures, seed=seed)
    log.write(
        event="start",
        stage="distil" if arguments.distil else "train",
        transformer=_size(learner.transformer),
        clip=_size(learner.clip),
        t5=_size(learner.t5),
        vae=_size(vae),
    )
    _Stage(learner, vae, examples, arguments, log, state).run()


class _Stage:
    """One stage of training."""

    def __init__(
        self,
        learner: Learner,
        vae: AutoencoderKL,
        examples: Examples,
        arguments: argparse.Namespace,
        log: Log,
        state: dict[str, Any] | None,
    ) -> None:
        self.learner, self.vae, self.examples, self.log = learner, vae, examples, log
        self.path = arguments.work / "flux.pt"
        self.captions = arguments.captions
        self.named = dict(learner.named_parameters())
        self.optimizers = make_optimizers(*_split(self.named), lr=MUON_RATE, rest_lr=ADAM_RATE)
        self.average = Average(self.named)
        self.step = self.samples = 0
        before = 0.0
        self.teacher: Learner | None = None
        self.rate = 1.0
        if state:
            self.step, self.samples = state["step"], state["samples"]
            before = state["seconds"]
            self.average.values = state["average"]
            self.average.steps = self.step
        if arguments.distil:
            self.rate = 0.3
            learner.load_state_dict(self.average.values, strict=False)
            self.teacher = copy.deepcopy(learner).requires_grad_(requires_grad=False).eval()
        elif state:
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
        self.clock = Clock(arguments.minutes, before=before)

    def run(self) -> None:
        """Step until the clock is over, then measure the averaged weights."""
        measured, saved, losses = 0.0, 0.0, []
        while not self.clock.over:
            losses.append(self._update())
            if self.step % 50 == 0:
                self.log.write(
                    event="step",
                    step=self.step,
                    samples=self.samples,
                    seconds=self.clock.total,
                    loss=float(np.mean(losses)),
                )
                losses = []
            if self.clock.seconds - saved > SAVE_EVERY:
                self._save()
                saved = self.clock.seconds
            if self.clock.seconds - measured > MEASURE_EVERY:
                self._measure()
                measured = self.clock.seconds
        self._save()
        self._measure()

    def _update(self) -> float:
        factor = self.clock.schedule() * self.rate
        for optimizer, rate in zip(self.optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        # SimpleTuner and diffusers pad T5 to 512 tokens; that is dear, so only some steps do
        length, size = None, BATCH
        if self.step % 8 == 7:
            length, size = (512, BATCH // 8) if self.step % 16 == 15 else (128, BATCH // 2)
        loss = self._loss(size, length)
        torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.named)
        self.step += 1
        self.samples += size
        return float(loss.detach())

    def _loss(self, size: int, length: int | None) -> Tensor:
        clean, captions = self.examples.batch(size, dropout=0.05 if self.teacher else EMPTY_SHARE)
        noise = torch.randn_like(clean)
        sigmas = _sigmas(size)
        noisy = torch.lerp(clean, noise, sigmas[:, None, None])
        words = self.learner.text.encode(captions, length=length)
        if self.teacher is None:
            seen = self.learner.velocity(noisy, sigmas, words, torch.ones(size))
            return functional.mse_loss(seen, noise - clean)
        guidance = 1 + (GUIDANCE_LIMIT - 1) * torch.rand(size) * (torch.rand(size) > 0.2)
        target = _guided(self.teacher, noisy, sigmas, captions, guidance)
        return functional.mse_loss(self.learner.velocity(noisy, sigmas, words, guidance), target)

    def _measure(self) -> None:
        kept = {name: value.detach().clone() for name, value in self.named.items()}
        self.learner.load_state_dict(self.average.values, strict=False)
        self.learner.eval()
        for guidance in (1.0, 3.5) if self.teacher else (1.0,):
            result = measure(
                self.learner.text,
                self.learner.transformer,
                self.vae,
                guidance=guidance,
                count=self.captions,
            )
            self.log.write(event="measure", step=self.step, guidance=guidance, **result)
        self.learner.load_state_dict(kept, strict=False)
        self.learner.train()

    def _save(self) -> None:
        save_checkpoint(
            self.path,
            {
                "model": self.learner.state_dict(),
                "average": self.average.values,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "step": self.step,
                "samples": self.samples,
                "seconds": self.clock.total,
            },
        )


@torch.no_grad()
def _guided(
    teacher: Learner, noisy: Tensor, sigmas: Tensor, captions: list[str], guidance: Tensor
) -> Tensor:
    """Return the teacher's classifier-free guidance: one batch with and without captions."""
    count = len(captions)
    words = teacher.text.encode([*captions, *[""] * count])
    both = teacher.velocity(noisy.repeat(2, 1, 1), sigmas.repeat(2), words, torch.ones(2 * count))
    named, unnamed = both.chunk(2)
    return unnamed + guidance[:, None, None] * (named - unnamed)


def _sigmas(count: int) -> Tensor:
    """Draw noise levels: mostly in the middle, some anywhere, shifted as sampling is."""
    middle = torch.sigmoid(0.2 + 1.1 * torch.randn(count))
    plain = torch.where(torch.rand(count) < 0.25, torch.rand(count), middle)
    return SHIFT * plain / (1 + (SHIFT - 1) * plain)


def _split(named: dict[str, nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the blocks' matrices, which Muon takes, and the rest."""
    inner = ("blocks.", "layers.", ".block.")
    matrices = [
        name
        for name, value in named.items()
        if value.ndim == 2 and any(part in name for part in inner) and "bias" not in name
    ]
    return [named[n] for n in matrices], [v for n, v in named.items() if n not in matrices]


def build_learner(warm: Path | None) -> Learner:
    """Return fresh parts, or those of a model folder."""
    text, transformer = build_text(), build_transformer()
    if warm is not None:
        transformer = FluxTransformer2DModel.from_pretrained(warm / "transformer").float()
        text.clip = CLIPTextModel.from_pretrained(warm / "text_encoder").float()
        text.t5 = T5EncoderModel.from_pretrained(warm / "text_encoder_2").float()
    return Learner(text, transformer).train()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints, log and latents")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--distil", action="store_true", help="distil guidance")
    parser.add_argument("--warm", type=Path, help="start from this model folder")
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--captions", type=int, default=50, help="how many to measure with")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
