"""What the guide's files leave out, and what glance decides instead: README's table, as remarks."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from glance.interop.importing.remark import Remark
from glance.models.families import find_family
from glance.runs.settings import TrainSettings
from glance.schedule.derive import derive_schedule
from glance.schedule.lists import Schedule

_SAME: Final = 1.0  # a timestep: lists are printed with fewer digits than they are computed with


def remark_omissions(
    options: Mapping[str, Any], settings: TrainSettings, schedule: Schedule
) -> Iterator[Remark]:
    """Yield a remark on each option that matters and that the config does not say."""
    for option, (does, why) in _decided(settings).items():
        if option not in options:
            yield Remark(option, "", does, why)
    if options.get("seed") in (0, "0"):
        yield Remark("seed", "0", str(settings.seed), "SimpleTuner takes 0 for 'no seed'")
    family = find_family(settings.family)
    for option, value in family.training_options.items():
        if option not in options:
            yield Remark(option, "", str(value), f"what glance sets for {family.title}")
    side = settings.resolution
    if family.shift is not None:
        own = derive_schedule(family.shift, (side, side))
        if not _is_near(own, schedule):
            yield Remark(
                "flow_custom_timesteps",
                "the lists of both files",
                "taken as they are",
                f"{family.title}'s own at {side}x{side} are others: --schedule auto",
            )


def _decided(settings: TrainSettings) -> Mapping[str, tuple[str, str]]:
    """Return by option what glance does, and why, when nothing is said."""
    needs = "as --device and --preset need it"
    return {
        "learning_rate": (
            f"{settings.learning_rate:g}, the method's published rate",
            "SimpleTuner's default is 4e-7: 60 steps change nothing that one could see",
        ),
        "lora_rank": (f"{settings.rank}, the guide's", "SimpleTuner's default is 16"),
        "lora_alpha": (
            f"{settings.alpha}, 4 x rank, multiplied into the finished file",
            "the published rates go with it; SimpleTuner's default is the rank, and its final "
            "file loses any other",
        ),
        "max_train_steps": (f"{settings.steps}, the guide's", "a run has a length"),
        "seed": (str(settings.seed), "without one SimpleTuner takes the time of day"),
        "flow_timesteps_mode": (
            "round-robin",
            "SimpleTuner draws from the list at random: some values get twice as many steps",
        ),
        "caption_dropout_probability": (
            "0",
            "SimpleTuner's 0.1 would hide the one caption in a tenth of the steps",
        ),
        "lora_dropout": ("0", "SimpleTuner's 0.1 is for data sets; here is one sample"),
        "checkpoint_step_interval": (
            "every tenth of the run",
            "SimpleTuner's 500 would never write one in 60 steps",
        ),
        "lr_scheduler": ("constant, after a short warm-up", "the method's"),
        "mixed_precision": (needs, "bf16 on cuda, else float32"),
        "base_model_precision": (needs, "unquantised FLUX needs over 30 GB"),
    }


def _is_near(own: Schedule, other: Schedule) -> bool:
    lists = (own.slow_timesteps + own.fast_timesteps, other.slow_timesteps + other.fast_timesteps)
    if len(lists[0]) != len(lists[1]):
        return False
    return all(abs(a - b) < _SAME for a, b in zip(*lists, strict=True))
