"""SimpleTuner's words: the files that its trainer reads, as models. No decisions are made here.

Each field's description says why it is set. `render.py` fills them in.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from glance.core.phase import Phase
from glance.dataset.view import View
from glance.runs.folder import environment

DATA_BACKEND_FILE = "config/multidatabackend.json"
PICTURES_FOLDER = "cache/pictures"
REFERENCE_FOLDER = "cache/reference"
ACCELERATE_FILE = "config/accelerate.json"
WEBHOOK_VARIABLE = "GLANCE_WEBHOOK"
REQUESTS_VARIABLE = (
    "SIMPLETUNER_ACCELERATE_SIGNAL_FILE"  # its own name, helpers/training/trainer.py
)


TARGETS_VARIABLE = "GLANCE_TARGETS"
PINNING_VARIABLE = "GLANCE_WITHOUT_PINNING"
SEED_VARIABLE = "GLANCE_SEED"
MODEL_VARIABLE = "GLANCE_MODEL"


def targets_file(phase: Phase) -> str:
    """Return where the trainer's process finds what is to be learnt from recordings."""
    return f"config/{environment(phase)}/targets.json"


def view_folder(view: View) -> str:
    """Return where one picture lies as it is trained, alone: the trainer takes all it finds."""
    return f"{PICTURES_FOLDER}/{view.name}"


def receipt_file(phase: Phase) -> str:
    """Return what the trainer's process writes once it learns from recordings."""
    return f"config/{environment(phase)}/targets-in-use.txt"


