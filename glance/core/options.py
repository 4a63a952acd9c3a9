"""How a field of a request is said: one declaration for the command line, files, help and forms.

A request is a frozen dataclass whose fields carry a `Flag` in `Annotated`. `glance.cli._command`
makes a command's signature from it; nothing else declares what users can say. A *document* is the
same as a mapping, for YAML, JSON and forms: `{"learning-rate": 0.0005, "prompt": ["a", "b"]}`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum, StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from glance.core.documents import Said
from glance.core.errors import (
    GlanceError,
    InputError,
    Problem,
    SettingsError,
    as_typed,
    describe_fault,
    shown,
)

KEY_VALUE: Final = "KEY=VALUE"
"""The `kind` of an option that a document may give a mapping."""


class Group(StrEnum):
    """The headings of a command's help, in their order."""

    PROMPT = "Prompt"
    DATA = "Data"
    LORAS = "LoRAs"
    MODEL = "Model"
    OUTPUT = "Output"
    SAMPLING = "Sampling"
    TRAINING = "Training"
    SCHEDULE = "Schedule"
    HARDWARE = "Hardware"
    MEMORY = "Memory"
    PREVIEW = "Preview"
    RUN = "Run"
    ADVANCED = "Advanced"
    """Only named in the short help."""


@dataclass(frozen=True, slots=True)
class Flag:
    """How one field is said."""

    help: str
    group: Group
    names: tuple[str, ...] = ()
    """As they are typed; empty: the field's name with dashes."""
    kind: str | None = None
    """What stands for the value in the help, where its type says too little: `WxH`."""
    least: float | None = None
    most: float | None = None
    parse: Callable[[str], Any] | None = None
    show: Callable[[Any], str] | None = None
    """The inverse of `parse`."""
    commas: bool = False
    """Whether one text holds several values, between commas."""
    choices: type[StrEnum] | None = None
    """What a text may be."""
    off: str | None = None
    """Of a field that is True unless the user says this flag."""
    once: bool = False
    """An order for this one command, and no setting: `--save-config` leaves it out."""


@dataclass(frozen=True, slots=True)
class Without:
    """On a field that holds another request: which of that one's fields users cannot say here."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request, as declared."""

    path: tuple[str, ...]
    """Its name; of a field of a nested dataclass, that one's name before it."""
    type: Any
    default: Any
    flag: Flag

    @property
    def names(self) -> tuple[str, ...]:
        """As they are typed."""
        return self.flag.names or (self.flag.off or f"--{self.path[-1].replace('_', '-')}",)

    @property
    def key(self) -> str:
        """Its name in a document: `learning-rate`."""
        return next(name for name in self.names if name.startswith("--")).lstrip("-")

    @property
    def is_several(self) -> bool:
        """Whether it may be said repeatedly."""
        return get_origin(self.type) is tuple and self.flag.parse is None

    @property
    def kind(self) -> Any:
        """The type of one value that is said."""
        if self.flag.choices is not None:
            return self.flag.choices
        inner = get_args(self.type)[0] if self.is_several else self.type
        union = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
        return next(one for one in union if one is not NoneType)

    def take(self, typed: Any) -> Any:
        """Return the field's value, of what was typed when it has its type; None: nothing was."""
        if self.flag.off is not None:
            return not typed
        if typed is None or (self.is_several and not typed):
            return self.default
        if self.flag.choices is not None:
            return typed.value
        return tuple(typed) if self.is_several else typed

    def say(self, value: Any) -> Any:
        """Return a value as a document holds it; None for what is the default anyway."""
        if isinstance(value, bool):
            return True if value is (self.flag.off is None) else None
        if value is None or value == ():
            return None
        show = self.flag.show or _plain
        return [*map(show, value)] if self.is_several else show(value)

    def read(self, value: Any) -> Any:
        """Return the field's value, of one in a document; raise InputError."""
        from pydantic import Field as Bounds
        from pydantic import TypeAdapter, ValidationError

        said = flatten(self.key, value, self, is_several=self.is_several)
        if self.flag.parse is not None:
            return self.flag.parse(said)
        one: Any = Annotated[self.kind, Bounds(ge=self.flag.least, le=self.flag.most)]
        adapter = TypeAdapter[Any](list[one] if self.is_several else one)
        try:
            return self.take(adapter.validate_python(said))
        except ValidationError as exc:
            raise InputError(
                Problem(f"{self.key} {fault['input']}: {describe_fault(fault)}")
                for fault in exc.errors()
            ) from exc


