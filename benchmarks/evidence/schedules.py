"""The lists of noise levels that are compared.

`seed-n` are every so many values of the guide's ten, `own-n` the small model's own schedule of n
steps (FLUX's dynamic shift at 64x64), its first half slow.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

from glance.schedule import PRESETS, Schedule

SHIFT = math.exp(0.5 + (16 - 256) * (1.15 - 0.5) / (4096 - 256))
"""exp(mu) for the sixteen tokens of 64x64 pixels, from FLUX.1-dev's scheduler config."""


def uniform_sigmas(steps: int) -> tuple[float, ...]:
    """Return `steps` sigmas from 1 downwards, evenly spaced, without the final 0."""
    return tuple(1 - step / steps for step in range(steps))


def shifted_sigmas(steps: int) -> tuple[float, ...]:
    """Return the same under the model's own shift, s -> shift s / (1 + (shift - 1) s)."""
    return tuple(SHIFT * s / (1 + (SHIFT - 1) * s) for s in uniform_sigmas(steps))


def own(steps: int) -> Schedule:
    """Return the model's own schedule of `steps`, as the two lists of a pair."""
    timesteps = tuple(round(1000 * sigma, 4) for sigma in shifted_sigmas(steps))
    return Schedule(f"own-{steps}", timesteps[: steps // 2], timesteps[steps // 2 :])


def thinned(*places: int) -> Schedule:
    """Return the guide's lists with only the values at `places` (0-4), the same in both."""
    seed = PRESETS["seed"].schedule
    return Schedule(
        f"seed-{2 * len(places)}",
        tuple(seed.slow_timesteps[place] for place in places),
        tuple(seed.fast_timesteps[place] for place in places),
    )


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        schedule.name: schedule
        for schedule in (
            *(own(steps) for steps in (10, 6, 4, 2)),
            thinned(0, 1, 2, 3, 4),
            thinned(0, 2, 4),
            thinned(0, 3),
        )
    }
)
