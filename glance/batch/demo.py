"""`glance demo`: train, sample and compare on the package's small model, offline, on the CPU.

Both ways to a pair run at the same time: the guide's recipe on one image, and the base model that
teaches itself. A sheet shows what each is worth.
"""

import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

from glance.core.device import Device, cpu_cores
from glance.core.errors import Problem, RunError
from glance.core.events import Event, EventSink, Noted
from glance.core.files import replacing
from glance.evaluation.compare import compare_pair, plan_comparison, run_comparison
from glance.evaluation.comparison import Cell, Comparison, import_similarity
from glance.evaluation.report import Report, place_picture
from glance.evaluation.request import JUDGED, CompareRequest, Variant
from glance.models.families import find_family
from glance.runs.folder import RUNS, RunFolder, writing
from glance.sampling.generate import import_sampler
from glance.sampling.prompts import judging_prompts, teaching_prompts
from glance.schedule.options import ScheduleOptions
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.execute import TrainingResult, run_training
from glance.training.folder import find_manifest
from glance.training.plan import TrainingPlan, plan_training
from glance.training.recording import DistillationResult, run_distillation
from glance.training.request import DistillRequest, Launcher, TrainRequest
from glance.training.simpletuner.runner import ProcessRunner

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL: Final = "small-flux"  # in glance/assets
SAMPLE: Final = "sunset"  # likewise, drawn by glance.evaluation.small_world.draw
PROMPTS: Final = "demo-prompts.jsonl"
"""Likewise: prompts and noises that nobody was trained on, at which four steps visibly fail."""
_RANK: Final = 4  # of the guide's pair; this and the rate: docs/evidence.md for this model
_LEARNING_RATE: Final = 1e-4
_RESOLUTION: Final = 64
TAUGHT: Final = 32
"""Prompts; with fewer steps of the teacher and a batch of two, what fits into three minutes."""
_TEACHER_STEPS: Final = 20
_BATCH_SIZE: Final = 2
_TAUGHT_RATE: Final = 2e-3  # for so few steps: docs/evidence.md, short trainings
_JUDGED_ON: Final = 8  # prompts
_AT_ONCE: Final = 8  # images
_SIDE: Final = 160  # pixels of the sheet that an image is shown at
_MARGIN: Final = 8
_LABEL: Final = 52


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made."""

    training: TrainingResult
    """The guide's pair."""
    distilled: DistillationResult
    guides: Comparison
    """Of the guide's pair, on the demo's prompts."""
    taught: Comparison
    """Of the distilled pair, on the same."""
    report: Report
    """What the distilled pair is worth, on prompts that were not chosen."""
    sheet: Path

    @property
    def run(self) -> RunFolder:
        """The distilled pair's run."""
        return self.distilled.training.run

    def to_json(self) -> dict[str, Any]:
        """Return what `glance demo --json` prints."""
        return {
            **self.training.to_json(),
            "distilled": self.distilled.to_json(),
            "images": [str(self.sheet)],
            "comparison": {
                row.prompt: [
                    {
                        "variant": label,
                        "distance": cell.figures.get("latents"),
                        "verdict": cell.words,
                    }
                    for label, cell in _columns(row.cells, others.cells)
                ]
                for row, others in zip(self.taught.rows, self.guides.rows, strict=True)
            },
            "sentence": self.report.verdict.sentence,
            "verdict": self.report.verdict.to_json(),
        }


def run_demo(output: Path | None, *, steps: int, on_event: EventSink) -> DemoResult:
    """Train the guide's pair and a distilled one of the small model, and show what each is worth.

    The first lands in `output` (default: runs/demo), an ordinary run folder that holds its base
    model, the other beside it, in `<output>-distilled`. Raises what training and sampling raise.
    """
    run = RunFolder(output or RUNS / "demo")
    with as_file(files("glance") / "assets") as assets:
        guides, taught = _plan(run, assets, steps)
        tell = _one_at_a_time(on_event)
        tell(Noted("the guide's pair is trained while the base model is recorded for the other"))
        training, distilled = _train_both(guides, taught, tell)
        tell(Noted("sampling: the base model and both pairs, from the same noise"))
        shown = CompareRequest(prompt_file=assets / PROMPTS, device=Device.CPU, batch_size=_AT_ONCE)

        def sample(folder: RunFolder, variants: tuple[Variant, ...]) -> Comparison:
            request = replace(shown, run=folder.path, variants=variants)
            return run_comparison(plan_comparison(request), tell).judged(judge)

        images = sample(taught.run, JUDGED)
        others = sample(guides.run, (Variant.TEACHER, Variant.BOTH))
    unchosen = replace(
        shown,
        run=taught.run.path,
        prompt_file=None,
        # every other one names all attributes: from so few, the others would give no clear verdict
        prompts=judging_prompts(2 * _JUDGED_ON, world=True)[1::2],
        variants=JUDGED,
        finds_worth=False,
    )
    report = compare_pair(plan_comparison(unchosen), tell, words=judge)
    sheet = run.images / "sheet.png"
    _save_sheet(images, others, sheet)
    return DemoResult(training, distilled, others, images, report, sheet)


