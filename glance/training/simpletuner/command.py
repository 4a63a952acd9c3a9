"""How SimpleTuner is started: the command line, and an environment of our own making.

The user's environment would leak into the trainer in many ways (a personal accelerate config,
CONFIG_PATH, MIXED_PRECISION, TRAINING_NUM_PROCESSES and their like). So the child gets what is
listed here and nothing else.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from glance.core.device import Device, cpu_cores
from glance.core.errors import SimpleTunerNotFound
from glance.core.phase import Phase
from glance.runs.folder import environment
from glance.training.request import Launcher
from glance.training.simpletuner.config import (
    ACCELERATE_FILE,
    MODEL_VARIABLE,
    PINNING_VARIABLE,
    REQUESTS_VARIABLE,
    SEED_VARIABLE,
    TARGETS_VARIABLE,
    WEBHOOK_VARIABLE,
    requests_file,
    targets_file,
)

PROGRAM: Final = "simpletuner"
_INSIDE: Final = Path(__file__).parent / "inside"

_PASSED: Final = frozenset(
    {
        # who and where
        "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
        "PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
        # the network and its certificates
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
        # the Hub
        "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT",
        "HF_XET_CACHE", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT",
        "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN",
        # compilers and caches
        "TORCH_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CC", "CXX",
    }
)  # fmt: skip
_PASSED_PREFIXES: Final = ("LC_", "XDG_", "CUDA_", "NVIDIA_", "PYTORCH_", "OMP_", "MKL_")
_SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def build_command(phase: Phase, launcher: Launcher = Launcher.SIMPLETUNER) -> list[str]:
    """Return the command line of one phase; it runs in the run folder."""
    if launcher is Launcher.DIRECT:
        return ["python", "-P", "-m", f"{PROGRAM}.train"]  # -P: a run holds no modules
    return [PROGRAM, "train", "--env", environment(phase)]


def find_program(launcher: Launcher, search_path: str | None = None) -> Path:
    """Return what the command line begins with: the `simpletuner` command, or our interpreter.

    The command comes from PATH, else from beside our own interpreter. Raises
    SimpleTunerNotFound.
    """
    if launcher is Launcher.DIRECT:
        if find_spec(PROGRAM) is None:
            raise SimpleTunerNotFound(
                f"there is no package {PROGRAM} in glance's own environment, {sys.prefix}",
                hint="leave out --launcher direct, or install it there",
            )
        return Path(sys.executable)
    scripts = Path(sys.executable).parent
    found = shutil.which(PROGRAM, path=search_path) or shutil.which(PROGRAM, path=str(scripts))
    if found is None:
        raise SimpleTunerNotFound(
            f"there is no `{PROGRAM}` command on PATH or in {scripts}",
            hint="in glance's clone: uv sync, and then uv run glance ... (Python 3.12 or 3.13)",
        )
    return Path(found).absolute()  # it is started in another folder


def build_environment(
    user: Mapping[str, str],
    *,
    phase: Phase,
    launcher: Launcher,
    program: Path,
    device: Device,
    number: int = 0,
    model: str | None = None,
    mixed_precision: str,
    seed: int,
    webhook: str,
    needs_hub: bool,
    is_taught: bool = False,
    at_once: int = 1,
) -> dict[str, str]:
    """Return the whole environment of the trainer; `user` is the one that glance itself runs in.

    `number` is that of the CUDA device among those that glance sees. `model` is where a base model
    is that lies elsewhere than in the run, as seen from there. `is_taught`: the LoRA learns
    recorded targets. `at_once` trainers share this machine.
    """
    child = {
        key: value
        for key, value in user.items()
        if key in _PASSED or key.startswith(_PASSED_PREFIXES)
    }
    child |= {
        # the simpletuner command starts `accelerate` by name
        "PATH": _joined(str(program.parent), user.get("PATH")),
        # progress must not travel through a proxy
        "NO_PROXY": _joined("127.0.0.1,localhost", user.get("NO_PROXY"), ","),
        "no_proxy": _joined("127.0.0.1,localhost", user.get("no_proxy"), ","),
        "CONFIG_BACKEND": "json",
        "ACCELERATE_CONFIG_PATH": ACCELERATE_FILE,
        "MIXED_PRECISION": mixed_precision,
        "TRAINING_NUM_PROCESSES": "1",
        "TRAINING_NUM_MACHINES": "1",
        "TRAINING_DYNAMO_BACKEND": "no",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "SIMPLETUNER_DISABLE_COLORS": "1",
        "PYTHONUNBUFFERED": "1",
        WEBHOOK_VARIABLE: webhook,
        REQUESTS_VARIABLE: requests_file(phase),
        SEED_VARIABLE: str(seed),
        "PYTHONHASHSEED": "0",  # else pictures come in another order at each start
        "PYTHONPATH": _joined(str(_INSIDE), user.get("PYTHONPATH")),
    }
    if model is not None:
        child[MODEL_VARIABLE] = model
    if not needs_hub:
        child["HF_HUB_OFFLINE"] = "1"  # everything it needs is on the disk
    if device is Device.CUDA:
        named = user.get("CUDA_VISIBLE_DEVICES")
        one = named.split(",")[number].strip() if named else str(number)
        child["CUDA_VISIBLE_DEVICES"] = one
    if device is Device.CPU:
        child["CUDA_VISIBLE_DEVICES"] = ""  # else an accelerator that is there would be taken
        child[PINNING_VARIABLE] = "1"
        if at_once > 1:  # two that take all cores each are slower than one after the other
            child.setdefault("OMP_NUM_THREADS", str(max(1, cpu_cores() // at_once)))
    if is_taught:
        child[TARGETS_VARIABLE] = targets_file(phase)
    if launcher is Launcher.DIRECT:
        # what the layers that it leaves out would have told the trainer: simpletuner/cli/train.py
        # and accelerate/utils/launch.py
        child |= {
            "ENV": environment(phase),
            "ACCELERATE_MIXED_PRECISION": mixed_precision,
            "ACCELERATE_USE_CPU": str(device is Device.CPU),
            "ACCELERATE_DYNAMO_BACKEND": "NO",
        }
    return child


def find_secrets(user: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tokens in the environment: they must not reach a log."""
    return tuple(user[name] for name in _SECRETS if user.get(name))


def _joined(first: str, rest: str | None, separator: str = os.pathsep) -> str:
    return first + separator + rest if rest else first
