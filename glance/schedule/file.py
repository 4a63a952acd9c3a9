"""Schedules as files: what `glance schedule` prints, and what `glance schedule optimize` writes.

Optimised ones are also kept where `--schedule optimal` finds them: in the user's folder, and for
the model of the package in the package.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glance.core.errors import Problem, ScheduleError, locate_fault, reason_of
from glance.core.files import read_text, state_folder, write_json
from glance.core.phase import Phase
from glance.schedule.lists import MAX_TIMESTEP, Schedule, WrittenList

_MOST_BYTES: Final = 1_000_000
_WRITTEN: Final = "give a file that `glance schedule --json` or `glance schedule optimize` wrote"
_SHAPE: Final = (
    'it should hold {"slow": {"timesteps": [1000, 979, 958, 935, 911]}, '
    '"fast": {"timesteps": [887, 745, 563, 320, 20]}}'
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PhaseTimesteps(_Part):
    """The noise levels of one phase, stepped from; either list says the other."""

    timesteps: tuple[float, ...] = Field(default=(), description="0-1000.")
    sigmas: tuple[float, ...] = Field(default=(), description="0-1.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.timesteps and not self.sigmas:
            raise ValueError("there are neither timesteps nor sigmas")
        if self.timesteps and self.sigmas:
            pairs = list(zip(self.timesteps, self.sigmas, strict=False))
            equal = len(self.timesteps) == len(self.sigmas)
            if not equal or any(abs(t - s * MAX_TIMESTEP) > 1e-3 for t, s in pairs):
                raise ValueError("timesteps and sigmas are not the same list")
        return self

    def written(self, name: str) -> WrittenList:
        """Return the list by its key in the file, in the unit that it has there."""
        if self.timesteps:
            return WrittenList.of(f"{name}.timesteps", self.timesteps)
        return WrittenList.of(f"{name}.sigmas", self.sigmas, is_sigma=True)


class Origin(_Part):
    """What an optimised schedule was found for, and how."""

    family: str
    model: str = Field(description="Hub id, or the fingerprint of a folder.")
    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    slow_guidance: float
    fast_guidance: float
    teacher_steps: int = Field(description="Of the trajectory that it follows.")
    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = Field(description="A prompt's noise each.")
    errors: Mapping[str, float] = Field(
        description="Distance to the trajectory's end on these prompts, of this schedule and of "
        "others: root mean square over the latents, mean over the prompts."
    )
    glance: str
    date: str


class ScheduleFile(_Part):
    """One file."""

    name: str = Field(default="", description="What a run calls it; empty: the file's name.")
    slow: PhaseTimesteps
    fast: PhaseTimesteps
    origin: Origin | None = None

    @classmethod
    def of(cls, schedule: Schedule, origin: Origin) -> Self:
        """Return the file that `glance schedule optimize` writes."""
        return cls.model_validate(
            {"name": schedule.name, **schedule.to_json(), "origin": origin.model_dump()}
        )

    def resolve(self, name: str = "") -> Schedule:
        """Return the schedule; raise ScheduleError when it breaks a rule."""
        slow, fast = self.slow.written(Phase.SLOW), self.fast.written(Phase.FAST)
        return Schedule.written(self.name or name, slow, fast)

    @property
    def steps(self) -> tuple[int, int]:
        """How many the slow and the fast phase have."""
        slow, fast = (len(part.timesteps or part.sigmas) for part in (self.slow, self.fast))
        return slow, fast

    def save(self, path: Path) -> None:
        """Write it, whole or not at all; raises OSError."""
        write_json(path, self.model_dump(mode="json", exclude_none=True))


def read_schedule_file(path: Path) -> ScheduleFile:
    """Read a file of either kind; raise ScheduleError with all that is wrong in it."""
    try:
        found = ScheduleFile.model_validate(json.loads(_read_text(path)))
        found.resolve()
    except OSError as exc:
        raise ScheduleError(f"--schedule {path}: {reason_of(exc)}", hint=_WRITTEN) from exc
    except ValidationError as exc:
        raise ScheduleError(
            Problem(f"--schedule {path}: {locate_fault(fault)}", _SHAPE) for fault in exc.errors()
        ) from exc
    except ScheduleError as exc:  # a rule of the lists
        raise ScheduleError(
            Problem(f"--schedule {path}: {one.message}", one.hint) for one in exc.problems
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise ScheduleError(f"--schedule {path}: it is no JSON ({exc})", hint=_WRITTEN) from exc
    return found


def _read_text(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        raise ScheduleError("it is larger than 1 MB, which no schedule is", hint=_WRITTEN)
    return read_text(path)


def keep_optimal(found: ScheduleFile) -> Path:
    """Keep an optimised schedule for `--schedule optimal`; raises SetupError, OSError."""
    assert found.origin is not None
    origin, (slow, fast) = found.origin, found.steps
    model = origin.model.replace("/", "--")[:60].replace(" ", "-")
    name = f"{model}-{origin.width}x{origin.height}-{slow}+{fast}.json"
    path = state_folder() / "schedules" / name
    found.save(path)
    return path


def find_optimal(
    model: str, size: tuple[int, int], *, slow_steps: int | None, fast_steps: int | None
) -> ScheduleFile:
    """Return the schedule that was optimised for the model (its fingerprint) at that size.

    The numbers of steps must be those asked for; of several, ten steps go first, then the most.
    Raises ScheduleError when there is none, saying which there are.
    """
    ours = [one for one in _kept() if one.origin is not None and one.origin.model == model]
    fitting = [
        one
        for one in ours
        if one.origin is not None
        and (one.origin.width, one.origin.height) == size
        and slow_steps in (None, one.steps[0])
        and fast_steps in (None, one.steps[1])
    ]
    if fitting:
        return max(fitting, key=lambda one: (sum(one.steps) == 10, sum(one.steps)))
    asked = " and".join(
        f" {steps} {phase} steps"
        for phase, steps in zip(Phase, (slow_steps, fast_steps), strict=True)
        if steps is not None
    )
    found = ", ".join(
        "{} + {} steps at {}x{}".format(*one.steps, one.origin.width, one.origin.height)
        for one in ours
        if one.origin is not None
    )
    there = f"; there are {found}" if ours else ""
    raise ScheduleError(
        f"--schedule optimal: none was optimised{asked} for this model at "
        f"{size[0]}x{size[1]}{there}",
        hint=f"glance schedule optimize --model ... --size {size[0]}x{size[1]}, "
        "or --schedule auto, which needs no model runs",
    )


def _kept() -> Iterator[ScheduleFile]:
    packaged = Path(str(files("glance") / "assets" / "schedules"))
    for folder in (state_folder() / "schedules", packaged):
        for path in sorted(folder.glob("*.json")):
            with suppress(ScheduleError):  # a damaged neighbour hides no sound one
                yield read_schedule_file(path)
