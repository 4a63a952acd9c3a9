"""The prompt file: many prompts for one loaded model, each with settings of its own."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from glance.core.errors import InputError, Problem, describe_fault
from glance.sampling.prompts.entries import EXAMPLE, REMEDY, Entry, display, read_entries
from glance.sampling.settings import SampleSettings, Scale, Strength

MOST_PROMPTS: Final = 10_000
_MAX_PROBLEMS: Final = 200
_MAX_NAME: Final = 255  # bytes, on every usual file system
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
_OWN_FAULTS: Final = ("no_text", "empty", "place", "ending", "length")
"""What is refused here, in words of our own."""


def _require_text(text: str) -> str:
    """Refuse what no text holds, such as the bytes of another kind of file."""
    control = re.search(r"[^\t\n\r -~\xa0-\U0010ffff]", text)
    if control is not None:
        raise PydanticCustomError("no_text", f"U+{ord(control[0]):04X} in it is no text")
    return text


def _require_content(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("empty", "It is empty")
    return text


def _require_picture_name(name: str) -> str:
    """Refuse what leads out of the output folder on any system, or is no picture."""
    places = (PurePosixPath(name), PureWindowsPath(name))
    if any(place.is_absolute() or place.anchor or ".." in place.parts for place in places):
        raise PydanticCustomError("place", "It must lie in the output folder")
    if PurePosixPath(name).suffix.lower() not in _PICTURES or name.endswith("/"):
        raise PydanticCustomError("ending", f"It must end in {', '.join(_PICTURES)}")
    if any(len(part.encode()) > _MAX_NAME for part in PurePosixPath(name).parts):
        raise PydanticCustomError("length", f"It is longer than {_MAX_NAME} bytes")
    return name


def _require_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not seeds:
        raise PydanticCustomError("empty", "It is empty")
    return seeds


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


# 64 Ki characters are a hundred times what any text encoder reads.
_Text = Annotated[str, Field(max_length=65_536), AfterValidator(_require_text)]
_Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Seeds = Annotated[tuple[_Seed, ...], Field(strict=False), AfterValidator(_require_seeds)]
_Pixels = Annotated[int, Field(ge=16, le=8192)]


class PromptLine(BaseModel):
    """One line of the file. None: what the command line, the run or the family says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Annotated[_Text, AfterValidator(_require_content)] = Field(description="What to paint.")
    negative_prompt: _Text | None = Field(
        default=None, description="What guidance leads away from."
    )
    seed: (
        Annotated[
            Annotated[_Seed, Tag("one")] | Annotated[_Seeds, Tag("several")],
            Discriminator(_one_or_several),
        ]
        | None
    ) = Field(default=None, description="Seed of the initial noise, or a picture for each of many.")
    count: int | None = Field(
        default=None, ge=1, le=100_000, description="How many pictures, of one seed after another."
    )
    width: _Pixels | None = Field(default=None, description="Pixels.")
    height: _Pixels | None = Field(default=None, description="Pixels.")
    slow_guidance: Scale | None = Field(default=None, description="Slow phase.")
    fast_guidance: Scale | None = Field(default=None, description="Fast phase.")
    true_cfg: Scale | None = Field(
        default=None,
        description="Classifier-free guidance in both phases, where the other one is embedded.",
    )
    slow_scale: Strength | None = Field(default=None, description="Strength of the slow LoRA.")
    fast_scale: Strength | None = Field(default=None, description="Strength of the fast LoRA.")
    reference: Annotated[_Text, AfterValidator(_require_content)] | None = Field(
        default=None,
        description="Path of what a family that edits begins with, relative to the prompt file.",
    )
    output: Annotated[_Text, AfterValidator(_require_picture_name)] | None = Field(
        default=None, description="Name of the picture, in the output folder."
    )


