"""What other tools call a family in the header of a LoRA.

The first name is ModelSpec's, as SwarmUI, which reads it, knows it (T2IModelClassSorter.cs), else
as kohya's trainers write it (library/sai_model_spec.py in sd-scripts and in musubi-tuner). The
second is what these trainers write as `ss_base_model_version`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_NOTHING: Final[Mapping[str, "Architecture"]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Architecture:
    """The names of a family's default model, and of its others that are built otherwise."""

    modelspec: str
    kohya: str | None = None
    """None: kohya's trainers do not know it."""
    others: Mapping[str, "Architecture"] = _NOTHING
    """Fragment of the model's name, in small letters -> its names."""

    def of_model(self, model: str) -> "Architecture":
        """Return the names of one base model by what it is called."""
        found = (own for fragment, own in self.others.items() if fragment in model.lower())
        return next(found, self)
