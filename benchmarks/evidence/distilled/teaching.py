"""The base model's own paths, and two LoRAs that learn to take them in few steps.

The objective is `glance distill`'s: one Euler step from the state x_j at sigma s_j lands on the
next state, so the target is the velocity (x_j - x_j+1) / (s_j - s_j+1). Optimizer, warm-up and
clipping are as SimpleTuner has them there; a test holds states and targets to what glance's own
recording and the module in the trainer's process make of the same noise.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.evidence.distilled.recipes import Decay, Layers, Recipe, Trainer, Weighting
from benchmarks.evidence.measuring import TEACHER, TEXT_TOKENS
from benchmarks.evidence.observations import loose_caption
from benchmarks.evidence.pairs import Wording
from benchmarks.evidence.sampling import SIDE, Pictures
from benchmarks.evidence.schedules import load_schedules, own, shifted_sigmas
from benchmarks.evidence.workshop import Workshop
from glance.core.files import replacing
from glance.core.phase import Phase
from glance.evaluation.small_world.world import describe, training_scene
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.sampling.pipeline import hush
from glance.schedule.lists import Schedule
from glance.schedule.options import ScheduleOptions
from glance.training.distillation import plan_distillation
from glance.training.recording import run_distillation
from glance.training.request import DistillRequest, Launcher

GUIDANCE: Final = 3.5
"""The teacher's, throughout."""
TEACHER_SIGMAS: Final = (*shifted_sigmas(TEACHER), 0.0)
_BATCH: Final = 50
_PORTION: Final = 16  # captions, of one file of paths
_WORDINGS: Final = (Wording.LOOSE, Wording.FULL)
_FIRST_NOISE: Final = {Wording.LOOSE: 100_000, Wording.FULL: 150_000}
_DRAWS_APART: Final = 1_000_003
_NOISES_APART: Final = 1000
_WARM_UP: Final = 10
_CLIP: Final = 2.0


@dataclass(frozen=True, slots=True)
class Text:
    """Encoded captions."""

    embeds: torch.Tensor  # (captions, tokens, width)
    pooled: torch.Tensor  # (captions, width)

    def at(self, places: Any) -> "Text":
        """Return those at `places`, whatever indexes a tensor."""
        return Text(self.embeds[places], self.pooled[places])


