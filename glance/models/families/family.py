"""The columns of the table: every fact in which families differ, and next to no behaviour."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from glance.schedule.shift import Shift, Spacing

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_HUB: Final = "https://huggingface.co"
ATTENTION: Final = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
"""The projections of a block's attention, as diffusers calls them."""
ADDED_ATTENTION: Final = (
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)
"""Those of the text, in blocks that attend to both."""
JOINT_ATTENTION: Final = (*ATTENTION, *ADDED_ATTENTION)


class Negative(StrEnum):
    """Where the embeddings of the negative prompt come from."""

    NONE = "none"  # there is none: guidance is a number that the transformer is told
    TOGETHER = "together"  # encode_prompt returns them beside the prompt's own
    APART = "apart"  # a second call of encode_prompt; its outputs are renamed negative_*


class Told(StrEnum):
    """What the transformer is told of a sigma."""

    SIGMA = "sigma"
    TIMESTEP = "1000 x sigma"
    PROGRESS = "1 - sigma"


class Latents(StrEnum):
    """The shape of the latents that a pipeline gives back, and takes as `latents`."""

    GRID = "grid"  # (1, channels, height/8, width/8), as the VAE has them
    TOKENS = "tokens"  # (1, height/16 * width/16, 4 * channels): patches of 2x2
    TOKENS_FROM_GRID = "tokens, from a grid"  # gives tokens, takes (1, 4 * channels, h/16, w/16)


