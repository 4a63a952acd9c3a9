"""Prompts: the user's own, in files, each with settings of its own; and those that are shipped.

A prompt file holds lines of text, lines of JSON, or one JSON list. What is shipped are lines of
files in `glance/assets/prompts`: to teach a pair with, and others to judge it by; two files for
real models and two for the package's small model, which knows one world alone. Of each, any first
few are varied in themselves.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path, PurePosixPath, PureWindowsPath
from reprlib import Repr
from typing import Annotated, Any, Final, NamedTuple

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

from glance.core.encoding import ForeignText, decode_text
from glance.core.errors import InputError, Problem, SettingsError, describe_fault, reason_of, shown
from glance.core.files import open_file
from glance.core.kinds import fetching, recognise
from glance.sampling.settings import SampleSettings, Scale, Strength

MOST_PROMPTS: Final = 10_000
_MAX_PROBLEMS: Final = 200
_MAX_NAME: Final = 255  # bytes, on every usual file system
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
_OWN_FAULTS: Final = ("no_text", "empty", "place", "ending", "length")
"""What is refused here, in words of our own."""
MAX_BYTES: Final = 10_000_000
EXAMPLE: Final = '{"prompt": "a cat in the rain", "seed": 7}'
REMEDY: Final = "write one prompt a line, or name it .jsonl and write one JSON object a line"
_JSON_LINES: Final = (".jsonl", ".ndjson")
_JSON: Final = ".json"
_OTHERS: Final = (  # formats of text that lines are not prompts of
    *(".csv", ".tsv", ".yaml", ".yml", ".toml", ".xml", ".html", ".htm", ".ini"),
    *(".xlsx", ".xls", ".ods", ".docx", ".doc", ".odt", ".rtf", ".pdf"),
)
# As kohya's sample prompts, A1111's prompts from a file, and Midjourney's have them.
_OPTION: Final = re.compile(
    r"(?<!\S)--(?:[dhlnswv]|ar|fs|ss|cn|niji|no|style|stylize|chaos|seed|steps|width|height|prompt"
    r"|negative[-_]prompt|cfg[-_]scale|sampler(?:[-_]name|[-_]index)?|batch[-_]size|n[-_]iter)"
    r"(?:[ =]\S+|$)",
    re.IGNORECASE,
)


def _require_text(text: str) -> str:
    """Refuse what no text holds, such as the bytes of another kind of file."""
    control = re.search(r"[^\t\n\r -~\xa0-\U0010ffff]", text)
    if control is not None:
        raise PydanticCustomError("no_text", f"U+{ord(control[0]):04X} in it is no text")
    return text


def _require_content[T: (str, tuple[int, ...])](value: T) -> T:
    if not (value.strip() if isinstance(value, str) else value):
        raise PydanticCustomError("empty", "It is empty")
    return value


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


# 64 Ki characters are a hundred times what any text encoder reads.
_Text = Annotated[str, Field(max_length=65_536), AfterValidator(_require_text)]
_Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Seeds = Annotated[tuple[_Seed, ...], Field(strict=False), AfterValidator(_require_content)]
_Pixels = Annotated[int, Field(ge=16, le=8192)]


class PromptLine(BaseModel):
    """One line of the file. None: what the command line, the run or the family says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Annotated[_Text, AfterValidator(_require_content)]
    negative_prompt: _Text | None = None
    seed: (
        Annotated[
            Annotated[_Seed, Tag("one")] | Annotated[_Seeds, Tag("several")],
            Discriminator(lambda value: "several" if isinstance(value, list | tuple) else "one"),
        ]
        | None
    ) = None
    """Of the initial noise, or an image for each of many."""
    count: int | None = Field(default=None, ge=1, le=100_000)
    """How many images, of one seed after another."""
    width: _Pixels | None = None
    height: _Pixels | None = None
    slow_guidance: Scale | None = None
    fast_guidance: Scale | None = None
    true_cfg: Scale | None = None
    slow_scale: Strength | None = None
    fast_scale: Strength | None = None
    reference: Annotated[_Text, AfterValidator(_require_content)] | None = None
    """Path of what a family that edits begins with, relative to the prompt file."""
    output: Annotated[_Text, AfterValidator(_require_picture_name)] | None = None
    """Name of the image, in the output folder."""


