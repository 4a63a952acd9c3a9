"""The record of one picture's making: enough to make it again, and to tell it from another."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from glance import __version__
from glance.core.device import Device, Precision
from glance.core.phase import Phase
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule

SCHEMA_VERSION: Final = 1
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}\b")  # of a model's folder; a Hub commit has 40
_PLACES: Final[dict[str, Any]] = {
    **dict.fromkeys(("schema_version", "run", "model", "transformer"), True),
    "schedule": {"name"},
    "loras": {"__all__": {"file"}},
    "settings": {"reference"},
}
"""What does not decide a pixel: places and names."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoraUse(_Part):
    """One LoRA of the pair, and how strongly it was applied."""

    phase: Phase = Field(description="The phase that it ran in.")
    file: str = Field(
        description="Relative to the picture's folder, or on the Hub: owner/repo:file.safetensors."
    )
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the whole file.")
    scale: float = Field(description="The strength that it was applied with.")


class Levels(_Part):
    """The noise levels of one phase; the sigmas are there for the reader."""

    timesteps: tuple[float, ...] = Field(description="0-1000, stepped from.")
    sigmas: tuple[float, ...] = Field(description="The same from 0 to 1.")


class ScheduleUse(_Part):
    """What was stepped along."""

    name: str = Field(description="The preset's name, or custom.")
    slow: Levels = Field(description="Slow phase.")
    fast: Levels = Field(description="Fast phase.")

    @classmethod
    def of(cls, schedule: Schedule) -> Self:
        """Return a picture's form of a schedule."""
        return cls.model_validate({"name": schedule.name, **schedule.to_json()})

    def resolve(self) -> Schedule:
        """Return the schedule as the object that checks its rules; raises ScheduleError."""
        return Schedule(self.name, self.slow.timesteps, self.fast.timesteps)


class Record(_Part):
    """Everything that made one picture."""

    schema_version: Literal[1] = Field(default=SCHEMA_VERSION, description="Of this record.")
    glance: str = Field(default=__version__, description="The glance that made it.")
    versions: Mapping[str, str] = Field(description="Of the packages that sampled it.")
    family: str = Field(description="Model family, a row of families.")
    model: str = Field(description="Base model: a Hub id, or relative to the picture's folder.")
    base_revision: str = Field(description="Its commit on the Hub, or its folder's fingerprint.")
    transformer: str | None = Field(
        default=None, description="Single file for its transformer, relative to the picture."
    )
    run: str | None = Field(default=None, description="Run folder, relative to the picture.")
    device: Device = Field(description="Where it was sampled.")
    dtype: Precision = Field(description="The precision of the weights.")
    quantize: str = Field(default="none", description="How the transformer was quantised.")
    schedule: ScheduleUse = Field(description="The steps of both phases.")
    loras: tuple[LoraUse, ...] = Field(description="The LoRAs that were applied.")
    settings: SampleSettings = Field(description="What was asked for.")
    reference_sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Of the file in settings.reference, for a family that edits.",
    )

    init_latents_sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="Of the saved latents that it began from, in place of the slow phase.",
    )

    @model_validator(mode="after")
    def _knows_its_reference(self) -> Self:
        if (self.settings.reference is None) != (self.reference_sha256 is None):
            raise ValueError("settings.reference and reference_sha256 go together")
        return self

    @property
    def steps(self) -> int:
        """How many steps both phases took."""
        return len(self.schedule.slow.timesteps) + len(self.schedule.fast.timesteps)

    def key(self) -> str:
        """Return a SHA-256 over all that decides the pixels, and not over where things lie.

        So a run that was moved or a schedule that was renamed gives the same key. A model's folder
        counts by its fingerprint alone; a single file by its name, beside the base revision.
        """
        decisive = self.model_dump(mode="json", exclude=_PLACES)
        if not _FINGERPRINT.match(self.base_revision):
            decisive["model"] = self.model
        decisive["transformer"] = self.transformer and PurePosixPath(self.transformer).name
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
