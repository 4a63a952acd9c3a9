"""The base model's own path from noise to images: recorded for training, and followed in few steps.

Both go through each family's own pipeline, so its habits (guidance, masks, signs, the form of its
latents) are those of sampling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL import Image

from glance.core.errors import InferenceFailed
from glance.core.phase import Phase
from glance.models.families import Family, Latents
from glance.sampling.pipeline.memory import explaining_lack_of_memory, staying_placed
from glance.sampling.pipeline.sample import (
    Call,
    Images,
    Reference,
    TwoPhase,
    VerbatimEulerScheduler,
    as_input,
    noise_of,
)
from glance.sampling.settings import SampleSettings

_SAME: Final = 1e-6

# --- paths, as they are recorded -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the base model passed on its way from one noise to one image."""

    settings: SampleSettings
    states: torch.Tensor
    """(N, channels, height, width), float32 on the CPU: at the sigmas asked for."""
    image: Image.Image


def record_paths(
    sampler: TwoPhase,
    images: Images,
    *,
    teacher: Sequence[float],
    kept: Sequence[float],
    batch_size: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> Iterator[Recorded]:
    """Sample the base model along the sigmas of `teacher` to 0, guided as the slow phase.

    The states are kept at the sigmas `kept` (0-1, falling, none above the first of `teacher`).
    Euler's path is a straight line between two of its steps, so a state between them is exact:
    x(s) = x_a + (s - s_a) * v_a for s_a >= s >= s_b.

    `on_step` is told after each step of how many images it was. Neighbours that are alike in all
    but prompt and noise share a batch; one that memory does not suffice for is halved. Raises
    InferenceFailed when memory does not suffice for one.
    """
    pipeline, family = sampler.pipeline, sampler.family
    sampler.loras.leave(pipeline)

    def record(settings: Images, call: Call, reference: Reference | None) -> list[Recorded]:
        one = settings[0]
        with sampler.sampling(reference), staying_placed(pipeline):
            recorder: PathRecorder = PathRecorder.ending_at(0.0, like=pipeline.scheduler)
            recorder.keep(kept, lambda: on_step(len(settings)))
            pipeline.scheduler = recorder
            guided = {**call, **sampler.guided(one, Phase.SLOW), **noise_of(settings)}
            steps = {"sigmas": list(teacher), "num_inference_steps": len(teacher)}
            images = pipeline(**guided, **steps, output_type="pil").images
        grids = [as_grid(state, family, one.height, one.width) for state in recorder.states]
        states = torch.stack(grids)
        if not bool(torch.isfinite(states).all()):
            raise InferenceFailed(
                "the model gave NaN or infinity instead of an image", hint="use --device cpu"
            )
        # contiguous: whoever writes them takes the memory as it lies there
        paths = (path.contiguous() for path in states.unbind(dim=1))
        return [Recorded(*each) for each in zip(settings, paths, images, strict=True)]

    for recorded, _ in sampler.each_batch(images, record, limit=batch_size):
        yield from recorded


class PathRecorder(VerbatimEulerScheduler):
    """Keeps the states at some sigmas, those between two steps among them.

    The path itself is kept in float32 whatever the model computes in: only what the model is shown
    is rounded, so that the small difference of two near states is not lost.
    """

    def keep(self, sigmas: Sequence[float], on_step: Callable[[], None]) -> None:
        """Say which states are wanted, and what is called after each step."""
        self.states: list[torch.Tensor] = []
        """(images, ...) as the pipeline's scheduler sees them, on the CPU."""
        self._wanted = list(sigmas)
        self._on_step = on_step
        self._state: torch.Tensor | None = None

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        """Step as diffusers does; see the class."""
        state = sample.to(torch.float32) if self._state is None else self._state
        super().step(model_output, timestep, sample, **options)
        assert self._step_index is not None  # the step has counted itself
        here, there = (self.sigmas[self._step_index + place] for place in (-1, 0))
        velocity = model_output.to(torch.float32)
        self._state = state + (there - here) * velocity
        while self._wanted and self._wanted[0] >= float(there) - _SAME:
            sigma = self._wanted.pop(0)
            is_end = abs(sigma - float(there)) <= _SAME
            at = self._state if is_end else state + (sigma - here) * velocity
            self.states.append(_kept(at))
        self._on_step()
        return (self._state.to(model_output.dtype),)


def as_grid(latents: torch.Tensor, family: Family, height: int, width: int) -> torch.Tensor:
    """Return the pipeline's latents of images of that size as the trainer has them.

    (images, channels, rows, columns): SimpleTuner packs them itself.
    """
    match family.latents:
        case Latents.GRID:
            return latents
        case Latents.TOKENS_FROM_GRID:
            return as_input(latents, family, height=height, width=width)
        case Latents.TOKENS:
            rows, columns = height // 16, width // 16
            patches = latents.reshape(len(latents), rows, columns, -1, 2, 2)
            grid = patches.permute(0, 3, 1, 4, 2, 5)
            return grid.reshape(len(latents), -1, 2 * rows, 2 * columns)


# --- velocities ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What the base model passed on its way from noise to images."""

    sigmas: tuple[float, ...]
    """N of them (0-1), stepped from; it ends at 0."""
    points: tuple[torch.Tensor, ...]
    """N + 1 latents, float32 on the CPU: (prompts, ...) as the pipeline's scheduler sees them."""


class VelocityField:
    """The base model's velocity for some prompts at once, at any point and sigma."""

    def __init__(
        self,
        sampler: TwoPhase,
        images: Images,
        *,
        batch_size: int,
        on_forward: Callable[[Phase], None],
    ) -> None:
        """Encode the prompts. `on_forward` is told of each forward pass of all of them."""
        self._sampler = sampler
        sampler.loras.leave(sampler.pipeline)
        self._batches = sampler.prepare(images, batch_size=batch_size)
        self._on_forward = on_forward

    def follow(self, sigmas: Sequence[float]) -> Trajectory:
        """Sample along `sigmas` to 0, each image from its own noise, guided as the slow phase."""
        runs = [self._run(one, Phase.SLOW, sigmas, **noise_of(one[0])) for one in self._batches]
        columns = zip(*(run.points for run in runs), strict=True)
        return Trajectory(tuple(sigmas), tuple(torch.cat(column) for column in columns))

    def velocity(self, latents: torch.Tensor, sigma: float, phase: Phase) -> torch.Tensor:
        """Return d latents / d sigma at `latents`, (prompts, ...), guided as in `phase`."""
        parts = torch.split(latents, [len(settings) for settings, _ in self._batches])
        found = []
        for batch, part in zip(self._batches, parts, strict=True):
            one = batch[0][0]
            start = as_input(part, self._sampler.family, height=one.height, width=one.width)
            found.append(self._run(batch, phase, [sigma], latents=start).velocities[0])
        return torch.cat(found)

    def _run(
        self, batch: tuple[Images, Call], phase: Phase, sigmas: Sequence[float], **start: Any
    ) -> "_Recorder":
        settings, call = batch
        pipeline = self._sampler.pipeline
        doing = f"{len(settings)} prompts at once"
        with self._sampler.sampling(), staying_placed(pipeline), explaining_lack_of_memory(doing):
            recorder: _Recorder = _Recorder.ending_at(0.0, like=pipeline.scheduler)
            recorder.keep(lambda: self._on_forward(phase))
            pipeline.scheduler = recorder
            guided = {**call, **self._sampler.guided(settings[0], phase), **start}
            steps = {"sigmas": list(sigmas), "num_inference_steps": len(sigmas)}
            pipeline(**guided, **steps, output_type="latent")
        return recorder


class _Recorder(VerbatimEulerScheduler):
    """Keeps what each step began from, what the model said there, and where the last one ended."""

    def keep(self, on_step: Callable[[], None]) -> None:
        self.points: list[torch.Tensor] = []
        self.velocities: list[torch.Tensor] = []
        self._on_step = on_step

    def step(self, model_output: Any, timestep: Any, sample: Any, **options: Any) -> Any:
        if not self.points:
            self.points.append(_kept(sample))
        stepped = super().step(model_output, timestep, sample, **options)
        self.velocities.append(_kept(model_output))
        self.points.append(_kept(stepped[0]))
        self._on_step()
        return stepped


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)


