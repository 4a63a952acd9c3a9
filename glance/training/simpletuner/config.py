"""SimpleTuner's files and command line, in its words; and `--set`. Nothing is written here.

A comment says why an option is set.
"""

import difflib
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from glance.core.device import Device
from glance.core.errors import Checks, SettingsError
from glance.core.phase import Phase
from glance.models.base import is_outside
from glance.models.families import find_family
from glance.runs.folder import environment
from glance.runs.settings import Layers, Teacher, TrainSettings
from glance.runs.view import View
from glance.schedule.lists import PhaseSchedule, Schedule
from glance.training.machine import memory_options
from glance.training.request import Launcher

DATA_BACKEND_FILE = "config/multidatabackend.json"
PICTURES_FOLDER = "cache/pictures"
REFERENCE_FOLDER = "cache/reference"
TEXT_CACHE = "cache/text"
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
    """Where all images of a view's size lie as they are trained: the trainer takes all it finds."""
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


def build_command(phase: Phase, launcher: Launcher = Launcher.SIMPLETUNER) -> list[str]:
    """Return the command line of one phase; it runs in the run folder."""
    if launcher is Launcher.DIRECT:
        return ["python", "-P", "-m", "simpletuner.train"]  # -P: a run holds no modules
    return ["simpletuner", "train", "--env", environment(phase)]


def render_files(
    settings: TrainSettings,
    schedule: Schedule,
    *,
    views: Sequence[View] = (),
    reference: tuple[int, int] | None = None,
    preview_every: int | None = None,
) -> dict[str, Any]:
    """Return every config file of a run: path within the run -> JSON content.

    `views` are what is trained of the images, `reference` is the size at which one is shown.
    """
    teacher = settings.teacher
    return {
        DATA_BACKEND_FILE: _render_backends(settings, views, reference),
        ACCELERATE_FILE: {  # stands in front of whatever the user's own one says
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "NO",
            "mixed_precision": _mixed_precision(settings.device),
            "use_cpu": settings.device is Device.CPU,  # whatever else the machine has
            "num_processes": 1,
            "num_machines": 1,
            "machine_rank": 0,
            "debug": False,
        },
        **{
            config_file(phase): render_trainer_config(
                settings, phase, schedule.phase(phase), preview_every=preview_every
            )
            for phase in Phase
        },
        **{
            targets_file(phase): _render_targets(teacher, settings.family, phase, schedule)
            for phase in Phase
            if teacher is not None
        },
    }


