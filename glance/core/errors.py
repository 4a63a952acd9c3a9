"""Everything glance refuses or fails at, as one tree; nothing else decides an exit code.

GlanceError                  1  (abstract: never raised itself)
├── UsageError               2  flags: unknown, missing, given twice, or excluding each other
├── SetupError               3  the machine lacks something, or a place cannot be written
│   ├── SimpleTunerNotFound
│   ├── ModelNotFound
│   └── DeviceUnavailable
├── InputError               4  a value or a file cannot be used, whatever is wrong with it
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

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the user's own value, and the exact remedy."""

    message: str
    hint: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return it as documents hold it."""
        return {"message": self.message, "hint": self.hint}


class GlanceError(Exception):
    """A refusal or failure that the user can act on: one or more problems, and an exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str | Iterable[Problem], *, hint: str | None = None) -> None:
        if isinstance(problem, str):
            self.problems: tuple[Problem, ...] = (Problem(problem, hint),)
        else:
            self.problems = tuple(problem)
        super().__init__("; ".join(item.message for item in self.problems))


class UsageError(GlanceError):
    """The flags as such are wrong: it shows without reading a file or knowing a model."""

    exit_code = 2


class SetupError(GlanceError):
    """The machine lacks something that glance needs: a place to write to is part of it."""

    exit_code = 3


class SimpleTunerNotFound(SetupError):
    """There is no `simpletuner` command."""


class ModelNotFound(SetupError):
    """The base model is not where it should be."""


class DeviceUnavailable(SetupError):
    """The device asked for is not there, or cannot do what is asked."""


class InputError(GlanceError):
    """A value or a file that the user gave cannot be used."""

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


@dataclass(frozen=True, slots=True)
class Findings:
    """Faults and warnings, in the order in which they are met."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, message: str, hint: str) -> None:
        """Add what makes the pair unfit."""
        self.problems.append(Problem(message, hint))

    def warn(self, message: str, hint: str) -> None:
        """Add what the user should know."""
        self.warnings.append(Problem(message, hint))


class Checks:
    """Runs independent checks and keeps what they refuse, so that all is reported together."""

    def __init__(self) -> None:
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
        super().__init__(problem, hint=hint)
        self.returncode = returncode
        self.log = log
        self.tail = tail


class InferenceFailed(GlanceError):
    """Loading the model or sampling the image failed."""

    exit_code = 6


# Exit codes of what a signal ended, in numbers: Windows has neither SIGHUP nor SIGKILL.
INTERRUPTED: Final = 128 + 2
STOPPED: Final = (INTERRUPTED, 128 + 15, 128 + 1)  # was asked to end: SIGINT, SIGTERM, SIGHUP
KILLED: Final = 128 + 9


class Stopped(BaseException):
    """The process was asked to end by a signal; its exit code is 128 plus the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


_SHOWN: Final = 60  # characters of a value
_FAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing": "it is missing",
        "extra_forbidden": "nothing of that name is known here",
        "greater_than": "it must be above {gt}",
        "greater_than_equal": "it must be at least {ge}",
        "less_than": "it must be below {lt}",
        "less_than_equal": "it must be at most {le}",
        "multiple_of": "it must be a multiple of {multiple_of}",
        "finite_number": "it must be a finite number",
        "too_short": "it must hold at least {min_length}",
        "too_long": "it must hold at most {max_length}",
        "string_too_short": "it must have at least {min_length} characters",
        "string_too_long": "it must have at most {max_length} characters",
        "enum": "it must be {expected}",
        "literal_error": "it must be {expected}",
        "value_error": "{error}",
        **dict.fromkeys(
            ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
            "it must be a whole number",
        ),
        **dict.fromkeys(("float_type", "float_parsing"), "it must be a number"),
        **dict.fromkeys(("bool_type", "bool_parsing"), "it must be true or false"),
        **dict.fromkeys(("string_type", "string_unicode"), "it must be text"),
        **dict.fromkeys(("list_type", "tuple_type"), "it must be a list"),
        **dict.fromkeys(("dict_type", "mapping_type", "model_type"), "it must be an object"),
    }
)


def describe_fault(fault: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, from one of pydantic's `errors()`, in our own words."""
    words = _FAULTS.get(fault["type"], "it cannot be used")
    return words.format_map({k: as_typed(v) for k, v in (fault.get("ctx") or {}).items()})


def as_typed(value: Any) -> str:
    """Return a value as people write it: 0.5, 1000, no quotes about a text."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def assigned(name: str, value: Any) -> str:
    """Return a value with its name, a flag's or a key's: `--steps 0`, `steps: 0`."""
    return f"{name}{' ' if name.startswith('-') else ': '}{as_typed(value)}"


def locate_fault(fault: Mapping[str, Any]) -> str:
    """Return a fault in a JSON file: `slow.timesteps[2]`, the value if it is one, and what."""
    value = fault["input"]
    shown = ""
    if fault["type"] != "missing" and not isinstance(value, Mapping | list | tuple):
        text = json.dumps(value, ensure_ascii=False, default=str)
        shown = f" {text if len(text) <= _SHOWN else text[:_SHOWN] + ' ...'}:"
    places = (f"[{one}]" if isinstance(one, int) else f".{one}" for one in fault["loc"])
    where = "".join(places).removeprefix(".") or "all of it"
    return f"{where}:{shown} {describe_fault(fault)}"


def reason_of(exc: BaseException) -> str:
    """Return in one line why something failed: what the system calls it, else the first words."""
    words = getattr(exc, "strerror", None) or str(exc)
    return next(iter(str(words).strip().splitlines()), type(exc).__name__)


def shown(value: object) -> str:
    """Return text that is safe to print, whatever a file name or a decoder's message holds."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, safe to print."""
    text = str(path)
    return shown(shlex.quote(f"./{text}" if text.startswith("-") else text))
