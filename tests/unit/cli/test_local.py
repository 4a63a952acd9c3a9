"""What is on this disk is never asked of the Hub: a Hub that listens is sent nothing."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from fakes.hub import FakeHub
from fakes.pairs import write_lora, write_run
from fakes.plans import plan, pretend

PEFT = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8})
COMMANDS = """
import json, sys
from typer.testing import CliRunner
from glance.cli import app
for words in json.load(sys.stdin):
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, SystemExit | None), done.exception
    print(json.dumps([done.exit_code, done.stderr]))
"""

type Online = Callable[[FakeHub, list[tuple[object, ...]]], list[tuple[int, str]]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    served = tmp_path / "served"
    served.mkdir()
    (served / "pytorch_lora_weights.safetensors").write_bytes(b"a stranger's")
    (served / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    hub = FakeHub("runs/demo", served)
    yield hub
    hub.close()


@pytest.fixture
def online(tmp_path: Path) -> Online:
    """Run several commands in one process with an empty cache and a Hub that may be asked."""
    home = str(tmp_path / "home")

    def run(hub: FakeHub, commands: list[tuple[object, ...]]) -> list[tuple[int, str]]:
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS],
            input=json.dumps([list(map(str, command)) for command in commands]),
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]

    return run


@pytest.fixture(autouse=True)
def _here() -> None:
    """A model, a run, PEFT folders and a folder of one file, all called as owner/repo might be."""
    shutil.copytree(str(files("glance") / "assets/small-flux"), "models/small")
    write_run(Path("runs/demo"), model="../../models/small")
    for number, name in enumerate(("slow", "fast"), 1):
        write_lora(Path(f"lora/peft_{name}/adapter_model.safetensors"), fill=float(number))
        Path(f"lora/peft_{name}/adapter_config.json").write_text(PEFT)
        write_lora(Path(f"my/{name}/some style.safetensors"), fill=float(number))


RUN = ("--slow-lora", "runs/demo", "--fast-lora", "runs/demo")
FOLDERS = ("--slow-lora", "lora/peft_slow", "--fast-lora", "lora/peft_fast")
FILES = ("--slow-lora", "my/slow", "--fast-lora", "my/fast/some style.safetensors")
MODEL = ("--model", "models/small")
INFER = ("infer", "--prompt", "a hill", "--dry-run")
IMPORT = ("import", *MODEL, "--schedule", "seed", "--run")
TAUGHT = ("--teacher-lora", "lora/peft_slow", "--teacher-lora", "my/fast")


@pytest.mark.usefixtures("pair")
def test_nothing_is_sent(online: Online, hub: FakeHub) -> None:
    commands: list[tuple[object, ...]] = [
        (*INFER, *RUN),
        (*INFER, *RUN, *MODEL),
        (*INFER, *FOLDERS, *MODEL),
        (*INFER, *FILES, *MODEL),
        (*INFER, "--no-lora", *MODEL),
        (*INFER, "--run", "runs/demo", *MODEL),
        (*IMPORT, "r", *RUN),
        (*IMPORT, "s", *FOLDERS),
        (*IMPORT, "t", *FILES, "--alpha", 2),
        *(("info", path) for path in ("runs/demo", "lora/peft_slow", "my/slow")),
        ("distill", *MODEL, *TAUGHT, "--prompt", "a hill", "--device", "cpu", "--dry-run"),
        ("train", "--image", "cat.png", "--resolution", 64, *MODEL, "--device", "cpu", "--dry-run"),
        ("schedule", *MODEL, "--schedule", "own", "--size", "128x128"),
    ]

    done = online(hub, commands)

    assert len(done) == len(commands)
    assert [one for one in zip(commands, done, strict=True) if one[1][0] != 0] == []
    assert hub.requests == []


def test_nor_of_what_cannot_be_used(online: Online, hub: FakeHub) -> None:
    Path("my/none").mkdir()
    Path("my/broken").symlink_to("nowhere")
    Path("my/file").touch()
    loras = {"slow_lora": "lora/peft_slow", "fast_lora": "lora/peft_fast"}
    picture = pretend(plan(**loras, model="models/small", output=Path("x.png")).images[0])
    shutil.rmtree("models")
    told = {
        ("--slow-lora", "lora/peft_slo", "--fast-lora", "my/fast"): "there is lora/peft_slow",
        ("--slow-lora", "my/broken", "--fast-lora", "my/fast"): "is a link to nowhere",
        ("--slow-lora", "my/none", "--fast-lora", "my/fast"): "my/none holds no LoRA",
        (*FOLDERS, "--model", "my/none"): "there is no readable model_index.json in it",
        (*FOLDERS, "--model", "my/broken"): "is a link to nowhere, which is not there",
        (*FOLDERS, "--model", "my/file"): "is a file, not a folder in diffusers layout",
        (*FOLDERS, "--model", ""): "--model is empty",
        ("--from-image", str(picture)): "not found",  # of a folder that was here
    }

    done = online(hub, [(*INFER, *more) for more in told])

    for (code, err), message in zip(done, told.values(), strict=True):
        assert code in (3, 4)
        assert message in err
    assert hub.requests == []


def test_the_strength_beside_a_file_comes_with_it_from_the_hub(online: Online) -> None:
    served = FakeHub("acme/peft", Path("lora/peft_slow"))
    shutil.rmtree("lora/peft_slow")

    both = ("--slow-lora", "acme/peft", "--fast-lora", "lora/peft_fast")
    [(code, err)] = online(served, [(*INFER, *both, *MODEL)])
    served.close()

    assert code == 0, err
    assert "adapter_model.safetensors is taken at scale 4: alpha is in adapter_config" in err
    assert "adapter_config.json" in served.fetched()