def read_prompts(path: Path) -> tuple[PromptLine, ...]:
    """Return the lines of a prompt file, in their order.

    `.jsonl` and `.ndjson` hold a JSON object or text a line, `.json` a list of them; any other file
    holds a prompt a line, and lines that start with # are skipped. Blank lines are skipped.

    Raises InputError: the file cannot be read, is over 10 MB, holds no prompt or more than
    MOST_PROMPTS; or with all that is wrong with its lines, each problem with the line's number.
    """
    lines: list[PromptLine] = []
    problems: list[Problem] = []
    outputs: dict[str, _Entry] = {}
    for number, entry in enumerate(_read_entries(path)):
        if number == MOST_PROMPTS:
            raise InputError(
                f"prompt file {path} holds more than {MOST_PROMPTS:,} prompts",
                hint="split it into several, and give one after the other",
            )
        line, faults = _take(entry.content)
        if line is not None:
            lines.append(line)
            faults += _same_output(entry, line, outputs)
        problems += (Problem(f"{entry.where}: {one.message}", one.hint) for one in faults)
    if len(problems) > _MAX_PROBLEMS:  # a file that is something else: not every line
        more = len(problems) - _MAX_PROBLEMS
        problems[_MAX_PROBLEMS:] = [Problem(f"{path}: and {more:,} problems more", REMEDY)]
    if problems:
        raise InputError(problems)
    if not lines:
        raise InputError(f"prompt file {path}: there is no prompt in it", hint=REMEDY)
    return tuple(lines)


def find_faults(prompt: str) -> tuple[Problem, ...]:
    """Return what is wrong with a prompt that stands alone; each message begins with `prompt`."""
    try:
        PromptLine(prompt=prompt)
    except ValidationError as exc:
        return tuple(_faults(exc))
    return ()


