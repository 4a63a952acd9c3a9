"""What is on this disk is never asked of the Hub: a Hub that listens is sent nothing."""

import json
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fakes.commands import Glance
from fakes.hub import FakeHub
from fakes.pairs import write_lora, write_run
from fakes.plans import plan, pretend

PEFT = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8})
PROMPT = ("--prompt", "a hill")


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
def online(glance: Glance, hub: FakeHub, tmp_path: Path) -> Glance:
    """`glance` with an empty cache and a Hub that may be asked."""
    home = str(tmp_path / "home")

    def run(*arguments: object) -> Any:
        return glance(*arguments, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=home)

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


@pytest.mark.parametrize(
    "arguments",
    [
        ("infer", *PROMPT, *RUN, "--dry-run"),
        ("infer", *PROMPT, *RUN, *MODEL, "--dry-run"),
        ("infer", *PROMPT, *FOLDERS, *MODEL, "--dry-run"),
        ("infer", *PROMPT, *FILES, *MODEL, "--dry-run"),
        ("infer", *PROMPT, "--no-lora", *MODEL, "--dry-run"),
        ("infer", *PROMPT, "--run", "runs/demo", *MODEL, "--dry-run"),
        ("import", *RUN, *MODEL, "--schedule", "seed", "--run", "r"),
        ("import", *FOLDERS, *MODEL, "--schedule", "seed", "--run", "r"),
        ("import", *FILES, *MODEL, "--schedule", "seed", "--alpha", 2, "--run", "r"),
        ("info", "runs/demo"),
        ("info", "lora/peft_slow"),
        ("info", "my/slow"),
        ("distill", *MODEL, "--teacher-lora", "lora/peft_slow", "--teacher-lora", "my/fast",
         *PROMPT, "--device", "cpu", "--dry-run"),
        ("train", "--image", "cat.png", "--resolution", 64, *MODEL, "--device", "cpu", "--dry-run"),
        ("schedule", *MODEL, "--schedule", "own", "--size", "128x128"),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:5])),
)  # fmt: skip
@pytest.mark.usefixtures("pair")
def test_nothing_is_sent(arguments: tuple[object, ...], online: Glance, hub: FakeHub) -> None:
    done = online(*arguments)

    assert done.code == 0, done.err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--slow-lora", "lora/peft_slo", "--fast-lora", "my/fast"), "there is lora/peft_slow"),
        (("--slow-lora", "my/broken", "--fast-lora", "my/fast"), "is a link to nowhere"),
        (("--slow-lora", "my/none", "--fast-lora", "my/fast"), "my/none holds no LoRA"),
        ((*FOLDERS, "--model", "my/none"), "there is no readable model_index.json in it"),
        ((*FOLDERS, "--model", "my/broken"), "is a link to nowhere, which is not there"),
        ((*FOLDERS, "--model", "my/file"), "is a file, not a folder in diffusers layout"),
        ((*FOLDERS, "--model", ""), "--model is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nor_of_what_cannot_be_used(
    arguments: tuple[str, ...], message: str, online: Glance, hub: FakeHub
) -> None:
    Path("my/none").mkdir()
    Path("my/broken").symlink_to("nowhere")
    Path("my/file").touch()

    done = online("infer", *PROMPT, *arguments, "--dry-run")

    assert done.code in (3, 4)
    assert message in done.err
    assert hub.requests == []


def test_a_picture_that_was_made_here_stays_here(online: Glance, hub: FakeHub) -> None:
    """The folders are gone that it was made with: their names are still no names on the Hub."""
    loras = {"slow_lora": "lora/peft_slow", "fast_lora": "lora/peft_fast"}
    picture = pretend(plan(**loras, model="models/small", output=Path("x.png")).images[0])
    shutil.rmtree("models")

    done = online("infer", "--from-image", picture, "--dry-run")

    assert done.code == 3
    assert "not found" in done.err
    assert hub.requests == []


def test_the_strength_beside_a_file_comes_with_it_from_the_hub(
    glance: Glance, tmp_path: Path
) -> None:
    served = FakeHub("acme/peft", Path("lora/peft_slow"))
    shutil.rmtree("lora/peft_slow")
    own = {"HF_ENDPOINT": served.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    both = ("--slow-lora", "acme/peft", "--fast-lora", "lora/peft_fast")

    done = glance("infer", *PROMPT, *both, *MODEL, "--dry-run", **own)
    served.close()

    assert done.code == 0, done.err
    assert "adapter_model.safetensors is taken at scale 4: alpha is in adapter_config" in done.err
    assert "adapter_config.json" in served.fetched()
