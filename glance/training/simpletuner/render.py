"""From glance's settings to SimpleTuner's files. Pure: nothing is read or written."""

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from glance.core.device import Device
from glance.core.phase import Phase
from glance.dataset.view import View
from glance.models.base import is_outside
from glance.models.families import find_family
from glance.runs.folder import environment
from glance.runs.settings import Layers, Teacher, TrainSettings
from glance.schedule.lists import PhaseSchedule, Schedule
from glance.training.simpletuner.config import (
    ACCELERATE_FILE,
    DATA_BACKEND_FILE,
    MODEL_VARIABLE,
    REFERENCE_FOLDER,
    AccelerateConfig,
    ImageBackend,
    ReferenceBackend,
    TargetsFile,
    TextBackend,
    TrainerConfig,
    receipt_file,
    targets_file,
    view_folder,
)
from glance.training.simpletuner.memory import memory_options
from glance.training.simpletuner.options import recorded_version


class _OfDevice(NamedTuple):
    mixed_precision: str
    vae_dtype: str
    optimizer: str
    gradient_checkpointing: bool = True


_FLOAT32 = _OfDevice(
    mixed_precision="no",
    vae_dtype="fp32",
    optimizer="optimi-adamw",
)
_BY_DEVICE: Mapping[Device, _OfDevice] = MappingProxyType(
    {
        Device.CUDA: _OfDevice(
            mixed_precision="bf16",
            vae_dtype="bf16",
            optimizer="adamw_bf16",
        ),
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
    targets = {
        targets_file(phase): _render_targets(settings.teacher, settings.family, phase, schedule)
        for phase in Phase
        if settings.teacher is not None
    }
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
        **targets,
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


def _render_teachers_images(settings: TrainSettings, teacher: Teacher) -> list[ImageBackend]:
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


def _render_view(settings: TrainSettings, number: int, view: View) -> ImageBackend:
    """Return one data set; the first has the plain name, the others their own latents."""
    backend = ImageBackend(
        instance_data_dir=view_folder(view), resolution=min(view.size), repeats=settings.steps
    )
    if number == 0:
        return backend
    return backend.model_copy(
        update={"id": f"glance-{view.name}", "cache_dir_vae": f"cache/vae-{view.name}"}
    )


def config_file(phase: Phase) -> str:
    """Return where SimpleTuner looks for one phase's options, within the run."""
    return f"config/{environment(phase)}/config.json"


def render_trainer_config(
    settings: TrainSettings, phase: Phase, schedule: PhaseSchedule
) -> dict[str, Any]:
    """Return one phase's config.json: ours, the family's own options, then the user's --set."""
    family = find_family(settings.family)
    config = TrainerConfig(
        model_family=family.simpletuner_name,
        pretrained_model_name_or_path=_render_model(settings.model),
        pretrained_transformer_model_name_or_path="transformer" if settings.transformer else None,
        pretrained_transformer_subfolder="none" if settings.transformer else None,
        max_train_steps=settings.steps,
        lora_rank=settings.rank,
        lora_alpha=settings.alpha,
        peft_lora_target_modules=_render_layers(settings),
        train_batch_size=settings.samples_at_once,
        gradient_accumulation_steps=_render_accumulation(settings),
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
        **_sampling(settings),
    )
    guidance = {}
    if settings.teacher is not None and family.guidance.training_option is not None:
        guidance = {family.guidance.training_option: settings.teacher.guidance_of(phase)}
    return {**config.to_json(), **family.training_options, **guidance, **settings.overrides}


def _render_accumulation(settings: TrainSettings) -> int | None:
    times = settings.batch_size // settings.samples_at_once
    return times if times > 1 else None


def _render_model(model: str) -> str:
    return f"{{env:{MODEL_VARIABLE}}}" if is_outside(model) else model


def _render_layers(settings: TrainSettings) -> str | None:
    if settings.layers is Layers.ATTENTION:
        return None
    return json.dumps(list(find_family(settings.family).block_layers))


def _sampling(settings: TrainSettings) -> dict[str, Any]:
    """Return what makes SimpleTuner paint while it trains, if that is asked for."""
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


def render_timesteps(schedule: PhaseSchedule) -> str:
    """Return the list as SimpleTuner reads it, spelled as the guide spells it.

    SimpleTuner takes a list whose values are all at most 1 for sigmas, so timesteps that small
    are handed over as the sigmas they are.
    """
    values = schedule.timesteps if max(schedule.timesteps) > 1 else schedule.sigmas
    return ",".join("1000" if value == 1000 else repr(value) for value in values)