def _take(content: "_Content") -> tuple[PromptLine | None, list[Problem]]:
    """Return what an entry asks for, and what is wrong with it."""
    if isinstance(content, Problem):
        return None, [content]
    names = ", ".join(PromptLine.model_fields)
    known: dict[str, Any] = {}
    faults = []
    for key, value in content.items():
        if key in PromptLine.model_fields:
            known[key] = value
            continue
        near = get_close_matches(key[:100], PromptLine.model_fields, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        faults.append(Problem(f"unknown key {_display(key)}", f"{meant}the keys are {names}"))
    try:
        return PromptLine.model_validate(known), faults
    except ValidationError as exc:
        return None, [*faults, *_faults(exc)]


def _same_output(
    entry: "_Entry", line: PromptLine, outputs: dict[str, "_Entry"]
) -> Iterator[Problem]:
    if line.output is None:
        return
    place = str(PurePosixPath(line.output)).casefold()  # one file on macOS and Windows
    before = outputs.setdefault(place, entry)
    if before is not entry:
        yield Problem(
            f"output: {line.output!r} is the name of {before.place}'s image as well",
            "give each line a name of its own, or none",
        )


def _faults(exc: ValidationError) -> Iterator[Problem]:
    for fault in exc.errors(include_url=False):
        field, *rest = fault["loc"]
        if fault["type"] == "missing":
            yield Problem(f"{field}: it is missing", f"write a line like {EXAMPLE}")
            continue
        place = "".join([str(field), *(f"[{part}]" for part in rest if isinstance(part, int))])
        hint, example = None, SampleSettings.example(str(field))
        if fault["type"] == "string_too_long":
            hint = "no model reads as much: write one prompt a line"
        elif example is not None:
            hint = f'write "{field}": {example}, for example'
        what = fault["msg"] if fault["type"] in _OWN_FAULTS else describe_fault(fault)
        yield Problem(f"{place}: {_display(fault['input'])}: {what}", hint)


# --- what a file holds ---------------------------------------------------------------------------


type _Content = Mapping[str, Any] | Problem
"""What asks for images: an object of settings, or what is wrong with it."""


class _Entry(NamedTuple):
    place: str
    """Such as `line 3`."""
    where: str
    """How a message about it begins."""
    content: _Content


class _BadEntryError(Exception):
    """Not even a JSON object."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.problem = Problem(message, hint)


def _read_entries(path: Path) -> Iterator[_Entry]:
    """Yield what a prompt file holds, in its order; raises InputError when nobody can tell."""
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise InputError(
            f"prompt file {path}: glance reads text and JSON, not {suffix}", hint=REMEDY
        )
    text = _read_text(path)
    if suffix == _JSON or (suffix in _JSON_LINES and text.lstrip().startswith("[")):
        try:
            document = _loads(text)
        except _BadEntryError as exc:
            yield _Entry("it", str(path), exc.problem)
            return
        except (ValueError, RecursionError) as exc:
            if suffix == _JSON and not _holds_json_lines(text):
                why = ""
                if isinstance(exc, json.JSONDecodeError):
                    why = f": {exc.msg} (line {exc.lineno}, column {exc.colno})"
                raise InputError(
                    f"prompt file {path}: not JSON{why}", hint=f"write a list: [{EXAMPLE}, ...]"
                ) from exc
        else:
            yield from _of_document(path, document)
            return
    is_json = suffix in (_JSON, *_JSON_LINES)
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        stripped = line.strip()
        if stripped and (is_json or not stripped.startswith("#")):
            content = _of_json(stripped) if is_json else _of_text(stripped)
            yield _Entry(f"line {number}", f"{path}:{number}", content)


def _display(value: Any) -> str:
    """Return a value of a file as messages show it: not all of a long one."""
    return Repr(maxstring=60, maxlong=30, maxdict=2, maxlist=3, maxlevel=2).repr(value)


def _read_text(path: Path) -> str:
    """Return the whole file; raises InputError."""
    try:
        if not path.is_file():  # opening a pipe would wait forever
            raise _absent(path)
        with open_file(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = reason_of(exc)
        raise InputError(
            f"prompt file {path} cannot be read: {reason}", hint="give another file"
        ) from exc
    kind = recognise(data)
    if kind is not None:
        raise InputError(f"prompt file {path} is {kind}", hint=fetching(kind) or REMEDY)
    if len(data) > MAX_BYTES:
        raise InputError(f"prompt file {path} is larger than 10 MB", hint="split it into several")
    text = decode_text(data)
    if isinstance(text, str):
        return text
    raise _foreign(path, text)


def _absent(path: Path) -> InputError:
    hint = f"give another file; {REMEDY}"
    if path.exists():
        return InputError(f"prompt file {path} is not a file", hint=hint)
    if " " in path.name:
        hint = f"is it the prompt itself? --prompt {shlex.quote(shown(path))}"
    return InputError(f"prompt file {path} does not exist", hint=hint)


def _foreign(path: Path, text: ForeignText) -> InputError:
    hint = "save it as UTF-8 text"
    if text.readings:
        command, target = text.conversion(path)
        quoted = shlex.quote(f"--prompt-file {shlex.quote(shown(target))}")
        hint = f"{command} && echo now give {quoted}"
    return InputError(text.explain(f"prompt file {path}"), hint=hint)


def _of_document(path: Path, document: Any) -> Iterator[_Entry]:
    """Yield what one JSON document holds: a list, an object, or a library of named prompts."""
    if isinstance(document, Mapping):
        if len(document) == 1 and isinstance(only := next(iter(document.values())), list):
            document = only  # such as {"prompts": [...]}
        elif _is_library(document):
            document = list(document.values())
    if not isinstance(document, list):
        yield _Entry("it", str(path), _of_value(document))
        return
    for number, value in enumerate(document, start=1):
        yield _Entry(f"entry {number}", f"{path}, entry {number}", _of_value(value))


def _is_library(document: Mapping[str, Any]) -> bool:
    """Whether it names its prompts, as SimpleTuner's prompt library does."""
    return bool(document) and all(
        (isinstance(value, str) or (isinstance(value, Mapping) and "prompt" in value))
        and not get_close_matches(key[:100], PromptLine.model_fields, n=1, cutoff=0.8)
        for key, value in document.items()
    )


def _holds_json_lines(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "{}")
    return isinstance(_of_json(first.strip()), Mapping)


def meant_elsewhere(text: str) -> str | None:
    """Return what a text is that was meant for another reader; None for a prompt."""
    if text.startswith(("{", "[")) and _is_json(text):
        return f"{_display(text)} is JSON, and would be taken as words of the prompt"
    if option := _OPTION.search(text):
        said = shown(repr(option[0]))
        return f"{said} is an option of another program, and would be taken as words of the prompt"
    return None


def _is_json(text: str) -> bool:
    try:
        return isinstance(_loads(text), Mapping | list)
    except (ValueError, RecursionError, _BadEntryError):
        return False


def _of_text(text: str) -> _Content:
    """Take a line as a prompt, unless it was meant for another reader."""
    fault = meant_elsewhere(text)
    if fault is None:
        return {"prompt": text}
    if text.startswith(("{", "[")):
        return Problem(fault, "name the file .jsonl, or .json for a list")
    return Problem(fault, f"leave it out, or write its values as JSON in a .jsonl file: {EXAMPLE}")


def _of_json(text: str) -> _Content:
    """Return a line of JSON as an object."""
    try:
        return _of_value(_loads(text))
    except _BadEntryError as exc:
        return exc.problem
    except json.JSONDecodeError as exc:
        message = f"not JSON: {exc.msg} (column {exc.colno})"
    except ValueError:
        message = "not JSON: a number has too many digits"
    except RecursionError:
        message = "not JSON: too many brackets"
    return Problem(message, f"write a line like {EXAMPLE}")


def _of_value(value: Any) -> _Content:
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, Mapping):
        return value
    return Problem(
        f"{_display(value)} is neither an object nor a text", f"write a line like {EXAMPLE}"
    )


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _BadEntryError(f"key {_display(twice)} is there more than once", "keep one of them")
    return document


def _refuse_constant(name: str) -> float:
    raise _BadEntryError(f"{name} is not a number that can be used", "write a finite number")


# --- shipped prompts -----------------------------------------------------------------------------


def teaching_prompts(count: int, *, world: bool) -> tuple[str, ...]:
    """Return the first `count` prompts to teach with, no two alike.

    `world`: captions of the small model's training scenes. Raises SettingsError for less than one,
    or more than there are.
    """
    return _first_shipped(count, "teaching", world=world, purpose="teach with")


def judging_prompts(count: int, *, world: bool) -> tuple[str, ...]:
    """Return the first `count` prompts to judge by, none of them to teach with; raises likewise.

    `world`: captions of scenes that the small model has never seen.
    """
    return _first_shipped(count, "judging", world=world, purpose="judge by")


def _first_shipped(count: int, name: str, *, world: bool, purpose: str) -> tuple[str, ...]:
    path = files("glance") / "assets" / "prompts" / f"{'small-flux-' if world else ''}{name}.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    if 1 <= count <= len(lines):
        return tuple(lines[:count])
    raise SettingsError(
        f"glance has {len(lines)} prompts to {purpose}, not {count}",
        hint=f"ask for 1 to {len(lines)}, or give your own with --prompt-file",
    )
