"""What a training takes, by SimpleTuner's own figures; and what a machine may lack, made up."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from fakes.trainer import FakeSimpleTuner

from glance.core.device import Device, speed
from glance.core.errors import DeviceUnavailable, ModelNotFound, SetupError, SimpleTunerNotFound
from glance.models.base import Weights
from glance.models.families import FAMILIES
from glance.runs.folder import RunFolder
from glance.runs.settings import Preset, TrainSettings, resolve_preset, resolve_train_settings
from glance.training import machine
from glance.training.machine import (
    Job,
    Outcome,
    describe_duration,
    estimate,
    examine,
    find_program,
    memory_options,
    require,
    seconds_a_step,
)
from glance.training.request import Launcher

SMALL = Weights(transformer=0.001, known=True)


def settings(weights: Weights | None = None, **changes: Any) -> TrainSettings:
    own = {name: changes.pop(name) for name in ("batch_size", "transformer") if name in changes}
    resolved = resolve_train_settings(**{"device": Device.CPU, **changes})
    return resolved.model_copy(update=own | ({} if weights is None else {"weights": weights}))


def on_cuda(family: str, preset: str = "24gb", **changes: Any) -> TrainSettings:
    return settings(device=Device.CUDA, family=family, preset=Preset(preset), **changes)


PRECISIONS = {"48gb": "no_change", "24gb": "int8-quanto", "8gb": "nf4-bnb"}


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
    pinned = {"base_model_precision": PRECISIONS[preset]}
    found = estimate(on_cuda(family, preset, resolution=resolution, overrides=pinned)).gpu

    # while the text encoders are there it may take more than the documentation's training does
    assert found == pytest.approx(documented, rel=0.15)


def test_what_makes_it_fit_a_card() -> None:
    usual = on_cuda("flux")

    int8 = {"base_model_precision": "int8-quanto", "quantize_via": "cpu"}
    assert memory_options(usual) == int8
    assert (estimate(usual).gpu or 99) < 24
    assert memory_options(on_cuda("flux", "8gb")) == {
        "base_model_precision": "nf4-bnb",
        "offload_during_startup": True,
        "vae_enable_tiling": True,
        "text_encoder_2_precision": "nf4-bnb",
    }


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize("family", FAMILIES)
def test_text_encoders_are_held_as_simpletuner_holds_them_beside_the_base_model(
    family: str, preset: Preset
) -> None:
    """It quantises none by quanto beside nf4, and FLUX.2's own loader knows no bitsandbytes."""
    options = memory_options(on_cuda(family, preset))

    base = options["base_model_precision"]
    asked = {one for name, one in options.items() if name.startswith("text_encoder_")}
    heeded = {"nf4-bnb"} if base == "nf4-bnb" else {"int8-quanto"}
    assert asked <= (set() if (family[:5], base) == ("flux2", "nf4-bnb") else heeded)
    assert ("quantize_via" in options) == (base == "int8-quanto")


def test_what_is_too_large_as_text_encoders_are_held_is_not_said_to_fit() -> None:
    cards = {preset: estimate(on_cuda("flux2", preset)).gpu for preset in Preset}

    assert min(cards[Preset.GB8], cards[Preset.GB24]) == pytest.approx(49, abs=1)  # 24 billion
    assert cards[Preset.GB48] == pytest.approx(41, abs=9)
    klein = estimate(on_cuda("flux2_klein", Preset.GB8)).gpu
    assert klein == pytest.approx(9, abs=0.2)


def test_beside_what_torchao_quantises_quanto_quantises_nothing() -> None:
    own = on_cuda("hidream", Preset.GB48, overrides={"base_model_precision": "fp8-torchao"})

    assert not [name for name in memory_options(own) if name.startswith("text_encoder_")]


@pytest.mark.parametrize("device", [Device.CPU, Device.MPS])
def test_elsewhere_nothing_is_quantised(device: Device) -> None:
    here = settings(device=device, preset=Preset.GB8)

    assert memory_options(here) == {"base_model_precision": "no_change"}
    assert (estimate(here).gpu, estimate(here).system > 4 * 16.77) == (None, True)


