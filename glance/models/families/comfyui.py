"""What ComfyUI runs a family with: files by the names that its own templates use, and nodes.

The names and addresses are those of the package comfyui-workflow-templates 0.11, which fills
ComfyUI's template browser, and of the repositories that it takes its files from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

_NOTHING: Final[Mapping[str, "ComfyFile"]] = MappingProxyType({})
_HUB: Final = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class ComfyFile:
    """A model file: what it is called, and where it is to be had."""

    name: str
    folder: str
    """Below ComfyUI's models/."""
    repository: str = ""
    """On the Hub; empty where nobody here knows it."""
    path: str = ""
    """The folder in that repository."""

    @property
    def url(self) -> str | None:
        """Where it can be fetched."""
        if not self.repository:
            return None
        path = f"{self.path}/{self.name}" if self.path else self.name
        return f"{_HUB}/{self.repository}/resolve/main/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfyUI:
    """How ComfyUI loads the family, and what it is told."""

    model_id: str
    """The default model's name on the Hub, without its owner, in small letters."""
    model: ComfyFile
    """Of the family's default model; from models/checkpoints it brings the rest along."""
    others: Mapping[str, ComfyFile] = _NOTHING
    """Those of the family's other models: name on the Hub -> file."""
    text_encoders: tuple[ComfyFile, ...] = ()
    text_type: str = ""
    """What CLIPLoader calls the family; TripleCLIPLoader and QuadrupleCLIPLoader do not ask."""
    vae: ComfyFile | None = None
    latent: str = "EmptySD3LatentImage"
    """The node that makes an empty latent."""
    prompt_prefix: str = ""
    """What diffusers' pipeline puts before the prompt, and ComfyUI does not."""
    weighs_words: bool = False
    """ComfyUI's tokenizer takes (words:1.2) for a weight, so that brackets have to be escaped."""
    reference_method: str = ""
    """How references are told apart from the picture, where ComfyUI has to be told."""
    fuses_qkv: bool = False
    """ComfyUI's model has one projection where diffusers' has three, and not every version of it
    maps a LoRA of theirs to that."""
    layer_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """If so, its names of a block's other layers: the end of diffusers' name -> of its own."""

    rescales_guidance: bool = False
    """diffusers' pipeline gives a guided prediction the length of the unguided one; ComfyUI's
    guider does not, so that guided pictures are alike and not equal."""

    def find_model(self, model: str) -> ComfyFile | None:
        """Return the file of a base model by its Hub id, or a folder of the same name.

        None where nobody here knows it: what is only called alike may be anything.
        """
        known = {**self.others, self.model_id: self.model}
        return known.get(PurePosixPath(model).name.lower())


def split_file(name: str, folder: str, repository: str) -> ComfyFile:
    """Return a file of one of ComfyUI's repackaged models, which all have the same folders."""
    return ComfyFile(name, folder, f"Comfy-Org/{repository}", f"split_files/{folder}")


def flux_text_encoder(name: str) -> ComfyFile:
    """Return one of FLUX.1's text encoders."""
    return ComfyFile(name, "text_encoders", "comfyanonymous/flux_text_encoders")


FLUX_VAE: Final = split_file("ae.safetensors", "vae", "Lumina_Image_2.0_Repackaged")
FLUX2_VAE: Final = split_file("flux2-vae.safetensors", "vae", "flux2-dev")
QWEN_VAE: Final = split_file("qwen_image_vae.safetensors", "vae", "Qwen-Image_ComfyUI")
QWEN_TEXT: Final = split_file(
    "qwen_2.5_vl_7b_fp8_scaled.safetensors", "text_encoders", "Qwen-Image_ComfyUI"
)
QWEN3_4B: Final = split_file("qwen_3_4b.safetensors", "text_encoders", "z_image_turbo")
