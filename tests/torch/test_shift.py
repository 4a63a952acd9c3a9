"""The derived schedules are those that diffusers' own schedulers and pipelines compute."""

import math

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

from glance.schedule.shift import (
    DynamicShift,
    EmpiricalShift,
    Shift,
    StaticShift,
    teacher_sigmas,
)

EVEN = np.linspace(1.0, 1 / 50, 50)


@pytest.mark.parametrize("side", [512, 1024, 1536])
@pytest.mark.parametrize(
    ("shift", "config"),
    [
        (StaticShift(3.0), {"shift": 3.0}),
        (DynamicShift(), {"use_dynamic_shifting": True}),
        (
            DynamicShift(most=0.9, most_tokens=8192, terminal=0.02),
            {"use_dynamic_shifting": True, "shift_terminal": 0.02},
        ),
        (StaticShift(3.0, 0.1), {"shift": 3.0, "shift_terminal": 0.1}),
        (
            DynamicShift(base=0.25, most=0.75, is_linear=True),
            {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        ),
        (EmpiricalShift(), {"use_dynamic_shifting": True}),
    ],
)
def test_fifty_sigmas_are_diffusers_own(shift: Shift, config: dict, side: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    tokens = (side // 16) ** 2
    factor = shift.factor(tokens, 50)
    mu = factor if config.get("time_shift_type") == "linear" else math.log(factor)
    dynamic = {"mu": mu} if "use_dynamic_shifting" in config else {}

    scheduler.set_timesteps(sigmas=EVEN, **dynamic)

    ours = teacher_sigmas(shift, side, side)
    assert ours == pytest.approx(scheduler.sigmas[:-1].tolist(), abs=1e-6)


@pytest.mark.parametrize("tokens", [1024, 4096, 6400])
@pytest.mark.parametrize("steps", [10, 50])
def test_flux2s_mu_is_diffusers_own(tokens: int, steps: int) -> None:
    assert EmpiricalShift().mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps))
