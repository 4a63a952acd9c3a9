"""SimpleTuner's files: pydantic models in its words, filled in from glance's settings; and `--set`.

A comment says why a field is set. Nothing here writes a file.
"""

import difflib
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from glance.core.device import Device
from glance.core.errors import Problem, SettingsError
from glance.core.phase import Phase
from glance.dataset.view import View
from glance.models.base import is_outside
from glance.models.families import find_family
from glance.runs.folder import environment
from glance.runs.settings import Layers, Teacher, TrainSettings
from glance.schedule.lists import PhaseSchedule, Schedule
from glance.training.simpletuner.estimates import memory_options

DATA_BACKEND_FILE = "config/multidatabackend.json"
PICTURES_FOLDER = "cache/pictures"
REFERENCE_FOLDER = "cache/reference"
ACCELERATE_FILE = "config/accelerate.json"
WEBHOOK_VARIABLE = "GLANCE_WEBHOOK"
REQUESTS_VARIABLE = "SIMPLETUNER_ACCELERATE_SIGNAL_FILE"  # its own name, training/trainer.py
TARGETS_VARIABLE = "GLANCE_TARGETS"
PINNING_VARIABLE = "GLANCE_WITHOUT_PINNING"
SEED_VARIABLE = "GLANCE_SEED"
MODEL_VARIABLE = "GLANCE_MODEL"


def targets_file(phase: Phase) -> str:
    """Where the trainer's process finds what is to be learnt from recordings."""
    return f"config/{environment(phase)}/targets.json"


def view_folder(view: View) -> str:
    """Where one image lies as it is trained, alone: the trainer takes all it finds."""
    return f"{PICTURES_FOLDER}/{view.name}"


def config_file(phase: Phase) -> str:
    """Where SimpleTuner looks for one phase's options, within the run, as all of these are."""
    return f"config/{environment(phase)}/config.json"


def receipt_file(phase: Phase) -> str:
    """What the trainer's process writes once it learns from recordings."""
    return f"config/{environment(phase)}/targets-in-use.txt"


def requests_file(phase: Phase) -> str:
    """Where glance asks for a checkpoint; the trainer reads it after each step."""
    return f"config/{environment(phase)}/requests.json"


class _OfDevice(NamedTuple):
    mixed_precision: str
    vae_dtype: str
    optimizer: str
    gradient_checkpointing: bool = True


_FLOAT32 = _OfDevice(mixed_precision="no", vae_dtype="fp32", optimizer="optimi-adamw")
_BY_DEVICE: Mapping[Device, _OfDevice] = MappingProxyType(
    {
        Device.CUDA: _OfDevice("bf16", "bf16", "adamw_bf16"),
        Device.MPS: _FLOAT32,
        Device.CPU: _FLOAT32._replace(gradient_checkpointing=False),
    }
)


