"""`glance infer`: plan_generation decides (and loads nothing), run_generation samples."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glance.device import AUTO, Device, Precision, require_device, resolve_device
from glance.errors import (
    InferenceFailed,
    InputError,
    LoraError,
    RunError,
    SetupError,
    UsageError,
)
from glance.events import EventSink, Noted
from glance.families import Family, find_family
from glance.files import replacing
from glance.lora import read_lora, read_metadata, verify_lora
from glance.model import locate_model, recorded_model
from glance.run import (
    LORA_FILE,
    RUNS,
    Manifest,
    PhaseState,
    RunFolder,
    find_newest_run,
    load_manifest,
)
from glance.schedule import Phase, Schedule, resolve_schedule
from glance.settings import (
    DEFAULT_FAMILY,
    DEFAULT_SCHEDULE,
    SampleSettings,
    resolve_sample_settings,
)

if TYPE_CHECKING:
    from glance.diffusion.inference import Sampled

FORMATS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """What the user typed, unchecked. None: the run's, the LoRAs' or the family's own."""

    prompt: str
    run: Path | None = None
    slow_lora: Path | None = None
    fast_lora: Path | None = None
    model: str | None = None
    family: str | None = None
    seed: int = 0
    slow_guidance: float | None = None
    fast_guidance: float | None = None
    width: int | None = None
    height: int | None = None
    schedule: str | None = None
    slow_timesteps: str | None = None
    fast_timesteps: str | None = None
    device: str = AUTO
    dtype: Precision | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """Everything decided: which files, along which schedule, to where."""

    model: str
    family: Family
    loras: Mapping[Phase, Path]
    schedule: Schedule
    settings: SampleSettings
    device: Device
    dtype: Precision
    output: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The image's path and what its making was."""

    image: Path
    seed: int
    sigmas: Mapping[Phase, tuple[float, ...]]
    seconds: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return what `glance infer --json` prints."""
        return {
            "images": [str(self.image)],
            "seed": self.seed,
            "sigmas": {phase.value: list(values) for phase, values in self.sigmas.items()},
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two LoRAs and what belongs to them, wherever they come from."""

    model: str
    family: Family
    loras: Mapping[Phase, Path]
    schedule: Schedule | None
    resolution: int | None
    images: Path
    notes: tuple[str, ...]


def plan_generation(request: InferRequest) -> GenerationPlan:
    """Check the request and decide the rest. Reads files' headers, loads no model.

    Raises UsageError, RunError, LoraError, ModelNotFound, ScheduleError, SettingsError.
    """
    by_hand = request.slow_lora is not None or request.fast_lora is not None
    if by_hand and request.run is not None:
        raise UsageError("--run and --slow-lora/--fast-lora exclude each other", hint="drop one")
    pair = _pair_by_hand(request) if by_hand else _pair_of_run(request)
    settings = resolve_sample_settings(
        pair.family,
        prompt=request.prompt,
        seed=request.seed,
        slow_guidance=request.slow_guidance,
        fast_guidance=request.fast_guidance,
        width=request.width,
        height=request.height,
        resolution=pair.resolution,
    )
    device = resolve_device(request.device)
    require_device(device)
    return GenerationPlan(
        model=pair.model,
        family=pair.family,
        loras=pair.loras,
        schedule=_resolve_schedule(request, pair.schedule),
        settings=settings,
        device=device,
        dtype=request.dtype or (Precision.FP32 if device is Device.CPU else Precision.BF16),
        output=_resolve_output(request.output, pair.images, settings),
        notes=pair.notes,
    )


def run_generation(plan: GenerationPlan, on_event: EventSink) -> GenerationResult:
    """Load the model with both LoRAs, sample one image, write it.

    Raises ModelNotFound, LoraError, SetupError (the image cannot be written), InferenceFailed.
    """
    from glance.diffusion.quiet import hush

    for note in plan.notes:
        on_event(Noted(note))
    on_event(Noted(f"loading {plan.model}"))
    hush()
    from glance.diffusion.pipeline import load_pipeline

    began = time.perf_counter()
    pipeline = load_pipeline(
        plan.family, plan.model, plan.loras, device=plan.device, dtype=plan.dtype
    )
    load_seconds = time.perf_counter() - began
    sampled = _sample(pipeline, plan, on_event)
    try:
        with replacing(plan.output) as temporary:
            sampled.image.save(temporary)
    except OSError as exc:
        raise SetupError(
            f"cannot write {plan.output}: {exc.strerror or exc}",
            hint="give --output another path",
        ) from exc
    return GenerationResult(
        image=plan.output,
        seed=plan.settings.seed,
        sigmas=sampled.sigmas,
        seconds={"load": load_seconds, **sampled.seconds},
    )


def _sample(pipeline: Any, plan: GenerationPlan, on_event: EventSink) -> "Sampled":
    import torch

    from glance.diffusion.inference import sample_image

    try:
        return sample_image(pipeline, plan.family, plan.schedule, plan.settings, on_event)
    except torch.OutOfMemoryError as exc:
        raise InferenceFailed(
            f"memory does not suffice for {plan.settings.width}x{plan.settings.height}",
            hint="use a smaller --width and --height, or close other programs",
        ) from exc


