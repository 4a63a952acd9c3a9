"""The prompt file: many prompts for one loaded model, each with settings of its own."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath
from reprlib import Repr
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

from glance.errors import InputError, Problem
from glance.settings.sample import Scale, Strength

MAX_BYTES: Final = 10_000_000
_MAX_PROBLEMS: Final = 200
_MAX_NAME: Final = 255  # bytes, on every usual file system
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
_JSON_SUFFIXES: Final = (".jsonl", ".ndjson")
_EXAMPLE: Final = '{"prompt": "a cat in the rain", "seed": 7}'
_REMEDY: Final = "write one prompt a line, or name it .jsonl and write one JSON object a line"


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

    `.jsonl` and `.ndjson` hold a JSON object or text a line; any other file holds a prompt a line,
    and lines that start with # are skipped. Blank lines are skipped in both.

    Raises InputError: the file cannot be read, is over 10 MB or holds no prompt; or with all that
    is wrong with its lines, each problem with the line's number.
    """
    reading = _Reading(path)
    is_json = path.suffix.lower() in _JSON_SUFFIXES
    for number, line in enumerate(re.split(r"\r\n|\r|\n", _read_text(path)), start=1):
        text = line.strip()
        if text and (is_json or not text.startswith("#")):
            reading.add(number, text, is_json=is_json)
    if reading.problems:
        raise InputError(reading.all_problems())
    if not reading.lines:
        raise InputError(f"prompt file {path}: there is no prompt in it", hint=_REMEDY)
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
        self._outputs: dict[str, int] = {}

    def add(self, number: int, text: str, *, is_json: bool) -> None:
        """Take one line that is not blank."""
        try:
            document = _parse(text) if is_json else {"prompt": text}
        except _BadLineError as exc:
            self._refuse(number, exc.problem)
            return
        unknown = [key for key in document if key not in PromptLine.model_fields]
        for key in unknown:
            self._refuse(number, _unknown_key(key))
        try:
            line = PromptLine.model_validate(
                {key: value for key, value in document.items() if key not in unknown}
            )
        except ValidationError as exc:
            for problem in _faults(exc):
                self._refuse(number, problem)
            return
        self._check_output(number, line)
        self.lines.append(line)

    def all_problems(self) -> Iterator[Problem]:
        """Yield what was found; of a file that is something else, not every line."""
        yield from self.problems
        if self._unshown:
            yield Problem(f"{self.path}: and {self._unshown:,} problems more", _REMEDY)

    def _check_output(self, number: int, line: PromptLine) -> None:
        if line.output is None:
            return
        place = str(PurePosixPath(line.output)).casefold()  # one file on macOS and Windows
        before = self._outputs.setdefault(place, number)
        if before != number:
            problem = Problem(
                f"output: {line.output!r} is the name of line {before}'s picture as well",
                "give each line a name of its own, or none",
            )
            self._refuse(number, problem)

    def _refuse(self, number: int, problem: Problem) -> None:
        if len(self.problems) >= _MAX_PROBLEMS:
            self._unshown += 1
            return
        self.problems.append(Problem(f"{self.path}:{number}: {problem.message}", problem.hint))


class _BadLineError(Exception):
    """A line that is not even a JSON object."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.problem = Problem(message, hint)


def _read_text(path: Path) -> str:
    """Return the whole file; raises InputError."""
    try:
        if not path.is_file():  # opening a pipe would wait forever
            what = "does not exist" if not path.exists() else "is not a file"
            raise InputError(f"prompt file {path} {what}", hint=f"give another file; {_REMEDY}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = getattr(exc, "strerror", None) or exc
        raise InputError(
            f"prompt file {path} cannot be read: {reason}", hint="give another file"
        ) from exc
    if len(data) > MAX_BYTES:
        raise InputError(f"prompt file {path} is larger than 10 MB", hint="split it into several")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(
            f"prompt file {path} is not UTF-8 (byte {exc.start})", hint="save it as UTF-8 text"
        ) from exc


def _parse(text: str) -> dict[str, Any]:
    """Return a line of JSON as an object; raises _BadLineError."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        raise _BadLineError(
            f"not JSON: {exc.msg} (column {exc.colno})", f"write a line like {_EXAMPLE}"
        ) from exc
    except (ValueError, RecursionError) as exc:
        what = (
            "a number has too many digits" if isinstance(exc, ValueError) else "too many brackets"
        )
        raise _BadLineError(f"not JSON: {what}", f"write a line like {_EXAMPLE}") from exc
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise _BadLineError(
            f"{_shown(value)} is neither an object nor a text", f"write a line like {_EXAMPLE}"
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _BadLineError(f"key {_shown(twice)} is there more than once", "keep one of them")
    return document


def _refuse_constant(name: str) -> float:
    raise _BadLineError(f"{name} is not a number that can be used", "write a finite number")


def _unknown_key(key: str) -> Problem:
    known = list(PromptLine.model_fields)
    near = get_close_matches(key[:100], known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return Problem(f"unknown key {_shown(key)}", f"{meant}the keys are {', '.join(known)}")


def _faults(exc: ValidationError) -> Iterator[Problem]:
    for fault in exc.errors(include_url=False):
        field, *rest = fault["loc"]
        if fault["type"] == "missing":
            yield Problem(f"{field}: it is missing", f"write a line like {_EXAMPLE}")
            continue
        place = "".join([str(field), *(f"[{part}]" for part in rest if isinstance(part, int))])
        remedy = "no model reads as much: write one prompt a line"
        hint = remedy if fault["type"] == "string_too_long" else None
        yield Problem(f"{place}: {_shown(fault['input'])}: {fault['msg']}", hint)


def _shown(value: Any) -> str:
    return Repr(maxstring=60, maxlong=30, maxdict=2, maxlist=3, maxlevel=2).repr(value)
