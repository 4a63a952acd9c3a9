"""What a pair is worth, at a glance: the same noise through the base model and through the pair.

The core of one sheet: for each prompt the base model with many steps, the base along the pair's
own sigmas, each LoRA alone, and both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from glance.events import EventSink, Noted
from glance.files import replacing
from glance.generation.execute import load_planned
from glance.generation.request import GenerationPlan
from glance.schedule import Phase

if TYPE_CHECKING:
    from PIL.Image import Image

TEACHER_STEPS: Final = 50
_ADAPTED: Final[Mapping[str, tuple[Phase, ...]]] = MappingProxyType(
    {
        "base": (),
        "slow only": (Phase.SLOW,),
        "fast only": (Phase.FAST,),
        "both": (Phase.SLOW, Phase.FAST),
    }
)
_CELL: Final = 160  # pixels
_TITLE: Final = 34
_LINE: Final = 15
_LABEL: Final = 4 * _LINE  # variant, seconds, and a verdict of two lines
_LINE_LETTERS: Final = 26
_MARGIN: Final = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """One cell: how it was made, how long the denoising and decoding took, what it shows."""

    variant: str
    image: "Image"
    seconds: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return all but the pixels."""
        return {
            "variant": self.variant,
            "seconds": round(self.seconds, 3),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row of pictures for each prompt."""

    rows: Mapping[str, tuple[Picture, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return the rows without their pixels."""
        return {prompt: [cell.to_json() for cell in row] for prompt, row in self.rows.items()}


Judge = Callable[[str, "Image"], str]
"""Says of a prompt and a picture, in a few words, whether the one shows the other."""


def compare_pictures(
    plan: GenerationPlan,
    prompts: Sequence[str],
    on_event: EventSink,
    *,
    judge: Judge = lambda _prompt, _image: "",
) -> Comparison:
    """Sample every variant of every prompt, all from the plan's seed, with one model load.

    Raises what loading and sampling raise.
    """
    sampler = load_planned(plan)
    steps = sum(len(plan.schedule.phase(phase).timesteps) for phase in Phase)
    sampler.sample_one(plan.settings)  # first calls are slow
    rows: dict[str, tuple[Picture, ...]] = {}
    for prompt in prompts:
        on_event(Noted(f"comparing: {prompt}"))
        settings = plan.settings.model_copy(update={"prompt": prompt})
        made = {f"base, {TEACHER_STEPS} steps": sampler.sample_base(settings, steps=TEACHER_STEPS)}
        for name, loras in _ADAPTED.items():
            adapted = settings.model_copy(update={"loras": loras})
            made[f"{name}, {steps} steps"] = sampler.sample_one(adapted)
        rows[prompt] = tuple(
            Picture(name, image, sum(batch.seconds.values()), judge(prompt, image))
            for name, batch in made.items()
            for image in [batch.pictures[0].image]
        )
    return Comparison(rows)


def save_sheet(comparison: Comparison, sample: Path, path: Path) -> None:
    """Draw the comparison as one picture, the training sample in front, and write it to `path`."""
    from PIL import Image, ImageDraw

    columns = 1 + max(map(len, comparison.rows.values()))
    height = _TITLE + _CELL + _LABEL + _MARGIN
    size = (columns * (_CELL + _MARGIN) + _MARGIN, len(comparison.rows) * height)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    with Image.open(sample) as trained:
        _place(sheet, pen, (_MARGIN, _TITLE), trained, "trained on")
    for number, (prompt, row) in enumerate(comparison.rows.items()):
        top = number * height + _TITLE
        left = _CELL + 2 * _MARGIN
        pen.text((left, top - _TITLE + _MARGIN), prompt, fill="black", font_size=14)
        for column, cell in enumerate(row):
            place = (left + column * (_CELL + _MARGIN), top)
            verdict = wrap(cell.verdict, _LINE_LETTERS, max_lines=2, placeholder=" ...")
            _place(sheet, pen, place, cell.image, cell.variant, f"{cell.seconds:.2f} s", *verdict)
    with replacing(path) as temporary:
        sheet.save(temporary)


def _place(sheet: "Image", pen: Any, place: tuple[int, int], image: "Image", *lines: str) -> None:
    from PIL import Image

    left, top = place
    sheet.paste(image.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS), place)
    for number, line in enumerate(lines):
        pen.text((left, top + _CELL + 2 + _LINE * number), line, fill="black", font_size=12)