def _pair_of_run(request: InferRequest) -> _Pair:
    run, notes = _choose_run(request.run)
    manifest = load_manifest(run)
    _require_finished(run, manifest)
    if request.family not in (None, manifest.settings.family):
        raise UsageError(
            f"--family {request.family}: the run {run.path} is {manifest.settings.family}",
            hint="drop --family",
        )
    family = find_family(manifest.settings.family)
    if request.model is None:
        model = recorded_model(manifest.settings.model, family=family, run=run.path)
    else:
        model = _given_model(request.model, family)
    loras = {phase: run.lora(phase) for phase in Phase}
    for path in loras.values():
        verify_lora(read_lora(path), path=path)
    return _Pair(
        model,
        family,
        loras,
        manifest.resolve_schedule(),
        manifest.settings.resolution,
        run.images,
        notes,
    )


def _choose_run(given: Path | None) -> tuple[RunFolder, tuple[str, ...]]:
    if given is not None:
        return RunFolder(given), ()
    newest = find_newest_run()
    if newest is None:
        raise RunError(
            f"there is no finished run under ./{RUNS}",
            hint='train one: glance train --image x.png --caption "what it shows"',
        )
    return newest, (f"using the newest finished run, {newest.path}",)


def _require_finished(run: RunFolder, manifest: Manifest) -> None:
    unfinished = [
        f"{phase} is {manifest.phases[phase].state}"
        for phase in Phase
        if manifest.phases[phase].state is not PhaseState.DONE
    ]
    if unfinished:
        raise RunError(
            f"run {run.path} is not finished: {', '.join(unfinished)}",
            hint="run its `glance train` command again: it continues",
        )


def _pair_by_hand(request: InferRequest) -> _Pair:
    if request.slow_lora is None or request.fast_lora is None:
        raise UsageError("--slow-lora and --fast-lora go together", hint="give both")
    loras = {
        Phase.SLOW: _lora_file(request.slow_lora),
        Phase.FAST: _lora_file(request.fast_lora),
    }
    headers = {phase: read_metadata(path) for phase, path in loras.items()}
    for phase, header in headers.items():
        if header.get("glance.phase", phase) != phase:
            raise LoraError(
                f"{loras[phase]} is the {header['glance.phase']} LoRA of its pair",
                hint="swap --slow-lora and --fast-lora",
            )
    known = headers[Phase.SLOW].get("glance.family")
    family = find_family(request.family or known or DEFAULT_FAMILY)
    silent = [loras[phase] for phase, header in headers.items() if "glance.phase" not in header]
    return _Pair(
        _given_model(request.model or family.default_model, family),
        family,
        loras,
        _schedule_of_headers(headers),
        None,
        Path(),
        tuple(f"{path} was not finished by glance: it is taken at scale 1" for path in silent),
    )


def _lora_file(path: Path) -> Path:
    file = path / LORA_FILE if path.is_dir() else path
    if not file.is_file():
        raise LoraError(f"LoRA not found: {file}", hint="give a .safetensors file or its folder")
    return file


def _given_model(model: str, family: Family) -> str:
    """Return the user's --model; a folder stays relative to where the user is."""
    return locate_model(model, family=family, run=Path.cwd())


def _schedule_of_headers(headers: Mapping[Phase, Mapping[str, str]]) -> Schedule | None:
    lists = {phase: header.get("glance.sigmas") for phase, header in headers.items()}
    if None in lists.values():
        return None
    try:
        values = {
            phase: ",".join(map(str, json.loads(text or ""))) for phase, text in lists.items()
        }
    except (ValueError, TypeError) as exc:
        raise LoraError(
            "the LoRAs' headers hold no readable sigmas", hint="give --schedule"
        ) from exc
    return resolve_schedule(
        DEFAULT_SCHEDULE,
        slow_timesteps=values[Phase.SLOW],
        fast_timesteps=values[Phase.FAST],
    )


def _resolve_schedule(request: InferRequest, trained: Schedule | None) -> Schedule:
    """The user's own, else the trained one, else the guide's."""
    own = (request.schedule, request.slow_timesteps, request.fast_timesteps)
    if trained is not None and own == (None, None, None):
        return trained
    if trained is not None and request.schedule is None:
        slow, fast = (",".join(map(str, trained.phase(phase).timesteps)) for phase in Phase)
        return resolve_schedule(
            DEFAULT_SCHEDULE,
            slow_timesteps=request.slow_timesteps or slow,
            fast_timesteps=request.fast_timesteps or fast,
        )
    return resolve_schedule(
        request.schedule or DEFAULT_SCHEDULE,
        slow_timesteps=request.slow_timesteps,
        fast_timesteps=request.fast_timesteps,
    )


def _resolve_output(given: Path | None, images: Path, settings: SampleSettings) -> Path:
    """Return where the image goes: a path given is used as it is, a name of ours is new."""
    if given is not None and not given.is_dir():
        if given.suffix.lower() not in FORMATS:
            raise InputError(
                f"--output {given}: {given.suffix or 'no ending'} is not a picture format",
                hint=f"use one of {', '.join(FORMATS)}",
            )
        return given
    words = re.sub(r"[^\w]+", "-", settings.prompt.lower()).strip("-")[:40].strip("-")
    stem = f"{words or 'image'}-{settings.seed}"
    folder = given or images
    names = (f"{stem}{'' if number == 1 else f'-{number}'}.png" for number in range(1, 10_000))
    return next(folder / name for name in names if not (folder / name).exists())
