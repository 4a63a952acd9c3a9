"""What a prompt file holds: lines of text, lines of JSON, or one JSON list."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Any, Final

from glance.core.encoding import ForeignText, decode_text
from glance.core.errors import InputError, Problem
from glance.core.files import open_file
from glance.core.findings import shown
from glance.dataset.kinds import fetching, recognise

MAX_BYTES: Final = 10_000_000
EXAMPLE: Final = '{"prompt": "a cat in the rain", "seed": 7}'
REMEDY: Final = "write one prompt a line, or name it .jsonl and write one JSON object a line"
_NO_JSON: Final = object()
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


@dataclass(frozen=True, slots=True)
class Entry:
    """What asks for pictures: an object of settings, or what is wrong with it."""

    place: str
    """Such as `line 3`."""
    where: str
    """How a message about it begins."""
    content: Mapping[str, Any] | Problem


class _BadEntryError(Exception):
    """Not even a JSON object."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.problem = Problem(message, hint)


def read_entries(path: Path, keys: list[str]) -> Iterator[Entry]:
    """Yield what a prompt file holds, in its order; raises InputError when nobody can tell.

    `keys` are those that an object may have.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise InputError(
            f"prompt file {path}: glance reads text and JSON, not {suffix}", hint=REMEDY
        )
    text = _read_text(path)
    if suffix == _JSON or (suffix in _JSON_LINES and text.lstrip().startswith("[")):
        document = _whole(text)
        if document is not _NO_JSON:
            yield from _of_document(path, document, keys)
            return
    lines = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
    is_json = suffix in (_JSON, *_JSON_LINES)
    if suffix == _JSON and not _holds_json_lines(text):
        raise InputError(_unreadable(path, text))
    for number, line in lines:
        stripped = line.strip()
        if stripped and (is_json or not stripped.startswith("#")):
            content = _of_json(stripped) if is_json else _of_text(stripped)
            yield Entry(f"line {number}", f"{path}:{number}", content)


def display(value: Any) -> str:
    """Return a value of a file as messages show it: not all of a long one."""
    return Repr(maxstring=60, maxlong=30, maxdict=2, maxlist=3, maxlevel=2).repr(value)


def _read_text(path: Path) -> str:
    """Return the whole file; raises InputError."""
    try:
        if not path.is_file():  # opening a pipe would wait forever
            raise InputError(_absent(path))
        with open_file(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        reason = getattr(exc, "strerror", None) or exc
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
    raise InputError(_foreign(path, text))


def _absent(path: Path) -> Iterator[Problem]:
    if path.exists():
        yield Problem(f"prompt file {path} is not a file", f"give another file; {REMEDY}")
    elif " " in path.name:
        yield Problem(
            f"prompt file {path} does not exist",
            f"is it the prompt itself? --prompt {shlex.quote(shown(path))}",
        )
    else:
        yield Problem(f"prompt file {path} does not exist", f"give another file; {REMEDY}")


def _foreign(path: Path, text: ForeignText) -> Iterator[Problem]:
    message = text.explain(f"prompt file {path}")
    if text.readings:
        command, target = text.conversion(path)
        quoted = shlex.quote(f"--prompt-file {shlex.quote(shown(target))}")
        yield Problem(message, f"{command} && echo now give {quoted}")
    else:
        yield Problem(message, "save it as UTF-8 text")


def _of_document(path: Path, document: Any, keys: list[str]) -> Iterator[Entry]:
    """Yield what one JSON document holds: a list, an object, or a library of named prompts."""
    if isinstance(document, _BadEntryError):
        yield Entry("it", str(path), document.problem)
        return
    if isinstance(document, Mapping):
        if len(document) == 1 and isinstance(only := next(iter(document.values())), list):
            document = only  # such as {"prompts": [...]}
        elif _is_library(document, keys):
            document = list(document.values())
    if not isinstance(document, list):
        yield Entry("it", str(path), _of_value(document))
        return
    for number, value in enumerate(document, start=1):
        yield Entry(f"entry {number}", f"{path}, entry {number}", _of_value(value))


def _is_library(document: Mapping[str, Any], keys: list[str]) -> bool:
    """Whether it names its prompts, as SimpleTuner's prompt library does."""
    return bool(document) and all(
        (isinstance(value, str) or (isinstance(value, Mapping) and "prompt" in value))
        and not get_close_matches(key[:100], keys, n=1, cutoff=0.8)
        for key, value in document.items()
    )


def _whole(text: str) -> Any:
    """Return the document that a text is, or what is wrong in it; _NO_JSON when it is none."""
    try:
        return _loads(text)
    except _BadEntryError as exc:
        return exc
    except (ValueError, RecursionError):
        return _NO_JSON


def _holds_json_lines(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "{}")
    return isinstance(_of_json(first.strip()), Mapping)


def _unreadable(path: Path, text: str) -> Iterator[Problem]:
    try:
        _loads(text)
    except json.JSONDecodeError as exc:
        message = f"not JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})"
        yield Problem(f"prompt file {path}: {message}", f"write a list: [{EXAMPLE}, ...]")
    except (ValueError, RecursionError, _BadEntryError):
        yield Problem(f"prompt file {path}: not JSON", f"write a list: [{EXAMPLE}, ...]")


def meant_elsewhere(text: str) -> str | None:
    """Return what a text is that was meant for another reader; None for a prompt."""
    if text.startswith(("{", "[")) and isinstance(_whole(text), Mapping | list):
        return f"{display(text)} is JSON, and would be painted as words"
    if option := _OPTION.search(text):
        said = shown(repr(option[0]))
        return f"{said} is an option of another program, and would be painted as words"
    return None


def _of_text(text: str) -> Mapping[str, Any] | Problem:
    """Take a line as a prompt, unless it was meant for another reader."""
    fault = meant_elsewhere(text)
    if fault is None:
        return {"prompt": text}
    if text.startswith(("{", "[")):
        return Problem(fault, "name the file .jsonl, or .json for a list")
    return Problem(fault, f"leave it out, or write its values as JSON in a .jsonl file: {EXAMPLE}")


def _of_json(text: str) -> Mapping[str, Any] | Problem:
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


def _of_value(value: Any) -> Mapping[str, Any] | Problem:
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, Mapping):
        return value
    return Problem(
        f"{display(value)} is neither an object nor a text", f"write a line like {EXAMPLE}"
    )


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _BadEntryError(f"key {display(twice)} is there more than once", "keep one of them")
    return document


def _refuse_constant(name: str) -> float:
    raise _BadEntryError(f"{name} is not a number that can be used", "write a finite number")