def declared(request: type) -> tuple[Field, ...]:
    """Return the fields of a request that users can say, those of nested dataclasses in place."""
    if request not in _FIELDS:
        _FIELDS[request] = tuple(_declared(request, ()))
    return _FIELDS[request]


_FIELDS: Final[dict[type, tuple[Field, ...]]] = {}
_TYPES: Final[dict[type, dict[str, Any]]] = {}
"""What is told of requests, once: a batch makes thousands."""


def _declared(request: type, above: tuple[str, ...]) -> list[Field]:
    hints = get_type_hints(request, include_extras=True)
    found: list[Field] = []
    for field in fields(request):
        hint = hints[field.name]
        path = (*above, field.name)
        if get_origin(hint) is Annotated:
            kind, *extras = get_args(hint)
            flag = next((extra for extra in extras if isinstance(extra, Flag)), None)
            if flag is not None:
                found.append(Field(path, kind, field.default, flag))
            without = next((extra for extra in extras if isinstance(extra, Without)), None)
            if without is not None:
                inner = _declared(kind, path)
                found += [one for one in inner if one.path[len(path)] not in without.names]
        elif isinstance(hint, type) and is_dataclass(hint):
            found += _declared(hint, path)
    return found


def _types(request: type) -> dict[str, Any]:
    if request not in _TYPES:
        _TYPES[request] = get_type_hints(request)
    return _TYPES[request]


def build(request: type, values: dict[tuple[str, ...], Any]) -> Any:
    """Return a request of these values, by their fields' paths."""
    hints = _types(request)
    own: dict[str, Any] = {}
    nested: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in values.items():
        if len(path) == 1:
            own[path[0]] = value
        else:
            nested.setdefault(path[0], {})[path[1:]] = value
    return request(**own, **{name: build(hints[name], inner) for name, inner in nested.items()})


def flatten(key: str, value: Any, field: Field | None, *, is_several: bool) -> Any:
    """Return a document's value as it is typed: a text, or several for a repeatable option.

    Without a field it is that of an option that no request declares. Raises InputError for a list
    or a mapping where one value belongs.
    """
    if isinstance(value, Mapping) and field is not None and field.flag.kind == KEY_VALUE:
        value = [f"{name}={_text(name, one)}" for name, one in value.items()]
    if not isinstance(value, list | tuple):
        return [_text(key, value)] if is_several else _text(key, value)
    if is_several:
        return [_text(key, one) for one in value]
    if field is None or not field.flag.commas:
        raise InputError(f"{key} holds one value, not a list", hint="keep one of them")
    return ",".join(_text(key, one) for one in value)


def _text(key: str, value: Any) -> str:
    if value is None or isinstance(value, Mapping | list | tuple):
        raise InputError(f"{key}: a text or a number belongs there, no list, mapping or null")
    return str(value).lower() if isinstance(value, bool) else as_typed(_plain(value))


def match_keys[T](
    said: Mapping[str, Any], known: Mapping[str, T], *, owner: str
) -> tuple[dict[str, T], list[Problem]]:
    """Return what each key means, and what is wrong with those that mean nothing or are repeated.

    `known` holds all names, with dashes, and `owner` what they belong to: `glance train`.
    """
    found: dict[str, T] = {}
    wrong: list[Problem] = []
    for key in said:
        name = key.replace("_", "-")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"write {near[0]}, or leave it out" if near else f"see {owner} --help"
            wrong.append(Problem(f"{place(said, key)}{shown(key)} is no option of {owner}", remedy))
        elif (other := next((k for k, one in found.items() if one == known[name]), None)) is None:
            found[key] = known[name]
        else:
            message = f"{place(said, key)}{key} is the same as {other}, and said twice"
            wrong.append(Problem(message, "keep one"))
    return found, wrong


def place(said: Mapping[str, Any], key: str) -> str:
    """Return what is to stand before what is wrong with a key: its line, of a file."""
    return said.place(key) if isinstance(said, Said) else ""


def placed(said: Mapping[str, Any], key: str, problem: Problem) -> Problem:
    """Return what is wrong with a flag's value as what is wrong with a key's."""
    hint = problem.hint
    flag, _, value = (hint or "").partition(" ")
    if flag.startswith("--") and value and "$(" not in value:
        hint = f"{flag.removeprefix('--')}: {value}"
    return Problem(f"{place(said, key)}{problem.message.removeprefix('--')}", hint)


