"""The public sampler: any supported diffusers pipeline in, images out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from glance.core.events import Event, SamplingStep
from glance.core.phase import Phase
from glance.models.families import Family, find_family
from glance.models.lora.examine import examine_lora, trained_schedule
from glance.runs.locate import locate_lora
from glance.sampling.extra_loras import find_extras
from glance.sampling.pipeline.adapters import Loras, load_resident
from glance.sampling.pipeline.sample import TwoPhase, family_of
from glance.sampling.request import ExtraLora
from glance.sampling.settings import CHOICES, resolve_sample_settings
from glance.schedule.lists import DEFAULT_SCHEDULE, Schedule, resolve_schedule

_NAMES: Final = {name: name for name in (*CHOICES, "prompt", "seed")}
"""What is wrong is said of arguments here, not of flags."""
OnStep = Callable[[SamplingStep], None]


class GlancePipeline(TwoPhase):
    """Two-phase sampling with a diffusers pipeline that is loaded already.

    Both LoRAs become adapters of the pipeline's transformer, named `slow` and `fast`; its scheduler
    is put back after each call. Where the model runs, and in which precision, is the pipeline's.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        slow_lora: str | Path | None = None,
        fast_lora: str | Path | None = None,
        extra_loras: Sequence[str | Path | ExtraLora] = (),
        schedule: Schedule | str | None = None,
        family: Family | str | None = None,
        switch: Loras | None = None,
    ) -> None:
        """Load LoRAs of any trainer into `pipeline`: a file, its folder, a run, or on the Hub.

        Adapters `slow` and `fast` that it has already are used as they are; without any, the base
        model is sampled. `extra_loras`, such as a style's, work in both phases: each likewise, with
        its strength ("style.safetensors:0.7"), or an ExtraLora. `switch` says how one LoRA gives
        way to the other, if not as adapters.

        `schedule` is one of your own or a preset's name; default: what the files say they were
        trained on, else the guide's. `family` is found by the pipeline's class.

        Raises LoraError for a file that does not fit, SettingsError for a strength or a pipeline of
        no supported family, ScheduleError for an unknown preset.
        """
        given = {Phase.SLOW: slow_lora, Phase.FAST: fast_lora}
        facts = {
            phase: examine_lora(locate_lora(str(path), phase))
            for phase, path in given.items()
            if path is not None
        }
        extras = find_extras(extra_loras)
        if not isinstance(schedule, Schedule):
            trained = trained_schedule(facts) if schedule is None else None
            schedule = trained or resolve_schedule(schedule or DEFAULT_SCHEDULE)
        if not isinstance(family, Family):
            family = family_of(pipeline) if family is None else find_family(family)
        loras = {phase: one.path for phase, one in facts.items()}
        loaded = load_resident(pipeline, loras, [one.lora for one in extras])
        super().__init__(pipeline, family, schedule, switch or loaded)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        batch_size: int = 1,
        on_step: OnStep | None = None,
        **settings: Any,
    ) -> list[Image.Image]:
        """Sample each prompt with each seed and return the images in that order.

        `settings` are fields of SampleSettings: negative_prompt, slow_guidance, fast_guidance,
        true_cfg, slow_scale, fast_scale, loras (the phases that run with theirs), width, height
        (pixels), reference. `on_step` is called after each forward pass. Raises SettingsError for
        values that are out of range, InferenceFailed when memory does not suffice.
        """
        unknown = sorted(set(settings) - set(CHOICES))
        if unknown:
            raise TypeError(f"unknown setting {unknown[0]!r}; there are {', '.join(CHOICES)}")
        if settings.get("reference") is not None:
            settings["reference"] = Path(settings["reference"])
        images = [
            resolve_sample_settings(self.family, names=_NAMES, prompt=text, seed=number, **settings)
            for text in ([prompt] if isinstance(prompt, str) else prompt)
            for number in ([seed] if isinstance(seed, int) else seed)
        ]

        def tell(event: Event) -> None:
            if on_step is not None and isinstance(event, SamplingStep):
                on_step(event)

        batches = self.sample_each(images, tell, batch_size=batch_size)
        return [one.image for batch in batches for one in batch.images]