# --- the few steps that end nearest to the base model's many, by dynamic programming -------------
#
# For each number of steps and each of the teacher's sigmas only the best way there is kept: the one
# whose latents are nearest to the teacher's at that sigma. From each of them the base model itself
# is asked for the next step, so errors that earlier steps made are carried on as they are in
# sampling. Pei, Hu and Gu, "Optimal Stepsize for Diffusion Sampling" (arXiv 2503.21774). Watson et
# al. (arXiv 2106.03802) and Chen et al. (arXiv 2405.11326) search likewise along fixed
# trajectories, which is cheaper and knows nothing of what errors grow to.

type Velocity = Callable[[torch.Tensor, float, Phase], torch.Tensor]
"""What is asked for a step: see VelocityField.velocity."""
type Allowed = Sequence[tuple[Phase, ...]]
"""For each step the phases that it may belong to; a phase once left is not come back to."""


@dataclass(frozen=True, slots=True)
class Way:
    """Steps from noise to some sigma of the teacher's, and what they leave."""

    places: tuple[int, ...]
    """Which of the teacher's sigmas are stepped from."""
    phases: tuple[Phase, ...]
    end: int
    """Which one is reached; the number of them is 0, the picture."""
    latents: torch.Tensor
    error: float
    """See `distance`: to the teacher's latents there."""