class Model:
    """The small model as a field of velocities, with or without one of its two LoRAs.

    Called without its pipeline, so that gradients flow; latents are packed: (pictures, 16, 64).
    """

    def __init__(self, pipeline: Any) -> None:
        """Take a FluxPipeline; adapters `slow` and `fast` that it has are the pair."""
        self.pipeline = pipeline
        self.transformer = pipeline.transformer.requires_grad_(requires_grad=False)
        pipeline.vae.requires_grad_(requires_grad=False)
        self.device = pipeline.device
        _, self._places = self._prepare([torch.Generator().manual_seed(0)])

    def encode(self, captions: Sequence[str]) -> Text:
        """Encode the captions, T5 padded to TEXT_TOKENS."""
        unique = list(dict.fromkeys(captions))
        places = torch.tensor([unique.index(caption) for caption in captions])
        embeds, pooled = [], []
        with torch.no_grad():
            for start in range(0, len(unique), _BATCH):
                some = unique[start : start + _BATCH]
                e, p, _ = self.pipeline.encode_prompt(some, None, max_sequence_length=TEXT_TOKENS)
                embeds.append(e)
                pooled.append(p)
        return Text(torch.cat(embeds), torch.cat(pooled)).at(places)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Return what diffusers draws of each seed."""
        latents, _ = self._prepare([torch.Generator().manual_seed(seed) for seed in seeds])
        return latents

    def velocity(
        self, latents: torch.Tensor, sigmas: torch.Tensor, text: Text, guidance: float
    ) -> torch.Tensor:
        """Return d latents / d sigma, each at its own of `sigmas`, (pictures,)."""
        found: torch.Tensor = self.transformer(
            hidden_states=latents,
            timestep=sigmas,
            guidance=torch.full((len(latents),), guidance, device=self.device),
            pooled_projections=text.pooled,
            encoder_hidden_states=text.embeds,
            txt_ids=torch.zeros(text.embeds.shape[1], 3, device=self.device),
            img_ids=self._places,
            return_dict=False,
        )[0]
        return found

    def follow(
        self, latents: torch.Tensor, sigmas: Sequence[float], text: Text, guidance: float
    ) -> torch.Tensor:
        """Step from the first of `sigmas` to the last: (sigmas, pictures, 16, 64), all on the way.

        The first of them are `latents` themselves.
        """
        parts = []
        for start in range(0, len(latents), _BATCH):
            some = slice(start, start + _BATCH)
            points = [latents[some]]
            for here, there in pairwise(sigmas):
                level = torch.full((len(points[-1]),), here, device=self.device)
                with torch.no_grad():
                    step = self.velocity(points[-1], level, text.at(some), guidance)
                points.append(points[-1] + (there - here) * step)
            parts.append(torch.stack(points))
        return torch.cat(parts, dim=1)

    def sample(self, recipe: Recipe, latents: torch.Tensor, text: Text) -> torch.Tensor:
        """Return the final latents of the pair, each phase with its LoRA and guidance."""
        for phase, sigmas in spans(schedule_of(recipe.schedule)).items():
            self.use(phase, recipe.strength)
            latents = self.follow(latents, sigmas, text, guidance_of(recipe, phase))[-1]
        return latents

    def decode(self, latents: torch.Tensor) -> Pictures:
        """Return the pictures: (pictures, SIDE, SIDE, 3)."""
        vae, parts = self.pipeline.vae, []
        for some in torch.split(latents, _BATCH):
            grid = self.pipeline._unpack_latents(some, SIDE, SIDE, self.pipeline.vae_scale_factor)
            grid = grid / vae.config.scaling_factor + vae.config.shift_factor
            images = self.pipeline.image_processor.postprocess(vae.decode(grid)[0], "np")
            parts.append((images * 255).round().astype(np.uint8))
        return np.concatenate(parts)

    def add_loras(self, recipe: Recipe) -> None:
        """Put two fresh ones in."""
        from peft import LoraConfig

        for number, phase in enumerate(Phase):
            torch.manual_seed(10 * recipe.seed + number)
            config = LoraConfig(
                r=recipe.rank,
                lora_alpha=round(recipe.rank * recipe.alpha_per_rank),
                target_modules=list(_layers(recipe.layers)),
            )
            self.transformer.add_adapter(config, adapter_name=phase.value)

    def use(self, phase: Phase | None, strength: float = 1.0) -> None:
        """Let one LoRA act, or none."""
        if phase is None:
            self.transformer.disable_adapters()
        else:
            self.transformer.enable_adapters()
            self.transformer.set_adapters(phase.value, strength)

    def parameters(self, phase: Phase) -> list[torch.nn.Parameter]:
        """Return those of one LoRA, and let them alone be learnt."""
        self.transformer.requires_grad_(requires_grad=False)
        named = self.transformer.named_parameters()
        return [one.requires_grad_() for name, one in named if f".{phase.value}." in name]

    def save(self, run: RunFolder) -> None:
        """Write both LoRAs where glance has them in a run folder."""
        from peft import get_peft_model_state_dict

        for phase in Phase:
            path = run.lora(phase)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.pipeline.save_lora_weights(
                path.parent,
                get_peft_model_state_dict(self.transformer, adapter_name=phase.value),
                weight_name=path.name,
                transformer_lora_adapter_metadata=self.transformer.peft_config[
                    phase.value
                ].to_dict(),
            )

    def _prepare(self, generators: list[torch.Generator]) -> tuple[torch.Tensor, torch.Tensor]:
        channels = self.transformer.config.in_channels // 4
        latents, places = self.pipeline.prepare_latents(
            len(generators), channels, SIDE, SIDE, torch.float32, torch.device("cpu"), generators
        )
        return latents.to(self.device), places.to(self.device)


@dataclass(frozen=True)
class Paths:
    """What the base model passed on its ways from noise to pictures."""

    points: torch.Tensor
    """(TEACHER + 1, paths, 16, 64): at TEACHER_SIGMAS."""
    text: Text

    def at(self, sigma: float) -> torch.Tensor:
        """Return the states at `sigma`, (paths, 16, 64); exact, as Euler's path is straight there.

        Between two of the teacher's steps, that is.
        """
        place = max(k for k in range(TEACHER) if TEACHER_SIGMAS[k] >= sigma - 1e-9)
        here, there = TEACHER_SIGMAS[place : place + 2]
        return torch.lerp(
            self.points[place], self.points[place + 1], (here - sigma) / (here - there)
        )


@dataclass(frozen=True)
class Lesson:
    """What one phase is taught."""

    states: torch.Tensor
    """(steps, paths, 16, 64): where the steps begin."""
    targets: torch.Tensor
    """The velocity that takes each to where it should land."""
    sigmas: tuple[float, ...]
    """(steps + 1): those of the states, and where the last step ends."""

    @classmethod
    def to(cls, wanted: torch.Tensor, states: torch.Tensor, sigmas: Sequence[float]) -> "Lesson":
        """Teach to step from `states` to `wanted`, (steps, paths, 16, 64), one sigma further."""
        steps = [here - there for here, there in pairwise(sigmas)]
        lengths = wanted.new_tensor(steps).view(-1, 1, 1, 1)
        return cls(states, (states - wanted) / lengths, tuple(sigmas))

    @cached_property
    def lengths(self) -> torch.Tensor:
        """The steps' lengths in sigma: (steps,)."""
        return -self.states.new_tensor(self.sigmas).diff()


