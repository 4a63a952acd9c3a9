"""The record of each picture of a plan: everything that decides its pixels, written down before."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from glance.core.device import Device, Precision, Quantize
from glance.core.files import record_place
from glance.core.hub import find_revision, is_hub_file
from glance.core.phase import Phase
from glance.models.base import fingerprint
from glance.models.lora.file import hash_file
from glance.sampling.pair import Pair
from glance.sampling.pictures import Asked
from glance.sampling.provenance.record import LoraUse, Record, ScheduleUse
from glance.schedule.lists import Schedule

STACK: Final = ("torch", "diffusers", "transformers", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMaker:
    """What all pictures of a plan have in common."""

    pair: Pair
    schedule: Schedule
    device: Device
    dtype: Precision
    quantize: Quantize
    versions: Mapping[str, str]
    revision: str
    """What tells the base model from another one of the same name."""
    init_latents_sha256: str | None

    def make(self, asked: Asked, folder: Path) -> Record:
        """Return the record of a picture that goes to `folder`: its paths start from there."""
        settings, pair = asked.settings, self.pair
        used = (phase for phase in settings.loras if phase in pair.loras)
        reference = settings.reference
        if reference is not None:
            settings = settings.model_copy(
                update={"reference": Path(self._place(reference, folder))}
            )
        return Record(
            versions=self.versions,
            family=pair.family.name,
            model=self._place(pair.model, folder) if Path(pair.model).is_dir() else pair.model,
            base_revision=self.revision,
            transformer=None if pair.transformer is None else self._place(pair.transformer, folder),
            run=None if pair.run is None else self._place(pair.run.path, folder),
            device=self.device,
            dtype=self.dtype,
            quantize=self.quantize.value,
            schedule=ScheduleUse.of(self.schedule),
            loras=tuple(self._use(phase, asked, folder) for phase in used),
            settings=settings,
            reference_sha256=None if reference is None else hash_file(reference),
            init_latents_sha256=self.init_latents_sha256,
        )

    def _place(self, path: Path | str, folder: Path) -> str:
        """Return a path as seen from `folder`, which never looks like a name on the Hub.

        A picture is shown to anybody: of folders above it or its run no name is written.
        """
        shared = None if self.pair.run is None else self.pair.run.path
        place = record_place(Path(path), folder, shared=shared)
        return f"./{place}" if is_hub_file(place) else place

    def _use(self, phase: Phase, asked: Asked, folder: Path) -> LoraUse:
        path = self.pair.loras[phase]
        name = (self.pair.names or {}).get(phase)
        return LoraUse(
            phase=phase,
            file=self._place(path, folder) if name is None else name,
            sha256=self.pair.hashes[phase],
            scale=asked.settings.scale(phase),
        )


def stack_versions() -> dict[str, str]:
    """Return the versions of the packages that sample."""
    return {name: version(name) for name in STACK}


def base_revision(pair: Pair) -> str:
    """Return what tells the base model from another one of the same name."""
    transformer = None if pair.transformer is None else str(pair.transformer)
    if Path(pair.model).is_dir():
        return fingerprint(pair.model, run=Path(), transformer=transformer)
    revision = find_revision(pair.model) or "unknown"
    return revision if transformer is None else f"{revision} {Path(transformer).name}"
