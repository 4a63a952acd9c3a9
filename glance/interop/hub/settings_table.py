"""How a pair was trained, as a card says it: tables of the run's manifest and nothing else."""

import re
from collections.abc import Iterator
from typing import Final

from glance.core.phase import Phase
from glance.interop.hub.markdown import draw_table, escape
from glance.interop.source import Source
from glance.runs.losses import last_loss
from glance.runs.manifest import Manifest
from glance.runs.settings import Layers

_LAYERS: Final = {
    Layers.ATTENTION: "the attention projections",
    Layers.BLOCKS: "every linear layer of the transformer's blocks",
}
_WORD: Final = re.compile(r"[\w.+-]{1,40}")


def describe_training(source: Source) -> str:
    """Return the section: settings, what each phase took, and the versions that did it.

    Of an imported pair only what somebody recorded is said.
    """
    manifest, imported = source.manifest, source.manifest.imported
    settings = draw_table(("setting", "value"), _settings(manifest))
    begun = f"Pair `{manifest.pair_id}`, "
    day = manifest.created.date().isoformat()
    if imported is not None:
        return f"## Training\n\n{settings}\n\n{begun}imported by glance on {day}."
    versions = {"glance": manifest.glance, **manifest.versions}
    listed = ", ".join(f"{escape(name)} {escape(text)}" for name, text in versions.items())
    took = _phases(source)
    return f"## Training\n\n{settings}\n\n{took}{begun}begun on {day}, trained with {listed}."


def _phases(source: Source) -> str:
    """Return the table of what each phase took; nothing where nobody measured."""
    rows = [_phase(source, phase) for phase in Phase]
    if not any(cell for _, *cells in rows for cell in cells):
        return ""
    header = ("phase", "seconds a step", "loss at the end", "finished")
    return f"{draw_table(header, rows)}\n\n"


def _settings(manifest: Manifest) -> Iterator[tuple[str, str]]:
    settings, imported = manifest.settings, manifest.imported
    unknown = () if imported is None else imported.unknown
    areas = (settings.resolution, *settings.also_resolutions)
    known = {
        "steps": ("steps a phase", str(settings.steps)),
        "batch_size": ("batch size", str(settings.batch_size)),
        "rank": ("rank", str(settings.rank)),
        "learning_rate": ("learning rate", f"{settings.learning_rate:g}"),
        "resolution": ("area", ", ".join(f"{side}x{side}" for side in areas)),
        "crops": ("crops", ", ".join(crop.value for crop in settings.crops)),
        "seed": ("seed", str(settings.seed)),
        "device": ("device", settings.device.value),
    }
    yield from (row for name, row in known.items() if name not in unknown)
    if imported is None:
        yield "alpha", f"{settings.alpha}, folded into the files: their strength is 1"
    if settings.teacher is not None:
        yield "taught by", escape(settings.teacher.describe())
        yield "layers", f"{settings.layers}: {escape(_LAYERS[settings.layers])}"
    yield "schedule", escape(manifest.schedule.name)
    for name, value in sorted(settings.overrides.items()):
        yield f"SimpleTuner's {escape(name)}", _override(value)


def _override(value: bool | float | str) -> str:  # noqa: FBT001
    """Return numbers and plain words; what else people set may say whose machine it was."""
    text = str(value)
    is_plain = not isinstance(value, str) or _WORD.fullmatch(text) is not None
    return escape(text) if is_plain else "*not shown*"


def _phase(source: Source, phase: Phase) -> tuple[str, ...]:
    record = source.manifest.phases[phase]
    took, loss = record.measured, last_loss(source.run, source.manifest, phase)
    ends = [attempt.ended for attempt in record.attempts if attempt.ended is not None]
    return (
        phase.value,
        "" if took.seconds_a_step is None else f"{took.seconds_a_step:.2f}",
        "" if loss is None else f"{loss:.4f}",
        ends[-1].date().isoformat() if ends else "",
    )
