"""Which kind of thing a path is, and who describes it."""

from pathlib import Path

from glance.core.errors import InputError, LoraError, Problem, RunError
from glance.core.findings import Findings, is_readable, shown
from glance.interop.info.description import Description
from glance.interop.info.lora import describe_lora, read_lora_file
from glance.interop.info.picture import describe_latents, describe_picture
from glance.interop.info.run import describe_run
from glance.runs.folder import RunFolder
from glance.runs.locate import locate_lora
from glance.sampling.handover import KEY, TENSOR
from glance.sampling.provenance.picture import FORMATS

_REMEDY = "give a .safetensors file, a run folder, or a picture that `glance infer` wrote"


def describe(path: Path) -> Description:
    """Return all that is to be known of a LoRA, a run folder, a picture or saved latents.

    What is wrong with a file that can be read is part of it. Raises InputError: nothing is there,
    or it cannot be read at all. Changes nothing.
    """
    if _is_folder(path):
        return _describe_folder(path)
    found = Findings()
    if not is_readable(path, shown(path), found, remedy=_REMEDY):
        raise InputError(found.problems)
    if path.suffix.lower() in FORMATS:
        return describe_picture(path)
    file = read_lora_file(path)
    if KEY in file.header.metadata and list(file.header.entries) == [TENSOR]:
        return describe_latents(path)
    return describe_lora(file)


def _describe_folder(path: Path) -> Description:
    """Describe a run, or the one LoRA that a folder holds."""
    if RunFolder(path).manifest.exists():
        return describe_run(path)
    try:
        file = locate_lora(str(path))
    except LoraError as exc:
        (problem,) = exc.problems
        raise RunError(f"not a run folder: {problem.message}", hint=problem.hint) from exc
    return describe_lora(read_lora_file(file))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as exc:  # out of reach; a NUL in the path
        reason = getattr(exc, "strerror", None) or exc
        raise InputError([Problem(f"{shown(path)} cannot be read: {reason}", _REMEDY)]) from exc
