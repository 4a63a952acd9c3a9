"""The lists of noise levels that are compared.

`seed-n` are every so many values of the guide's ten, `own-n` the small model's own schedule of n
steps (FLUX's dynamic shift at 64x64), `auto-n` what `--schedule auto` takes of its fifty,
`optimal-n` what glance's search takes of them, `even-n` unshifted even steps; the first half is
slow. `free-n` is the search's with the split left to it, `ended-n` what `auto` would be if a short
fast phase, too, took the last of the fifty steps.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from glance.schedule.lists import PRESETS, Schedule
from glance.schedule.shift import DynamicShift, as_timestep, derive_schedule, teacher_sigmas

STEPS: Final = (4, 6, 8, 10)
OPTIMISED: Final = Path(__file__).parent / "optimal.json"
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


def even(steps: int) -> Schedule:
    """Return unshifted even steps, as the two lists of a pair."""
    timesteps = tuple(round(1000 * sigma, 4) for sigma in uniform_sigmas(steps))
    return Schedule(f"even-{steps}", timesteps[: steps // 2], timesteps[steps // 2 :])


def auto(steps: int) -> Schedule:
    """Return what `--schedule auto` takes of the model's fifty steps."""
    half = steps // 2
    derived = derive_schedule(DynamicShift(), (64, 64), slow_steps=half, fast_steps=half)
    return replace(derived, name=f"auto-{steps}")


def ended(steps: int) -> Schedule:
    """Return the same with the fast phase spread to the very last of the fifty steps."""
    half = steps // 2
    sigmas = teacher_sigmas(DynamicShift(), 64, 64)
    fast = [10 + place * 40 // (half - 1) for place in range(half - 1)] + [49]
    timesteps = tuple(as_timestep(sigmas[place]) for place in fast)
    return Schedule(f"ended-{steps}", auto(steps).slow_timesteps, timesteps)


def thinned(*places: int) -> Schedule:
    """Return the guide's lists with only the values at `places` (0-4), the same in both."""
    seed = PRESETS["guide"].schedule
    return Schedule(
        f"seed-{2 * len(places)}",
        tuple(seed.slow_timesteps[place] for place in places),
        tuple(seed.fast_timesteps[place] for place in places),
    )


LENGTHS: Final[Mapping[str, Schedule]] = MappingProxyType(
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
"""What the pairs of the first study were trained on."""


def load_optimised() -> dict[str, Schedule]:
    """Return the lists that were searched (`optimal.py`), by name; none before the first search."""
    if not OPTIMISED.exists():
        return {}
    kept = json.loads(OPTIMISED.read_text(encoding="utf-8"))
    return {
        name: Schedule(name, tuple(one["slow"]), tuple(one["fast"])) for name, one in kept.items()
    }


def load_schedules() -> dict[str, Schedule]:
    """Return every list by its name, the optimised ones as far as they were searched."""
    more = (
        *(make(steps) for make in (auto, even) for steps in STEPS),
        *(ended(steps) for steps in SHORT),
        thinned(0, 1, 3, 4),
    )
    return {**LENGTHS, **{one.name: one for one in more}, **load_optimised()}


KINDS: Final = ("seed", "auto", "optimal", "even")
COMPARED: Final = tuple(f"{kind}-{steps}" for steps in STEPS for kind in KINDS)
"""The lists that are compared at equal numbers of steps."""
SHORT: Final = (4, 6, 8)
ENDED: Final = tuple(f"ended-{steps}" for steps in SHORT)
FREE: Final = tuple(f"free-{steps}" for steps in STEPS)
