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


def teacher_sigmas(shift: Shift, width: int, height: int) -> tuple[float, ...]:
    """Return the fifty sigmas (0-1) that the base model itself is sampled along at that size."""
    mu = shift.mu(width * height // _PIXELS_PER_TOKEN**2, TEACHER_STEPS)
    factor = math.exp(mu)
    even = (1 - step / TEACHER_STEPS for step in range(TEACHER_STEPS))
    shifted = [factor / (factor + 1 / sigma - 1) for sigma in even]
    if shift.terminal is None:
        return tuple(shifted)
    scale = (1 - shifted[-1]) / (1 - shift.terminal)
    return tuple(1 - (1 - sigma) / scale for sigma in shifted)


def teacher_schedule(shift: Shift, width: int, height: int) -> Schedule:
    """Return the steps of the teacher that the method trains on, at a size in pixels."""
    sigmas = teacher_sigmas(shift, width, height)
    slow, fast = (
        tuple(round(sigmas[step - 1] * MAX_TIMESTEP, 4) for step in steps)
        for steps in (_SLOW_STEPS, _FAST_STEPS)
    )
    return Schedule("teacher", slow, fast)
