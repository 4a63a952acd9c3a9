"""Train the pairs with glance and real SimpleTuner, several at once; what is trained is kept."""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.evidence.pairs import FEW, Recipe, Source, Wording
from benchmarks.evidence.sampling import Guidance, images_of, open_sampler, sample_own
from benchmarks.evidence.schedules import load_schedules
from benchmarks.evidence.workshop import Workshop
from glance.evaluation.small_world.draw import draw
from glance.evaluation.small_world.world import describe, describe_loosely, training_scene
from glance.schedule.options import ScheduleOptions
from glance.training.execute import run_training
from glance.training.plan import plan_training
from glance.training.request import Launcher, TrainRequest
from glance.training.simpletuner.runner import Job, ProcessRunner

_SEED = 11
_TEACHER_STEPS = 50
_TEACHER_GUIDANCE = Guidance(3.5, 3.5)


def make_samples(shop: Workshop) -> None:
    """Draw every training picture, and sample it from the base model with the same caption."""
    random = np.random.default_rng(_SEED)
    sampler = open_sampler(shop.load())
    (shop.path / "samples").mkdir(parents=True, exist_ok=True)
    for number in range(FEW):
        scene = training_scene(random)
        captions = {Wording.FULL: describe(scene), Wording.LOOSE: describe_loosely(scene, random)}
        for wording, caption in captions.items():
            for source in Source:
                path = shop.picture(source, wording, number)
                if path.exists():
                    continue
                if source is Source.DRAWN:
                    pixels = draw(scene)
                else:
                    asked = images_of([caption], _TEACHER_GUIDANCE, first_seed=number, loras=())
                    (pixels,) = sample_own(sampler, asked, steps=_TEACHER_STEPS)
                path.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
                Image.fromarray(pixels).save(path)


def train_all(shop: Workshop, pairs: Sequence[tuple[Recipe, int]], *, jobs: int) -> None:
    """Train the pairs that are not there yet."""
    os.environ["OMP_NUM_THREADS"] = "1"  # several run beside each other
    with ThreadPoolExecutor(jobs) as pool:
        for name in pool.map(_train, [(shop, *pair) for pair in pairs]):
            print(name, flush=True)  # noqa: T201 - a command's progress


def _train(task: tuple[Workshop, Recipe, int]) -> str:
    shop, recipe, number = task
    schedule = load_schedules()[recipe.schedule]
    plan = plan_training(
        TrainRequest(
            image=(shop.picture(recipe.source, recipe.wording, number),),
            run=shop.run(recipe, number).path,
            model=str(shop.model),
            steps=recipe.steps,
            rank=recipe.rank,
            learning_rate=recipe.learning_rate,
            resolution=64,
            seed=number + 1,
            schedule=ScheduleOptions(
                slow_timesteps=_listed(schedule.slow_timesteps),
                fast_timesteps=_listed(schedule.fast_timesteps),
            ),
            device="cpu",
            launcher=Launcher.DIRECT,
            overrides=(
                f"lora_alpha={recipe.rank * recipe.alpha_per_rank}",
                f"flow_timesteps_mode={recipe.order}",
                "gradient_checkpointing=false",  # for the sake of time; it changes no number
            ),
        )
    )
    others = [
        shop.picture(recipe.source, recipe.wording, (number + step) % FEW)
        for step in range(1, recipe.samples)
    ]
    run_training(plan, lambda _: None, runner=_Beside(others))
    return f"trained {recipe.name}-{number}"


class _Beside(ProcessRunner):
    """Lays other pairs beside the one first: SimpleTuner trains on all that it finds."""

    def __init__(self, others: Sequence[Path]) -> None:
        super().__init__()
        self._others = others

    def run(self, job: Job, on_line: Callable[[str], None]) -> int:
        """See Runner."""
        for picture in self._others:
            for path in (picture, picture.with_suffix(".txt")):
                shutil.copyfile(path, job.folder / "data" / path.name)
        return super().run(job, on_line)


def _listed(timesteps: Sequence[float]) -> str:
    return ",".join(map(str, timesteps))
