"""What is trained of a picture: at which areas, in which shape, and what is to be said of that."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glance.core.device import Device
from glance.core.errors import Checks, Problem, SampleError, SettingsError
from glance.dataset.sample import Sample, fitting_area, load_sample
from glance.dataset.view import REFUSED, WARNED, Crop, View, fit_view
from glance.models.base import read_model_json, resolve_family
from glance.models.checkpoint import is_checkpoint
from glance.models.families import Family
from glance.runs.settings import TrainSettings, resolve_train_settings
from glance.training.request import TrainRequest, tell_views

_STEP: Final = 64
_SMALL: Final = 4
"""A model made for less than this part of its family's side is a small one of its kind."""
_FAR: Final = 2
"""So many times a model's side, or so small a part of it, is far from what it can do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair that is fit to train on."""

    sample: Sample
    views: tuple[View, ...]
    warnings: tuple[Problem, ...]

    @property
    def told(self) -> tuple[str, ...]:
        """Say in a line each what is trained of the picture."""
        return tell_views(self.sample, self.views)


def check_pair(request: TrainRequest) -> Pair:
    """Return the pair, if it is fit to train on; nothing but it and the model is looked at."""
    family = resolve_family(request.family, request.model)
    checks = Checks()
    settings = checks.make(
        lambda: resolve_train_settings(
            device=Device.CPU,
            family=family.name,
            resolution=parse_resolutions(request, family),
            crops=parse_crops(request.crop),
        )
    )
    pair = checks.make(lambda: examine_pair(request, family, settings))
    if settings is None or pair is None:
        raise checks.refusal()
    return pair


def examine_pair(request: TrainRequest, family: Family, settings: TrainSettings | None) -> Pair:
    """Return the pair, if it is fit to train on as the settings say; without them, at any size.

    Raises SampleError with all problems of picture, caption and reference.
    """
    found = load_sample(
        request.image,
        caption=request.caption,
        resolution=settings.resolution if settings else None,
        text_tokens=family.text.tokens,
        reference=request.reference,
        edits=family.edits,
    )
    sample = found.sample
    assert sample is not None  # load_sample raises otherwise
    if settings is None:
        return Pair(sample, (), found.warnings)
    views = settings.views(sample.size)
    lost = [one for one in views if one.crop is Crop.WHOLE and one.cut > WARNED]
    own = find_side(request.model, family) or family.resolution
    problems = [_tell_loss(one, sample, family, own) for one in lost]
    if any(one.cut > REFUSED for one in lost):
        raise SampleError(problems)
    return Pair(
        sample, views, (*found.warnings, *problems, *_size_warnings(request, settings, family))
    )


def parse_resolutions(request: TrainRequest, family: Family) -> list[int]:
    """Return the areas asked for; by default the model's, or what a smaller picture has."""
    if request.resolution is None:
        return [fitting_area(request.image, find_side(request.model, family) or family.resolution)]
    try:
        return [int(part) for part in str(request.resolution).split(",")]
    except ValueError:
        raise SettingsError(
            f"--resolution {request.resolution}: not a number, or several",
            hint="--resolution 1024, or to train at several at once --resolution 1024,512",
        ) from None


def parse_crops(text: str) -> list[Crop]:
    """Return what is to be shown of the picture."""
    try:
        return [Crop(part.strip()) for part in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"--crop {text}: not {', '.join(Crop)}, or several of them",
            hint="--crop whole, or to show a square of the picture as well --crop whole,center",
        ) from None


def find_side(model: str | None, family: Family) -> int | None:
    """Return the side of the square that a model is made for; None: nobody says.

    It is the family's, unless the model is a small one: such a one says so in its VAE's config.
    """
    if model is None or model == family.default_model or is_checkpoint(model):
        return family.resolution
    side = (read_model_json(model, "vae/config.json") or {}).get("sample_size")
    if not isinstance(side, int) or side < _STEP:  # 32 is what diffusers writes if nobody says
        return None
    return side // _STEP * _STEP if side <= family.resolution // _SMALL else family.resolution


def _tell_loss(view: View, sample: Sample, family: Family, own: int) -> Problem:
    """Say that much of the picture is cut off, and at which of the model's areas less is."""
    most = min(math.isqrt(math.prod(sample.size)), own * _FAR)
    sides = {
        side: fit_view(sample.size, side, step=family.training_multiple, most=family.largest_side)
        for side in range(max(_STEP, own // _FAR), most + 1, _STEP)
    }
    asked = math.sqrt(math.prod(view.size))
    better = [side for side, one in sides.items() if one.cut <= WARNED]
    remedy = "cut it to what is to be learnt, or show a square of it: --crop center"
    if better:
        best = min(better, key=lambda side: abs(side - asked))
        remedy = f"--resolution {best} trains it at {sides[best].describe()}; or {remedy}"
    return Problem(
        f"image {sample.image} loses {view.loss} {view.edges}: it is trained at {view.width}x"
        f"{view.height}",
        remedy,
    )


def _size_warnings(
    request: TrainRequest, settings: TrainSettings, family: Family
) -> Iterator[Problem]:
    own = find_side(request.model, family)
    is_small = own not in (None, family.resolution)
    what = Path(request.model or "").name if is_small else family.title
    if request.resolution is None:
        usual = own or family.resolution
        if settings.resolution != usual:
            yield Problem(
                f"{request.image} has not the {usual} x {usual} pixels that {what} is made for: it "
                f"is trained at resolution {settings.resolution}",
                "use a larger picture if you have one; --resolution says that it is meant",
            )
        return
    for side in (settings.resolution, *settings.also_resolutions):
        if own is not None and not own / _FAR <= side <= own * _FAR:
            yield Problem(
                f"--resolution {side}: {what} is made for {own} x {own} pixels, and so far from it "
                "it paints little that is sound",
                f"--resolution {own}, or not below {max(_STEP, own // _FAR)} and above "
                f"{own * _FAR}",
            )
