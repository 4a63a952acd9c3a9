"""`glance demo`: the main job, offline and on the CPU, with the small model of the package."""

import shutil
import threading
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glance.compare import CompareRequest, Report, compare_pair, plan_comparison
from glance.compare.measure import import_similarity
from glance.device import Device
from glance.errors import Problem, RunError
from glance.events import Event, EventSink, Noted, PhaseStarted
from glance.families import Family, find_family
from glance.generation.execute import import_sampler
from glance.run import RUNS, RunFolder
from glance.simpletuner.command import Launcher
from glance.training.execute import TrainingResult, run_training
from glance.training.plan import plan_training
from glance.training.prepare import find_manifest, writing
from glance.training.request import TrainingPlan, TrainRequest

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL: Final = "small-flux"  # in glance/assets
SAMPLE: Final = "sunset"  # likewise, drawn by glance.world
VAGUE_PROMPT: Final = "a landscape at dawn"  # many pictures fit it
_RANK: Final = 4  # this and the rate: what docs/evidence.md advises for this model
_LEARNING_RATE: Final = 1e-4
_RESOLUTION: Final = 64


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made."""

    training: TrainingResult
    report: Report

    @property
    def run(self) -> RunFolder:
        """The demo's run folder, the model in it."""
        return self.training.run

    def to_json(self) -> dict[str, Any]:
        """Return what `glance demo --json` prints."""
        return {
            **self.training.to_json(),
            "images": [str(self.report.sheet)],
            "comparison": {
                row.prompt: [
                    {
                        "variant": cell.label,
                        "seconds": cell.to_json()["seconds"],
                        "verdict": cell.verdict,
                    }
                    for cell in row.cells.values()
                ]
                for row in self.report.comparison.rows
            },
            "sentence": self.report.verdict.sentence,
            "verdict": self.report.verdict.to_json(),
        }


def run_demo(output: Path | None, *, steps: int, on_event: EventSink) -> DemoResult:
    """Train both LoRAs of the small model on the packaged pair, and show what they are worth.

    Everything lands in `output` (default: runs/demo), an ordinary run folder that holds its base
    model. Raises what training and generation raise.
    """
    run = RunFolder(output or RUNS / "demo")
    with as_file(files("glance") / "assets") as assets:
        plan = _plan(run, assets, steps)
        family = find_family(plan.settings.family)
        training = run_training(plan, _importing_aside(family, on_event))
    prompts = (*held_out_prompts(), VAGUE_PROMPT)
    request = CompareRequest(run=run.path, prompts=prompts, device=Device.CPU)
    on_event(Noted("sampling: the base model and the pair, from the same noise"))
    return DemoResult(training, compare_pair(plan_comparison(request), on_event, words=judge))


def held_out_prompts() -> tuple[str, ...]:
    """Return captions of scenes that neither the model nor the pair was trained on."""
    from glance.world import describe, held_out_scenes

    return tuple(describe(scene) for scene in held_out_scenes(2, seed=7))


def judge(prompt: str, image: "Image") -> str:
    """Say how many of the attributes that the prompt names the picture shows, and which not."""
    import numpy as np

    from glance.world import check_picture

    verdict = check_picture(np.asarray(image.convert("RGB")), prompt)
    wrong = [name for name, is_shown in verdict.items() if not is_shown]
    score = f"{len(verdict) - len(wrong)} of {len(verdict)} right"
    return f"{score}, not {', '.join(wrong)}" if wrong else score


def _importing_aside(family: Family, sink: EventSink) -> EventSink:
    """Return `sink`, which also imports what sampling needs as soon as a phase has started.

    SimpleTuner's own start keeps one core busy for half a minute; eight seconds of imports cost
    nothing beside it, and as much afterwards.
    """
    is_started = False

    def on_event(event: Event) -> None:
        nonlocal is_started
        if isinstance(event, PhaseStarted) and not is_started:
            is_started = True
            threading.Thread(target=_import_all, args=(family,)).start()
        sink(event)

    return on_event


def _import_all(family: Family) -> None:
    import_sampler(family)
    import_similarity()


def _plan(run: RunFolder, assets: Path, steps: int) -> TrainingPlan:
    """Plan the training; refuse a folder that is not ours before anything is copied into it."""
    try:
        with writing(run.path):
            if find_manifest(run) is None and not run.model.exists():
                _copy_model(assets / MODEL, run)
        return plan_training(
            TrainRequest(
                image=assets / f"{SAMPLE}.png",
                run=run.path,
                model=str(run.model),
                steps=steps,
                rank=_RANK,
                learning_rate=_LEARNING_RATE,
                resolution=_RESOLUTION,
                device=Device.CPU,
                launcher=Launcher.DIRECT,  # half a minute a phase less to wait
            )
        )
    except RunError as exc:  # its remedies are flags of `glance train`
        *others, last = (item.message for item in exc.problems)
        raise RunError(
            [*map(Problem, others), Problem(last, "give --output another folder")]
        ) from exc


def _copy_model(model: Path, run: RunFolder) -> None:
    shutil.rmtree(run.unfinished_model, ignore_errors=True)
    shutil.copytree(model, run.unfinished_model)
    run.unfinished_model.rename(run.model)
