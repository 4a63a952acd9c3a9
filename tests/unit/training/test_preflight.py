"""What a machine may lack, made up; each fault is said before anything starts."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fakes.runs import make_plan
from fakes.trainer import FakeSimpleTuner

from glance.core.device import Device
from glance.core.errors import DeviceUnavailable, ModelNotFound, SetupError, SimpleTunerNotFound
from glance.models.base import Weights
from glance.runs.folder import RunFolder
from glance.runs.settings import Preset, TrainSettings, resolve_train_settings
from glance.training import preflight
from glance.training.preflight import Check, Job, Outcome, examine, require
from glance.training.request import Launcher

pytest_plugins = ["fakes.plugin"]

SMALL = Weights(transformer=0.001, known=True)


def settings(*, weights: Weights = SMALL, **changes: Any) -> TrainSettings:
    values = {"device": Device.CPU, **changes}
    return resolve_train_settings(**values).model_copy(update={"weights": weights})


def job(chosen: TrainSettings | None = None, *models: str, run: str = "runs/x") -> Job:
    return Job(chosen or settings(), RunFolder(Path(run)), Launcher.SIMPLETUNER, models)


def of(name: str, found: tuple[Check, ...]) -> list[Check]:
    return [check for check in found if check.name == name]


def faults(name: str, found: tuple[Check, ...]) -> list[tuple[Outcome, str]]:
    checks = of(name, found)
    assert all(check.hint for check in checks if check.outcome is not Outcome.OK)
    return [(one.outcome, one.message) for one in checks if one.outcome is not Outcome.OK]


@pytest.fixture(autouse=True)
def _machine(simpletuner: FakeSimpleTuner) -> None:
    """One that lacks nothing: the fake `simpletuner` is on PATH."""


def test_a_sound_machine_passes() -> None:
    found = examine(job())

    assert {check.outcome for check in found} == {Outcome.OK}, found
    assert [check.name for check in found] == [
        *("python", "packages", "simpletuner", "device", "memory", "disk", "model")
    ]
    assert require(job()) == ()


def test_everything_that_is_missing_comes_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight, "find_program", _refuse(SimpleTunerNotFound("no simpletuner")))
    monkeypatch.setattr(preflight, "require_device", _refuse(DeviceUnavailable("no such device")))

    with pytest.raises(SetupError) as caught:
        require(job())

    assert [item.message for item in caught.value.problems] == ["no simpletuner", "no such device"]
    assert type(caught.value) is SetupError


def test_one_fault_keeps_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_program", _refuse(SimpleTunerNotFound("no simpletuner")))

    with pytest.raises(SimpleTunerNotFound):
        require(job())


@pytest.mark.parametrize("there", [(3, 11, 9), (3, 14, 0)])
def test_another_python_is_refused(there: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.version_info", there)

    ((outcome, message),) = faults("python", examine(job()))

    assert outcome is Outcome.FAILURE
    assert "needs 3.12 or 3.13" in message


def test_a_package_of_another_version_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    real = preflight.version
    monkeypatch.setattr(preflight, "version", lambda n: "2.15.0" if n == "torch" else real(n))

    assert faults("packages", examine(job())) == [
        (Outcome.WARNING, "torch 2.15.0 is installed, glance was proven with ==2.13.0")
    ]


def test_four_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "require_device", lambda _: None)
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    twelve = settings(device=Device.CUDA, preset=Preset.GB12, weights=Weights(transformer=12))

    assert faults("simpletuner", examine(job(twelve))) == [
        (Outcome.FAILURE, "nf4-bnb needs the package bitsandbytes")
    ]
    own = twelve.model_copy(update={"overrides": {"base_model_precision": "int4-quanto"}})
    assert faults("simpletuner", examine(job(own))) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_card_that_is_too_small_is_warned_of(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "require_device", lambda _: None)
    monkeypatch.setattr(preflight, "cuda_memory", lambda _: 12 * 2**30)
    monkeypatch.setattr(preflight, "gpu_users", lambda _: [(7, 3 * 10**9), (8, 10**8)])
    flux = settings(device=Device.CUDA, weights=Weights(transformer=11.89, known=known))

    found = faults("device", examine(job(flux)))

    expected = [(Outcome.WARNING, "process 7 uses 3.0 GB of the card")]
    if known:
        words = "the training takes about 20.9 GB of the card, which has 12.9"
        expected.insert(0, (Outcome.WARNING, words))
    assert found == expected


@pytest.mark.usefixtures("pair")
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(device="cuda", gpu_ids="0,7")
    monkeypatch.setattr(preflight, "require_device", lambda _: None)
    monkeypatch.setattr(preflight, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(preflight, "cuda_memory", lambda number: 24e9 if number == 0 else None)

    job = Job(plan.settings, plan.run, plan.launcher, (), plan.devices)
    found = [check for check in examine(job) if check.name == "device"]

    assert [check.outcome.value for check in found] == ["ok", "failure"]
    assert found[1].message == "--gpu-ids: there is no accelerator 7"
    assert plan.settings.device is Device.CUDA


def test_a_model_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "system_memory", lambda: 16 * 10**9)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(total=0))
    flux = settings(weights=Weights(transformer=11.89, known=True))

    ((outcome, message),) = faults("memory", examine(job(flux)))

    assert (outcome, message) == (
        Outcome.FAILURE,
        "the transformer alone takes 48 GB in float32, and the system has 16 with its swap",
    )
    tight = settings(weights=Weights(transformer=3.5, known=True))
    ((outcome, message),) = faults("memory", examine(job(tight)))
    assert outcome is Outcome.WARNING
    assert message == ("the training takes about 54.9 GB of system memory, and there are 16.0")


def test_a_full_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    flux = settings(weights=Weights(transformer=12))
    file = flux.model_copy(update={"transformer": "../mine.safetensors"})

    for chosen, needed in ((flux, "1.5"), (file, "25.5")):
        assert faults("disk", examine(job(chosen))) == [
            (Outcome.FAILURE, f"the run takes about {needed} GB, and there are 1.0 free")
        ]


def test_what_is_recorded_takes_room_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    recorded = replace(job(), recorded_bytes=3 * 10**9)

    assert faults("disk", examine(job())) == []
    ((outcome, message),) = faults("disk", examine(recorded))
    assert outcome is Outcome.FAILURE
    assert message.startswith("the run takes about 3.")


@pytest.mark.parametrize("what", ["run", "key"])
def test_a_place_that_cannot_be_written_is_refused(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    real = preflight.os.access
    monkeypatch.setattr(
        preflight.os, "access", lambda path, mode: path != locked and real(path, mode)
    )
    run = "runs/x"
    if what == "run":
        run = str(locked / "deep/down")
    else:
        monkeypatch.setenv("XDG_STATE_HOME", str(locked))

    ((outcome, message),) = faults("disk", examine(job(run=run)))

    assert outcome is Outcome.FAILURE
    assert message.startswith(f"cannot write {locked}")


def test_a_model_that_may_not_be_fetched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check_access", _refuse(ModelNotFound("gated", hint="accept")))

    with pytest.raises(ModelNotFound, match="gated"):
        require(job(None, "acme/gated"))


def test_a_model_that_cannot_be_had_offline_is_refused() -> None:
    assert faults("model", examine(job(None, "acme/tiny", "acme/unseen"))) == [
        (
            Outcome.FAILURE,
            "model acme/unseen is not in the cache, and HF_HUB_OFFLINE forbids fetching it",
        )
    ]


class TestDoctor:
    def test_it_says_what_is_there(self, glance: Callable) -> None:
        done = glance("doctor", "--model", "acme/tiny", "--device", "cpu")

        assert done.code == 0, done.err
        assert "ok       model: acme/tiny can be had" in done.out
        assert done.out.splitlines()[-1].startswith("estimate: ")

    def test_what_is_missing_is_exit_3(self, glance: Callable) -> None:
        done = glance("doctor", "--device", "cuda", "--vram", "8", "--json")

        assert done.code == 3
        failures = [one for one in done.document["checks"] if one["outcome"] == "failure"]
        assert {one["name"] for one in failures} >= {"device"}
        assert all(one["hint"] for one in failures)
        assert done.document["estimate"]["gpu_gb"] == 11.3

    def test_a_family_that_is_not_known_is_exit_4(self, glance: Callable) -> None:
        assert glance("doctor", "--family", "sdxl").code == 4

    @pytest.mark.usefixtures("pair")
    def test_a_training_says_the_same_and_writes_nothing(self, glance: Callable) -> None:
        tiny = ("--model", "acme/tiny", "--resolution", 64)
        done = glance("train", "--image", "cat.png", "--device", "cuda", *tiny)

        assert done.code == 3
        assert "error: device cuda: there is none that torch could use here" in done.err
        assert not Path("runs").exists()


def _refuse(exc: Exception) -> Callable[..., Any]:
    def refuse(*_: object) -> None:
        raise exc

    return refuse
