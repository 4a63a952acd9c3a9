"""What a run was trained on and with, against what is asked of it now."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from PIL import Image

from glance.core.errors import as_typed, shown
from glance.core.pictures import DECODER_ERRORS, open_picture, to_rgb
from glance.dataset.sample import Sample
from glance.models.base import shown_model
from glance.runs.folder import RunFolder
from glance.runs.manifest import Manifest, SampleRecord
from glance.runs.settings import TrainSettings
from glance.training.request import TrainingPlan

_BEFORE: Final = 20  # characters of a text, before what differs
_SHOWN: Final = 80
_SAID: Final = {"overrides": "--set", "also_resolutions": "further --resolution", "crops": "--crop"}
"""How the user says a setting, where its name is not that."""


def find_differences(manifest: Manifest, plan: TrainingPlan, *, base_model: str) -> list[str]:
    """Return what of the recorded run is not what is asked now, value by value.

    `base_model` is the fingerprint of the one that is asked.
    """
    there: dict[str, Any] = {
        "schedule": manifest.resolve_schedule().to_json(),
        **_spread(manifest.settings),
    }
    asked: dict[str, Any] = {"schedule": plan.schedule.to_json(), **_spread(plan.settings)}
    if ("noises" in there) != ("noises" in asked):  # the rest follows from it
        ways = ("one picture", "the base model's own paths")
        return [f"trained on: {ways['noises' in there]} there, {ways['noises' in asked]} asked"]
    for values in (there, asked):
        for name in ("model", "transformer"):
            values[name] = values[name] and shown_model(values[name], run=plan.run.path)
    if manifest.base_model == base_model:
        # the same one, wherever it or the run is now
        there |= {name: asked[name] for name in ("model", "transformer", "weights")}
    elif there["model"] == asked["model"]:
        there["model"] += " as it was"
    return [
        *_of_pair(plan.run, manifest.sample, plan.sample),
        *(
            _difference(name, there[name], asked[name])
            for name in asked
            if there[name] != asked[name]
        ),
    ]


def _of_pair(run: RunFolder, recorded: SampleRecord | None, sample: Sample | None) -> list[str]:
    """Return what differs of the pair; that it does, where its copy in the run says no more."""
    if recorded is None or sample is None or recorded.sha256 == sample.sha256:
        return []
    try:
        found = list(_of_copy(run, recorded, sample))
    except DECODER_ERRORS:
        found = []
    return found or [f"sample: {recorded.sha256[:12]} there, {sample.sha256[:12]} asked"]


def _of_copy(run: RunFolder, recorded: SampleRecord, sample: Sample) -> Iterator[str]:
    caption = (run.path / recorded.caption).read_text(encoding="utf-8").strip()
    if caption != sample.caption:
        there, asked = _where_they_differ(caption, sample.caption)
        yield f"caption: {there} there, {asked} asked"
    for word, copy, path in (
        ("picture", recorded.image, sample.image),
        ("reference", recorded.reference, sample.reference),
    ):
        if copy is None or path is None:
            continue
        old, new = _read(run.path / copy), _read(path)
        if old.size != new.size:
            sizes = (f"{width}x{height}" for width, height in (old.size, new.size))
            yield "{}: {} there, {} asked".format(word, *sizes)
        elif old.tobytes() != new.tobytes():
            yield f"{word}: other pixels there than in {shown(path)}"


def _read(path: Path) -> Image.Image:
    with open_picture(path) as picture:
        pixels, _ = to_rgb(picture)
    return pixels


def _where_they_differ(one: str, other: str) -> Iterator[str]:
    """Yield both texts, quoted; of long ones, the part where they begin to differ."""
    alike = next((n for n, two in enumerate(zip_longest(one, other)) if two[0] != two[1]), 0)
    start = max(0, alike - _BEFORE) if max(len(one), len(other)) > _SHOWN else 0
    for text in (one, other):
        end = start + _SHOWN
        part = ("..." if start else "") + text[start:end] + ("..." if text[end:] else "")
        yield shown(repr(part))


def _spread(settings: TrainSettings) -> dict[str, Any]:
    """Return every setting by its name, those of the teacher among the others."""
    found = settings.model_dump(mode="json")
    teacher = found.pop("teacher") or {}
    teacher |= {f"teacher_{name}": teacher.pop(name) for name in ("steps",) if name in teacher}
    return {**found, **teacher}


def _difference(name: str, there: Any, asked: Any) -> str:
    if name != "prompts":
        said = _SAID.get(name, name)
        return f"{said}: {_shown(name, there)} there, {_shown(name, asked)} asked"
    first = next(n for n, two in enumerate(zip_longest(there, asked), 1) if two[0] != two[1])
    one, other = (
        repr(them[first - 1]) if first <= len(them) else "none" for them in (there, asked)
    )
    return (
        f"prompts: {len(there)} there, {len(asked)} asked; number {first} is {one} there, {other} "
        "asked"
    )


def _shown(name: str, value: Any) -> str:
    match name:
        case "schedule":
            return " | ".join(",".join(map(str, part["timesteps"])) for part in value.values())
        case "sizes":
            return ", ".join(f"{width}x{height}" for width, height in value)
        case "loras":
            return ", ".join(f"{lora} ({sha256[:12]})" for lora, sha256 in value.items()) or "none"
        case _:
            return _plain(value)


def _plain(value: Any) -> str:
    """Return a setting as people write it: no brackets of Python's."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_plain(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list):
        return ",".join(map(_plain, value)) or "none"
    return "none" if value is None else as_typed(value)
