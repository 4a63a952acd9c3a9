"""The base model's own paths from noise to pictures, and its states at the sigmas asked for.

Euler's path is a straight line between two of its steps, so a state between them is exact:
x(s) = x_a + (s - s_a) * v_a for s_a >= s >= s_b.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from PIL import Image

from glance.core.errors import InferenceFailed
from glance.core.phase import Phase
from glance.models.families import Family, Latents
from glance.sampling.pipeline.batches import portions
from glance.sampling.pipeline.memory import explaining_lack_of_memory, is_lack_of_memory
from glance.sampling.pipeline.placement import staying_placed
from glance.sampling.pipeline.reference import open_reference
from glance.sampling.pipeline.scheduler import VerbatimEulerScheduler
from glance.sampling.pipeline.two_phase import TwoPhase, noise_of
from glance.sampling.settings import SampleSettings

# So many prompts are encoded before the first path is begun: see two_phase.
_ROUND: Final = 32


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the base model passed on its way from one noise to one picture."""

    settings: SampleSettings
    states: torch.Tensor
    """(N, channels, height, width), float32 on the CPU: at the sigmas asked for."""
    image: Image.Image


def record_paths(
    sampler: TwoPhase,
    pictures: Sequence[SampleSettings],
    *,
    teacher: Sequence[float],
    kept: Sequence[float],
    batch_size: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> Iterator[Recorded]:
    """Sample the base model along the sigmas of `teacher` to 0, guided as the slow phase.

    The states are kept at the sigmas `kept` (0-1, falling, none above the first of `teacher`).
    `on_step` is told after each step of how many pictures it was. Neighbours that are alike in all
    but prompt and noise share a batch; one that memory does not suffice for is halved. Raises
    InferenceFailed when memory does not suffice for one.
    """
    sampler.loras.leave(sampler.pipeline)
    most = 1 if sampler.family.edits else batch_size
    waiting = deque(portions(pictures, _ROUND))
    while waiting:
        some = waiting.popleft()
        done = 0
        try:
            for settings, call in sampler.prepare(some, batch_size=most):
                walk = _Walk(tuple(teacher), tuple(kept), partial(on_step, len(settings)))
                recorded = walk.record(sampler, settings, call)
                done += len(recorded)
                yield from recorded
        except RuntimeError as exc:
            if most == 1 or not is_lack_of_memory(exc):
                raise
        if done < len(some):  # tried again outside: there the error still holds the tensors
            most = (most + 1) // 2
            waiting.appendleft(some[done:])
            free_memory()


def free_memory() -> None:
    """Give back what nobody holds any more, so that other processes can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class _Walk:
    """Along which sigmas, and what is kept on the way."""

    teacher: tuple[float, ...]
    kept: tuple[float, ...]
    on_step: Callable[[], None]

    def record(
        self, sampler: TwoPhase, settings: Sequence[SampleSettings], call: dict[str, Any]
    ) -> list[Recorded]:
        """Take one batch to its pictures."""
        pipeline, one = sampler.pipeline, settings[0]
        size = f"{one.width}x{one.height} pixels"
        with (
            sampler.sampling(open_reference(one)),
            staying_placed(pipeline),
            explaining_lack_of_memory(size) if len(settings) == 1 else nullcontext(),
        ):
            recorder: PathRecorder = PathRecorder.ending_at(0.0, like=pipeline.scheduler)
            recorder.keep(self.kept, self.on_step)
            pipeline.scheduler = recorder
            images = pipeline(
                **call,
                **sampler.guided(one, Phase.SLOW),
                **noise_of(settings),
                sigmas=list(self.teacher),
                num_inference_steps=len(self.teacher),
                output_type="pil",
            ).images
        states = torch.stack(
            [as_grid(state, sampler.family, one.height, one.width) for state in recorder.states]
        )
        if not bool(torch.isfinite(states).all()):
            raise InferenceFailed(
                "the model gave NaN or infinity instead of a picture", hint="use --device cpu"
            )
        # contiguous: whoever writes them takes the memory as it lies there
        paths = (path.contiguous() for path in states.unbind(dim=1))
        return [Recorded(*each) for each in zip(settings, paths, images, strict=True)]


class PathRecorder(VerbatimEulerScheduler):
    """Keeps the states at some sigmas, those between two steps among them.

    The path itself is kept in float32 whatever the model computes in: only what the model is shown
    is rounded, so that the small difference of two near states is not lost.
    """

    def keep(self, sigmas: Sequence[float], on_step: Callable[[], None]) -> None:
        """Say which states are wanted, and what is called after each step."""
        self.states: list[torch.Tensor] = []
        """(pictures, ...) as the pipeline's scheduler sees them, on the CPU."""
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
            self.states.append(at.detach().to("cpu", torch.float32, copy=True))
        self._on_step()
        return (self._state.to(model_output.dtype),)


_SAME: Final = 1e-6


def as_grid(latents: torch.Tensor, family: Family, height: int, width: int) -> torch.Tensor:
    """Return the pipeline's latents of pictures of that size as the trainer has them.

    (pictures, channels, rows, columns): SimpleTuner packs them itself.
    """
    match family.latents:
        case Latents.GRID:
            return latents
        case Latents.TOKENS_FROM_GRID:
            return latents.permute(0, 2, 1).reshape(len(latents), -1, height // 16, width // 16)
        case Latents.TOKENS:
            rows, columns = height // 16, width // 16
            patches = latents.reshape(len(latents), rows, columns, -1, 2, 2)
            return patches.permute(0, 3, 1, 4, 2, 5).reshape(
                len(latents), -1, 2 * rows, 2 * columns
            )