def render_files(
    settings: TrainSettings,
    schedule: Schedule,
    *,
    views: Sequence[View] = (),
    reference: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return every config file of a run: path within the run -> JSON content.

    `views` are what is trained of the picture, `reference` is the size at which one is shown.
    """
    teacher = settings.teacher
    return {
        DATA_BACKEND_FILE: _render_backends(settings, views, reference),
        ACCELERATE_FILE: AccelerateConfig(
            mixed_precision=_BY_DEVICE[settings.device].mixed_precision,
            use_cpu=settings.device is Device.CPU,
        ).to_json(),
        **{
            config_file(phase): render_trainer_config(settings, phase, schedule.phase(phase))
            for phase in Phase
        },
        **{
            targets_file(phase): _render_targets(teacher, settings.family, phase, schedule)
            for phase in Phase
            if teacher is not None
        },
    }


def render_trainer_config(
    settings: TrainSettings, phase: Phase, schedule: PhaseSchedule
) -> dict[str, Any]:
    """Return one phase's config.json: ours, the family's own options, then the user's --set."""
    family = find_family(settings.family)
    accumulated = settings.batch_size // settings.samples_at_once
    config = TrainerConfig(
        model_family=family.simpletuner_name,
        pretrained_model_name_or_path=(
            f"{{env:{MODEL_VARIABLE}}}" if is_outside(settings.model) else settings.model
        ),
        pretrained_transformer_model_name_or_path="transformer" if settings.transformer else None,
        pretrained_transformer_subfolder="none" if settings.transformer else None,
        max_train_steps=settings.steps,
        lora_rank=settings.rank,
        lora_alpha=settings.alpha,
        peft_lora_target_modules=(
            json.dumps(list(family.block_layers)) if settings.layers is Layers.BLOCKS else None
        ),
        train_batch_size=settings.samples_at_once,
        gradient_accumulation_steps=accumulated if accumulated > 1 else None,
        lr_scheduler=settings.learning_rate_schedule,
        output_dir=f"output/{environment(phase)}",
        flow_custom_timesteps=render_timesteps(schedule),
        learning_rate=settings.learning_rate,
        lr_warmup_steps=min(10, settings.steps // 6),
        resolution=settings.resolution,
        aspect_bucket_alignment=str(family.training_multiple),
        seed=settings.seed,
        checkpoint_step_interval=math.ceil(settings.steps / 10),
        **_BY_DEVICE[settings.device]._asdict(),
        **memory_options(settings),
        **_render_sampling(settings),
    )
    guidance = {}
    if settings.teacher is not None and family.guidance.training_option is not None:
        guidance = {family.guidance.training_option: settings.teacher.guidance_of(phase)}
    return {**config.to_json(), **family.training_options, **guidance, **settings.overrides}


def render_timesteps(schedule: PhaseSchedule) -> str:
    """Return the list as SimpleTuner reads it, spelled as the guide spells it.

    SimpleTuner takes a list whose values are all at most 1 for sigmas, so timesteps that small
    are handed over as the sigmas they are.
    """
    values = schedule.timesteps if max(schedule.timesteps) > 1 else schedule.sigmas
    return ",".join("1000" if value == 1000 else repr(value) for value in values)


def _render_sampling(settings: TrainSettings) -> dict[str, Any]:
    if settings.sample_every is None:
        return {}
    side = settings.resolution
    return {
        "validation_disable": False,
        "validation_step_interval": settings.sample_every,
        "validation_prompt": settings.sample_prompt,
        "validation_resolution": f"{side}x{side}",
        "validation_seed": settings.seed,
        "validation_guidance": find_family(settings.family).guidance.slow,
        "validation_disable_unconditional": True,
    }


def _render_targets(
    teacher: Teacher, family: str, phase: Phase, schedule: Schedule
) -> dict[str, Any]:
    guidance = teacher.guidance_of(phase) if find_family(family).embeds_guidance else None
    return TargetsFile(
        simpletuner=recorded_version(),
        folder="cache/teacher",
        sigmas=(*schedule.sigmas, 0.0),
        guidance=guidance,
        receipt=receipt_file(phase),
    ).to_json()


def _render_backends(
    settings: TrainSettings, views: Sequence[View], reference: tuple[int, int] | None
) -> list[dict[str, Any]]:
    if settings.teacher is not None:
        images = _render_teachers_images(settings, settings.teacher)
    else:
        images = [_render_view(settings, number, view) for number, view in enumerate(views)]
    if reference is None:
        return [*(image.to_json() for image in images), TextBackend().to_json()]
    # a teacher has its references under the names of its pictures
    folder = "reference" if settings.teacher is not None else REFERENCE_FOLDER
    shown = ReferenceBackend(instance_data_dir=f"{{env:PWD}}/{folder}", resolution=min(reference))
    (image,) = images
    image = image.model_copy(update={"conditioning_data": (shown.id,)})
    return [image.to_json(), shown.to_json(), TextBackend().to_json()]


def _render_teachers_images(settings: TrainSettings, teacher: Teacher) -> "list[ImageBackend]":
    """Return a data set for each size: pictures of one size alone share a batch."""
    samples = settings.steps * settings.batch_size
    paths = teacher.paths // len(teacher.sizes)
    return [
        ImageBackend(
            id=f"teacher-{width}x{height}",
            instance_data_dir=f"data/{width}x{height}" if len(teacher.sizes) > 1 else "data",
            cache_dir_vae=f"cache/vae-{width}x{height}",
            resolution=min(width, height),
            repeats=math.ceil(samples / paths),
        )
        for width, height in teacher.sizes
    ]


def _render_view(settings: TrainSettings, number: int, view: View) -> "ImageBackend":
    """Return one data set; the first has the plain name, the others their own latents."""
    backend = ImageBackend(
        instance_data_dir=view_folder(view), resolution=min(view.size), repeats=settings.steps
    )
    if number == 0:
        return backend
    return backend.model_copy(
        update={"id": f"glance-{view.name}", "cache_dir_vae": f"cache/vae-{view.name}"}
    )


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """Return the file's content; what is None is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class TrainerConfig(_File):
    """config/<environment>/config.json: one phase's options, by SimpleTuner's names."""

    model_type: Literal["lora"] = "lora"
    model_family: str
    # A Hub id, or a folder in the run. Of one that lies elsewhere the environment says where: that
    # stays on this machine.
    pretrained_model_name_or_path: str
    # a single file's transformer, which glance has made ready; subfolder "none": nothing else there
    pretrained_transformer_model_name_or_path: str | None = None
    pretrained_transformer_subfolder: str | None = None
    data_backend_config: str = DATA_BACKEND_FILE
    train_batch_size: int = 1  # for one image and caption: the guide's and the method's
    # a larger batch on an accelerator, and of families that edit: one at a time
    gradient_accumulation_steps: int | None = None
    max_train_steps: int  # the guide's and the method's: 60
    num_train_epochs: Literal[0] = 0  # lets max_train_steps alone decide
    lora_type: Literal["standard"] = "standard"  # PEFT; diffusers loads it
    lora_rank: int  # the guide's: 32
    # 4 x rank: the method's published learning rates go with it. Folded into the finished file,
    # because SimpleTuner's loses it. The rank where the base teaches itself.
    lora_alpha: float
    # a JSON list: every linear layer of the blocks, where the base teaches itself
    peft_lora_target_modules: str | None = None
    lora_dropout: float = 0.0  # SimpleTuner's 0.1 regularises a data set; here there is one image
    output_dir: str  # the guide's: output/glance-slow, output/glance-fast
    flow_custom_timesteps: str  # replaces the usual sampling and bypasses the shift
    # Each value gets the same share of the steps; SimpleTuner's "fixed-list" draws at random, and
    # with 60 draws some values get twice as many as others.
    flow_timesteps_mode: str = "round-robin"
    learning_rate: float  # the method's published value; SimpleTuner's default is 4e-7
    # the method's: constant; falling to 0 where the base teaches itself
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int  # the method's: 10 of 60; fewer in shorter runs
    # cuda: adamw_bf16, SimpleTuner's default, made for bf16 weights. Elsewhere optimi-adamw, which
    # keeps the LoRA in float32.
    optimizer: str
    mixed_precision: str  # bf16 on cuda, no (float32) elsewhere
    # The preset's. int8-quanto with 24 GB for FLUX: a bit over 18 GB for a LoRA of every component
    # (SimpleTuner's documentation), unquantised over 30.
    base_model_precision: str
    # "cpu" where the unquantised model does not fit on the card, as in SimpleTuner's FLUX example:
    # FLUX in bf16 (23.8 GB) does not fit on one of 24 GB. It takes about 50 GB of system memory.
    quantize_via: str | None = None
    text_encoder_1_precision: str | None = None
    text_encoder_2_precision: str | None = None
    text_encoder_3_precision: str | None = None
    text_encoder_4_precision: str | None = None
    offload_during_startup: bool | None = None  # small cards: text encoders and VAE in turn
    vae_enable_tiling: bool | None = None  # small cards: the image is encoded piece by piece
    vae_dtype: str
    # less memory for more time: on, but for the CPU, where time is what is short
    gradient_checkpointing: bool
    # SimpleTuner's 0.1 would hide the one caption in a tenth of the steps
    caption_dropout_probability: float = 0.0
    resolution: int  # with pixel_area: the side of a square of that area
    aspect_bucket_alignment: str  # the least that SimpleTuner takes: sides are multiples of it
    # Digits of an aspect: with SimpleTuner's 2 the height of a narrow image would be another than
    # the image's own.
    aspect_bucket_rounding: Literal[9] = 9
    resolution_type: Literal["pixel_area"] = "pixel_area"  # memory: the same for every aspect
    minimum_image_size: Literal[0] = 0  # glance has checked the size itself
    seed: int  # at least 1: SimpleTuner takes 0 for "no seed"
    checkpoint_step_interval: int  # SimpleTuner's 500 would never write one in 60
    checkpointing_use_tempdir: Literal[True] = True  # it gets its name only once it is whole
    checkpoints_total_limit: int = 2  # the newest, and one in reserve
    resume_from_checkpoint: Literal["latest"] = "latest"  # if there is one
    validation_disable: bool = True  # `glance infer` shows the result
    validation_step_interval: int | None = None  # --sample-every
    validation_prompt: str | None = None
    validation_resolution: str | None = None
    validation_seed: int | None = None
    validation_guidance: float | None = None  # the family's own: one phase's LoRA, all steps
    validation_disable_unconditional: bool | None = None  # no further image of the empty prompt
    disable_benchmark: bool = True  # no image of the base before training
    report_to: str = "none"  # no tracker, no account, no upload
    push_to_hub: Literal[False] = False
    # where glance listens for progress; empty when started by hand, which SimpleTuner takes for
    # "none"
    webhook_config: str = "{env:" + WEBHOOK_VARIABLE + "}"


class ImageBackend(_File):
    """The one image and its caption, or the teacher's images, in multidatabackend.json."""

    id: str = "glance"
    type: Literal["local"] = "local"
    dataset_type: Literal["image"] = "image"
    instance_data_dir: str  # relative: a run may be moved
    caption_strategy: Literal["textfile"] = "textfile"
    disable_multiline_split: bool = True  # else a caption of several lines becomes several captions
    # The image's shorter side, so that it is neither scaled nor cut: SimpleTuner scales without
    # smoothing, and cuts at random; glance has done both.
    resolution: int
    resolution_type: Literal["pixel"] = "pixel"
    minimum_image_size: Literal[0] = 0
    crop: Literal[False] = False
    cache_dir_vae: str = "cache/vae"
    metadata_backend: Literal["json"] = "json"
    repeats: int  # one epoch holds the whole phase: no rebuild in between
    conditioning_data: tuple[str, ...] | None = None  # families that edit: the reference's backend


class ReferenceBackend(_File):
    """The image that is edited, in multidatabackend.json."""

    id: str = "reference"
    type: Literal["local"] = "local"
    dataset_type: Literal["conditioning"] = "conditioning"
    conditioning_type: Literal["reference_loose"] = "reference_loose"  # it may have another shape
    # SimpleTuner looks for a relative folder's latents where they are not; this is the run folder
    # wherever it is, because SimpleTuner is started there.
    instance_data_dir: str
    caption_strategy: Literal["textfile"] = "textfile"
    disable_multiline_split: bool = True
    resolution: int  # its shorter side: glance has scaled it
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

    simpletuner: str  # the version that it is made for
    folder: str  # the recordings, relative to the run
    sigmas: tuple[float, ...]  # of both phases, and 0: the states' own
    guidance: float | None = None  # what the transformer is told, where guidance is embedded in it
    receipt: str  # written once a batch has recorded targets


class AccelerateConfig(_File):
    """config/accelerate.json: stands in front of whatever the user's own one says."""

    compute_environment: Literal["LOCAL_MACHINE"] = "LOCAL_MACHINE"
    distributed_type: Literal["NO"] = "NO"
    mixed_precision: str
    use_cpu: bool  # on the CPU, whatever else the machine has
    num_processes: Literal[1] = 1
    num_machines: Literal[1] = 1
    machine_rank: Literal[0] = 0
    debug: bool = False


type OptionValue = bool | int | float | str

# What makes it a Glance run: option -> what to do instead.
_OWNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model_family": "use --family",
        "pretrained_model_name_or_path": "use --model",
        "max_train_steps": "use --steps",
        "lora_rank": "use --rank",
        "learning_rate": "use --learning-rate",
        "resolution": "use --resolution",
        "seed": "use --seed",
        "flow_custom_timesteps": "use --schedule, --slow-timesteps or --fast-timesteps",
        "mixed_precision": "use --device: it decides precision",
        "model_type": "glance trains LoRAs",
        "lora_type": "only 'standard' loads everywhere",
        "lora_format": "glance finalises SimpleTuner's diffusers format",
        "peft_lora_mode": "only 'standard' loads everywhere",
        "output_dir": "the run folder decides it: use --run",
        "data_backend_config": "glance writes it for the one pair",
        "train_batch_size": "there is one sample; of `glance distill`: use --batch-size",
        "num_train_epochs": "--steps alone decides the length",
        "resolution_type": "glance trains by area",
        "minimum_image_size": "glance has checked the size itself",
        "aspect_bucket_alignment": "glance sets the least that the family allows",
        "aspect_bucket_rounding": "glance has cut the picture itself",
        "resume_from_checkpoint": "glance resumes by itself; --restart begins anew",
        "webhook_config": "glance listens there for progress",
        **dict.fromkeys(
            (
                *("push_to_hub", "push_to_hub_background", "push_checkpoints_to_hub"),
                *("hub_model_id", "publishing_config", "dynamo_hub_repo_id"),
            ),
            "a run stays on this machine until `glance export hub` sends what is made for it",
        ),
        "delete_invalid_checkpoints": "glance never deletes checkpoints",
        "accelerate_config": "glance writes its own",
        "accelerate_extra_args": "glance trains in one process on one machine",
        "num_processes": "glance trains in one process on one machine",
        "num_machines": "glance trains in one process on one machine",
    }
)
_PATHS: Final = ("_path", "_config", "init_lora")  # how options end that name files and models
# Values that let whoever has them in: a run's files and logs are shared.
_SECRET: Final = re.compile(
    r"\b(hf|api_org|gh[pousr]|github_pat|glpat|sk|rk|xox[abeprs]|r8|wandb_v1)[-_][A-Za-z0-9_-]{16,}"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]+\.[\w-]+\."  # a JSON web token
    r"|://[^/\s:@]+:[^/\s@]+@"  # a password in an address
    r"|(?i:token|secret|password|key|credential)s?[\"']?\s*[:=]\s*\S"
)
_SECRET_NAME: Final = re.compile(r"(^|_)(token|secret|password|key|credential)s?$")
_HEXADECIMAL: Final = re.compile(r"\b[0-9a-f]{40}\b")  # wandb's keys; and Git's commits
_ENVIRONMENT: Final = (
    "leave it out: trackers and the Hub find their tokens in the environment or where their own "
    "`login` keeps them"
)
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