def schedule_of(name: str) -> Schedule:
    """Return a list by its name."""
    kind, steps = name.split("-")
    return own(int(steps)) if kind == "own" else load_schedules()[name]


def spans(schedule: Schedule) -> dict[Phase, tuple[float, ...]]:
    """Return each phase's sigmas, with the one that it ends at."""
    phases = {phase: schedule.phase(phase) for phase in Phase}
    return {phase: (*one.sigmas, one.end_sigma) for phase, one in phases.items()}


def guidance_of(recipe: Recipe, phase: Phase) -> float:
    """Return what a phase is trained and sampled with."""
    return recipe.slow_guidance if phase is Phase.SLOW else recipe.fast_guidance


@dataclass(frozen=True, slots=True)
class Portion:
    """Some captions of one draw, and one noise of each: a file of paths."""

    draw: int
    wording: Wording
    noise: int
    first: int

    @property
    def captions(self) -> list[str]:
        """The captions, _PORTION of them."""
        return teaching_captions(self.draw, self.wording, self.first + _PORTION)[self.first :]

    @property
    def seeds(self) -> range:
        """Those of the noises."""
        start = _FIRST_NOISE[self.wording] + _DRAWS_APART * self.draw + _NOISES_APART * self.noise
        return range(start + self.first, start + self.first + _PORTION)

    def path(self, shop: Workshop) -> Path:
        """Return the file."""
        name = f"{self.draw}-{self.wording}-{self.noise}-{self.first}.pt"
        return shop.path / "distilled" / "paths" / name


def portions(recipe: Recipe) -> Iterator[Portion]:
    """Yield what a recipe learns from here; of the last captions it may take some."""
    if recipe.trainer is Trainer.SIMPLETUNER:
        return
    for wording in _WORDINGS:
        for noise in range(recipe.noises):
            for first in range(0, _count(recipe, wording), _PORTION):
                yield Portion(recipe.draw, wording, noise, first)


