"""Settings in a file: YAML, of which JSON is a part, and each key's line for what is said of it.

Every scalar is text, as on a command line: who knows the option reads it, and `caption: no` is not
false. Nothing but `null` and `~` means anything in itself: nobody says that option.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.core.errors import Problem, SettingsError, reason_of, shown

if TYPE_CHECKING:
    from yaml import Node

_LARGEST: Final = 250_000  # bytes; it is read in a second
_LARGEST_LINES: Final = 64_000_000  # bytes of a file with a document a line: so is that
_MOST: Final = 20_000  # values; a few lines of aliases stand for billions
_DEEPEST: Final = 8
_NULL: Final = re.compile(r"~|null|Null|NULL")
_EXAMPLE: Final = "write one option a line, such as learning-rate: 0.0001"
_HINTS: Final[Mapping[str, str]] = {
    "mapping values are not allowed": 'put a text that holds ": " in quotes',
    "cannot start any token": "put a text that begins so in quotes; indent with spaces, not tabs",
    "expected a single document": "keep one document: no --- between two",
}


class Said(dict[str, Any]):
    """What a file says: texts, lists, and mappings of this kind, by their keys; None for null."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.lines: dict[str, int] = {}

    def place(self, key: str) -> str:
        """Return where a key stands, to be written before what is wrong with it."""
        line = self.lines.get(key)
        return "" if line is None else f"{shown(self.path)}, line {line}: "

    @property
    def line(self) -> int | None:
        """Where it begins; None for nothing."""
        return min(self.lines.values(), default=None)


def read_document(path: Path, flag: str) -> Said:
    """Return what the file that `flag` names says; raise SettingsError, every double key in it."""
    said = read_list(path, flag, hint=f"give {flag} a file; --save-config writes one")
    if not isinstance(said, Said):
        what = "it does not hold options by their names"
        raise SettingsError(f"{flag} {shown(path)}: {what}", hint=_EXAMPLE)
    return said


def read_list(path: Path, flag: str, *, hint: str) -> Any:
    """Return what a file says, of whatever kind; of a .jsonl file a list, an entry for each line.

    `flag` names it in what is said of it, `hint` helps where it cannot be read. Raises
    SettingsError.
    """

    def refuse(reason: object, hint: str) -> SettingsError:
        return SettingsError(f"{flag} {shown(path)}: {shown(reason)}".lstrip(), hint=hint)

    from glance.core.files import open_file

    is_lines = path.suffix.lower() == ".jsonl"
    largest = _LARGEST_LINES if is_lines else _LARGEST
    try:
        with open_file(path) as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise refuse(reason_of(exc), hint) from exc
    if len(data) > largest:
        remedy = _EXAMPLE if is_lines else f"{_EXAMPLE}; many jobs in a .jsonl file, one a line"
        raise refuse(f"it has more than {largest:,} bytes, and is no file of settings", remedy)
    return _read_lines(data, path, refuse) if is_lines else _read_yaml(data, path, refuse)


def _read_yaml(data: bytes, path: Path, refuse: Callable[[object, str], SettingsError]) -> Any:
    import yaml

    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        data = data.replace(b"\t", b" ")  # JSON may be indented with them
    try:
        root = yaml.compose(data, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        hint = next((hint for part, hint in _HINTS.items() if part in str(exc.problem)), _EXAMPLE)
        raise refuse(f"line {line}: {exc.problem}", hint) from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:  # bytes that are no text
        raise refuse("it is no YAML, or not in UTF-8", "save it as UTF-8 text") from exc
    if root is None:
        raise refuse("it is empty", _EXAMPLE)
    reader = _Reader(path)
    said = reader.read(root)
    if reader.problems:
        raise SettingsError(reader.problems)
    return said


def _read_lines(data: bytes, path: Path, refuse: Callable[[object, str], SettingsError]) -> Any:
    """Return the entries of JSON lines; of all that are none, what is wrong."""
    said, problems = list[Any](), list[Problem]()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise refuse("it is not in UTF-8", "save it as UTF-8 text") from exc
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{shown(path)}, line {number}: "

        def take(pairs: list[tuple[str, Any]], number: int = number, place: str = place) -> Said:
            entry = Said(path)
            for key, value in pairs:
                if key in entry:
                    problems.append(Problem(f"{place}{shown(key)} is there twice", "keep one"))
                entry[key] = _at_home(value) if isinstance(value, str) else value
                entry.lines[key] = number
            return entry

        if not line.strip():
            continue
        try:
            as_typed = {"parse_int": str, "parse_float": str, "parse_constant": str}
            said.append(json.loads(line, object_pairs_hook=take, **as_typed))  # type: ignore[arg-type]
        except (ValueError, RecursionError) as exc:
            reason = getattr(exc, "msg", "it is nested too deeply")
            example = 'one JSON object a line, such as {"image": "a.png"}'
            problems.append(Problem(f"{place}{reason}", f"write {example}"))
    if problems:
        raise SettingsError(problems)
    if not said:
        raise refuse("it is empty", _EXAMPLE)
    return said


def render_document(content: Mapping[str, Any], heading: str) -> str:
    """Return plain values as YAML under a line of comment."""
    import yaml

    written = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=10_000)
    return f"# {heading}\n{written}"


def is_rendered(text: str, heading: str) -> bool:
    """Whether a file's text is, but for its values, what `render_document` writes.

    A comment in it, or an order of its own, would be lost.
    """
    import yaml

    if not text.startswith(f"# {heading}\n") or len(text) > _LARGEST:
        return False
    try:
        return render_document(yaml.safe_load(text), heading) == text
    except (yaml.YAMLError, RecursionError, ValueError, TypeError):
        return False


class _Reader:
    """Makes plain values of YAML's nodes, as many as a file of settings may hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = _MOST
        self.problems: list[Problem] = []

    def read(self, node: "Node", depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            reason = "it has too many values, or is nested too deeply"
            raise SettingsError(f"{shown(self._path)}: {reason}", hint=_EXAMPLE)
        if node.id == "sequence":
            return [self.read(one, depth + 1) for one in node.value]
        if node.id == "scalar":
            return self._scalar(node)
        said = Said(self._path)
        for key, value in self._pairs(node):
            said[key.value] = self.read(value, depth + 1)
            said.lines[key.value] = key.start_mark.line + 1
        return said

    def _pairs(self, node: "Node") -> "Iterator[tuple[Node, Node]]":
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            place = f"{shown(self._path)}, line {line}: "
            if key.id != "scalar":
                self.problems.append(Problem(f"{place}a name belongs before the colon", _EXAMPLE))
            elif key.value in lines:
                first = f"line {lines[key.value]}"
                message = f"{place}{shown(key.value)} is there already, in {first}"
                self.problems.append(Problem(message, "keep one"))
            else:
                lines[key.value] = line
                yield key, value

    def _scalar(self, node: "Node") -> str | None:
        if node.style is None and _NULL.fullmatch(node.value):
            return None
        # what JSON writes as two halves is one character
        text: str = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return _at_home(text)


def _at_home(text: str) -> str:
    return str(Path(text).expanduser()) if text.startswith("~/") else text  # as a shell does