def render_trainer_config(
    settings: TrainSettings,
    phase: Phase,
    schedule: PhaseSchedule,
    *,
    preview_every: int | None = None,
) -> dict[str, Any]:
    """Return one phase's config.json: ours, the family's own options, then the user's --set."""
    family, teacher = find_family(settings.family), settings.teacher
    on_cuda, on_cpu = settings.device is Device.CUDA, settings.device is Device.CPU
    guidance, layers = family.guidance.training_option, json.dumps(list(family.block_layers))
    times = settings.batch_size // settings.samples_at_once
    return {
        "model_type": "lora",
        "model_family": family.simpletuner_name,
        # Of a model that lies elsewhere than in the run the environment says where: that stays on
        # this machine.
        "pretrained_model_name_or_path": (
            f"{{env:{MODEL_VARIABLE}}}" if is_outside(settings.model) else settings.model
        ),
        **_render_transformer(settings),
        "data_backend_config": DATA_BACKEND_FILE,
        "train_batch_size": settings.samples_at_once,  # 1: the guide's and the method's
        # a larger batch on an accelerator, and of families that edit: one at a time
        **({"gradient_accumulation_steps": times} if times > 1 else {}),
        "max_train_steps": settings.steps,  # the guide's and the method's: 60
        "num_train_epochs": 0,  # lets max_train_steps alone decide
        "lora_type": "standard",  # PEFT; diffusers loads it
        "lora_rank": settings.rank,  # the guide's: 32
        # 4 x rank: the method's published learning rates go with it. Folded into the finished file,
        # because SimpleTuner's loses it. The rank where the base teaches itself.
        "lora_alpha": float(settings.alpha),
        # every linear layer of the blocks, where the base teaches itself
        **({} if settings.layers is Layers.ATTENTION else {"peft_lora_target_modules": layers}),
        "lora_dropout": 0.0,  # SimpleTuner's 0.1 regularises a data set; here there is one image
        "output_dir": f"output/{environment(phase)}",  # the guide's
        "flow_custom_timesteps": render_timesteps(schedule),  # bypasses sampling and shift
        # Each value gets the same share of the steps; SimpleTuner's "fixed-list" draws at random,
        # and with 60 draws some values get twice as many as others.
        "flow_timesteps_mode": "round-robin",
        "learning_rate": settings.learning_rate,  # the method's; SimpleTuner's default is 4e-7
        # the method's: constant; falling to 0 where the base teaches itself
        "lr_scheduler": settings.learning_rate_schedule,
        "lr_warmup_steps": warm_up_steps(settings.steps),
        # adamw_bf16, SimpleTuner's default, is made for bf16 weights; optimi-adamw keeps the LoRA
        # in float32
        "optimizer": "adamw_bf16" if on_cuda else "optimi-adamw",
        "mixed_precision": _mixed_precision(settings.device),
        **memory_options(settings),
        "vae_dtype": "bf16" if on_cuda else "fp32",
        # less memory for more time: on, but for the CPU, where time is what is short
        "gradient_checkpointing": not on_cpu,
        # SimpleTuner's 0.1 would hide the one caption in a tenth of the steps
        "caption_dropout_probability": 0.0,
        "resolution": settings.resolution,  # with pixel_area: the side of a square of that area
        "aspect_bucket_alignment": str(family.training_multiple),  # sides are multiples of it
        # Digits of an aspect: with SimpleTuner's 2 the height of a narrow image would be another
        # than the image's own.
        "aspect_bucket_rounding": 9,
        "resolution_type": "pixel_area",  # memory does not depend on the aspect
        "minimum_image_size": 0,  # glance has checked the size itself
        "seed": settings.seed,  # at least 1: SimpleTuner takes 0 for "no seed"
        "checkpoint_step_interval": checkpoint_interval(settings.steps, preview_every),
        "checkpointing_use_tempdir": True,  # a checkpoint gets its name only once it is whole
        "checkpoints_total_limit": 2,  # the newest, and one in reserve
        "resume_from_checkpoint": "latest",  # if there is one
        "validation_disable": True,  # one phase's LoRA, at all steps; `glance infer` shows the pair
        "disable_benchmark": True,  # no image of the base before training
        "report_to": "none",  # no tracker, no account, no upload
        "push_to_hub": False,
        # where glance listens for progress; empty when started by hand: SimpleTuner takes it for
        # "none"
        "webhook_config": f"{{env:{WEBHOOK_VARIABLE}}}",
        **family.training_options,
        **({guidance: teacher.guidance_of(phase)} if teacher and guidance else {}),
        **settings.overrides,
    }


