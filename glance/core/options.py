"""How a field of a request is said: one declaration for the command line, its help, and forms.

A request is a frozen dataclass whose fields carry a `Flag` in `Annotated`. `glance.cli._command`
makes a command's signature from it; nothing else declares what users can say.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from glance.core.errors import InputError


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
    choices: type[StrEnum] | None = None
    """What a text may be."""
    off: str | None = None
    """Of a field that is True unless the user says this flag."""


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


def declared(request: type) -> tuple[Field, ...]:
    """Return the fields of a request that users can say, those of nested dataclasses in place."""
    return tuple(_declared(request, ()))


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
        elif isinstance(hint, type) and is_dataclass(hint):
            found += _declared(hint, path)
    return found


def build(request: type, values: dict[tuple[str, ...], Any]) -> Any:
    """Return a request of these values, by their fields' paths."""
    hints = get_type_hints(request)
    own: dict[str, Any] = {}
    nested: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in values.items():
        if len(path) == 1:
            own[path[0]] = value
        else:
            nested.setdefault(path[0], {})[path[1:]] = value
    return request(**own, **{name: build(hints[name], inner) for name, inner in nested.items()})


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