def record(shop: Workshop, portion: Portion) -> None:
    """Keep the paths of a portion, unless somebody has."""
    path = portion.path(shop)
    if path.exists():
        return
    model = Model(shop.load())
    text, latents = model.encode(portion.captions), model.noise(portion.seeds)
    points = model.follow(latents, TEACHER_SIGMAS, text, GUIDANCE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(points.cpu(), temporary)


def run_of(shop: Workshop, recipe: Recipe) -> RunFolder:
    """Return where a recipe's LoRAs lie."""
    return RunFolder(shop.path / "distilled" / "runs" / recipe.taught.name)


def train(shop: Workshop, recipe: Recipe) -> str:
    """Make a recipe's LoRAs, unless somebody has; its portions are recorded."""
    run = run_of(shop, recipe)
    if not all(run.lora(phase).exists() for phase in Phase):
        if recipe.trainer is Trainer.SIMPLETUNER:
            _distil(shop, recipe, run)
        else:
            hush()
            model = Model(shop.load())
            teach(model, recipe, _load_paths(shop, model, recipe))
            model.save(run)
    return recipe.taught.name


def teach(model: Model, recipe: Recipe, paths: Paths) -> None:
    """Put both LoRAs into the model and train one after the other."""
    model.add_loras(recipe)
    landed: torch.Tensor | None = None
    for phase, sigmas in spans(schedule_of(recipe.schedule)).items():
        guidance = guidance_of(recipe, phase)
        recorded = torch.stack([paths.at(sigma) for sigma in sigmas])
        states, wanted = recorded[:-1], recorded[1:]
        if landed is not None:
            states = torch.cat([landed[None], states[1:]])
        for turn in range(recipe.rounds):
            if turn:
                states = model.follow(states[0], sigmas[:-1], paths.text, guidance)
            model.use(phase)
            _fit(model, phase, recipe, Lesson.to(wanted, states, sigmas), paths.text, turn)
        if recipe.lands:
            landed = model.follow(states[0], sigmas, paths.text, guidance)[-1]


def _fit(model: Model, phase: Phase, recipe: Recipe, lesson: Lesson, text: Text, turn: int) -> None:
    """Train one LoRA: shuffled paths, the sigmas in turn."""
    parameters, steps = model.parameters(phase), recipe.steps // recipe.rounds
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.0
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(recipe.decay, step, steps)
    )
    sigmas = lesson.states.new_tensor(lesson.sigmas)
    weights = _weights(recipe.weighting, lesson.lengths)
    random = np.random.default_rng(1234 + recipe.seed + 100 * turn)
    count, size = lesson.states.shape[1], recipe.batch_size
    order: list[int] = []
    for step in range(steps):
        while len(order) < size:
            order += random.permutation(count).tolist()
        which, order = torch.tensor(order[:size]), order[size:]
        place = (torch.arange(size) + step * size) % len(lesson.states)
        found = model.velocity(
            lesson.states[place, which],
            sigmas[place],
            text.at(which),
            guidance_of(recipe, phase),
        )
        errors = (found - lesson.targets[place, which]).square().mean(dim=(1, 2))
        optimizer.zero_grad()
        torch.autograd.backward((errors * weights[place]).mean())
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        rate.step()


def _rate(decay: Decay, step: int, steps: int) -> float:
    """Return the learning rate as a share of its peak."""
    warm_up = max(1, min(_WARM_UP, steps // 6))
    if decay is Decay.RESTARTS:
        return (1 + math.cos(math.pi * step / warm_up)) / 2
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    match decay:
        case Decay.COSINE:
            return (1 + math.cos(math.pi * done)) / 2
        case Decay.LINEAR:
            return 1 - done
        case _:
            return 1.0


def _weights(weighting: Weighting, lengths: torch.Tensor) -> torch.Tensor:
    """Return how much each step's error counts: (steps,), on average 1."""
    weights = torch.ones_like(lengths) if weighting is Weighting.EVEN else lengths.square()
    return weights / weights.mean()


def _layers(layers: Layers) -> tuple[str, ...]:
    family = find_family("flux")
    match layers:
        case Layers.ATTENTION:
            return family.lora_targets
        case Layers.UNMODULATED:
            return tuple(name for name in family.block_layers if "norm" not in name)
        case Layers.BLOCKS:
            return family.block_layers


def _distil(shop: Workshop, recipe: Recipe, run: RunFolder) -> None:
    """Have `glance distill` make the pair, of its own captions and noises."""
    schedule = schedule_of(recipe.schedule)
    plan = plan_distillation(
        DistillRequest(
            model=str(shop.model),
            run=run.path,
            noises=recipe.noises,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            rank=recipe.rank,
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
            schedule=ScheduleOptions(
                slow_timesteps=",".join(map(str, schedule.slow_timesteps)),
                fast_timesteps=",".join(map(str, schedule.fast_timesteps)),
            ),
            device="cpu",
            launcher=Launcher.DIRECT,
            compares=False,
        )
    )
    run_distillation(plan, lambda _: None)


def teaching_captions(draw: int, wording: Wording, count: int) -> list[str]:
    """Return the first captions of training scenes; loose ones name at least one attribute."""
    random = np.random.default_rng(draw)
    say = describe if wording is Wording.FULL else loose_caption
    return [say(training_scene(random), random) for _ in range(count)]


def _count(recipe: Recipe, wording: Wording) -> int:
    return recipe.loose if wording is Wording.LOOSE else recipe.full


def _load_paths(shop: Workshop, model: Model, recipe: Recipe) -> Paths:
    points, captions = [], []
    for portion in portions(recipe):
        some = portion.captions[: _count(recipe, portion.wording) - portion.first]
        kept: torch.Tensor = torch.load(portion.path(shop), map_location=model.device)
        points.append(kept[:, : len(some)])
        captions += some
    return Paths(torch.cat(points, dim=1), model.encode(captions))
