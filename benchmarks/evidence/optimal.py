"""Find the small model's optimised lists with glance's own search, on captions of training scenes.

`optimal.json` keeps them: half of the steps in each phase, and with the split left to the search.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from benchmarks.evidence.sampling import Guidance, images_of, open_sampler
from benchmarks.evidence.schedules import OPTIMISED, STEPS, load_optimised
from benchmarks.evidence.workshop import Workshop
from glance.core.files import write_json
from glance.core.phase import Phase
from glance.evaluation.search import leave_free
from glance.evaluation.small_world.world import describe_loosely, training_scene
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule
from glance.schedule.shift import as_timestep, read_shift, teacher_sigmas

PROMPTS: Final = 16
_SEED: Final = 1000  # of the first noise, and of the scenes: nobody is measured on these
_SIZE: Final = (64, 64)


def find_lists(shop: Workshop, *, tokens: int) -> None:
    """Search whatever is missing in `optimal.json`."""
    found = load_optimised()
    wanted = {name: allowed for name, allowed in _wanted() if name not in found}
    if not wanted:
        return
    from glance.sampling.pipeline.trajectory import find_way

    model, teacher = open_base(shop, training_prompts(), tokens=tokens)
    for name, allowed in wanted.items():
        way = find_way(model.velocity, teacher, allowed)
        split = way.phases.index(Phase.FAST)
        timesteps = tuple(as_timestep(teacher.sigmas[place]) for place in way.places)
        found[name] = Schedule(name, timesteps[:split], timesteps[split:])
        _save(found)


def open_base(shop: Workshop, pictures: list[SampleSettings], *, tokens: int) -> tuple[Any, Any]:
    """Return the base model for these pictures, and its trajectory of fifty steps.

    `tokens` is T5's padding here, for the sake of time.
    """
    from glance.sampling.pipeline.trajectory import VelocityField

    pipeline = shop.load()
    sampler = open_sampler(pipeline, tokens=tokens)
    model = VelocityField(sampler, pictures, batch_size=50, on_forward=lambda _: None)
    shift = read_shift(pipeline.scheduler.config)
    assert shift is not None
    return model, model.follow(teacher_sigmas(shift, *_SIZE))


def training_prompts() -> list[SampleSettings]:
    """Return pictures of scenes such as the model was trained on."""
    random = np.random.default_rng(_SEED)
    captions = [describe_loosely(training_scene(random), random) for _ in range(PROMPTS)]
    return images_of(captions, Guidance(3.5, 1.0), first_seed=_SEED)


def _wanted() -> Iterator[tuple[str, tuple[tuple[Phase, ...], ...]]]:
    for steps in STEPS:
        half = steps // 2
        yield f"optimal-{steps}", ((Phase.SLOW,),) * half + ((Phase.FAST,),) * half
    for steps in STEPS:
        yield f"free-{steps}", leave_free(steps)


def _save(found: dict[str, Schedule]) -> None:
    kept = {
        name: {"slow": list(one.slow_timesteps), "fast": list(one.fast_timesteps)}
        for name, one in found.items()
    }
    write_json(OPTIMISED, kept)