def to_document(request: Any, *, only_changed: bool = True) -> dict[str, Any]:
    """Return what would have to be said for this request: plain values by the options' keys.

    With `only_changed` nothing that the request is without it. Fields that users cannot say are
    left out.
    """
    values = dict(_values(request))
    groups = list(Group)
    ordered = sorted(declared(type(request)), key=lambda one: groups.index(one.flag.group))
    said = {one.path: one for one in ordered}
    for path in said if only_changed else ():
        others = {other: value for other, value in values.items() if other != path}
        with suppress(TypeError, GlanceError):  # it cannot be without it
            if build(type(request), others) == request:
                values = others
    written = ((one.key, one.say(values[path])) for path, one in said.items() if path in values)
    return {key: value for key, value in written if value is not None}


def from_document[R](request: type[R], document: Mapping[str, Any], *, owner: str) -> R:
    """Return the request that a document says; its values may be texts, as they are typed.

    Null is what nobody says; `owner` is whose options they are: `glance train`. Raises
    SettingsError with all unknown keys and bad values, and what the request itself raises.
    """
    known = {name.lstrip("-"): one for one in declared(request) for name in one.names}
    found, wrong = match_keys(document, known, owner=owner)
    problems, values = wrong, {}
    for key, one in found.items():
        if document[key] is not None:
            try:
                values[one.path] = one.read(document[key])
            except InputError as exc:
                found_wrong = [placed(document, key, problem) for problem in exc.problems]
                see = f"see {owner} --help"
                problems += [Problem(one.message, one.hint or see) for one in found_wrong]
    missing = {one.key: one for one in declared(request) if one.default is MISSING}
    given = {one.key for key, one in found.items() if document[key] is not None}
    problems += [Problem(f"{key} is missing", "give it") for key in missing if key not in given]
    if problems:
        raise SettingsError(problems)
    made: R = build(request, values)
    return made


def command_line(request: Any) -> list[str]:
    """Return the flags and values that make this request, for a shell to be quoted by the caller.

    Only those without which it would be another.
    """
    keys = {one.key: one for one in declared(type(request))}
    words: list[str] = []
    for key, value in to_document(request).items():
        flag = f"--{keys[key].key}"
        if value is True:
            words.append(flag)
            continue
        for one in value if isinstance(value, list) else [value]:
            text = as_typed(one)
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def _values(request: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    hints = _types(type(request))
    for field in fields(request):
        value = getattr(request, field.name)
        if is_dataclass(hints[field.name]):
            yield from (((field.name, *path), one) for path, one in _values(value))
        else:
            yield (field.name,), value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return value if isinstance(value, bool | int | float) else str(value)


def show_size(size: Sequence[int]) -> str:
    """Return width and height as `parse_size` reads them."""
    return "x".join(map(str, size))


def show_guidance(scales: Sequence[float]) -> str:
    """Return the guidance of both phases as `parse_guidance` reads it."""
    return ",".join(map(as_typed, dict.fromkeys(scales)))


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height in pixels of a text such as 1024x768; raise InputError."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.strip().lower())
    if found is None:
        raise InputError(
            f"--size {text[:40]}: not width x height in pixels",
            hint="--size 1024x1024, for example",
        )
    return int(found[1]), int(found[2])


def parse_guidance(text: str) -> tuple[float, float]:
    """Return the guidance of the slow and the fast phase; one number is for both.

    Raises InputError.
    """
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2):
        raise InputError(
            f"--guidance {text[:40]}: not one number, or two",
            hint="--guidance 3.5, or of the slow and the fast phase --guidance 3.5,1",
        )
    return scales[0], scales[-1]


# What several requests have in common: same flag, same help, everywhere.
FamilyName = Annotated[
    str | None, Flag("Model family. Default: the model's own, else flux.", Group.MODEL)
]
ModelName = Annotated[
    str | None,
    Flag(
        "Base model: Hub id, diffusers folder, .safetensors file, or small-flux, the toy model in "
        "the package. Default: the family's.",
        Group.MODEL,
    ),
]
PipelineName = Annotated[
    str | None,
    Flag(
        "The whole model that a .safetensors file in --model belongs to. Default: the family's.",
        Group.MODEL,
        ("--pipeline",),
    ),
]
SourceImage = Annotated[
    Path | None, Flag("Edit models: the source image.", Group.DATA, ("--source-image",))
]
Caption = Annotated[
    str | None,
    Flag("What the image shows. Default: the .txt or .caption file beside it.", Group.DATA),
]