def parse_overrides(pairs: Sequence[str]) -> dict[str, OptionValue]:
    """Read the pairs of `--set`; keys may be spelled with leading dashes or inner hyphens.

    SimpleTuner's only check is its own parser, after about 13 s of imports. The pinned version's
    options are recorded in options.json (scripts/record_options.py). Raises SettingsError naming
    every pair that is malformed, unknown, of the wrong type, or not the user's to set.
    """
    known = _recorded()
    problems: list[Problem] = []
    overrides: dict[str, OptionValue] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        name = key.strip().lstrip("-").replace("-", "_")
        if _is_secret(name, text):
            shown = name if equals and not _SECRET.search(name) else "..."
            problems.append(
                Problem(
                    f"--set {shown}: its value looks like a token or a password, and a run's files "
                    "are shared",
                    _ENVIRONMENT,
                )
            )
        elif not equals or not name:
            problems.append(
                Problem(f"--set {pair}: it is not key=value", "write --set lora_dropout=0.1")
            )
        elif name in _OWNED:
            problems.append(Problem(f"--set {name}: it makes this a Glance run", _OWNED[name]))
        elif name not in known["options"]:
            problems.append(_unknown(name, known))
        elif name.endswith(_PATHS) and (path := _find_here(text.strip())) is not None:
            problems.append(
                Problem(
                    f"--set {name}: {text.strip()} is here, and SimpleTuner is started in the run "
                    "folder: from there it is nothing, or somebody's name on the Hub",
                    f"--set {shlex.quote(f'{name}={path}')}",
                )
            )
        else:
            try:
                overrides[name] = _convert(text.strip(), known["options"][name])
            except ValueError as exc:
                problems.append(Problem(f"--set {name}: {text!r} is not {exc}"))
    if problems:
        raise SettingsError(problems)
    return overrides


