"""What a preset sets, and what a training takes, against what SimpleTuner's documentation says."""

from typing import Any

import numpy as np
import pytest

from glance.core.device import Device, speed
from glance.models.base import Weights
from glance.models.families import FAMILIES
from glance.runs.settings import Preset, TrainSettings, resolve_preset, resolve_train_settings
from glance.training.simpletuner.estimates import (
    describe_duration,
    estimate,
    memory_options,
    seconds_a_step,
)


def on_cuda(family: str, preset: str = "24gb", **changes: Any) -> TrainSettings:
    return resolve_train_settings(
        device=Device.CUDA, family=family, preset=Preset(preset), **changes
    )


@pytest.mark.parametrize(
    ("family", "preset", "resolution", "documented"),
    [
        ("krea2", "48gb", 1024, 33.28 * 1.074),  # KREA2.md, measured on an H100
        ("krea2", "24gb", 1024, 20.35 * 1.074),
        ("krea2", "48gb", 512, 31.10 * 1.074),
        ("krea2", "24gb", 512, 18.10 * 1.074),
        ("flux", "48gb", 512, 30),  # FLUX.md: "a bit more than"
        ("flux", "24gb", 512, 18),
        ("flux", "8gb", 512, 9),
        ("chroma", "48gb", 1024, 28),  # CHROMA.md
        ("chroma", "24gb", 1024, 16),
    ],
)
def test_estimates_are_near_the_documented_figures(
    family: str, preset: str, resolution: int, documented: float
) -> None:
    found = estimate(on_cuda(family, preset, resolution=resolution, overrides=_pinned(preset))).gpu

    # while the text encoders are there it may take more than the documentation's training does
    assert found == pytest.approx(documented, rel=0.15)


def _pinned(preset: str) -> dict[str, Any]:
    return {
        "base_model_precision": {"48gb": "no_change", "24gb": "int8-quanto", "8gb": "nf4-bnb"}[
            preset
        ]
    }


def test_the_default_trains_flux_on_24_gb() -> None:
    settings = on_cuda("flux")

    assert memory_options(settings) == {
        "base_model_precision": "int8-quanto",
        "quantize_via": "cpu",
    }
    assert (estimate(settings).gpu or 99) < 24


def test_each_sample_of_a_batch_takes_as_much_on_the_cpu() -> None:
    one = resolve_train_settings(device=Device.CPU)
    taken = [
        estimate(one.model_copy(update={"batch_size": batch_size})).system
        for batch_size in (1, 2, 3)
    ]

    assert taken[1] - taken[0] == pytest.approx(taken[2] - taken[1], abs=0.11)
    assert taken[1] - taken[0] > 2


def test_an_accelerator_holds_one_sample_of_a_batch_at_a_time() -> None:
    one = resolve_train_settings(device=Device.CUDA)

    assert estimate(one.model_copy(update={"batch_size": 4})) == estimate(one)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_card_never_takes_more(family: str) -> None:
    taken = [estimate(on_cuda(family, preset)).gpu or 0 for preset in Preset]

    assert taken == sorted(taken)


def test_what_is_there_in_turn_and_in_pieces_on_small_cards() -> None:
    assert memory_options(on_cuda("flux", "8gb")) == {
        "base_model_precision": "nf4-bnb",
        "quantize_via": "cpu",
        "offload_during_startup": True,
        "vae_enable_tiling": True,
        "text_encoder_2_precision": "int8-quanto",
    }


def test_big_text_encoders_are_made_small_as_simpletuners_example_does() -> None:
    options = memory_options(on_cuda("hidream"))

    assert options["text_encoder_3_precision"] == "int8-quanto"
    assert options["text_encoder_4_precision"] == "int8-quanto"
    assert "text_encoder_1_precision" not in options


def test_an_own_precision_counts() -> None:
    usual = estimate(on_cuda("flux")).gpu or 0
    for precision, bits in (("int4-quanto", 4), ("fp8-torchao", 8), ("no_change", 16)):
        own = estimate(on_cuda("flux", overrides={"base_model_precision": precision})).gpu or 0
        assert own - usual == pytest.approx(11.89 * (bits - 8) / 8, abs=0.1)


def test_elsewhere_nothing_is_quantised() -> None:
    for device in (Device.CPU, Device.MPS):
        settings = resolve_train_settings(device=device, preset=Preset.GB8)
        assert memory_options(settings) == {"base_model_precision": "no_change"}
        assert estimate(settings).gpu is None
        assert estimate(settings).system > 4 * 16.77


@pytest.mark.parametrize(
    ("resolution", "measured"), [(64, 5.4), (256, 6.0), (384, 6.8), (512, 7.9)]
)
def test_on_the_cpu_it_is_near_what_was_measured(resolution: int, measured: float) -> None:
    weights = Weights(transformer=0.6376, text_encoders=(0.0001, 0.4029))  # benchmarks/memory.py
    settings = resolve_train_settings(device=Device.CPU, resolution=resolution)

    found = estimate(settings.model_copy(update={"weights": weights})).system

    assert found == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("gibibytes", "preset"),
    [(None, "24gb"), (7.6, "8gb"), (11.9, "12gb"), (15.7, "16gb"), (23.5, "24gb"), (140, "48gb")],
)
def test_auto_takes_the_card_that_is_here(
    gibibytes: float | None, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = None if gibibytes is None else int(gibibytes * 2**30)
    monkeypatch.setattr("glance.runs.settings.cuda_memory", lambda: memory)

    assert resolve_preset("auto").value == preset
    assert resolve_preset("12gb") is Preset.GB12


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
