"""Requests as forms: every field of a form is declared once, where the flag is.

A form sends a document, `{"learning-rate": "0.0005", "prompt": ["a", "b"]}`, which the readers of
options check; nothing is checked here but where its paths lead.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from enum import StrEnum
from typing import Any, Final

from glance.core.errors import Checks, InputError, Problem, shown
from glance.core.options import Field, Group, command_line, declared, from_document
from glance.evaluation.request import CompareRequest
from glance.sampling.request import InferRequest
from glance.training.request import DistillRequest, TrainRequest
from glance.web.guard import PROSE, Workspace


class Kind(StrEnum):
    """How a field is filled in."""

    LINE = "line"
    PROSE = "prose"
    """Of several lines."""
    PROMPTS = "prompts"
    """One a line."""
    LINES = "lines"
    NUMBER = "number"
    CHOICE = "choice"
    CHECK = "check"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Entry:
    """One field of a form."""

    field: Field
    kind: Kind

    @property
    def key(self) -> str:
        """Its name in the document that the form sends."""
        return self.field.key

    @property
    def label(self) -> str:
        """What stands above it."""
        return self.key.replace("-", " ")

    @property
    def flag(self) -> str:
        """The same on the command line."""
        return f"--{self.key}"

    @property
    def help(self) -> str:
        """The flag's."""
        return self.field.flag.help

    @property
    def default(self) -> str:
        """What the command takes without it, as it is typed; empty where that depends."""
        default = self.field.default
        if default is MISSING or default is None or default == () or isinstance(default, bool):
            return ""
        said = self.field.say(default)
        return "\n".join(map(str, said)) if isinstance(said, list) else str(said)

    @property
    def choices(self) -> tuple[str, ...]:
        """All that it may be, the default among them."""
        kind = self.field.kind
        return tuple(one.value for one in kind) if self.kind is Kind.CHOICE else ()

    @property
    def is_whole(self) -> bool:
        """Whether a number has no fraction."""
        return self.field.kind is int


@dataclass(frozen=True, slots=True)
class Form:
    """What one command is asked by a page."""

    command: str
    """Its word on the command line."""
    request: type
    front: tuple[str, ...]
    """Keys of the fields that are shown at once, in their order."""
    leaves_out: frozenset[str] = frozenset()

    @property
    def owner(self) -> str:
        """Whose options they are."""
        return f"glance {self.command}"

    @property
    def fields(self) -> dict[str, Field]:
        """Every field of the form by its key."""
        return {
            one.key: one
            for one in declared(self.request)
            if one.key not in self.leaves_out | _NEVER
        }

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The fields that are shown at once."""
        fields = self.fields
        return tuple(_entry(fields[key]) for key in self.front)

    @property
    def sections(self) -> dict[str, tuple[Entry, ...]]:
        """All others, by their headings."""
        rest = [one for key, one in self.fields.items() if key not in self.front]
        found = {
            group.value: tuple(_entry(one) for one in rest if one.flag.group is group)
            for group in Group
        }
        return {name: entries for name, entries in found.items() if entries}

    def read(self, document: Any, workspace: Workspace) -> Any:
        """Return the request that a form's document says.

        Raises InputError: it is none, it names a place where pages may not go, and all that the
        options' own readers refuse.
        """
        if not isinstance(document, Mapping) or not all(isinstance(key, str) for key in document):
            raise InputError("a form sends a JSON object of its fields", hint="reload the page")
        fields = self.fields
        # by their one name: the readers of options know others, and paths are looked at by this one
        strange = [key for key in document if key not in fields]
        if strange:
            raise InputError(
                Problem(f"{shown(key)} is not asked by a page", f"see {self.owner} --help")
                for key in strange
            )
        said = {key: value for key, value in document.items() if not _is_empty(value)}
        checks = Checks()
        checks.make(lambda: workspace.check(fields, said))
        request = checks.make(lambda: from_document(self.request, said, owner=self.owner))
        checks.require()
        return request

    def words(self, request: Any) -> list[str]:
        """Return the command that a request is, after `glance`."""
        return [self.command, *command_line(request)]


_NEVER: Final = frozenset(
    {
        *("resume", "restart", "trust"),  # a run's own page continues it
        "set",  # SimpleTuner has options that name scripts to be run, and places to send to
        "prompt-file",  # it may name further files; a form has room for the prompts
        *("from-image", "init-latents", "save-latents"),  # an image is read into the form
        *("gpu-ids", "stop-within"),
    }
)
"""What no page asks for."""

TRAIN: Final = Form(
    "train",
    TrainRequest,
    front=(
        *("image", "caption", "model", "device", "vram", "resolution", "steps", "schedule"),
        *("run", "compare"),
    ),
)
DISTILL: Final = Form(
    "distill",
    DistillRequest,
    front=("prompt", "model", "device", "vram", "size", "steps", "schedule", "run"),
)
INFER: Final = Form(
    "infer",
    InferRequest,
    front=("run", "prompt", "seed", "count", "size", "device", "save-phases"),
    leaves_out=frozenset({"output", "width", "height", "no-metadata"}),
)
COMPARE: Final = Form(
    "compare",
    CompareRequest,
    front=("run", "prompt", "count", "teacher-steps", "device"),
    leaves_out=frozenset({"output", "metric"}),
)
FORMS: Final = {form.command: form for form in (TRAIN, DISTILL, INFER, COMPARE)}


def _entry(field: Field) -> Entry:
    return Entry(field, _kind(field))


def _kind(field: Field) -> Kind:
    kind, key = field.kind, field.key
    if kind is bool:
        return Kind.CHECK
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return Kind.CHOICE
    if key in ("image", "source-image"):
        return Kind.IMAGE
    if key in PROSE:
        return Kind.PROMPTS if field.is_several else Kind.PROSE
    if field.is_several:
        return Kind.LINES
    if kind in (int, float) and field.flag.parse is None:
        return Kind.NUMBER
    return Kind.LINE


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], False)
