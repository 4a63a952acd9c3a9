"""A picture of glance's, or latents that it saved: how it was made, and how it is made again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glance.core.findings import quoted, shown
from glance.core.hub import is_hub_file
from glance.core.phase import Phase
from glance.interop.info.description import Description, join_numbers, list_values
from glance.models.lora.file import hash_file
from glance.sampling.handover import read_handover
from glance.sampling.provenance.picture import read_record
from glance.sampling.provenance.record import LoraUse
from glance.sampling.recorded import Recorded


@dataclass(frozen=True, slots=True)
class UsedLora:
    """A LoRA of the record, and whether it is still where it was."""

    use: LoraUse
    place: str
    """As seen from here."""
    state: str

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` says of it."""
        return {**self.use.model_dump(mode="json"), "place": self.place, "state": self.state}


def describe_picture(path: Path) -> Description:
    """Return what a picture says of its making; raises InputError when it says nothing."""
    record = read_record(path)
    command = f"glance infer --from-image {quoted(path)}"
    if record.init_latents_sha256 is not None:
        command += " --init-latents FILE"
    return _describe(Recorded(record, path), "picture", command)


def describe_latents(path: Path) -> Description:
    """Return what saved latents say of the picture that they belong to; raises InputError."""
    command = f"glance infer --init-latents {quoted(path)}"
    return _describe(Recorded(read_handover(path), path), "latents", command)


def _describe(recorded: Recorded, kind: str, command: str) -> Description:
    loras = tuple(_find(recorded, use) for use in recorded.record.loras)
    document = {
        "kind": kind,
        "path": str(recorded.source),
        "record": recorded.record.model_dump(mode="json"),
        "loras": [lora.to_json() for lora in loras],
        "command": command,
    }
    return Description(document, tuple(_lines(recorded, kind, loras, command)))


def _find(recorded: Recorded, use: LoraUse) -> UsedLora:
    place = recorded.place(use.file)
    path = Path(place)
    if not path.is_file():
        return UsedLora(use, place, "on the Hub" if is_hub_file(use.file) else "missing")
    try:
        is_same = hash_file(path) == use.sha256
    except OSError:
        return UsedLora(use, place, "unreadable")
    return UsedLora(use, place, "there" if is_same else "another file by now")


def _lines(recorded: Recorded, kind: str, loras: Sequence[UsedLora], command: str) -> Iterator[str]:
    record, settings = recorded.record, recorded.record.settings
    size = f"{settings.width}x{settings.height}"
    yield f"{shown(recorded.source)}: {kind}, {size}, {record.steps} steps, seed {settings.seed}"
    schedule = record.schedule.resolve()
    yield from list_values(
        {
            "prompt": settings.prompt,
            "negative prompt": settings.negative_prompt or None,
            "guidance": f"{settings.slow_guidance:g} slow, {settings.fast_guidance:g} fast",
            "family": record.family,
            "model": recorded.place(record.model),
            "transformer": record.transformer and recorded.place(record.transformer),
            "revision": record.base_revision,
            "run": record.run and recorded.place(record.run),
            "schedule": record.schedule.name,
            **{phase: join_numbers(schedule.phase(phase).timesteps) for phase in Phase},
            "boundary": f"sigma {schedule.phase(Phase.SLOW).end_sigma:.6g}",
            "reference": settings.reference,
            "made on": f"{record.device}, {record.dtype}, quantised: {record.quantize}",
            "made with": ", ".join(f"{name} {own}" for name, own in record.versions.items()),
            "glance": record.glance,
        }
    )
    yield "LoRAs:" if loras else "LoRAs: none"
    for lora in loras:
        use = lora.use
        yield f"  {use.phase}: {shown(lora.place)}, strength {use.scale:g}, {lora.state}"
        yield f"    SHA-256 {use.sha256}, AutoV2 {use.sha256[:10]}"
    yield f"again: {command}"
