"""One call of the pipeline: a phase along its sigmas, or the base along its own schedule."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glance.core.errors import InferenceFailed
from glance.models.families import Family, Latents
from glance.sampling.pipeline.scheduler import VerbatimEulerScheduler
from glance.schedule.lists import PhaseSchedule

OnStep = Callable[[int], None]
"""Told how many steps of the phase are done."""


@dataclass(frozen=True, slots=True)
class PhaseOutput:
    """What a phase leaves. Latents are as the family's callbacks see them: see families.Latents."""

    images: Any
    """Pictures: the finished ones of the last phase, or the previews that were asked for."""
    latents: torch.Tensor
    """After the last step: (pictures, ...)."""
    sigmas: tuple[float, ...]
    """As they were run; empty where the pipeline chose them."""
    last_step: float
    """When the last step was done: `now()`."""


def run_phase(
    pipeline: Any,
    call: Mapping[str, Any],
    schedule: PhaseSchedule,
    on_step: OnStep,
    *,
    shows_estimate: bool = False,
) -> PhaseOutput:
    """Call the pipeline along exactly the phase's sigmas.

    With `shows_estimate` the pipeline decodes what the model takes the finished picture for after
    the last step, x - sigma * velocity, in place of the noisy latents; those are returned beside.
    Raises InferenceFailed for NaN: it would be written as a black picture and called done.
    """
    scheduler = VerbatimEulerScheduler.ending_at(schedule.end_sigma, like=pipeline.scheduler)
    scheduler.keeps_estimate = shows_estimate
    pipeline.scheduler = scheduler
    steps = len(schedule.sigmas)
    last_step, latents = 0.0, torch.empty(0)

    def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal last_step, latents
        last_step, latents = now(), tensors["latents"]
        on_step(step + 1)
        if shows_estimate and step + 1 == steps:
            return {**tensors, "latents": scheduler.estimate.to(latents.dtype)}
        return tensors

    output = pipeline(
        **call,
        sigmas=list(schedule.sigmas),
        num_inference_steps=steps,
        callback_on_step_end=after_step,
    )
    _require_finite(latents)
    # float32's own shortest digits: 0.9791915, not the double next to it
    used = tuple(float(str(sigma)) for sigma in scheduler.sigmas[:-1].cpu().numpy())
    return PhaseOutput(output.images, latents, used, last_step)


def run_own(pipeline: Any, call: Mapping[str, Any], *, steps: int) -> PhaseOutput:
    """Call the pipeline as diffusers does it: along its own schedule of `steps`.

    Raises InferenceFailed for NaN, as `run_phase` does.
    """
    last_step, latents = 0.0, torch.empty(0)

    def after_step(_: Any, __: Any, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        nonlocal last_step, latents
        last_step, latents = now(), tensors["latents"]
        return tensors

    output = pipeline(**call, num_inference_steps=steps, callback_on_step_end=after_step)
    _require_finite(latents)
    return PhaseOutput(output.images, latents, (), last_step)


def as_input(latents: torch.Tensor, family: Family, *, height: int, width: int) -> torch.Tensor:
    """Return what one call's last callback was given in the shape that the next call takes."""
    if family.latents is not Latents.TOKENS_FROM_GRID:
        return latents
    return latents.permute(0, 2, 1).reshape(len(latents), -1, height // 16, width // 16)


def now() -> float:
    """Return the time in seconds once the accelerator has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _require_finite(latents: torch.Tensor) -> None:
    if not bool(torch.isfinite(latents).all()):
        raise InferenceFailed(
            "the model gave NaN or infinity instead of a picture",
            hint="use --dtype bf16 or fp32, or a smaller --slow-scale or --fast-scale",
        )