def warm_up_steps(steps: int) -> int:
    """Return in how many of the steps the learning rate rises; the method's: 10 of 60."""
    return min(10, steps // 6)


def checkpoint_interval(steps: int, preview_every: int | None = None) -> int:
    """Return after how many steps there is a checkpoint: a tenth of them; SimpleTuner's: 500.

    Previews are of checkpoints: with them it is the nearest to a tenth that divides their interval,
    and not below half of it, because each checkpoint takes time.
    """
    usual = math.ceil(steps / 10)
    if preview_every is None:
        return usual
    divisors = [one for one in range(1, preview_every + 1) if preview_every % one == 0]
    seldom = [one for one in divisors if 2 * one >= usual] or [preview_every]
    return min(seldom, key=lambda one: max(one / usual, usual / one))


def render_timesteps(schedule: PhaseSchedule) -> str:
    """Return the list as SimpleTuner reads it, spelled as the guide spells it.

    SimpleTuner takes a list whose values are all at most 1 for sigmas, so timesteps that small
    are handed over as the sigmas they are.
    """
    values = schedule.timesteps if max(schedule.timesteps) > 1 else schedule.sigmas
    return ",".join("1000" if value == 1000 else repr(value) for value in values)


def _mixed_precision(device: Device) -> str:
    return "bf16" if device is Device.CUDA else "no"


def _render_transformer(settings: TrainSettings) -> dict[str, Any]:
    """That of a single file, which glance has made ready."""
    if settings.transformer is None:
        return {}
    return {
        "pretrained_transformer_model_name_or_path": "transformer",
        "pretrained_transformer_subfolder": "none",  # that folder holds nothing else
    }


def _render_targets(
    teacher: Teacher, family: str, phase: Phase, schedule: Schedule
) -> dict[str, Any]:
    """What inside/glance_targets.py makes of each batch."""
    guidance = {"guidance": teacher.guidance_of(phase)}
    return {
        "simpletuner": _recorded()["simpletuner"],
        "folder": "cache/teacher",
        "sigmas": [*schedule.sigmas, 0.0],  # of both phases, and 0: the states' own
        # what the transformer is told, where guidance is embedded in it
        **(guidance if find_family(family).embeds_guidance else {}),
        "receipt": receipt_file(phase),
    }


def _render_backends(
    settings: TrainSettings, views: Sequence[View], reference: tuple[int, int] | None
) -> list[dict[str, Any]]:
    teacher, steps = settings.teacher, settings.steps
    if teacher is not None:
        images = _render_teachers_images(settings, teacher)
    else:  # the first has the plain name, the others their own latents
        shares = Counter(map(view_folder, views))
        sets = {view_folder(view): view for view in views}
        images = [
            _render_images(f"glance{own}", folder, view.size, f"cache/vae{own}", steps)
            # as often as it has images: each of them gets the same share of the steps
            | ({"probability": shares[folder]} if len(set(shares.values())) > 1 else {})
            for folder, view in sets.items()
            for own in ["" if view.name == views[0].name else f"-{view.name}"]
        ]
    texts = {  # the cache of the captions' embeddings
        "id": "text",
        "type": "local",
        "dataset_type": "text_embeds",
        "default": True,
        "cache_dir": TEXT_CACHE,
    }
    if reference is None:
        return [*images, texts]
    # a teacher has its references under the names of its images
    folder = "reference" if teacher is not None else REFERENCE_FOLDER
    (image,) = images
    return [
        {**image, "conditioning_data": ["reference"]},
        {
            "id": "reference",
            "type": "local",
            "dataset_type": "conditioning",
            "conditioning_type": "reference_loose",  # it may have another shape than the image
            # SimpleTuner looks for a relative folder's latents where they are not; this is the run
            # folder wherever it is, because SimpleTuner is started there.
            "instance_data_dir": f"{{env:PWD}}/{folder}",
            **_AS_IT_IS,
            "resolution": min(reference),
            **_NEITHER_SCALED_NOR_CUT,
            "cache_dir_vae": "cache/vae-reference",
            "metadata_backend": "json",
        },
        texts,
    ]


def _render_teachers_images(settings: TrainSettings, teacher: Teacher) -> list[dict[str, Any]]:
    """Return a data set for each size: images of one size alone share a batch."""
    paths = teacher.paths // len(teacher.sizes)
    repeats = math.ceil(settings.steps * settings.batch_size / paths)
    return [
        _render_images(
            f"teacher-{width}x{height}",
            f"data/{width}x{height}" if len(teacher.sizes) > 1 else "data",
            (width, height),
            f"cache/vae-{width}x{height}",
            repeats,
        )
        for width, height in teacher.sizes
    ]


_AS_IT_IS: Final = {
    "caption_strategy": "textfile",
    "disable_multiline_split": True,  # else a caption of several lines becomes several captions
}
# SimpleTuner scales without smoothing, and cuts at random; glance has done both, and "resolution"
# is the image's shorter side.
_NEITHER_SCALED_NOR_CUT: Final = {
    "resolution_type": "pixel",
    "minimum_image_size": 0,
    "crop": False,
}


def _render_images(
    name: str, folder: str, size: tuple[int, int], cache: str, repeats: int
) -> dict[str, Any]:
    return {
        "id": name,
        "type": "local",
        "dataset_type": "image",
        "instance_data_dir": folder,  # relative: a run may be moved
        **_AS_IT_IS,
        "resolution": min(size),
        **_NEITHER_SCALED_NOR_CUT,
        "cache_dir_vae": cache,
        "metadata_backend": "json",
        "repeats": repeats,  # one epoch holds the whole phase: no rebuild in between
    }


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
        "aspect_bucket_rounding": "glance has cut the image itself",
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
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")


def parse_overrides(pairs: Sequence[str]) -> dict[str, OptionValue]:
    """Read the pairs of `--set`; keys may be spelled with leading dashes or inner hyphens.

    SimpleTuner's only check is its own parser, after its imports. The pinned version's
    options are recorded in options.json (scripts/record_options.py). Raises SettingsError naming
    every pair that is malformed, unknown, of the wrong type, or not the user's to set.
    """
    known, checks = _recorded(), Checks()
    read = [checks.make(partial(_read_pair, pair, known)) for pair in pairs]
    checks.require()
    return dict(filter(None, read))


def _read_pair(pair: str, known: Mapping[str, Any]) -> tuple[str, OptionValue]:
    key, equals, text = (part.strip() for part in pair.partition("="))
    name = key.lstrip("-").replace("-", "_")
    if _is_secret(name, text):
        raise SettingsError(
            f"--set {name if equals and not _SECRET.search(name) else '...'}: its value looks like "
            "a token or a password, and a run's files are shared",
            hint="leave it out: trackers and the Hub find their tokens in the environment or where "
            "their own `login` keeps them",
        )
    if not equals or not name:
        raise SettingsError(
            f"--set {pair}: it is not key=value", hint="write --set lora_dropout=0.1"
        )
    if name in _OWNED:
        raise SettingsError(f"--set {name}: glance sets this option itself", hint=_OWNED[name])
    if name not in known["options"]:
        near = difflib.get_close_matches(name, known["options"], n=3)
        raise SettingsError(
            f"--set {name}: SimpleTuner {known['simpletuner']} has no such option",
            hint=f"did you mean {' or '.join(near)}?" if near else "see `simpletuner train --help`",
        )
    if name.endswith(_PATHS) and (path := _find_here(text)) is not None:
        raise SettingsError(
            f"--set {name}: {text} is here, and SimpleTuner is started in the run folder: from "
            "there it is nothing, or somebody's name on the Hub",
            hint=f"--set {shlex.quote(f'{name}={path}')}",
        )
    try:
        return name, _convert(text, known["options"][name])
    except ValueError as exc:
        raise SettingsError(f"--set {name}: {pair.partition('=')[2]!r} is not {exc}") from exc


def _is_secret(name: str, text: str) -> bool:
    """Whether a value, or what was typed without one, should be written nowhere."""
    if _SECRET.search(text) or _SECRET.search(name) or (text and _SECRET_NAME.search(name)):
        return True
    # 40 hexadecimal digits: wandb's keys; and Git's commits
    return name != "revision" and re.search(r"\b[0-9a-f]{40}\b", text) is not None


def _recorded() -> Any:
    """Return the version of SimpleTuner that glance is made for, and its options."""
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


def _convert(text: str, option: Mapping[str, Any]) -> OptionValue:
    """Return the value in the option's type; a ValueError says what it should have been."""
    choices, kind = option.get("choices"), option["type"]
    if choices and text not in choices:
        raise ValueError(f"one of {', '.join(choices)}")
    if kind == "bool":
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError("true or false")
        return text.lower() in _TRUE
    if kind not in ("int", "float"):
        return text
    try:
        number = int(text) if kind == "int" else float(text)
    except ValueError:
        number = math.inf
    if not -math.inf < number < math.inf:
        raise ValueError("a whole number" if kind == "int" else "a finite number")
    return number
