"""The hand-over file: latents between the phases, and the record of the picture they belong to.

A safetensors file: the tensor `latents`, (1, ...) as the family packs them, at the noise level of
the fast phase's first sigma; the record as JSON in the header's `glance`.
"""

from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from glance.core.errors import InputError, Problem
from glance.core.files import require_file
from glance.core.phase import Phase
from glance.models.families import Family
from glance.sampling.provenance.picture import parse_record
from glance.sampling.provenance.record import Record
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import Schedule

TENSOR: Final = "latents"
KEY: Final = "glance"
_HINT: Final = "give a file that `glance infer --save-latents` wrote"


def latents_path(picture: Path) -> Path:
    """Return where the latents of a picture are saved."""
    return picture.with_suffix(".latents.safetensors")


def preview_path(picture: Path) -> Path:
    """Return where the preview of a picture's slow phase is saved."""
    return picture.with_stem(f"{picture.stem}-slow")


def read_handover(path: Path) -> Record:
    """Return the record of a hand-over file; raise InputError when it is none."""
    try:
        require_file(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
    except FileNotFoundError as exc:
        raise InputError(f"latents not found: {path}", hint=_HINT) from exc
    except (OSError, SafetensorError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise InputError(f"{path}: not a whole safetensors file ({reason})", hint=_HINT) from exc
    if KEY not in metadata or names != [TENSOR]:
        raise InputError(f"{path} holds no latents of glance's", hint=_HINT)
    return parse_record(metadata[KEY], source=path)


def require_fitting(
    path: Path, family: Family, schedule: Schedule, settings: SampleSettings
) -> None:
    """Raise InputError unless the fast phase can begin from the latents in `path` as they are."""
    record = read_handover(path)
    at, begins = record.schedule.fast.timesteps[0], schedule.phase(Phase.FAST).timesteps[0]
    made, wanted = ((one.width, one.height) for one in (record.settings, settings))
    problems = []
    if record.family != family.name:
        problems.append(
            Problem(
                f"{path} holds latents of {record.family}, the model is {family.name}",
                "give the model that they were made with",
            )
        )
    if at != begins:
        problems.append(
            Problem(
                f"{path} holds latents at timestep {at:g}, the fast phase begins at {begins:g}",
                "leave out --schedule and --fast-timesteps",
            )
        )
    if made != wanted:
        problems.append(
            Problem(
                f"{path} holds latents of {made[0]}x{made[1]} pixels, "
                f"not of {wanted[0]}x{wanted[1]}",
                "leave out --width and --height",
            )
        )
    if problems:
        raise InputError(problems)