def requests_file(phase: Phase) -> str:
    """Return where glance asks for a checkpoint; the trainer reads it after each step."""
    return f"config/{environment(phase)}/requests.json"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """Return the file's content; what is None is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class TrainerConfig(_File):
    """config/<environment>/config.json: one phase's options, by SimpleTuner's names."""

    model_type: Literal["lora"] = Field(default="lora", description="The guide's.")
    model_family: str = Field(description="SimpleTuner's name of the family.")
    pretrained_model_name_or_path: str = Field(
        description="The base model: a Hub id, or a folder in the run. Of one that lies elsewhere "
        "the environment says where: that stays on this machine."
    )
    pretrained_transformer_model_name_or_path: str | None = Field(
        default=None, description="A single file's transformer, which glance has made ready."
    )
    pretrained_transformer_subfolder: str | None = Field(
        default=None, description="none: that folder holds nothing else."
    )
    data_backend_config: str = Field(default=DATA_BACKEND_FILE, description="One for both phases.")
    train_batch_size: int = Field(
        default=1, description="1 for one sample: the guide's and the method's."
    )
    gradient_accumulation_steps: int | None = Field(
        default=None,
        description="A larger batch on an accelerator, and of families that edit: one at a time.",
    )
    max_train_steps: int = Field(description="Optimizer steps. The guide's and the method's: 60.")
    num_train_epochs: Literal[0] = Field(
        default=0, description="0 lets max_train_steps alone decide."
    )
    lora_type: Literal["standard"] = Field(
        default="standard", description="PEFT; diffusers loads it."
    )
    lora_rank: int = Field(description="The guide's: 32.")
    lora_alpha: float = Field(
        description="4 x rank: the method's published learning rates go with it. Folded into "
        "the finished file, because SimpleTuner's loses it. The rank where the base teaches itself."
    )
    peft_lora_target_modules: str | None = Field(
        default=None,
        description="A JSON list: every linear layer of the blocks, where the base teaches itself.",
    )
    lora_dropout: float = Field(
        default=0.0,
        description="SimpleTuner's 0.1 regularises a data set; here there is one sample.",
    )
    output_dir: str = Field(description="The guide's: output/glance-slow, output/glance-fast.")
    flow_custom_timesteps: str = Field(
        description="The phase's list. It replaces the usual sampling and bypasses the shift."
    )
    flow_timesteps_mode: str = Field(
        default="round-robin",
        description="Each value gets the same share of the steps; SimpleTuner's 'fixed-list' "
        "draws at random, and with 60 draws some values get twice as many as others.",
    )
    learning_rate: float = Field(
        description="The method's published value; SimpleTuner's default is 4e-7."
    )
    lr_scheduler: str = Field(
        default="constant_with_warmup",
        description="The method's: constant. Falling to 0 where the base teaches itself.",
    )
    lr_warmup_steps: int = Field(description="The method's: 10 of 60; fewer in shorter runs.")
    optimizer: str = Field(
        description="cuda: adamw_bf16, SimpleTuner's default, made for bf16 weights. Elsewhere "
        "optimi-adamw, which keeps the LoRA in float32."
    )
    mixed_precision: str = Field(description="bf16 on cuda, no (float32) elsewhere.")
    base_model_precision: str = Field(
        description="The preset's. int8-quanto with 24 GB for FLUX: a bit over 18 GB for a LoRA of "
        "every component (SimpleTuner's documentation), unquantised over 30."
    )
    quantize_via: str | None = Field(
        default=None,
        description="cpu where the unquantised model does not fit on the card, as in SimpleTuner's "
        "FLUX example: FLUX in bf16 (23.8 GB) does not fit on one of 24 GB. It takes about 50 GB "
        "of system memory; with a larger card use --preset 48gb.",
    )
    text_encoder_1_precision: str | None = Field(default=None, description="The preset's.")
    text_encoder_2_precision: str | None = Field(default=None, description="The preset's.")
    text_encoder_3_precision: str | None = Field(default=None, description="The preset's.")
    text_encoder_4_precision: str | None = Field(default=None, description="The preset's.")
    offload_during_startup: bool | None = Field(
        default=None, description="Small cards: text encoders and VAE are there in turn."
    )
    vae_enable_tiling: bool | None = Field(
        default=None, description="Small cards: the image is encoded piece by piece."
    )
    vae_dtype: str = Field(description="The precision that the one image is encoded in.")
    gradient_checkpointing: bool = Field(
        description="Less memory for more time: on, but for the CPU, where time is what is short."
    )
    caption_dropout_probability: float = Field(
        default=0.0,
        description="SimpleTuner's 0.1 would hide the one caption in a tenth of the steps.",
    )
    resolution: int = Field(description="With pixel_area: the side of a square of that area.")
    aspect_bucket_alignment: str = Field(
        description="The least that SimpleTuner takes for the family: sides are multiples of it."
    )
    aspect_bucket_rounding: Literal[9] = Field(
        default=9,
        description="Digits of an aspect: with SimpleTuner's 2 the height of a narrow picture "
        "would be another than the picture's own.",
    )
    resolution_type: Literal["pixel_area"] = Field(
        default="pixel_area", description="Memory does not depend on the picture's aspect."
    )
    minimum_image_size: Literal[0] = Field(
        default=0, description="glance has checked the size itself."
    )
    seed: int = Field(description="At least 1: SimpleTuner takes 0 for 'no seed'.")
    checkpoint_step_interval: int = Field(
        description="A tenth of the steps: SimpleTuner's 500 would never write one in 60."
    )
    checkpointing_use_tempdir: Literal[True] = Field(
        default=True, description="A checkpoint gets its name only once it is whole."
    )
    checkpoints_total_limit: int = Field(default=2, description="The newest, and one in reserve.")
    resume_from_checkpoint: Literal["latest"] = Field(
        default="latest", description="If there is one."
    )
    validation_disable: bool = Field(default=True, description="`glance infer` shows the result.")
    validation_step_interval: int | None = Field(default=None, description="--sample-every.")
    validation_prompt: str | None = Field(default=None, description="--sample-prompt.")
    validation_resolution: str | None = Field(default=None, description="The training's.")
    validation_seed: int | None = Field(default=None, description="The training's.")
    validation_guidance: float | None = Field(
        default=None, description="The family's own: one phase's LoRA, all steps."
    )
    validation_disable_unconditional: bool | None = Field(
        default=None, description="No further picture of the empty prompt."
    )
    disable_benchmark: bool = Field(
        default=True, description="No picture of the base before training."
    )
    report_to: str = Field(default="none", description="No tracker, no account, no upload.")
    push_to_hub: Literal[False] = Field(default=False, description="Nothing leaves the machine.")
    webhook_config: str = Field(
        default="{env:" + WEBHOOK_VARIABLE + "}",
        description="Where glance listens for progress; empty when started by hand, which "
        "SimpleTuner takes for 'none'.",
    )


class ImageBackend(_File):
    """The one image and its caption, or the teacher's pictures, in multidatabackend.json."""

    id: str = "glance"
    type: Literal["local"] = "local"
    dataset_type: Literal["image"] = "image"
    instance_data_dir: str = Field(description="Relative: a run may be moved.")
    caption_strategy: Literal["textfile"] = "textfile"
    disable_multiline_split: bool = Field(
        default=True, description="Else a caption of several lines becomes several captions."
    )
    resolution: int = Field(
        description="The picture's shorter side, so that it is neither scaled nor cut: SimpleTuner "
        "scales without smoothing, and cuts at random; glance has done both."
    )
    resolution_type: Literal["pixel"] = "pixel"
    minimum_image_size: Literal[0] = 0
    crop: Literal[False] = False
    cache_dir_vae: str = "cache/vae"
    metadata_backend: Literal["json"] = "json"
    repeats: int = Field(description="One epoch holds the whole phase: no rebuild in between.")
    conditioning_data: tuple[str, ...] | None = Field(
        default=None, description="Families that edit: the reference's backend."
    )


