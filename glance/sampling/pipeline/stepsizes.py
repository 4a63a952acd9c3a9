"""The few steps that end nearest to the base model's many, by dynamic programming.

For each number of steps and each of the teacher's sigmas only the best way there is kept: the one
whose latents are nearest to the teacher's at that sigma. From each of them the base model itself
is asked for the next step, so errors that earlier steps made are carried on as they are in
sampling. Pei, Hu and Gu, "Optimal Stepsize for Diffusion Sampling" (arXiv 2503.21774). Watson et
al. (arXiv 2106.03802) and Chen et al. (arXiv 2405.11326) search likewise along fixed trajectories,
which is cheaper and knows nothing of what errors grow to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from glance.core.phase import Phase
from glance.sampling.pipeline.record import Trajectory

Allowed = Sequence[tuple[Phase, ...]]
"""For each step the phases that it may belong to; a phase once left is not come back to."""


class Velocity(Protocol):
    """What is asked for a step: see VelocityField.velocity."""

    def __call__(self, latents: torch.Tensor, sigma: float, phase: Phase, /) -> torch.Tensor:
        """Return d latents / d sigma."""
        ...


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
                if _order(phase) < _order(before):
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
        yield Way(
            (*way.places, way.end),
            (*way.phases, phase),
            end,
            latents,
            distance(latents, teacher.points[end]),
        )


def _order(phase: Phase) -> int:
    return list(Phase).index(phase)
