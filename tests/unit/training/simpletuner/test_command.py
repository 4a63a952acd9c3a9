"""How SimpleTuner is started: by which command, and in an environment of our own making."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from glance.core.device import Device
from glance.core.errors import SimpleTunerNotFound
from glance.core.phase import Phase
from glance.training.request import Launcher
from glance.training.simpletuner import command
from glance.training.simpletuner.command import (
    build_command,
    build_environment,
    find_program,
    find_secrets,
)

INSIDE = str(Path(command.__file__).parent / "inside")
OURS = {
    "PATH": "/venv/bin",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "CONFIG_BACKEND": "json",
    "ACCELERATE_CONFIG_PATH": "config/accelerate.json",
    "MIXED_PRECISION": "bf16",
    "TRAINING_NUM_PROCESSES": "1",
    "TRAINING_NUM_MACHINES": "1",
    "TRAINING_DYNAMO_BACKEND": "no",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "SIMPLETUNER_DISABLE_COLORS": "1",
    "PYTHONUNBUFFERED": "1",
    "CUDA_VISIBLE_DEVICES": "0",
    "GLANCE_WEBHOOK": "{}",
    "SIMPLETUNER_ACCELERATE_SIGNAL_FILE": "config/glance-slow/requests.json",
    "GLANCE_SEED": "7",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": INSIDE,
}


def build(user: dict[str, str], **changes: Any) -> dict[str, str]:
    values: dict[str, Any] = {
        "device": Device.CUDA,
        "mixed_precision": "bf16",
        "seed": 7,
        "program": Path("/venv/bin/simpletuner"),
        "webhook": "{}",
        "needs_hub": True,
        "phase": Phase.SLOW,
        "launcher": Launcher.SIMPLETUNER,
    }
    return build_environment(user, **{**values, **changes})


def make_program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    program = folder / "simpletuner"
    program.touch(mode=0o755)
    return program


# --- the environment -----------------------------------------------------------------------------


def test_empty_environment_becomes_ours() -> None:
    assert build({}) == OURS


@pytest.mark.parametrize(
    "name",
    [
        "CONFIG_PATH",
        "CONFIG_BACKEND",
        "CONFIG_TYPE",
        "ENV",
        "ENV_PATH",
        "MIXED_PRECISION",
        "ACCELERATE_CONFIG_PATH",
        "ACCELERATE_USE_CPU",
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_EXTRA_ARGS",
        "TRAINING_NUM_PROCESSES",
        "TRAINING_NUM_MACHINES",
        "TRAINING_DYNAMO_BACKEND",
        "SIMPLETUNER_CONFIG_BACKEND",
        "SIMPLETUNER_LOG_LEVEL",
        "SIMPLETUNER_ENVIRONMENT",
        "DISABLE_UPDATES",
        "HF_HUB_DISABLE_TELEMETRY",
        "GLANCE_WEBHOOK",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PYTHONSTARTUP",
        "PYTHONHOME",
        "LD_PRELOAD",
    ],
)
def test_what_would_change_the_training_does_not_pass(name: str) -> None:
    assert build({name: "fp8"}) == OURS


@pytest.mark.parametrize(
    "name",
    [
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "HF_ENDPOINT",
        "HTTPS_PROXY",
        "https_proxy",
        "SSL_CERT_FILE",
        "XDG_CACHE_HOME",
        "CUDA_VISIBLE_DEVICES",
        "PYTORCH_CUDA_ALLOC_CONF",
        "OMP_NUM_THREADS",
    ],
)
def test_what_the_machine_and_the_hub_need_passes(name: str) -> None:
    own = os.pathsep.join([INSIDE, "own"]) if name == "PYTHONPATH" else "own"
    assert build({name: "own"}) == {**OURS, name: own}


def test_folder_of_the_program_goes_first_on_path() -> None:
    child = build({"PATH": "/usr/bin:/bin"}, program=Path("/opt/st/simpletuner"))
    assert child["PATH"] == os.pathsep.join(["/opt/st", "/usr/bin:/bin"])


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_progress_never_travels_through_a_proxy(name: str) -> None:
    child = build({name: "example.org", "HTTP_PROXY": "http://proxy:3128"})
    assert child[name] == "127.0.0.1,localhost,example.org"
    assert child["NO_PROXY"].startswith("127.0.0.1,localhost")
    assert child["no_proxy"].startswith("127.0.0.1,localhost")


def test_trainers_at_once_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    own = build({}, device=Device.CPU)

    assert "OMP_NUM_THREADS" not in own
    assert build({}, device=Device.CPU, at_once=2) == {**own, "OMP_NUM_THREADS": "2"}
    threads = {"OMP_NUM_THREADS": "7"}
    assert build(threads, device=Device.CPU, at_once=2) == own | threads
    assert build({}, device=Device.CUDA, at_once=2) == build({}, device=Device.CUDA)


def test_cpu_hides_accelerators_and_puts_the_shim_first() -> None:
    user = {"CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": "/mine"}
    assert build(user, device=Device.CPU, mixed_precision="no") == {
        **OURS,
        "MIXED_PRECISION": "no",
        "CUDA_VISIBLE_DEVICES": "",
        "GLANCE_WITHOUT_PINNING": "1",
        "PYTHONPATH": os.pathsep.join([INSIDE, "/mine"]),
    }


@pytest.mark.parametrize("device", [Device.CUDA, Device.MPS])
def test_pinning_is_done_without_on_the_cpu_alone(device: Device) -> None:
    found = build({}, device=device)

    assert found == {name: OURS[name] for name in found}


def test_shim_is_there() -> None:
    assert (Path(INSIDE) / "sitecustomize.py").is_file()


def test_trainer_that_learns_from_recordings_is_told_where_the_targets_are() -> None:
    found = build({}, is_taught=True)

    assert found["GLANCE_TARGETS"] == "config/glance-slow/targets.json"
    assert found["PYTHONPATH"] == INSIDE
    assert "GLANCE_WITHOUT_PINNING" not in found


def test_local_model_is_loaded_offline() -> None:
    user = {"HF_HUB_OFFLINE": "0"}
    assert build(user, needs_hub=False) == {**OURS, "HF_HUB_OFFLINE": "1"}


def test_tokens_are_found_to_be_kept_from_logs() -> None:
    user = {"HF_TOKEN": "hf_a", "HUGGING_FACE_HUB_TOKEN": "hf_b", "HF_HOME": "/cache"}
    assert find_secrets(user) == ("hf_a", "hf_b")


def test_empty_token_is_no_secret() -> None:
    assert find_secrets({"HF_TOKEN": ""}) == ()


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", Phase)
def test_command_is_the_guides(phase: Phase) -> None:
    assert build_command(phase) == ["simpletuner", "train", "--env", f"glance-{phase}"]


@pytest.mark.parametrize("phase", Phase)
def test_the_direct_start_makes_up_for_what_it_leaves_out(phase: Phase) -> None:
    direct, environment = Launcher.DIRECT, f"glance-{phase}"

    assert build_command(phase, direct) == ["python", "-P", "-m", "simpletuner.train"]
    assert find_program(direct) == Path(sys.executable)
    usual = build({}, phase=phase, device=Device.CPU, mixed_precision="no")
    told = build({}, phase=phase, device=Device.CPU, mixed_precision="no", launcher=direct)
    assert told == usual | {
        "ENV": environment,
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_USE_CPU": "True",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
    }


@pytest.mark.parametrize(
    ("there", "number", "seen"),
    [(None, 1, "1"), ("", 0, "0"), ("2,3", 1, "3"), ("GPU-ab, GPU-cd", 0, "GPU-ab")],
)
def test_a_trainer_sees_one_gpu_of_those_that_glance_sees(
    there: str | None, number: int, seen: str
) -> None:
    user = {} if there is None else {"CUDA_VISIBLE_DEVICES": there}

    assert build(user, number=number)["CUDA_VISIBLE_DEVICES"] == seen


def test_a_direct_start_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)

    with pytest.raises(SimpleTunerNotFound, match="no package simpletuner in glance's own"):
        find_program(Launcher.DIRECT)


def test_program_on_the_path_goes_before_the_one_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = make_program(tmp_path / "venv" / "bin")
    on_path = make_program(tmp_path / "bin")
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    assert find_program(Launcher.SIMPLETUNER, str(on_path.parent)) == on_path
    assert find_program(Launcher.SIMPLETUNER, str(tmp_path)) == beside


def test_program_is_looked_for_on_our_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make_program(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_program(Launcher.SIMPLETUNER) == program


def test_program_on_a_relative_path_is_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = make_program(Path("bin"))
    monkeypatch.setenv("PATH", "bin")
    assert find_program(Launcher.SIMPLETUNER) == Path.cwd() / program


def test_missing_program_is_refused_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SimpleTunerNotFound) as caught:
        find_program(Launcher.SIMPLETUNER, str(tmp_path))
    [problem] = caught.value.problems
    assert problem.message == f"there is no `simpletuner` command on PATH or in {tmp_path}"
    assert "in glance's clone: uv sync" in (problem.hint or "")
