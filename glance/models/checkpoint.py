"""A single file that holds a transformer: whose it is, by its header alone. Nothing is loaded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glance.core.errors import ModelNotFound, SettingsError
from glance.core.files import is_folder
from glance.core.kinds import explain_tensors
from glance.models.families import FAMILIES, Family

_SUFFIX: Final = ".safetensors"
_OTHER_SUFFIXES: Final = (".gguf", ".ckpt", ".pt", ".pth", ".bin", ".sft")
# How ComfyUI and those before it name a transformer within a whole checkpoint.
_PREFIXES: Final = ("model.diffusion_model.", "diffusion_model.")
_LORA: Final = (
    *(".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "lora_unet_"),
    *(".hada_w", ".lokr_", ".oft_"),
)
_SCALES: Final = (".scale_weight", ".weight_scale")
_PACKED: Final = ("U8", "I8")  # several numbers to a byte, or codes that only ComfyUI reads


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file in diffusers', the original or ComfyUI's layout."""

    path: Path
    families: tuple[Family, ...]
    """Whose it may be: more than one where the tensors have the same names."""
    prefix: str
    """What stands before the transformer's names; what lacks it belongs to other parts."""


def is_checkpoint(model: str) -> bool:
    """Whether --model names a file rather than a folder or a Hub id."""
    has_suffix = Path(model).suffix.lower() in (_SUFFIX, *_OTHER_SUFFIXES)
    return has_suffix and not is_folder(Path(model))


def read_checkpoint(path: Path) -> Checkpoint:
    """Recognise the file; reads the header only.

    Raises ModelNotFound when there is no such file, or none that can be read (and what it is
    instead), and SettingsError for what is no transformer of a supported family.
    """
    if path.suffix.lower() in _OTHER_SUFFIXES:
        raise SettingsError(
            f"model {path}: SimpleTuner does not train on {path.suffix} files",
            hint="get the model as .safetensors: bf16, fp16, fp8 or scaled fp8",
        )
    dtypes = _read_dtypes(path)
    prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in dtypes)), "")
    names = {name.removeprefix(prefix) for name in dtypes if name.startswith(prefix)}
    what = _what_else(names)
    if what:
        raise SettingsError(
            f"model {path} is {what}, not a model to train on",
            hint="give --model the checkpoint of a whole transformer",
        )
    packed = sorted({dtype for dtype in dtypes.values() if dtype in _PACKED})
    if packed:
        raise SettingsError(
            f"model {path} is quantised to {', '.join(packed)}, which diffusers cannot read",
            hint="get it in bf16, fp16, fp8 or scaled fp8",
        )
    families = tuple(family for family in FAMILIES.values() if family.marks.fit(names))
    if families:
        return Checkpoint(path, families, prefix)
    raise SettingsError(
        f"model {path} is of no supported family, by the names of its tensors",
        hint=f"glance trains: {', '.join(FAMILIES)}",
    )


def scale_of(weight: str, names: Collection[str]) -> str | None:
    """Return the name of the factor that goes with a weight of a scaled fp8 file, if there is."""
    stem = weight.removesuffix(".weight")
    return next((stem + end for end in _SCALES if stem + end in names), None)


def _read_dtypes(path: Path) -> Mapping[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        found = explain_tensors(path)
        if found is not None:
            raise ModelNotFound(f"model {path} cannot be read: it is {found[0]}", hint=found[1])
        with safe_open(path, "np") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as exc:
        raise ModelNotFound(f"model {path}: not found", hint="check --model") from exc
    except (OSError, SafetensorError) as exc:
        raise ModelNotFound(
            f"model {path} cannot be read: {exc}", hint="download or copy it again, whole"
        ) from exc


def _what_else(names: Collection[str]) -> str | None:
    if any(mark in name for name in names for mark in _LORA):
        return "a LoRA"
    if any(name.startswith(("controlnet_", "control_")) for name in names):
        return "a ControlNet"
    if any(name.startswith(("input_blocks.", "down_blocks.")) for name in names):
        return "a UNet (SD 1.5, SD 2, SDXL), which is no flow model"
    return None
