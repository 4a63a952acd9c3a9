"""Where everything lies between sessions, and the model it is all about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence.observations import CAPTIONS
from benchmarks.evidence.pairs import Recipe, Source, Wording
from glance.core.device import Device, Precision
from glance.core.phase import Phase
from glance.models.base import BaseModel
from glance.models.families import find_family
from glance.runs.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Workshop:
    """The work folder's layout, and how its models are loaded."""

    path: Path
    model: Path
    device: Device = Device.CPU
    """Where models are loaded. What pairs of images do is measured on the CPU alone."""
    captions: int = CAPTIONS
    """How many distilled pairs are judged on, of each wording."""

    def picture(self, source: Source, wording: Wording, number: int) -> Path:
        """Return where one training picture lies, its caption beside it."""
        return self.path / "samples" / f"{source}-{wording}-{number}.png"

    def run(self, recipe: Recipe, number: int) -> RunFolder:
        """Return the run folder of one pair."""
        return RunFolder(self.path / "runs" / recipe.name / str(number))

    def caption(self, recipe: Recipe, number: int) -> str:
        """Return the caption that a pair was trained on."""
        picture = self.picture(recipe.source, recipe.wording, number)
        return picture.with_suffix(".txt").read_text(encoding="utf-8").strip()

    def load(self, run: RunFolder | None = None) -> Any:
        """Return the model's pipeline, with both LoRAs of `run`."""
        from glance.sampling.pipeline import hush

        hush()
        from glance.sampling.pipeline.load import Fit, load_pipeline

        loras = {} if run is None else {phase: run.lora(phase) for phase in Phase}
        fit = Fit(device=self.device, dtype=Precision.FP32)
        base = BaseModel(find_family("flux"), str(self.model))
        return load_pipeline(base, loras, fit).pipeline
