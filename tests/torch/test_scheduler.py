import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from glance.sampling.pipeline.sample import VerbatimEulerScheduler

FLUX = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
SD3 = FlowMatchEulerDiscreteScheduler(shift=3.0)
QWEN = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)


@pytest.mark.parametrize("like", [FLUX, SD3, QWEN], ids=["flux", "sd3", "qwen"])
def test_sigmas_are_neither_shifted_nor_stretched(like: FlowMatchEulerDiscreteScheduler) -> None:
    scheduler = VerbatimEulerScheduler.ending_at(0.8867053, like=like)

    scheduler.set_timesteps(sigmas=[1.0, 0.9, 0.89], device="cpu", mu=1.15)

    assert scheduler.sigmas.tolist() == torch.tensor([1.0, 0.9, 0.89, 0.8867053]).tolist()
    assert scheduler.timesteps.tolist() == (scheduler.sigmas[:-1] * 1000).tolist()


def test_a_step_is_plain_euler() -> None:
    scheduler = VerbatimEulerScheduler.ending_at(0.5, like=FLUX)
    scheduler.set_timesteps(sigmas=[1.0])
    x, velocity = torch.tensor([2.0]), torch.tensor([3.0])

    (stepped,) = scheduler.step(velocity, scheduler.timesteps[0], x, return_dict=False)

    assert stepped.item() == 2.0 + (0.5 - 1.0) * 3.0


def test_a_phase_cannot_end_above_its_last_sigma() -> None:
    scheduler = VerbatimEulerScheduler.ending_at(0.95, like=FLUX)

    with pytest.raises(ValueError, match="fall strictly"):
        scheduler.set_timesteps(sigmas=[1.0, 0.9])


def test_a_step_count_without_sigmas_is_refused() -> None:
    with pytest.raises(ValueError, match="explicit sigmas"):
        VerbatimEulerScheduler.ending_at(0.0, like=FLUX).set_timesteps(10, device="cpu")


def test_the_original_scheduler_is_left_alone() -> None:
    before = dict(FLUX.config)

    VerbatimEulerScheduler.ending_at(0.5, like=FLUX)

    assert dict(FLUX.config) == before
