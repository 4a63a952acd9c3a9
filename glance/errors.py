"""Everything glance refuses or fails at, as one tree; nothing else decides an exit code.

GlanceError                  1  (abstract: never raised itself)
├── UsageError               2  flags that do not go together
├── SetupError               3  the machine lacks something
│   ├── SimpleTunerNotFound
│   ├── ModelNotFound
│   └── DeviceUnavailable
├── InputError               4  what the user gave cannot be used
│   ├── SampleError
│   ├── ScheduleError
│   ├── SettingsError
│   ├── RunError
│   └── LoraError
├── TrainingFailed           5
└── InferenceFailed          6

Stopped (SIGTERM, SIGHUP) is no error and no `Exception`: like KeyboardInterrupt it passes every
handler that does not clean up.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the user's own value, and the exact remedy."""

    message: str
    hint: str | None = None


class GlanceError(Exception):
    """A refusal or failure that the user can act on: one or more problems, and an exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str | Iterable[Problem], *, hint: str | None = None) -> None:
        """Hold one problem (a message and a hint) or several at once."""
        if isinstance(problem, str):
            self.problems: tuple[Problem, ...] = (Problem(problem, hint),)
        else:
            self.problems = tuple(problem)
        super().__init__("; ".join(item.message for item in self.problems))


class UsageError(GlanceError):
    """Flags that do not go together."""

    exit_code = 2


class SetupError(GlanceError):
    """The machine lacks something that glance needs."""

    exit_code = 3


class SimpleTunerNotFound(SetupError):
    """There is no `simpletuner` command."""


class ModelNotFound(SetupError):
    """The base model is not where it should be."""


class DeviceUnavailable(SetupError):
    """The device asked for is not there, or cannot do what is asked."""


class InputError(GlanceError):
    """Something the user gave cannot be used."""

    exit_code = 4


class SampleError(InputError):
    """The image or its caption is not fit to train on."""


class ScheduleError(InputError):
    """The lists of timesteps or sigmas are not a schedule."""


class SettingsError(InputError):
    """A setting is out of range, unknown or contradicts another."""


class RunError(InputError):
    """A run folder is missing, damaged, unfinished or holds something else."""


class LoraError(InputError):
    """A file is not the LoRA it should be."""


class Checks:
    """Runs independent checks and keeps what they refuse, so that all is reported together."""

    def __init__(self) -> None:
        """Begin with nothing refused."""
        self._refusals: list[InputError] = []

    def make[T](self, make: Callable[[], T]) -> T | None:
        """Return what `make` returns; None, and its refusal kept, when it raises InputError."""
        try:
            return make()
        except InputError as exc:
            self._refusals.append(exc)
            return None

    def refuse(self, refusal: InputError) -> None:
        """Keep a refusal."""
        self._refusals.append(refusal)

    def refusal(self) -> InputError:
        """Return the one refusal as it is, or all of them as one."""
        if len(self._refusals) == 1:
            return self._refusals[0]
        return InputError(item for refusal in self._refusals for item in refusal.problems)

    def require(self) -> None:
        """Raise the refusal, if there is any."""
        if self._refusals:
            raise self.refusal()


class TrainingFailed(GlanceError):
    """SimpleTuner ended without the LoRA it was started for."""

    exit_code = 5

    def __init__(
        self,
        problem: str,
        *,
        hint: str | None = None,
        returncode: int,
        log: Path,
        tail: tuple[str, ...] = (),
    ) -> None:
        """Keep the trainer's exit code, the log's path and its last telling lines."""
        super().__init__(problem, hint=hint)
        self.returncode = returncode
        self.log = log
        self.tail = tail


class InferenceFailed(GlanceError):
    """Loading the model or sampling the image failed."""

    exit_code = 6


class Stopped(BaseException):
    """The process was asked to end by a signal; carries the signal's number."""

    def __init__(self, signal_number: int) -> None:
        """Remember which signal it was: the exit code is 128 plus its number."""
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number