def test_each_sample_of_a_batch_takes_as_much_on_the_cpu_and_elsewhere_none() -> None:
    one, two, three = (estimate(settings(batch_size=size)).system for size in (1, 2, 3))

    assert two - one == pytest.approx(three - two, abs=0.11)
    assert two - one > 2
    assert estimate(on_cuda("flux", batch_size=4)) == estimate(on_cuda("flux"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_card_never_takes_more(family: str) -> None:
    taken = [estimate(on_cuda(family, preset)).gpu or 0 for preset in Preset]

    assert taken == sorted(taken)


def test_an_own_precision_counts() -> None:
    usual = estimate(on_cuda("flux")).gpu or 0
    for precision, bits in (("int4-quanto", 4), ("fp8-torchao", 8), ("no_change", 16)):
        own = estimate(on_cuda("flux", overrides={"base_model_precision": precision})).gpu or 0
        assert own - usual == pytest.approx(11.89 * (bits - 8) / 8, abs=0.1)


@pytest.mark.parametrize(
    ("resolution", "measured"), [(64, 5.4), (256, 6.0), (384, 6.8), (512, 7.9)]
)
def test_on_the_cpu_it_is_near_what_was_measured(resolution: int, measured: float) -> None:
    weights = Weights(transformer=0.6376, text_encoders=(0.0001, 0.4029))  # benchmarks/memory.py

    found = estimate(settings(weights, resolution=resolution)).system

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
def test_it_is_near_the_documented_pace(preset: str, resolution: int, documented: float) -> None:
    pace = seconds_a_step(on_cuda("krea2", preset, resolution=resolution), H100)

    assert pace == pytest.approx(documented, rel=0.12)


def test_a_reference_takes_as_long_as_the_image() -> None:
    plain, editing = (
        seconds_a_step(on_cuda(name, "24gb", resolution=1024), H100)
        for name in ("qwen_image", "qwen_image_edit_2511")
    )

    assert 1.5 < editing / plain < 2  # the text's tokens are there once


def test_a_step_takes_the_mean_of_its_areas_and_as_many_times_as_long_for_a_batch() -> None:
    def pace(*areas: int, **changes: Any) -> float:
        return seconds_a_step(settings(resolution=areas, **changes), 1e11)

    assert pace(1024, 512) == pytest.approx((pace(1024) + pace(512)) / 2)
    assert pace(1024, batch_size=4) == pytest.approx(4 * pace(1024))


def test_the_duration_is_said_for_all_steps_where_it_is_known() -> None:
    known = settings(Weights(transformer=0.1, known=True), resolution=64)
    measured = speed(Device.CPU)
    assert measured is not None
    assert np.isfinite(measured)
    assert 1e8 < measured < 1e15

    told = describe_duration(known, 2, 4e11)

    assert told.startswith(f"estimate: {seconds_a_step(known, 4e11):.2f} s a step, ")
    assert "for 2 x 60 steps in turn; each start of SimpleTuner comes on top" in told
    assert speed(Device.MPS) is None
    assert "is not known" in describe_duration(known, 2, None)
    assert "is not known" in describe_duration(settings(), 2, 1e12)  # nor is the model's size


def job(chosen: TrainSettings | None = None, *models: str, run: str = "runs/x") -> Job:
    return Job(chosen or settings(SMALL), RunFolder(Path(run)), Launcher.SIMPLETUNER, models)


def faults(name: str, job: Job) -> list[str]:
    found = [one for one in examine(job) if one.name == name and one.outcome is not Outcome.OK]
    assert all(one.hint for one in found)
    return [f"{one.outcome}: {one.message}" for one in found]


@pytest.fixture
def lacks(simpletuner: FakeSimpleTuner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine that lacks nothing, the fake `simpletuner` is on PATH, but for what is given."""
    monkeypatch.setattr(machine, "require_device", lambda *_: None)

    def lacks(**changes: Callable[..., Any]) -> None:
        for name, found in changes.items():
            monkeypatch.setattr(machine, name, found)

    return lacks


def test_all_that_is_missing_comes_at_once_and_one_fault_keeps_its_kind(lacks: Callable) -> None:
    lacks(find_program=Mock(side_effect=SimpleTunerNotFound("no simpletuner")))
    with pytest.raises(SimpleTunerNotFound):
        require(job())
    lacks(require_device=Mock(side_effect=DeviceUnavailable("no such device")))

    with pytest.raises(SetupError) as caught:
        require(job())

    assert [item.message for item in caught.value.problems] == ["no simpletuner", "no such device"]
    assert type(caught.value) is SetupError


@pytest.mark.parametrize("there", [(3, 11, 9), (3, 14, 0)])
def test_another_python_is_refused(there: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", there)

    (fault,) = faults("python", job())

    assert re.match("failure: .* needs 3.12 or 3.13", fault)


def test_a_package_of_another_version_is_warned_of(lacks: Callable) -> None:
    real = machine.version
    lacks(version=lambda name: "2.15.0" if name == "torch" else real(name))

    said = "warning: torch 2.15.0 is installed, glance was proven with ==2.13.0"
    assert faults("packages", job()) == [said]


def test_four_bits_need_bitsandbytes(lacks: Callable) -> None:
    lacks(find_spec=lambda _: None)
    twelve = settings(Weights(transformer=12), device=Device.CUDA, preset=Preset.GB12)

    said = "failure: nf4-bnb needs the package bitsandbytes"
    assert faults("simpletuner", job(twelve)) == [said]
    own = twelve.model_copy(update={"overrides": {"base_model_precision": "int4-quanto"}})
    assert faults("simpletuner", job(own)) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_card_that_is_too_small_is_warned_of(known: bool, lacks: Callable) -> None:
    users = [(7, 3 * 10**9), (8, 10**8)]
    lacks(cuda_memory=lambda _: 12 * 2**30, gpu_users=lambda _: users)
    flux = settings(Weights(transformer=11.89, known=known), device=Device.CUDA)

    size = "the training takes about 20.9 GB of the card, which has 12.9"
    expected = [*([size] if known else []), "process 7 uses 3.0 GB of the card"]
    assert faults("device", job(flux)) == [f"warning: {one}" for one in expected]


def test_a_model_elsewhere_is_named_as_it_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "models/flux").mkdir(parents=True)
    recorded = settings(SMALL).model_copy(update={"model": "../../../../~0/flux"})

    [check] = [one for one in examine(job(recorded)) if one.name == "model"]

    assert check.message.startswith("on the disk: /")


def test_a_card_that_emulates_bf16_is_warned_of(lacks: Callable) -> None:
    lacks(cuda_memory=lambda _: 16 * 2**30, computes_in_bf16=lambda _: False)

    (fault,) = faults("device", job(settings(SMALL, device=Device.CUDA)))

    assert fault.startswith("warning: cuda:0 does not compute in bf16, which SimpleTuner trains in")


def test_a_gpu_that_is_not_there_is_refused(lacks: Callable) -> None:
    lacks(cuda_device_count=lambda: 1, cuda_memory={0: 24e9}.get)

    two = replace(job(settings(SMALL, device=Device.CUDA)), devices=(0, 7))

    assert faults("device", two) == ["failure: --gpu-ids: there is no accelerator 7"]


ALONE = "failure: the transformer alone takes 48 GB in float32, and the system has 16 with its swap"
TIGHT = "warning: the training takes about 54.9 GB of system memory, and there are 16.0"


@pytest.mark.parametrize(("billions", "fault"), [(11.89, ALONE), (3.5, TIGHT)])
def test_a_model_that_does_not_fit_into_memory_is_refused(
    billions: float, fault: str, lacks: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(system_memory=lambda: 16 * 10**9)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=0))

    found = faults("memory", job(settings(Weights(transformer=billions, known=True))))

    assert found == [fault]


@pytest.mark.parametrize(
    ("there", "remedy"),
    [
        (60, None),
        (32, "or --vram 16: in 4 bits the model is quantised on the card"),
        (12, "close other programs, or add swap"),
    ],
)
def test_too_little_system_memory_names_the_card_whose_settings_do(
    there: int, remedy: str | None, lacks: Callable
) -> None:
    lacks(system_memory=lambda: there * 10**9)

    known = on_cuda("flux").weights.model_copy(update={"known": True})
    flux = on_cuda("flux", weights=known)
    [check] = [one for one in examine(job(flux)) if one.name == "memory"]

    assert (check.outcome is Outcome.WARNING) == (remedy is not None)
    assert (check.hint or "").endswith(remedy or "")


@pytest.mark.parametrize(
    ("billions", "file", "recorded", "needed"),
    [(12, None, 0, "1.5"), (12, "../mine.safetensors", 0, "25.5"), (0.001, None, 3 * 10**9, "3.0")],
)
def test_a_full_disk_is_refused(
    billions: float, file: str | None, recorded: int, needed: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    chosen = settings(Weights(transformer=billions), transformer=file)

    assert faults("disk", replace(job(chosen), recorded_bytes=recorded)) == [
        f"failure: the run takes about {needed} GB, and there are 1.0 free"
    ]
    assert faults("disk", job()) == []


@pytest.mark.parametrize("what", ["run", "key"])
def test_a_place_that_cannot_be_written_is_refused(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    real = machine.os.access

    def access(path: Path, mode: int) -> bool:
        return path != locked and real(path, mode)

    monkeypatch.setattr(machine.os, "access", access)
    if what == "key":
        monkeypatch.setenv("XDG_STATE_HOME", str(locked))

    run = str(locked / "deep/down") if what == "run" else "runs/x"
    (fault,) = faults("disk", job(run=run))

    assert fault.startswith(f"failure: cannot write {locked}")


def test_a_model_that_cannot_be_had_is_refused(lacks: Callable) -> None:
    said = "failure: model acme/unseen is not in the cache, and HF_HUB_OFFLINE forbids fetching it"
    assert faults("model", job(None, "acme/tiny", "acme/unseen")) == [said]
    lacks(check_access=Mock(side_effect=ModelNotFound("gated", hint="accept")))
    with pytest.raises(ModelNotFound, match="gated"):
        require(job(None, "acme/gated"))


def test_program_on_the_path_goes_before_the_one_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, on_path = tmp_path / "venv/bin/simpletuner", Path("bin/simpletuner")
    for program in (beside, on_path):
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    monkeypatch.setenv("PATH", "bin")
    assert find_program(Launcher.SIMPLETUNER) == Path.cwd() / on_path  # from any folder
    monkeypatch.setenv("PATH", "empty")
    assert find_program(Launcher.SIMPLETUNER) == beside
    beside.unlink()
    with pytest.raises(SimpleTunerNotFound, match=r"on PATH or in .*/venv/bin$") as caught:
        find_program(Launcher.SIMPLETUNER)
    assert "in glance's clone: uv sync" in (caught.value.problems[0].hint or "")
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    with pytest.raises(SimpleTunerNotFound, match="no package simpletuner in glance's own"):
        find_program(Launcher.DIRECT)


@pytest.mark.usefixtures("simpletuner")
def test_doctor_says_what_is_there_and_what_is_missing_is_exit_3(invoke: Callable) -> None:
    sound = invoke("doctor", "--model", "acme/tiny", "--device", "cpu")
    done = invoke("doctor", "--device", "cuda", "--vram", "8", "--json")

    assert sound.code == 0, sound.err
    assert "ok       model: acme/tiny is accessible" in sound.out
    assert sound.out.splitlines()[-1].startswith("estimate: ")
    assert done.code == 3
    failures = [one for one in done.document["checks"] if one["outcome"] == "failure"]
    assert {one["name"] for one in failures} >= {"device"}
    assert all(one["hint"] for one in failures)
    assert done.document["estimate"]["gpu_gb"] == 11.3


@pytest.mark.usefixtures("simpletuner", "pair")
def test_a_training_says_the_same_and_writes_nothing(invoke: Callable) -> None:
    tiny = ("--model", "acme/tiny", "--resolution", 64)
    done = invoke("train", "--image", "cat.png", "--device", "cuda", *tiny)

    assert done.code == 3
    assert "error: device cuda: there is none that torch could use here" in done.err
    assert not Path("runs").exists()
