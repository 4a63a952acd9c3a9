"""What is asked of an import, and what was decided: plain objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any

from glance.core.device import AUTO
from glance.core.errors import Problem
from glance.core.phase import Phase
from glance.dataset.examine import Sample
from glance.interop.importing.foreign import ForeignLora
from glance.interop.importing.remark import Remark
from glance.runs.folder import RunFolder
from glance.runs.settings import Preset, TrainSettings
from glance.schedule.lists import Schedule
from glance.training.request import TrainingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What the user typed, unchecked: a folder, two configs, or two LoRAs."""

    folder: Path | None = None
    slow_config: Path | None = None
    fast_config: Path | None = None
    slow_lora: str | None = None
    fast_lora: str | None = None
    alpha: float | None = None
    drops_text: bool = False
    """Leave out what belongs to a text encoder."""
    schedule: str | None = None
    slow_timesteps: str | None = None
    fast_timesteps: str | None = None
    family: str | None = None
    model: str | None = None
    base: str | None = None
    image: Path | None = None
    caption: str | None = None
    reference: Path | None = None
    run: Path | None = None
    device: str = AUTO
    preset: str = Preset.GB24
    retrain: bool = False


@dataclass(frozen=True, slots=True)
class TrainingImport:
    """Configs whose pair is still to be trained: a run that `glance train` finds ready."""

    training: TrainingPlan
    command: tuple[str, ...]
    """The `glance train` command line that trains it."""
    remarks: tuple[Remark, ...]

    @property
    def run(self) -> RunFolder:
        """The run that is prepared."""
        return self.training.run

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What might go wrong in training."""
        return self.training.warnings

    @property
    def result(self) -> str:
        """What the command was run for."""
        return join(self.command)

    def to_json(self) -> dict[str, Any]:
        """Return what `glance import --json` prints."""
        return {
            "run": str(self.run.path),
            "finished": False,
            "train": list(self.command),
            "remarks": [remark.to_json() for remark in self.remarks],
            "warnings": [warning.message for warning in self.warnings],
        }


@dataclass(frozen=True, slots=True)
class PairImport:
    """Two finished LoRAs that become a finished run."""

    run: RunFolder
    loras: Mapping[Phase, ForeignLora]
    settings: TrainSettings
    unknown: tuple[str, ...]
    """Settings that nobody recorded."""
    schedule: Schedule
    sample: Sample | None
    remarks: tuple[Remark, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def result(self) -> str:
        """What the command was run for."""
        return str(self.run.path)

    def to_json(self) -> dict[str, Any]:
        """Return what `glance import --json` prints."""
        return {
            "run": str(self.run.path),
            "finished": True,
            "family": self.settings.family,
            "model": self.settings.model,
            "schedule": self.schedule.to_json(),
            "loras": {phase.value: lora.to_json() for phase, lora in self.loras.items()},
            "unknown": list(self.unknown),
            "remarks": [remark.to_json() for remark in self.remarks],
            "warnings": [warning.message for warning in self.warnings],
        }


type ImportPlan = TrainingImport | PairImport
