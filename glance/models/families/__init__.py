"""The table of model families: a row each, every fact in which families differ.

A new family is a row in a file here, its name in the tuple below, a tiny model and a loop in the
tests, and a rendered config; CONTRIBUTING.md goes through it. No other module names a family.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from glance.core.errors import SettingsError
from glance.models.families import auraflow, flux, hidream, krea2, lumina, qwen_image, sd3
from glance.models.families.family import Family, Latents, Negative
from glance.models.families.refused import REFUSED, Refused

__all__ = [
    "DEFAULT_FAMILY",
    "FAMILIES",
    "Family",
    "Latents",
    "Negative",
    "families_of_pipeline",
    "find_family",
]

DEFAULT_FAMILY: Final = "flux"
_ROWS: Final = (
    *(flux.FAMILY, sd3.FAMILY),
    *(qwen_image.FAMILY, qwen_image.EDIT_2509, qwen_image.EDIT_2511),
    *(flux.FLUX2, flux.KLEIN, lumina.Z_IMAGE, auraflow.FAMILY, lumina.LUMINA2),
    *(flux.CHROMA, krea2.FAMILY, hidream.FAMILY),
)
FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({row.name: row for row in _ROWS})


def find_family(name: str) -> Family:
    """Return the row of `name`; raise SettingsError naming the known ones."""
    if name in FAMILIES:
        return FAMILIES[name]
    raise _refusal(name, next((row for row in REFUSED if name in row.names), None))


def families_of_pipeline(pipeline: str) -> tuple[Family, ...]:
    """Return the rows of a diffusers pipeline class; raise SettingsError if there is none."""
    found = tuple(family for family in FAMILIES.values() if family.pipeline == pipeline)
    if found:
        return found
    raise _refusal(pipeline, next((row for row in REFUSED if pipeline in row.pipelines), None))


def _refusal(asked: str, row: Refused | None) -> SettingsError:
    hint = f"glance trains: {', '.join(FAMILIES)}"
    if row is None:
        return SettingsError(f"family {asked!r} is not supported", hint=hint)
    return SettingsError(f"{row.title} ({asked}) is not supported: {row.reason}", hint=hint)
