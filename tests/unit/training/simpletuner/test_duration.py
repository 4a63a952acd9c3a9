"""How long a training is said to take, against what was measured."""

import numpy as np
import pytest

from glance.core.device import Device, speed
from glance.models.base import Weights
from glance.runs.settings import Preset, resolve_train_settings
from glance.training.simpletuner.estimates import describe_duration, seconds_a_step

H100 = 132 * 4096 * 1.83e9  # multiprocessors, operations a cycle, clock: NVIDIA's H100 paper


@pytest.mark.parametrize(
    ("preset", "resolution", "documented"),
    [("48gb", 512, 0.353), ("48gb", 1024, 0.99), ("24gb", 512, 0.535), ("24gb", 1024, 1.33)],
)
def test_it_is_near_the_documented_figures(preset: str, resolution: int, documented: float) -> None:
    settings = resolve_train_settings(
        device=Device.CUDA, family="krea2", preset=Preset(preset), resolution=resolution
    )

    assert seconds_a_step(settings, H100) == pytest.approx(documented, rel=0.12)


def test_a_step_at_several_areas_takes_their_mean() -> None:
    def pace(*areas: int) -> float:
        settings = resolve_train_settings(device=Device.CPU, resolution=areas)
        return seconds_a_step(settings, 1e11)

    assert pace(1024, 512) == pytest.approx((pace(1024) + pace(512)) / 2)


def test_a_step_of_several_samples_takes_as_many_times_as_long() -> None:
    one = resolve_train_settings(device=Device.CPU)

    four = seconds_a_step(one.model_copy(update={"batch_size": 4}), 1e11)

    assert four == pytest.approx(4 * seconds_a_step(one, 1e11))


def test_it_is_said_for_all_steps() -> None:
    settings = resolve_train_settings(device=Device.CPU, resolution=64).model_copy(
        update={"weights": Weights(transformer=0.1, known=True)}
    )
    pace = seconds_a_step(settings, 4e11)

    told = describe_duration(settings, 2, 4e11)

    assert told.startswith(f"estimate: {pace:.2f} s a step, ")
    assert "for 2 x 60 steps in turn; each start of SimpleTuner comes on top" in told


def test_what_is_not_known_is_not_said() -> None:
    settings = resolve_train_settings(device=Device.MPS)

    assert speed(Device.MPS) is None
    assert "is not known" in describe_duration(settings, 2, None)
    assert "is not known" in describe_duration(settings, 2, 1e12)  # nor is the model's size


def test_the_cpu_is_measured() -> None:
    measured = speed(Device.CPU)

    assert measured is not None
    assert np.isfinite(measured)
    assert 1e8 < measured < 1e15
