"""What is asked of a training, and what was decided: two plain objects."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glance.core.device import AUTO
from glance.core.errors import Problem
from glance.core.phase import Phase
from glance.dataset.sample import Sample, Stage
from glance.dataset.view import Crop, View, fit_reference
from glance.models.base import hub_models, is_outside, recorded_folder
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.settings import Preset, TrainSettings
from glance.schedule.lists import DEFAULT_SCHEDULE, Schedule
from glance.training.simpletuner.command import Launcher, build_command
from glance.training.simpletuner.config import (
    REFERENCE_FOLDER,
    render_files,
    render_trainer_config,
    view_folder,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What the user typed of any training, unchecked. None: the model's, or the family's."""

    run: Path | None = None
    family: str | None = None
    model: str | None = None
    base: str | None = None
    steps: int = 60
    rank: int = 32
    learning_rate: float | None = None
    seed: int = 1
    schedule: str = DEFAULT_SCHEDULE
    slow_timesteps: str | None = None
    fast_timesteps: str | None = None
    slow_steps: int | None = None
    fast_steps: int | None = None
    teacher_steps: int | None = None
    phases: tuple[Phase, ...] = tuple(Phase)
    device: str = AUTO
    devices: str = "0"
    preset: str = Preset.GB24
    overrides: Sequence[str] = ()
    restart: bool = False
    trust: bool = False
    stop_within: float = 60.0
    launcher: Launcher = Launcher.SIMPLETUNER


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest(TrainingRequest):
    """What the user typed of a training on one pair, unchecked."""

    image: Path
    caption: str | None = None
    reference: Path | None = None
    resolution: int | str | None = None
    crop: str = Crop.WHOLE
    sample_every: int | None = None
    sample_prompt: str | None = None


def tell_views(sample: Sample, views: Sequence[View]) -> tuple[str, ...]:
    """Say in a line each what is trained of a picture."""
    return tuple(f"{sample.image.name} is trained at {view.describe()}" for view in views)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything decided: what will be written, and what will be run."""

    run: RunFolder
    sample: Sample | None
    """The pair; None: what the base model teaches itself, recorded before the trainer starts."""
    settings: TrainSettings
    schedule: Schedule
    phases: tuple[Phase, ...]
    restart: bool
    trust: bool
    """Whether checkpoints that were made elsewhere may be unpickled."""
    stop_within: float
    """How long a first Ctrl-C waits for a checkpoint, in seconds."""
    launcher: Launcher
    devices: tuple[int, ...]
    """The accelerators by number; two: both phases at once."""
    warnings: tuple[Problem, ...]
    reference: tuple[int, int] | None = None
    """Width and height of the picture that is edited; None: the family edits none."""

    @property
    def views(self) -> tuple[View, ...]:
        """What is trained of the picture, a data set each; none without a pair."""
        return () if self.sample is None else self.settings.views(self.sample.size)

    @property
    def told(self) -> tuple[str, ...]:
        """Say in a line each what is trained of the picture, and what is painted meanwhile."""
        views = () if self.sample is None else tell_views(self.sample, self.views)
        return (*views, *self.told_samples)

    @property
    def told_samples(self) -> tuple[str, ...]:
        """Say in a line a phase what SimpleTuner paints while it trains, and where."""
        every = self.settings.sample_every
        if every is None:
            return ()
        return tuple(
            f"{phase}: every {every} steps SimpleTuner paints into {self.run.samples(phase)}"
            for phase in self.phases
        )

    @property
    def shown_reference(self) -> tuple[int, int] | None:
        """The size at which the reference is shown to the transformer."""
        if self.reference is None:
            return None
        step = find_family(self.settings.family).training_multiple
        return fit_reference(self.reference, self.settings.resolution, step=step)

    @property
    def stage(self) -> Stage:
        """Where the pair goes."""
        shown, run = self.shown_reference, self.run
        return Stage(
            run.data,
            run.references,
            {run.path / view_folder(view): view for view in self.views},
            None if shown is None else (run.path / REFERENCE_FOLDER, shown),
        )

    @property
    def pair(self) -> Sample:
        """The pair, of a training on one."""
        assert self.sample is not None
        return self.sample

    @property
    def files(self) -> dict[str, Any]:
        """Every config file: path within the run -> JSON content."""
        return render_files(
            self.settings, self.schedule, views=self.views, reference=self.shown_reference
        )

    @property
    def model_elsewhere(self) -> str | None:
        """Where the base model is as seen from the run; None: in it, or on the Hub."""
        model, run = self.settings.model, self.run.path
        if not is_outside(model):
            return None
        return os.path.relpath(recorded_folder(model, run), run.resolve())

    @property
    def hub_models(self) -> tuple[str, ...]:
        """The Hub models that the training needs."""
        return hub_models(
            self.settings.model, family=find_family(self.settings.family), run=self.run.path
        )

    def trainer_config(self, phase: Phase) -> Mapping[str, Any]:
        """SimpleTuner's options for one phase, as its config.json holds them."""
        return render_trainer_config(self.settings, phase, self.schedule.phase(phase))

    def to_json(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        return {
            "run": str(self.run.path),
            "schedule": self.schedule.to_json(),
            "pictures": [view.to_json() for view in self.views],
            "files": self.files,
            "commands": [build_command(phase, self.launcher) for phase in self.phases],
        }