def recorded_version() -> str:
    """Return the version of SimpleTuner that glance is made for."""
    return str(_recorded()["simpletuner"])


def _is_secret(name: str, text: str) -> bool:
    """Whether a value, or what was typed without one, should be written nowhere."""
    if _SECRET.search(text) or _SECRET.search(name) or (text and _SECRET_NAME.search(name)):
        return True
    return name != "revision" and _HEXADECIMAL.search(text) is not None


def _recorded() -> Any:
    file = files("glance.training.simpletuner").joinpath("options.json")
    return json.loads(file.read_text(encoding="utf-8"))


def _find_here(text: str) -> Path | None:
    """Return what a relative path names here, absolute; None where it names nothing."""
    try:
        path = Path(text)
        is_here = text and not path.is_absolute() and path.exists()
    except (OSError, ValueError):  # too long for a name, a NUL
        return None
    return path.absolute() if is_here else None


def _unknown(name: str, known: Mapping[str, Any]) -> Problem:
    near = difflib.get_close_matches(name, known["options"], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `simpletuner train --help`"
    return Problem(f"--set {name}: SimpleTuner {known['simpletuner']} has no such option", hint)


def _convert(text: str, option: Mapping[str, Any]) -> OptionValue:
    """Return the value in the option's type; a ValueError says what it should have been."""
    choices = option.get("choices")
    if choices and text not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    match option["type"]:
        case "bool":
            if text.lower() not in _TRUE + _FALSE:
                raise ValueError("true or false")
            return text.lower() in _TRUE
        case "int":
            return _number(int, text, "a whole number")
        case "float":
            return _number(float, text, "a finite number")
        case _:
            return text


def _number[N: (int, float)](kind: type[N], text: str, name: str) -> N:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(name) from None
    if not -math.inf < number < math.inf:
        raise ValueError(name)
    return number
