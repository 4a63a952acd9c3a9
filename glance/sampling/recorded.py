"""What a picture or a hand-over file records, as the request that would make it again."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glance.core.device import AUTO, Quantize, is_present
from glance.core.errors import InputError, LoraError, Problem
from glance.core.files import find_place
from glance.core.hub import is_hub_file
from glance.core.phase import Phase
from glance.models.lora.file import hash_file
from glance.runs.folder import RunFolder
from glance.sampling.handover import read_handover
from glance.sampling.provenance.picture import read_record
from glance.sampling.provenance.record import LoraUse, Record
from glance.sampling.request import InferRequest


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record, and the file that holds it: its paths start from that file's folder."""

    record: Record
    source: Path

    def place(self, recorded: str) -> str:
        """Return a recorded path as seen from here; what is not there is a name on the Hub."""
        path = Path(os.path.normpath(self.source.parent / recorded))
        if path.exists():
            return str(path)
        found = find_place(recorded, self.source.parent)
        return os.path.relpath(found) if found.exists() else recorded


def find_recorded(request: InferRequest) -> Recorded | None:
    """Return what the request builds on: a picture's record, else that of saved latents.

    Raises InputError when there is none in the file, or a picture was painted from saved latents
    and they are not given.
    """
    if request.from_image is not None:
        record = read_record(request.from_image)
        if record.init_latents_sha256 is not None:
            _require_latents(request, record.init_latents_sha256)
        return Recorded(record, request.from_image)
    if request.init_latents is not None:
        return Recorded(read_handover(request.init_latents), request.init_latents)
    return None


def fill_in(request: InferRequest, recorded: Recorded) -> InferRequest:
    """Return the request with the record's model, LoRAs and precision where it says nothing.

    What the pictures show is filled in later, picture by picture.
    """
    record = recorded.record
    is_here = request.device == AUTO and is_present(record.device)
    return replace(
        request,
        **_model(request, recorded),
        **_pair(request, recorded),
        loras=record.settings.loras if request.loras is None else request.loras,
        dtype=request.dtype or record.dtype,
        quantize=request.quantize or Quantize(record.quantize),
        device=record.device.value if is_here else request.device,
    )


def check_loras(
    recorded: Recorded, request: InferRequest, hashes: Mapping[Phase, str]
) -> tuple[str, ...]:
    """Raise LoraError for LoRAs that are others than the record's, unless they were asked for.

    `request` is what the user typed; returns what is worth saying.
    """
    changed = [
        use for use in recorded.record.loras if hashes.get(use.phase, use.sha256) != use.sha256
    ]
    if not changed:
        return ()
    if request.run is not None or request.slow_lora is not None or request.fast_lora is not None:
        return tuple(f"the {use.phase} LoRA is not that of {recorded.source}" for use in changed)
    raise LoraError(
        Problem(
            f"{recorded.place(use.file)} is not the file that {recorded.source} was made with",
            "was it trained again? say which LoRAs to use: --run, or --slow-lora and --fast-lora",
        )
        for use in changed
    )


def differences(recorded: Recorded, record: Record) -> Iterator[str]:
    """Say what may keep the same settings from giving the same pixels."""
    before = recorded.record
    for name, version in before.versions.items():
        if record.versions.get(name) != version:
            yield (
                f"{recorded.source} was made with {name} {version}, here is "
                f"{record.versions.get(name, 'none')}: the picture may differ"
            )
    if record.base_revision != before.base_revision:
        yield f"the base model is not that of {recorded.source}: the picture may differ"
    if record.reference_sha256 != before.reference_sha256:
        yield f"the reference is not that of {recorded.source}: the picture will differ"
    if record.device is not before.device:
        yield f"{recorded.source} was made on {before.device}, this will be on {record.device}"


def _require_latents(request: InferRequest, sha256: str) -> None:
    if request.init_latents is None:
        raise InputError(
            f"{request.from_image} was painted from saved latents",
            hint="give them: --init-latents FILE",
        )
    if request.init_latents.is_file() and hash_file(request.init_latents) != sha256:
        raise InputError(
            f"{request.init_latents} holds other latents than {request.from_image} began from",
            hint="give those, or leave out --from-image",
        )


def _model(request: InferRequest, recorded: Recorded) -> dict[str, Any]:
    if request.model is not None or request.base is not None or request.run is not None:
        return {}
    record = recorded.record
    found = {"model": recorded.place(record.model), "family": request.family or record.family}
    if record.transformer is None:
        return found
    return {**found, "model": recorded.place(record.transformer), "base": found["model"]}


def _pair(request: InferRequest, recorded: Recorded) -> dict[str, Any]:
    by_hand = request.slow_lora is not None or request.fast_lora is not None
    if by_hand or request.run is not None:
        return {}
    run = recorded.record.run
    if run is not None and RunFolder(Path(recorded.place(run))).manifest.is_file():
        return {"run": Path(recorded.place(run))}
    wanted = request.loras or tuple(Phase)
    if request.init_latents is not None:
        wanted = (Phase.FAST,)
    uses = [use for use in recorded.record.loras if use.phase in wanted]
    _require_places(recorded, uses)
    return {f"{use.phase}_lora": recorded.place(use.file) for use in uses}


def _require_places(recorded: Recorded, uses: Sequence[LoraUse]) -> None:
    lost = [
        use
        for use in uses
        if not Path(recorded.place(use.file)).exists() and not is_hub_file(use.file)
    ]
    if lost:
        raise LoraError(
            Problem(
                f"{recorded.source} was made with {use.file}, which is not there any more",
                "say where the LoRAs are: --run, or --slow-lora and --fast-lora",
            )
            for use in lost
        )
