"""LoRAs besides the pair's, a style's or a character's: found, examined, and named."""

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from glance.core.errors import Checks, LoraError, SettingsError
from glance.core.hub import split_hub_file
from glance.models.families import FAMILIES, Family
from glance.models.lora.examine import LoraFacts, examine_lora
from glance.models.lora.file import Header, read_header
from glance.models.lora.keys import is_text_key
from glance.runs.folder import LORA_FILE
from glance.runs.locate import find_local, locate_lora
from glance.sampling.request import ExtraLora

_SUFFIX: Final = ".safetensors"
_NAMELESS: Final = (LORA_FILE, "adapter_model.safetensors")  # what trainers call any LoRA
_ARCHITECTURE: Final = "modelspec.architecture"
_NO_FAMILY: Final = re.compile(r"stable-diffusion-(v1|v2|xl)")  # what most LoRAs are for


@dataclass(frozen=True, slots=True)
class FoundLora:
    """An extra LoRA whose file is here, and sound as far as it alone tells."""

    asked: ExtraLora
    """Its file as it was said."""
    facts: LoraFacts
    header: Header

    @property
    def lora(self) -> ExtraLora:
        """The same, with the file on this disk."""
        return ExtraLora(self.facts.path, self.asked.strength, self.asked.with_pair)

    @property
    def hub_name(self) -> str | None:
        """What it is called on the Hub, if it comes from there."""
        name = str(self.asked.file)
        return name if find_local(name) is None else None

    @property
    def text_keys(self) -> int:
        """How many of its keys are a text encoder's, which glance leaves as it is."""
        return sum(map(is_text_key, self.header.entries))

    def to_json(self) -> dict[str, str | float]:
        """Return what `--dry-run` prints of it."""
        return {"file": str(self.facts.path), "strength": self.asked.strength}


def find_extras(said: Sequence[str | Path | ExtraLora]) -> tuple[FoundLora, ...]:
    """Return the LoRAs, in their order, but those of strength 0.

    A part for a text encoder is left out of account: they are applied to the transformer alone.
    Raises InputError with the problems of all: a strength that is none, no such file, one that is
    no LoRA or another kind of adapter, one that is named twice; SetupError as locate_lora does.
    """
    checks = Checks()
    made = [checks.make(partial(_find, one)) for one in said]
    found = [one for one in made if one is not None]
    seen: dict[str, FoundLora] = {}
    for one in found:
        first = seen.setdefault(one.facts.sha256, one)
        if first is not one and first.asked.with_pair == one.asked.with_pair:
            message = f"--lora {first.asked.file} and --lora {one.asked.file} are the same LoRA"
            checks.refuse(LoraError(message, hint="give it once, with the strength that you want"))
    checks.require()
    return tuple(one for one in found if one.asked.strength != 0)


def _find(said: str | Path | ExtraLora) -> FoundLora:
    asked = ExtraLora.parse(said)
    head, _, tail = str(asked.file).rpartition(":")
    if head and find_local(str(asked.file)) is None and Path(head).expanduser().exists():
        raise SettingsError(
            f"--lora {asked.file}: {tail!r} is no strength",
            hint=f"write a number: --lora {shlex.quote(f'{head}:0.8')}",
        )
    path = locate_lora(str(asked.file))
    return FoundLora(asked, examine_lora(path, without_text=True), read_header(path))


def extra_notes(found: Sequence[FoundLora], family: Family) -> Iterator[str]:
    """Say what the files leave open, and what does not fit.

    Of what a pair's teacher had, who made the pair has been told.
    """
    for one in found:
        if one.asked.with_pair:
            yield from _notes(one, family)


def _notes(one: FoundLora, family: Family) -> Iterator[str]:
    facts, path = one.facts, one.facts.path
    if not facts.scale_is_known:
        yield (
            f"{path} says nothing of alpha: it is taken at scale 1; if it was trained with another "
            f"alpha than its rank, {facts.rank}, say --lora FILE:STRENGTH with alpha/rank"
        )
    if not facts.strength.is_own:
        yield f"{path} is taken at scale {facts.strength.describe()}"
    if facts.phase is not None:
        yield f"{path} is the {facts.phase} LoRA of a pair: as --lora it works in both phases"
    trained_for = facts.family or _foreign_architecture(one.header, family)
    if trained_for not in (None, family.name):
        yield f"{path} was trained for {trained_for}, the model is {family.name}"
    if one.text_keys:
        yield (
            f"{path}: its {one.text_keys} keys for a text encoder are left out; it is applied to "
            "the transformer alone"
        )


def _foreign_architecture(header: Header, family: Family) -> str | None:
    """Return what a header says it was trained for, where that is certainly another family."""
    said = header.metadata.get(_ARCHITECTURE, "").partition("/")[0]
    own, every = (
        {
            name.modelspec
            for row in rows
            for name in (row.architecture, *row.architecture.others.values())
        }
        for rows in ((family,), FAMILIES.values())
    )
    is_foreign = said in every - own or _NO_FAMILY.match(said)
    return said if is_foreign else None


# --- what they are called elsewhere --------------------------------------------------------------


def file_names(
    found: Sequence[FoundLora], *, taken: Collection[str], spell: Callable[[str], str] = str
) -> tuple[str, ...]:
    """Return a file name for each, which no other has, nor any of those `taken`.

    It is the file's own, or its folder's where the file is called as any LoRA is; `spell` makes of
    its stem one that is allowed.
    """
    used = {name.casefold() for name in taken}
    names = []
    for one in found:
        stem, number = spell(PurePosixPath(_own_name(one)).stem), 1
        name = f"{stem}{_SUFFIX}"
        while name.casefold() in used:
            number += 1
            name = f"{stem}-{number}{_SUFFIX}"
        used.add(name.casefold())
        names.append(name)
    return tuple(names)


def _own_name(one: FoundLora) -> str:
    path, hub = one.facts.path, split_hub_file(one.hub_name or "")
    if path.name not in _NAMELESS:
        return path.name if path.suffix.lower() == _SUFFIX else f"{path.name}{_SUFFIX}"
    return f"{PurePosixPath(hub[0]).name if hub else path.resolve().parent.name}{_SUFFIX}"