def find_way(velocity: Velocity, teacher: Trajectory, allowed: Allowed) -> Way:
    """Return the best way to the picture in `len(allowed)` steps."""
    ways = {(Phase.SLOW, 0): Way((), (), 0, teacher.points[0], 0.0)}
    for number, phases in enumerate(allowed):
        found: dict[tuple[Phase, int], Way] = {}
        left = len(allowed) - number - 1
        for (before, _), way in ways.items():
            for phase in phases:
                if (before, phase) == (Phase.FAST, Phase.SLOW):
                    continue
                for one in _next_ways(velocity, teacher, way, phase, left):
                    best = found.get((phase, one.end))
                    if best is None or one.error < best.error:
                        found[phase, one.end] = one
        ways = found
    return min(ways.values(), key=lambda way: way.error)


def walk(
    velocity: Velocity, teacher: Trajectory, sigmas: Sequence[float], split: int
) -> torch.Tensor:
    """Return the latents after stepping along `sigmas` to 0, the first `split` in the slow phase.

    The steps start from the teacher's own noise.
    """
    latents = teacher.points[0]
    for place, (sigma, end) in enumerate(zip(sigmas, (*sigmas[1:], 0.0), strict=True)):
        phase = Phase.SLOW if place < split else Phase.FAST
        latents = latents + (end - sigma) * velocity(latents, sigma, phase)
    return latents


def distances(latents: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of each prompt's difference: (prompts,)."""
    return (latents - others).flatten(1).square().mean(dim=1).sqrt()


def distance(latents: torch.Tensor, others: torch.Tensor) -> float:
    """Return the mean of the prompts' distances."""
    return float(distances(latents, others).mean())


def _next_ways(
    velocity: Velocity, teacher: Trajectory, way: Way, phase: Phase, left: int
) -> Iterator[Way]:
    """Yield the way with one step more, to every sigma from which `left` steps can follow."""
    sigmas = (*teacher.sigmas, 0.0)
    last, sigma = len(teacher.sigmas), sigmas[way.end]
    there = velocity(way.latents, sigma, phase)
    for end in range(way.end + 1, last - left + 1) if left else (last,):
        latents = way.latents + (sigmas[end] - sigma) * there
        error = distance(latents, teacher.points[end])
        yield Way((*way.places, way.end), (*way.phases, phase), end, latents, error)
