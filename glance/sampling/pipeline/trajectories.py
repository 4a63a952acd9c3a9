"""The base model as a field of velocities: where its own many steps lead, and single steps of it.

Every family's pipeline is asked through its own call, so its habits (guidance, masks, signs, the
form of its latents) are those of sampling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from glance.core.phase import Phase
from glance.sampling.pipeline.memory import explaining_lack_of_memory
from glance.sampling.pipeline.phases import as_input
from glance.sampling.pipeline.placement import staying_placed
from glance.sampling.pipeline.scheduler import VerbatimEulerScheduler
from glance.sampling.pipeline.two_phase import TwoPhase, noise_of
from glance.sampling.settings import SampleSettings


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What the base model passed on its way from noise to pictures."""

    sigmas: tuple[float, ...]
    """N of them (0-1), stepped from; it ends at 0."""
    points: tuple[torch.Tensor, ...]
    """N + 1 latents, float32 on the CPU: (prompts, ...) as the pipeline's scheduler sees them."""


class BaseModel:
    """The base model's velocity for some prompts at once, at any point and sigma."""

    def __init__(
        self,
        sampler: TwoPhase,
        pictures: Sequence[SampleSettings],
        *,
        batch_size: int,
        on_forward: Callable[[Phase], None],
    ) -> None:
        """Encode the prompts. `on_forward` is told of each forward pass of all of them."""
        self._sampler = sampler
        sampler.loras.leave(sampler.pipeline)
        self._batches = sampler.prepare(pictures, batch_size=batch_size)
        self._on_forward = on_forward

    def follow(self, sigmas: Sequence[float]) -> Trajectory:
        """Sample along `sigmas` to 0, each picture from its own noise, guided as the slow phase."""
        runs = [
            self._run(batch, Phase.SLOW, sigmas, 0.0, **noise_of(batch[0]))
            for batch in self._batches
        ]
        columns = zip(*(run.points for run in runs), strict=True)
        return Trajectory(tuple(sigmas), tuple(torch.cat(column) for column in columns))

    def velocity(self, latents: torch.Tensor, sigma: float, phase: Phase) -> torch.Tensor:
        """Return d latents / d sigma at `latents`, (prompts, ...), guided as in `phase`."""
        parts = torch.split(latents, [len(settings) for settings, _ in self._batches])
        found = []
        for batch, part in zip(self._batches, parts, strict=True):
            one = batch[0][0]
            start = as_input(part, self._sampler.family, height=one.height, width=one.width)
            run = self._run(batch, phase, [sigma], 0.0, latents=start)
            found.append(run.velocities[0])
        return torch.cat(found)

    def _run(
        self,
        batch: tuple[Sequence[SampleSettings], dict[str, Any]],
        phase: Phase,
        sigmas: Sequence[float],
        end: float,
        **start: Any,
    ) -> "_Recorder":
        settings, call = batch
        pipeline = self._sampler.pipeline
        with (
            self._sampler.sampling(),
            staying_placed(pipeline),
            explaining_lack_of_memory(f"{len(settings)} prompts at once"),
        ):
            recorder: _Recorder = _Recorder.ending_at(end, like=pipeline.scheduler)
            recorder.on_step = lambda: self._on_forward(phase)
            pipeline.scheduler = recorder
            pipeline(
                **call,
                **self._sampler.guided(settings[0], phase),
                **start,
                sigmas=list(sigmas),
                num_inference_steps=len(sigmas),
                output_type="latent",
            )
        return recorder


class _Recorder(VerbatimEulerScheduler):
    """Keeps what each step began from, what the model said there, and where the last one ended."""

    on_step: Callable[[], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.points: list[torch.Tensor] = []
        self.velocities: list[torch.Tensor] = []

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        if not self.points:
            self.points.append(_kept(sample))
        stepped = super().step(model_output, timestep, sample, **options)
        self.velocities.append(_kept(model_output))
        self.points.append(_kept(stepped[0]))
        self.on_step()
        return stepped


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