def read_prompts(path: Path) -> tuple[PromptLine, ...]:
    """Return the lines of a prompt file, in their order.

    `.jsonl` and `.ndjson` hold a JSON object or text a line, `.json` a list of them; any other file
    holds a prompt a line, and lines that start with # are skipped. Blank lines are skipped.

    Raises InputError: the file cannot be read, is over 10 MB, holds no prompt or more than
    MOST_PROMPTS; or with all that is wrong with its lines, each problem with the line's number.
    """
    reading = _Reading(path)
    for number, entry in enumerate(read_entries(path, list(PromptLine.model_fields))):
        if number == MOST_PROMPTS:
            raise InputError(
                f"prompt file {path} holds more than {MOST_PROMPTS:,} prompts",
                hint="split it into several, and give one after the other",
            )
        reading.add(entry)
    if reading.problems:
        raise InputError(reading.all_problems())
    if not reading.lines:
        raise InputError(f"prompt file {path}: there is no prompt in it", hint=REMEDY)
    return tuple(reading.lines)


def find_faults(prompt: str) -> tuple[Problem, ...]:
    """Return what is wrong with a prompt that stands alone; each message begins with `prompt`."""
    try:
        PromptLine(prompt=prompt)
    except ValidationError as exc:
        return tuple(_faults(exc))
    return ()


class _Reading:
    """The lines read so far, and what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[PromptLine] = []
        self.problems: list[Problem] = []
        self._unshown = 0
        self._outputs: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Take what is not blank."""
        if isinstance(entry.content, Problem):
            self._refuse(entry, entry.content)
            return
        unknown = [key for key in entry.content if key not in PromptLine.model_fields]
        for key in unknown:
            self._refuse(entry, _unknown_key(key))
        try:
            line = PromptLine.model_validate(
                {key: value for key, value in entry.content.items() if key not in unknown}
            )
        except ValidationError as exc:
            for problem in _faults(exc):
                self._refuse(entry, problem)
            return
        self._check_output(entry, line)
        self.lines.append(line)

    def all_problems(self) -> Iterator[Problem]:
        """Yield what was found; of a file that is something else, not every line."""
        yield from self.problems
        if self._unshown:
            yield Problem(f"{self.path}: and {self._unshown:,} problems more", REMEDY)

    def _check_output(self, entry: Entry, line: PromptLine) -> None:
        if line.output is None:
            return
        place = str(PurePosixPath(line.output)).casefold()  # one file on macOS and Windows
        before = self._outputs.setdefault(place, entry)
        if before is not entry:
            problem = Problem(
                f"output: {line.output!r} is the name of {before.place}'s picture as well",
                "give each line a name of its own, or none",
            )
            self._refuse(entry, problem)

    def _refuse(self, entry: Entry, problem: Problem) -> None:
        if len(self.problems) >= _MAX_PROBLEMS:
            self._unshown += 1
            return
        self.problems.append(Problem(f"{entry.where}: {problem.message}", problem.hint))


def _unknown_key(key: str) -> Problem:
    known = list(PromptLine.model_fields)
    near = get_close_matches(key[:100], known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return Problem(f"unknown key {display(key)}", f"{meant}the keys are {', '.join(known)}")


def _faults(exc: ValidationError) -> Iterator[Problem]:
    for fault in exc.errors(include_url=False):
        field, *rest = fault["loc"]
        if fault["type"] == "missing":
            yield Problem(f"{field}: it is missing", f"write a line like {EXAMPLE}")
            continue
        place = "".join([str(field), *(f"[{part}]" for part in rest if isinstance(part, int))])
        remedy = "no model reads as much: write one prompt a line"
        hint = remedy if fault["type"] == "string_too_long" else _example(str(field))
        what = fault["msg"] if fault["type"] in _OWN_FAULTS else describe_fault(fault)
        yield Problem(f"{place}: {display(fault['input'])}: {what}", hint)


def _example(field: str) -> str | None:
    example = SampleSettings.example(field)
    return None if example is None else f'write "{field}": {example}, for example'
