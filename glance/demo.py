"""`glance demo`: the main job, offline and on the CPU, with a tiny model of our own making."""

from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from glance.device import Device
from glance.events import EventSink, Noted
from glance.generation.execute import run_generation
from glance.generation.plan import plan_generation
from glance.generation.request import GenerationResult, InferRequest
from glance.run import RUNS, RunFolder
from glance.training.execute import TrainingResult, run_training
from glance.training.plan import plan_training
from glance.training.request import TrainRequest

PROMPT = "a lighthouse on a green hill above the sea at sunset"
_RANK = 4
_RESOLUTION = 64


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made."""

    training: TrainingResult
    generation: GenerationResult

    @property
    def run(self) -> RunFolder:
        """The demo's run folder, the model in it."""
        return self.training.run

    def to_json(self) -> dict[str, Any]:
        """Return what `glance demo --json` prints."""
        return {**self.training.to_json(), **self.generation.to_json()}


def run_demo(output: Path | None, *, steps: int, on_event: EventSink) -> DemoResult:
    """Make the tiny model, train both LoRAs of it on the packaged pair, sample one picture.

    Everything lands in `output` (default: runs/demo), an ordinary run folder. Raises what
    training and generation raise.
    """
    run = RunFolder(output or RUNS / "demo")
    if not run.model.exists():
        _make_model(run, on_event)
    with as_file(files("glance") / "assets") as assets:
        plan = plan_training(
            TrainRequest(
                image=assets / "lighthouse.png",
                run=run.path,
                model=str(run.model),
                steps=steps,
                rank=_RANK,
                resolution=_RESOLUTION,
                device=Device.CPU,
            )
        )
        training = run_training(plan, on_event)
    request = InferRequest(prompt=PROMPT, run=run.path, device=Device.CPU)
    return DemoResult(training, run_generation(plan_generation(request), on_event))


def _make_model(run: RunFolder, on_event: EventSink) -> None:
    on_event(Noted("making a tiny FLUX with random weights"))
    from glance.diffusion.quiet import hush

    hush()
    from glance.diffusion.tiny import build_tiny_flux

    unfinished = run.path / "model.part"
    build_tiny_flux(unfinished)
    unfinished.rename(run.model)
