"""A model's own schedule: how its scheduler shifts evenly spaced sigmas, and the lists that are
derived of it. Standard library only.

Every flow model is sampled along sigmas that were moved towards noise, because large pictures
need more noise to be hidden. By how much belongs to the model, and often to the picture's size.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from glance.core.errors import Problem, ScheduleError
from glance.schedule.lists import MAX_TIMESTEP, MOST_STEPS, Schedule

TEACHER_STEPS: Final = 50
_PIXELS_PER_TOKEN: Final = 16  # the VAE's 8, and patches of 2x2
_OWN_LISTS: Final = "give lists of your own: --slow-timesteps and --fast-timesteps"
USUAL_STEPS: Final = 5
"""Of each phase, as published."""
OWN_STEPS: Final = 2
"""Of each phase of the schedule `own`."""
_SLOW_SHARE: Final = 5  # the first fifth of the teacher's steps is the slow phase's
_CAN_SPARE_ONE: Final = 5


@dataclass(frozen=True, slots=True)
class StaticShift:
    """The same for every size: factor * s / (1 + (factor - 1) * s).

    `terminal` is where the last sigma is stretched to (diffusers' `shift_terminal`).
    """

    of_all: float
    terminal: float | None = None

    def factor(self, tokens: int, steps: int) -> float:
        """Return the factor."""
        return self.of_all


@dataclass(frozen=True, slots=True)
class DynamicShift:
    """A mu that grows linearly with the number of latent tokens.

    The factor is e^mu, or mu itself for diffusers' `time_shift_type` linear. `terminal` is where
    the last sigma is stretched to.
    """

    base: float = 0.5
    most: float = 1.15
    base_tokens: int = 256
    most_tokens: int = 4096
    terminal: float | None = None
    is_linear: bool = False

    def mu(self, tokens: int) -> float:
        """Return mu of a picture of so many tokens (diffusers' `calculate_shift`)."""
        slope = (self.most - self.base) / (self.most_tokens - self.base_tokens)
        return tokens * slope + (self.base - slope * self.base_tokens)

    def factor(self, tokens: int, steps: int) -> float:
        """Return the factor of a picture of so many tokens."""
        mu = self.mu(tokens)
        return mu if self.is_linear else math.exp(mu)


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

    def factor(self, tokens: int, steps: int) -> float:
        """Return e^mu."""
        return math.exp(self.mu(tokens, steps))


type Shift = StaticShift | DynamicShift | EmpiricalShift


@dataclass(frozen=True, slots=True)
class KnownShift:
    """A model's shift, where it was found, and what speaks against it."""

    shift: Shift
    source: str
    doubts: tuple[Problem, ...] = ()


class Spacing(StrEnum):
    """Between which sigmas diffusers spaces n steps evenly, before they are shifted."""

    PIPELINE = "1 to 1/n"  # the pipeline hands them over: np.linspace(1, 1/n, n)
    SCHEDULER = "1 to sigma_min"  # the scheduler's choice where the pipeline hands over none


def read_shift(config: Mapping[str, Any]) -> Shift | None:
    """Return the shift that a scheduler's config describes, as diffusers reads it.

    None for a scheduler that is not a flow-matching Euler one. Raises ScheduleError for sigmas that
    are no shifted even ones (Karras, exponential, beta, inverted), and for values of no use.
    """
    if "FlowMatchEuler" not in str(config.get("_class_name", "")):
        return None
    for name in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas"):
        if config.get(name):
            raise ScheduleError(
                f"the model's scheduler has {name}: glance derives shifted sigmas alone",
                hint=_OWN_LISTS,
            )
    try:
        return _read(config)
    except (TypeError, ValueError, ZeroDivisionError) as exc:
        raise ScheduleError(
            f"the model's scheduler config cannot be used: {exc}", hint=_OWN_LISTS
        ) from exc


def depends_on_size(shift: Shift) -> bool:
    """Whether pictures of several sizes have schedules of their own."""
    return not isinstance(shift, StaticShift)


def shift_factor(shift: Shift, width: int, height: int, *, steps: int = TEACHER_STEPS) -> float:
    """Return the factor by which a picture of that size in pixels is moved towards noise."""
    return shift.factor(width * height // _PIXELS_PER_TOKEN**2, steps)


def teacher_sigmas(
    shift: Shift,
    width: int,
    height: int,
    *,
    steps: int = TEACHER_STEPS,
    spacing: Spacing = Spacing.PIPELINE,
) -> tuple[float, ...]:
    """Return the sigmas (0-1) that the base model itself is sampled along at that size.

    In float32, operation by operation as diffusers' scheduler computes them: in double precision
    the fourth decimal of the published timesteps would differ here and there. Sigmas that the
    scheduler spaces itself are in double precision there until the end.
    """
    kept = _single if spacing is Spacing.PIPELINE else float
    factor = kept(shift_factor(shift, width, height, steps=steps))
    noise = [kept(kept(1 / sigma) - 1) for sigma in map(kept, _evenly(shift, steps, spacing))]
    shifted = [kept(factor / kept(factor + one)) for one in noise]
    if shift.terminal is None:
        return tuple(map(_single, shifted))
    away = [kept(1 - sigma) for sigma in shifted]
    stretch = kept(away[-1] / (1 - shift.terminal))
    return tuple(_single(1 - kept(distance / stretch)) for distance in away)


def as_timestep(sigma: float) -> float:
    """Return a teacher's sigma as a timestep (0-1000), to the four decimals that lists have."""
    return round(_single(sigma * MAX_TIMESTEP), 4)


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
        even = _shifted(sigma, 1 / shift_factor(shift, *made_for))
        moved = _shifted(even, shift_factor(shift, *wanted))
        return round((1 - (1 - moved) / _stretch(shift, *wanted)) * MAX_TIMESTEP, 4)

    return Schedule(
        f"{schedule.name} for {wanted[0]}x{wanted[1]}",
        tuple(map(move, schedule.slow_timesteps)),
        tuple(map(move, schedule.fast_timesteps)),
    )


def derive_schedule(
    shift: Shift,
    size: tuple[int, int],
    *,
    slow_steps: int = USUAL_STEPS,
    fast_steps: int = USUAL_STEPS,
    teacher_steps: int = TEACHER_STEPS,
) -> Schedule:
    """Return the schedule `auto`: so many of the teacher's steps in each phase.

    `size` is width and height in pixels. Raises ScheduleError when the teacher has too few steps.
    """
    slow, fast = choose_steps(slow_steps, fast_steps, teacher_steps)
    sigmas = teacher_sigmas(shift, *size, steps=teacher_steps)
    return Schedule(
        "auto",
        tuple(as_timestep(sigmas[step]) for step in slow),
        tuple(as_timestep(sigmas[step]) for step in fast),
    )


def choose_steps(
    slow_steps: int, fast_steps: int, teacher_steps: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which of the teacher's steps each phase takes, counted from 0.

    The slow phase spreads its steps evenly over the first fifth, the fast one over the rest, from
    its first to the very last: of 50 these are 1 3 5 7 9 | 11 21 31 41 50, counted from 1, the
    method's own (arXiv 2512.02899). A fast phase of fewer than five steps has none to spare for
    the very last, where hardly any noise is left (measured in docs/evidence.md): its steps are
    spread evenly up to the end of the last.

    Raises ScheduleError when the teacher has too few steps.
    """
    boundary = round(teacher_steps / _SLOW_SHARE)
    rest = teacher_steps - boundary
    if teacher_steps > MOST_STEPS:
        raise ScheduleError(
            f"--teacher-steps {teacher_steps}: models know {MOST_STEPS} noise levels",
            hint=f"give at most {MOST_STEPS}",
        )
    problems = [
        Problem(
            f"--{phase}-steps {wanted}: the {phase} phase has {there} of the teacher's "
            f"{teacher_steps} steps to choose from",
            f"give --teacher-steps more, or --{phase}-steps "
            + ("1" if there <= 1 else f"from 1 to {there}"),
        )
        for phase, wanted, there in (("slow", slow_steps, boundary), ("fast", fast_steps, rest))
        if not 1 <= wanted <= there
    ]
    if problems:
        raise ScheduleError(problems)
    slow = tuple(step * boundary // slow_steps for step in range(slow_steps))
    if fast_steps < _CAN_SPARE_ONE:
        return slow, tuple(boundary + step * rest // fast_steps for step in range(fast_steps))
    gaps = fast_steps - 1
    inner = tuple(boundary + step * rest // gaps for step in range(gaps))
    return slow, (*inner, teacher_steps - 1)


def _read(config: Mapping[str, Any]) -> Shift:
    terminal = float(config["shift_terminal"]) if config.get("shift_terminal") else None
    if terminal is not None and not 0 < terminal < 1:
        raise ValueError(f"shift_terminal is {terminal}")
    if not config.get("use_dynamic_shifting"):
        factor = float(config.get("shift", 1.0))
        if not (factor > 0 and math.isfinite(factor)):
            raise ValueError(f"shift is {factor}")
        return StaticShift(factor, terminal)
    kind = config.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise ValueError(f"time_shift_type is {kind!r}")
    shift = DynamicShift(
        base=float(config.get("base_shift", 0.5)),
        most=float(config.get("max_shift", 1.15)),
        base_tokens=int(config.get("base_image_seq_len", 256)),
        most_tokens=int(config.get("max_image_seq_len", 4096)),
        terminal=terminal,
        is_linear=kind == "linear",
    )
    if not shift.factor(1, TEACHER_STEPS) > 0:
        raise ValueError(f"its shift of a small image is {shift.factor(1, TEACHER_STEPS)}")
    return shift


def _evenly(shift: Shift, steps: int, spacing: Spacing) -> list[float]:
    """Return the sigmas (0-1) before the shift.

    The scheduler spaces down to its `sigma_min`, the last of the 1000 levels of training. A static
    shift has moved that level already, and moves it once more with the rest.
    """
    if spacing is Spacing.PIPELINE:
        return [1 - step / steps for step in range(steps)]
    last = 1 / MAX_TIMESTEP
    if isinstance(shift, StaticShift):
        last = _shifted(last, shift.of_all)
    return [1 - (1 - _single(last)) * step / max(steps - 1, 1) for step in range(steps)]


def _single(value: float) -> float:
    """Return the nearest float32."""
    nearest: float = struct.unpack("f", struct.pack("f", value))[0]
    return nearest


def _shifted(sigma: float, factor: float) -> float:
    """Return factor / (factor + 1 / sigma - 1): towards noise for a factor above 1, and back by
    its inverse."""
    return factor * sigma / (1 + (factor - 1) * sigma)


def _stretch(shift: Shift, width: int, height: int) -> float:
    """Return by how much the distance from 1 is divided so that the last sigma is `terminal`."""
    if shift.terminal is None:
        return 1.0
    last = _shifted(1 / TEACHER_STEPS, shift_factor(shift, width, height))
    return (1 - last) / (1 - shift.terminal)