def judge(prompt: str, image: "Image") -> str:
    """Say how many of the attributes that the prompt names the image shows, and which not."""
    import numpy as np

    from glance.evaluation.small_world.check import check_picture

    verdict = check_picture(np.asarray(image.convert("RGB")), prompt)
    wrong = [name for name, is_shown in verdict.items() if not is_shown]
    score = f"{len(verdict) - len(wrong)} of {len(verdict)} right"
    return f"{score}, not {', '.join(wrong)}" if wrong else score


def _train_both(
    guides: TrainingPlan, taught: DistillationPlan, on_event: EventSink
) -> tuple[TrainingResult, DistillationResult]:
    """Train one pair beside the other, each on half of the cores."""
    # read when torch is imported, here and in the trainers: two that take all cores each would
    # wait for each other at every operation
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_cores() // 2)))
    import_sampler(find_family(guides.settings.family))
    runner = ProcessRunner()
    with ThreadPoolExecutor(1) as aside:
        training = aside.submit(run_training, guides, on_event, runner=runner)
        try:
            distilled = run_distillation(taught, on_event)
            threading.Thread(target=import_similarity).start()
            return training.result(), distilled
        except BaseException:
            runner.end()
            raise


def _one_at_a_time(sink: EventSink) -> EventSink:
    """Return `sink` for use from two threads."""
    turn = threading.Lock()

    def on_event(event: Event) -> None:
        with turn:
            sink(event)

    return on_event


def _plan(run: RunFolder, assets: Path, steps: int) -> tuple[TrainingPlan, DistillationPlan]:
    """Plan both; refuse a folder that is not ours before anything is copied into it."""
    beside = RunFolder(run.path.with_name(f"{run.path.name}-distilled"))
    try:
        with writing(run.path):
            find_manifest(beside)
            if find_manifest(run) is None and not run.model.exists():
                shutil.rmtree(run.unfinished_model, ignore_errors=True)
                shutil.copytree(assets / MODEL, run.unfinished_model)
                run.unfinished_model.rename(run.model)
        guides = plan_training(
            TrainRequest(
                image=(assets / f"{SAMPLE}.png",),
                run=run.path,
                model=str(run.model),
                steps=steps,
                rank=_RANK,
                learning_rate=_LEARNING_RATE,
                resolution=_RESOLUTION,
                device=Device.CPU,
                launcher=Launcher.DIRECT,  # its second start is hidden behind the first training
            )
        )
        taught = plan_distillation(
            DistillRequest(
                prompts=teaching_prompts(TAUGHT, world=True),
                run=beside.path,
                model=str(run.model),
                noises=1,
                schedule=ScheduleOptions(teacher_steps=_TEACHER_STEPS),
                steps=steps,
                batch_size=_BATCH_SIZE,
                learning_rate=_TAUGHT_RATE,
                device=Device.CPU,
                gpu_ids="0,1",  # both phases at once: two cores
                launcher=Launcher.DIRECT,
                compares=False,
            )
        )
    except RunError as exc:  # its remedies are flags of `glance train`
        *others, last = (item.message for item in exc.problems)
        raise RunError(
            [*map(Problem, others), Problem(last, "give --output another folder")]
        ) from exc
    return guides, taught


def _columns(
    taught: Mapping[Variant, Cell], guides: Mapping[Variant, Cell]
) -> list[tuple[str, Cell]]:
    """Return the images of one prompt from left to right, with what stands above them."""
    base, few, own = (taught[variant] for variant in JUDGED)
    other = guides[Variant.BOTH]
    return [
        (f"base, {base.steps} steps", base),
        (f"base, {few.steps} steps", few),
        (f"distilled pair, {own.steps}", own),
        (f"guide's pair, {other.steps}", other),
    ]


def _save_sheet(taught: Comparison, guides: Comparison, path: Path) -> None:
    """Draw a row a prompt: the base with many steps and with few, and both pairs."""
    from PIL import Image, ImageDraw

    height = 24 + _SIDE + _LABEL + _MARGIN
    width = len(JUDGED) + 1
    sheet = Image.new(
        "RGB", (width * (_SIDE + _MARGIN) + _MARGIN, len(taught.rows) * height), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for number, (row, others) in enumerate(zip(taught.rows, guides.rows, strict=True)):
        top = number * height
        pen.text((_MARGIN, top + 4), row.prompt, fill="black", font_size=14)
        for column, (label, cell) in enumerate(_columns(row.cells, others.cells)):
            place = (_MARGIN + column * (_SIDE + _MARGIN), top + 24)
            away = cell.figures.get("latents")
            lines = [label] if away is None else [label, f"distance {away:.2f}"]
            lines += wrap(cell.words, 26, max_lines=1, placeholder=" ...")
            place_picture(sheet, place, cell.image, side=_SIDE, lines=tuple(lines))
    with replacing(path) as temporary:
        sheet.save(temporary)
