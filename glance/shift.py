"""A model's own schedule: how its scheduler shifts evenly spaced sigmas. Standard library only.

Every flow model is sampled along sigmas that were moved towards noise, because large pictures
need more noise to be hidden. By how much belongs to the model, and often to the picture's size.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from glance.schedule import MAX_TIMESTEP, Schedule

TEACHER_STEPS = 50
# Of the teacher's fifty steps, counted from 1 (arXiv 2512.02899).
_SLOW_STEPS = (1, 3, 5, 7, 9)
_FAST_STEPS = (11, 21, 31, 41, 50)
_PIXELS_PER_TOKEN = 16  # the VAE's 8, and patches of 2x2


@dataclass(frozen=True, slots=True)
class StaticShift:
    """The same for every size: factor * s / (1 + (factor - 1) * s)."""

    factor: float
    terminal: ClassVar[None] = None

    def mu(self, tokens: int, steps: int) -> float:
        """Return the logarithm of the factor, which is what the other shifts compute."""
        return math.log(self.factor)


@dataclass(frozen=True, slots=True)
class DynamicShift:
    """A mu that grows linearly with the number of latent tokens: e^mu / (e^mu + 1/s - 1).

    `terminal` is where the last sigma is stretched to (diffusers' `shift_terminal`).
    """

    base: float = 0.5
    most: float = 1.15
    base_tokens: int = 256
    most_tokens: int = 4096
    terminal: float | None = None

    def mu(self, tokens: int, steps: int) -> float:
        """Return mu of a picture of so many tokens (diffusers' `calculate_shift`)."""
        slope = (self.most - self.base) / (self.most_tokens - self.base_tokens)
        return self.base + slope * (tokens - self.base_tokens)


@dataclass(frozen=True, slots=True)
class EmpiricalShift:
    """FLUX.2's: a mu fitted to size and number of steps (diffusers' `compute_empirical_mu`)."""

    terminal: ClassVar[None] = None

    def mu(self, tokens: int, steps: int) -> float:
        """Return mu of a picture of so many tokens, sampled in so many steps."""
        at_200 = 0.00016927 * tokens + 0.45666666
        if tokens > 4300:
            return at_200
        at_10 = 8.73809524e-05 * tokens + 1.89833333
        slope = (at_200 - at_10) / 190
        return at_200 + slope * (steps - 200)


Shift = StaticShift | DynamicShift | EmpiricalShift


def depends_on_size(shift: Shift) -> bool:
    """Whether pictures of several sizes have schedules of their own."""
    return not isinstance(shift, StaticShift)


def teacher_sigmas(shift: Shift, width: int, height: int) -> tuple[float, ...]:
    """Return the fifty sigmas (0-1) that the base model itself is sampled along at that size."""
    factor, scale = _factor(shift, width, height), _stretch(shift, width, height)
    even = (1 - step / TEACHER_STEPS for step in range(TEACHER_STEPS))
    return tuple(1 - (1 - _shifted(sigma, factor)) / scale for sigma in even)


def reshift(
    schedule: Schedule, shift: Shift, *, made_for: tuple[int, int], wanted: tuple[int, int]
) -> Schedule:
    """Return the schedule moved from one picture size to another, as the model's shift moves.

    Each sigma is traced back to the unshifted one, which is the same step of the teacher at every
    size, and shifted anew; sizes are width and height in pixels. So a list of the teacher's steps
    becomes the list of the same steps.
    """

    def move(timestep: float) -> float:
        sigma = 1 - (1 - timestep / MAX_TIMESTEP) * _stretch(shift, *made_for)
        even = _shifted(sigma, 1 / _factor(shift, *made_for))
        moved = _shifted(even, _factor(shift, *wanted))
        return round((1 - (1 - moved) / _stretch(shift, *wanted)) * MAX_TIMESTEP, 4)

    return Schedule(
        f"{schedule.name} for {wanted[0]}x{wanted[1]}",
        tuple(map(move, schedule.slow_timesteps)),
        tuple(map(move, schedule.fast_timesteps)),
    )


def _factor(shift: Shift, width: int, height: int) -> float:
    return math.exp(shift.mu(width * height // _PIXELS_PER_TOKEN**2, TEACHER_STEPS))


def _shifted(sigma: float, factor: float) -> float:
    """Return factor / (factor + 1 / sigma - 1): towards noise for a factor above 1, and back by
    its inverse."""
    return factor * sigma / (1 + (factor - 1) * sigma)


def _stretch(shift: Shift, width: int, height: int) -> float:
    """Return by how much the distance from 1 is divided so that the last sigma is `terminal`."""
    if shift.terminal is None:
        return 1.0
    last = _shifted(1 / TEACHER_STEPS, _factor(shift, width, height))
    return (1 - last) / (1 - shift.terminal)


def teacher_schedule(shift: Shift, width: int, height: int) -> Schedule:
    """Return the steps of the teacher that the method trains on, at a size in pixels."""
    sigmas = teacher_sigmas(shift, width, height)
    slow, fast = (
        tuple(round(sigmas[step - 1] * MAX_TIMESTEP, 4) for step in steps)
        for steps in (_SLOW_STEPS, _FAST_STEPS)
    )
    return Schedule("teacher", slow, fast)
