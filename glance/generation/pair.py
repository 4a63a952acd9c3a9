"""Find two LoRAs and what belongs to them: in a run folder, or where the user says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from glance.errors import LoraError, RunError, ScheduleError, UsageError
from glance.families import Family, find_family
from glance.generation.request import InferRequest
from glance.lora import read_lora, read_metadata, verify_lora
from glance.model import locate_base, recorded_model, recorded_transformer, resolve_family
from glance.run import (
    LORA_FILE,
    RUNS,
    Manifest,
    PhaseState,
    RunFolder,
    find_newest_run,
    load_manifest,
)
from glance.schedule import Phase, Schedule


@dataclass(frozen=True, slots=True)
class Pair:
    """Two LoRAs and what belongs to them, wherever they come from."""

    model: str
    transformer: Path | None
    family: Family
    loras: Mapping[Phase, Path]
    schedule: Schedule | None  # None: nobody recorded what they were trained on
    resolution: int | None
    images: Path
    notes: tuple[str, ...]


def find_pair(request: InferRequest) -> Pair:
    """Return the pair that is asked for: by hand, of a run, or of the newest finished run.

    Raises UsageError, RunError, LoraError or ModelNotFound.
    """
    by_hand = request.slow_lora is not None or request.fast_lora is not None
    if by_hand and request.run is not None:
        raise UsageError("--run and --slow-lora/--fast-lora exclude each other", hint="drop one")
    return _pair_by_hand(request) if by_hand else _pair_of_run(request)


def _pair_of_run(request: InferRequest) -> Pair:
    run, notes = _choose_run(request.run)
    manifest = load_manifest(run)
    _require_finished(run, manifest)
    if request.family not in (None, manifest.settings.family):
        raise UsageError(
            f"--family {request.family}: the run {run.path} is {manifest.settings.family}",
            hint="drop --family",
        )
    family = find_family(manifest.settings.family)
    if request.model is None and request.base is None:
        settings = manifest.settings
        model = recorded_model(settings.model, family=family, run=run.path)
        transformer = recorded_transformer(settings.transformer, run=run.path)
    else:
        model, transformer = _given_model(request, family)
    loras = {phase: run.lora(phase) for phase in Phase}
    for path in loras.values():
        verify_lora(read_lora(path), path=path)
    return Pair(
        model,
        transformer,
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


def _pair_by_hand(request: InferRequest) -> Pair:
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
        if "glance.phase" in header:
            verify_lora(read_lora(loras[phase]), path=loras[phase])
    known = headers[Phase.SLOW].get("glance.family")
    family = resolve_family(request.family or known, request.model)
    silent = [loras[phase] for phase, header in headers.items() if "glance.phase" not in header]
    model, transformer = _given_model(request, family)
    return Pair(
        model,
        transformer,
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


def _given_model(request: InferRequest, family: Family) -> tuple[str, Path | None]:
    """Return the user's --model and --base; a folder stays relative to where the user is."""
    model, transformer = locate_base(request.model, request.base, family=family, run=Path.cwd())
    return model, None if transformer is None else Path(transformer)


def _schedule_of_headers(headers: Mapping[Phase, Mapping[str, str]]) -> Schedule | None:
    """Return what the LoRAs say they were trained on; None when one of them does not say."""
    texts = {phase: header.get("glance.timesteps") for phase, header in headers.items()}
    if None in texts.values():
        return None
    try:
        lists = {phase: tuple(map(float, json.loads(text or ""))) for phase, text in texts.items()}
        return Schedule("trained", lists[Phase.SLOW], lists[Phase.FAST])
    except (ValueError, TypeError, ScheduleError) as exc:
        raise LoraError(
            f"the LoRAs' headers hold no schedule: {exc}",
            hint="are they one pair? else say the lists with --slow-timesteps, --fast-timesteps",
        ) from exc
