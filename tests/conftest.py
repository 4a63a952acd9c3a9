"""Every test runs in an empty folder, offline, with nothing of the user's environment."""

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from proofs import Proofs

from glance.core.device import Device, cpu_cores, is_present
from glance.sampling.pipeline import importing

pytest.register_assert_rewrite("real_training")
pytest_plugins = ["fakes.plugin"]

ROOT = Path(__file__).parents[1]
_LEAKS = ("GLANCE", "HF_", "HUGGING", "SIMPLETUNER", "ACCELERATE", "TRAINING_", "CONFIG_", "MIXED")


def _make_hub() -> dict[str, str]:
    """A Hub's cache that holds one model, acme/tiny, and no way out.

    huggingface_hub reads its environment once, when it is imported: so this stands before that.
    """
    home = Path(tempfile.mkdtemp(prefix="glance-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    model = home / "hub/models--acme--tiny"
    (model / "snapshots/1").mkdir(parents=True)
    (model / "snapshots/1/model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (model / "refs").mkdir()
    (model / "refs/main").write_text("1")
    return {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }


_HUB = _make_hub()
os.environ.update(_HUB)

# Before torch is imported: workers that take all cores each wait for each other.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_LEAKS):
            monkeypatch.delenv(name)
    for name, value in _HUB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    connect = socket.socket.connect

    def connect_nearby(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_nearby)


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for processes, and not all of them at work."""
    return cpu_cores() + 1


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "families":
        config.pluginmanager.register(Proofs())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None]:
    """Every worker imports torch, its friends and 4,000 tests: hardly anything of it is garbage."""
    with importing():
        return (yield)


_TIERS = ("train", "browser", "ray", "torch", "gpu")
"""Those that take longest come first: a worker that begins one last would be waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder is the tier."""
    order = {tier: number for number, tier in enumerate(_TIERS)}
    items.sort(key=lambda item: min(order.get(part, len(order)) for part in item.path.parent.parts))
    for item in items:
        for tier in set(_TIERS) & set(item.path.parent.parts):
            item.add_marker(tier)
            if tier == "gpu" and not is_present(Device.CUDA):
                item.add_marker(pytest.mark.skip(reason="there is no GPU here"))
            # torch, diffusers and their friends warn of each other's deprecations
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole FLUX with random weights, in diffusers layout."""
    from glance.sampling.pipeline import hush

    hush()
    from tiny_models import build_tiny

    return build_tiny("flux", tmp_path_factory.mktemp("tiny") / "model", seed=1)


@pytest.fixture(scope="session")
def loras(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random LoRAs for it."""
    from tiny_models.adapters import make_loras

    return make_loras(tiny_flux, tmp_path_factory.mktemp("loras"))


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def glance() -> Callable[..., Finished]:
    """Run `glance` as users do: a process of its own. A traceback is never acceptable."""

    def run(*arguments: object, **environment: str) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", "glance", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@cache
def _make_command() -> Any:
    from typer.main import get_command

    from glance.cli import app

    return get_command(app)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    """Run `glance` in this process: for where its real streams and signals are not the point."""
    # made anew for each, the command line would take far longer than most of what it is told
    monkeypatch.setattr("typer.testing._get_command", lambda _: _make_command())

    def run(*arguments: object) -> Finished:
        from typer.testing import CliRunner

        from glance.cli import app

        done = CliRunner().invoke(app, [str(one) for one in arguments])
        assert isinstance(done.exception, SystemExit | None), done.exception
        return Finished(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A sound 64x64 picture, its caption beside it."""
    image = tmp_path / "work" / "cat.png"
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(image)
    image.with_suffix(".txt").write_text("a grey circle\n", encoding="utf-8")
    return image
