"""What decides one image."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from glance.core.errors import Problem, SettingsError, assigned
from glance.core.phase import Phase
from glance.core.settings import NO_NAMES, Settings
from glance.models.families import Family, Negative

Scale = Annotated[float, Field(ge=0, le=100)]
Strength = Annotated[float, Field(ge=-10, le=10)]
CHOICES: Final = (
    *("negative_prompt", "slow_guidance", "fast_guidance", "true_cfg", "slow_scale", "fast_scale"),
    *("loras", "width", "height", "reference"),
)
"""The fields that have a default: all but the prompt, the seed and what follows from others."""


class SampleSettings(Settings):
    """Everything that decides one image, besides the model, the LoRAs and the schedule."""

    prompt: str
    negative_prompt: str = ""
    """What the image should not show."""
    seed: int = Field(ge=0, le=2**63 - 1, examples=[7])
    slow_guidance: Scale = Field(examples=[3.5])
    fast_guidance: Scale = Field(examples=[1])
    true_cfg: Scale | None = Field(default=None, examples=[2])
    """Classifier-free guidance in both phases, where the other one is embedded."""
    slow_scale: Strength = Field(default=1.0, examples=[1])
    fast_scale: Strength = Field(default=1.0, examples=[1])
    loras: tuple[Phase, ...] = tuple(Phase)
    """The phases that run with their LoRA."""
    width: int = Field(ge=16, le=8192, examples=[1024])
    height: int = Field(ge=16, le=8192, examples=[1024])
    reference: Path | None = None
    """What a family that edits begins with."""
    reference_side: int = 1024
    """The transformer sees it at about this many pixels squared, in its own aspect."""

    def guidance(self, phase: Phase) -> float:
        """Return a phase's guidance scale."""
        return self.slow_guidance if phase is Phase.SLOW else self.fast_guidance

    def scale(self, phase: Phase) -> float:
        """Return the strength of a phase's LoRA."""
        return self.slow_scale if phase is Phase.SLOW else self.fast_scale

    def needs_negative(self, family: Family) -> bool:
        """Whether anything is led away from the negative prompt."""
        if self.true_cfg is not None:
            return self.true_cfg > 1
        strongest = max(self.slow_guidance, self.fast_guidance)
        return family.text.negative is not Negative.NONE and strongest > family.guidance.off


def resolve_sample_settings(
    family: Family,
    *,
    resolution: int | None = None,
    aspect: tuple[int, int] | None = None,
    trained: Mapping[str, Any] | None = None,
    names: Mapping[str, str] = NO_NAMES,
    **asked: Any,
) -> SampleSettings:
    """Fill what was not asked for: guidance from the family, size from the run's resolution.

    `asked` are fields of SampleSettings; None stands for what was not. `trained` are those that
    the pair was trained for, in place of the family's. With `aspect`, the width and height of the
    reference, the size has its shape. `names`: as for Settings.checked.

    Raises SettingsError on bad values, sizes that the family cannot make among them.
    """
    side = resolution or family.resolution
    fitting = (side, side)
    if aspect:
        fitting = fit_size(aspect, area=side * side, step=family.size_multiple)
    usual = {
        "seed": 0,
        "slow_guidance": family.guidance.slow,
        "fast_guidance": family.guidance.fast,
        "width": fitting[0],
        "height": fitting[1],
        "reference_side": side,
    }
    unused = () if aspect is None else ("width", "height")
    of_pair = {name: value for name, value in (trained or {}).items() if name not in unused}
    given = {name: value for name, value in asked.items() if value is not None}
    settings = SampleSettings.checked(names, **{**usual, **of_pair, **given})

    def named(field: str) -> str:
        return names.get(field, SampleSettings.flag(field))

    if problems := [*_misfits(settings, family, named), *_idle_guidance(settings, family, named)]:
        raise SettingsError(problems)
    return settings


def _misfits(
    settings: SampleSettings, family: Family, named: Callable[[str], str]
) -> Iterator[Problem]:
    step = family.size_multiple
    for field, value in (("width", settings.width), ("height", settings.height)):
        if value % step:
            nearest = max(step, round(value / step) * step)
            yield Problem(
                f"{assigned(named(field), value)}: it must be a multiple of {step}",
                f"use {assigned(named(field), nearest)}",
            )
    for field, text in (("prompt", settings.prompt), ("negative_prompt", settings.negative_prompt)):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            yield Problem(f"{named(field)}: it holds bytes that are no UTF-8", "check the locale")
    if not settings.prompt.strip():
        yield Problem(f"{named('prompt')}: it is empty", "describe the image in it")


def _idle_guidance(
    settings: SampleSettings, family: Family, named: Callable[[str], str]
) -> Iterator[Problem]:
    """Find what was asked for and would change nothing."""
    if settings.true_cfg is not None and family.guidance.true_cfg is None:
        yield Problem(
            f"{named('true_cfg')}: {family.title} has one kind of guidance",
            "use --slow-guidance and --fast-guidance",
        )
    elif settings.negative_prompt and not settings.needs_negative(family):
        if family.guidance.true_cfg is not None:
            remedy = "add --true-cfg 2, which takes twice the time, or drop it"
        elif family.text.negative is Negative.NONE:
            remedy = "drop it: the model was distilled to follow the prompt alone"
        else:
            remedy = f"guide more strongly: --slow-guidance {family.guidance.slow:g}, or drop it"
        text = f"{named('negative_prompt')} {settings.negative_prompt!r}"
        yield Problem(f"{text}: it would change nothing", remedy)


def fit_size(aspect: tuple[int, int], *, area: int, step: int) -> tuple[int, int]:
    """Return a size of about `area` pixels in that shape, in whole steps."""
    scale = (area / (aspect[0] * aspect[1])) ** 0.5
    width, height = (max(step, round(side * scale / step) * step) for side in aspect)
    return width, height