class ReferenceBackend(_File):
    """The picture that is edited into the image, in multidatabackend.json."""

    id: str = "reference"
    type: Literal["local"] = "local"
    dataset_type: Literal["conditioning"] = "conditioning"
    conditioning_type: Literal["reference_loose"] = Field(
        default="reference_loose", description="It may have another shape than the image."
    )
    instance_data_dir: str = Field(
        description="SimpleTuner looks for a relative folder's latents where they are not; this "
        "is the run folder wherever it is, because SimpleTuner is started there.",
    )
    caption_strategy: Literal["textfile"] = "textfile"
    disable_multiline_split: bool = True
    resolution: int = Field(description="Its shorter side: glance has scaled it.")
    resolution_type: Literal["pixel"] = "pixel"
    minimum_image_size: Literal[0] = 0
    crop: Literal[False] = False
    cache_dir_vae: str = "cache/vae-reference"
    metadata_backend: Literal["json"] = "json"


class TextBackend(_File):
    """The cache of the caption's embedding, in multidatabackend.json."""

    id: str = "text"
    type: Literal["local"] = "local"
    dataset_type: Literal["text_embeds"] = "text_embeds"
    default: bool = True
    cache_dir: str = "cache/text"


class TargetsFile(_File):
    """config/<environment>/targets.json: what inside/glance_targets.py makes of each batch."""

    simpletuner: str = Field(description="The version that it is made for.")
    folder: str = Field(description="The recordings, relative to the run.")
    sigmas: tuple[float, ...] = Field(description="Of both phases, and 0: the states' own.")
    guidance: float | None = Field(
        default=None, description="What the transformer is told, where guidance is embedded in it."
    )
    receipt: str = Field(description="Written once a batch has recorded targets.")


class AccelerateConfig(_File):
    """config/accelerate.json: stands in front of whatever the user's own one says."""

    compute_environment: Literal["LOCAL_MACHINE"] = "LOCAL_MACHINE"
    distributed_type: Literal["NO"] = "NO"
    mixed_precision: str = Field(description="The trainer's own.")
    use_cpu: bool = Field(description="On the CPU, whatever else the machine has.")
    num_processes: Literal[1] = 1
    num_machines: Literal[1] = 1
    machine_rank: Literal[0] = 0
    debug: bool = False