@dataclass(frozen=True, slots=True)
class Text:
    """How the pipeline's `encode_prompt` is called, and what it returns."""

    tokens: int
    """What the longest text encoder reads; the rest of a caption is cut."""
    outputs: tuple[str | None, ...]
    """What `encode_prompt` returns, as keyword arguments of the pipeline (None: not passed on)."""
    negative: Negative = Negative.NONE
    arguments: Mapping[str, Any] = _NOTHING
    """Further arguments of `encode_prompt`."""
    batch_axes: Mapping[str, int] = _NOTHING
    """Which axis of an output counts the prompts, where it is not the first."""
    has_bool_masks: bool = False
    """Attention masks are handed over as booleans, as the trainer has them."""
    trains_in_nf4: bool = True
    """Whether SimpleTuner loads the text encoders in 4 bits (bitsandbytes) if it is told to."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the pipeline calls its guidance scale, and the scale of each phase."""

    argument: str
    slow: float
    fast: float
    off: float = 1.0
    """The scale at which nothing is guided, and no second forward pass is made."""
    true_cfg: str | None = None
    """What the pipeline calls classifier-free guidance beside an embedded scale."""
    training_option: str | None = None
    """SimpleTuner's name of the embedded scale that it trains at."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Names of tensors that a single file of the family holds, all of one layout."""

    diffusers: tuple[str, ...]
    original: tuple[str, ...] = ()
    """Empty where the original names are those of diffusers."""
    absent: tuple[str, ...] = ()
    """What a file of this family lacks and one of a related family holds."""

    def fit(self, names: Collection[str]) -> bool:
        """Whether a file with tensors of these names is the family's."""
        layouts = filter(None, (self.diffusers, self.original))
        return any(all(mark in names for mark in marks) for marks in layouts) and not any(
            mark in names for mark in self.absent
        )


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What SimpleTuner takes from another model on the Hub, whatever the base model holds."""

    model: str
    parts: Mapping[str, str] = _NOTHING
    """Parts that models of the family lack, so that sampling borrows them too: name -> class."""


@dataclass(frozen=True, slots=True)
class Size:
    """Billions of parameters, by the published configs; what memory is reckoned by."""

    transformer: float
    text_encoders: tuple[float, ...]
    """In the order of SimpleTuner's text_encoder_1, text_encoder_2, ..."""
    others: Mapping[str, "Size"] = _NOTHING
    """Of the family's other models: fragment of the name -> size."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What other tools call a family's default model, and its others that are built otherwise."""

    modelspec: str
    """As SwarmUI, which reads it, knows it (T2IModelClassSorter.cs), else as kohya's trainers write
    it (library/sai_model_spec.py in sd-scripts and in musubi-tuner)."""
    kohya: str | None = None
    """Their `ss_base_model_version`; None: they do not know it."""
    others: Mapping[str, "Architecture"] = _NOTHING
    """Fragment of the model's name, in small letters -> its names."""

    def of_model(self, model: str) -> "Architecture":
        """Return the names of one base model by what it is called."""
        found = (own for fragment, own in self.others.items() if fragment in model.lower())
        return next(found, self)


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
    """How ComfyUI loads the family, and what it is told.

    Names and addresses are those of the package comfyui-workflow-templates 0.11, which fills
    ComfyUI's template browser, and of the repositories that it takes its files from.
    """

    model_id: str
    """The default model's name on the Hub, without its owner, in small letters."""
    model: ComfyFile
    """Of the family's default model; from models/checkpoints it brings the rest along."""
    others: Mapping[str, ComfyFile] = _NOTHING
    """Those of the family's other models: name on the Hub -> file."""
    text_encoders: tuple[ComfyFile, ...] = ()
    others_text_encoders: Mapping[str, tuple[ComfyFile, ...]] = _NOTHING
    """Those of other models, where they have others: fragment of the model's name -> files."""
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
    layer_names: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """If so, its names of a block's other layers: the end of diffusers' name -> of its own."""

    rescales_guidance: bool = False
    """diffusers' pipeline gives a guided prediction the length of the unguided one; ComfyUI's
    guider does not, so that guided pictures are alike and not equal."""

    def find_text_encoders(self, model: str) -> tuple[ComfyFile, ...]:
        """Return the files of the text encoders that a model of that name reads with."""
        others = self.others_text_encoders.items()
        found = (files for fragment, files in others if fragment in model.lower())
        return next(found, self.text_encoders)

    def find_model(self, model: str) -> ComfyFile | None:
        """Return the file of a base model by its Hub id, or a folder of the same name.

        None where nobody here knows it: what is only called alike may be anything.
        """
        known = {**self.others, self.model_id: self.model}
        return known.get(PurePosixPath(model).name.lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family is called, trained and sampled."""

    name: str
    title: str
    architecture: Architecture
    simpletuner_name: str
    pipeline: str
    """The diffusers pipeline class, by name: looked up only when a model is loaded."""
    default_model: str
    size: Size
    distilled: tuple[str, ...] = ()
    """Fragments of the names of models that are few-step models already."""
    resolution: int = 1024
    size_multiple: int = 16
    """Width and height of a picture must be multiples of this many pixels."""
    training_multiple: int = 64
    """Those of a picture to train on: the least that SimpleTuner takes for the family."""
    stays_in_fp16: bool = False
    """Whether its numbers stay within fp16: ComfyUI runs it so (comfy/supported_models.py)."""
    has_fixed_area: bool = False
    """The pipeline scales any size to the area of its `default_sample_size` (latent pixels)."""
    latents: Latents
    told: Told
    shift: Shift | None
    """The default model's own; None where nobody here has seen it."""
    spacing: Spacing = Spacing.PIPELINE
    """Which sigmas the pipeline is sampled along where it is given a number of steps alone."""
    text: Text
    guidance: Guidance
    marks: Marks
    lora_targets: tuple[str, ...]
    """The layers that SimpleTuner gives an adapter, by the ends of their names."""
    block_layers: tuple[str, ...]
    """Every linear layer of the repeated blocks, by the ends of their names: what SimpleTuner's
    `peft_lora_target_modules` takes. PEFT matches whole parts: "w1" fits ff.w1, not ff.xw1."""
    learning_rate: float = 5e-4
    published: str | None = None
    """The hyper-parameters that were published with the method; None: the rate is FLUX's."""
    trains_on_mps: bool
    comfyui: ComfyUI
    edits: bool = False
    """Each picture is made of another one, the reference."""
    transformer_config: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """What tells the transformer from those of other families of the same pipeline."""
    borrowed: Borrowed | None = None
    training_options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """SimpleTuner options that only this family has."""
    sampling_options: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Further arguments of the pipeline."""

    @property
    def largest_side(self) -> int | None:
        """The side of the largest area to train at; None: there is no limit."""
        return self.resolution if self.has_fixed_area else None

    @property
    def embeds_guidance(self) -> bool:
        """Whether guidance is a number that the transformer is told, and costs no second pass."""
        return self.text.negative is Negative.NONE

    @property
    def latent_numbers_a_pixel(self) -> float:
        """How many numbers of the latents stand for one pixel: channels / (8 * 8)."""
        return 0.5 if self.latents is Latents.TOKENS_FROM_GRID else 0.25  # 32 channels, or 16

    def has_transformer(self, config: Mapping[str, Any]) -> bool:
        """Whether a transformer of this config is the family's; flags that are absent are off."""
        return all(config.get(key, False) == want for key, want in self.transformer_config.items())


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
