"""The whole line on a tiny FLUX: real training of both phases, then sampling with the result.

The base model is fetched from a Hub that then goes away, in its transformer's place is another
one's from a single file, and the image is cut into several views.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from fakes.hub import FakeHub
from PIL import Image
from real_training import (
    STEPS,
    ask_glance,
    check_noise_levels,
    check_sampling,
    check_strength,
    run_glance,
    told,
    wait_until,
)
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import build_tiny, layouts

from glance.core.device import Device
from glance.sampling.generate import run_generation
from glance.sampling.plan import plan_generation
from glance.sampling.request import InferRequest

HOSTILE = {
    "CONFIG_PATH": "/nonexistent/config",
    "CONFIG_BACKEND": "toml",
    "MIXED_PRECISION": "fp8",
    "TRAINING_NUM_PROCESSES": "3",
    "ACCELERATE_USE_FSDP": "true",
    "ENV": "somebody-elses",
    "SIMPLETUNER_ENV": "somebody-elses",
}
CAPTION = "a grey circle\nbright at its edge"
VIEWS = ["whole-320x192", "whole-192x128", "center-256x256", "center-128x128"]


@pytest.fixture(scope="session")
def hub(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeHub:
    """Serves the tiny FLUX with another transformer."""
    base = build_tiny("flux", tmp_path_factory.mktemp("hub") / "base", seed=2)
    for part in ("vae", "text_encoder", "text_encoder_2"):
        shutil.copytree(tiny_flux / part, base / part, dirs_exist_ok=True)
    (base / "README.md").write_text("nobody needs it\n")
    return FakeHub("acme/fetched", base)


@dataclass(frozen=True)
class Trained:
    """A run of `glance train`: the first phase by the public command, the second without it."""

    run: Path
    half: Path
    """As it was between them."""
    planned: Any
    """What a dry run had said."""


@pytest.fixture(scope="session")
def trained(hub: FakeHub, tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The probe in the trainer, a hostile environment around it; the Hub goes when it begins."""
    folder = tmp_path_factory.mktemp("a folder, with spaces é")
    home = folder / "hf-home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate/default_config.yaml").write_text("distributed_type: FSDP\nnum_processes: 4")
    Image.radial_gradient("L").resize((400, 260)).convert("RGB").save(folder / "two lines.png")
    (folder / "two lines.txt").write_text(f"{CAPTION}\n")
    layouts.write(layouts.weights(tiny_flux), folder / "mine.safetensors", prefix=layouts.COMFY)
    command = ["train", "--image", "two lines.png", "--device", "cpu", "--steps", str(STEPS)]
    command += ["--model", "mine.safetensors", "--pipeline", "acme/fetched", "--family", "flux"]
    command += ["--resolution", "256,128", "--crop", "whole,center", "--rank", "4"]
    command += ["--preview-every", str(STEPS - 1)]
    offline = {
        **HOSTILE,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": f"{os.environ['HF_HOME']}/hub",  # in which these tests look for it
        "GLANCE_SHARED": str(folder / "shared"),  # as a batch has it
    }
    online = {**offline, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url}

    def take_hub_away(process: "subprocess.Popen[str]") -> None:
        wait_until(lambda: told(folder, "PhaseStarted"), process)
        hub.close()

    planned = ask_glance(folder, *command, "--dry-run", **online)
    ask_glance(folder, *command, "--phase", "slow", meanwhile=take_hub_away, **online)
    run, half = folder / "runs/two-lines", folder / "half"
    shutil.copytree(run, half, copy_function=os.link)
    assert run_glance(folder, *command, "--launcher", "direct", **offline) == run
    return Trained(run, half, planned)


@pytest.fixture
def run(trained: Trained) -> Path:
    return trained.run


def test_it_trains_offline_once_the_model_is_there(hub: FakeHub, run: Path) -> None:
    most = max(event["bytes"] for event in told(run.parents[1], "ModelFetched"))

    assert "README.md" not in hub.fetched()
    assert most == sum(len(hub.files[name]) for name in hub.fetched()) > 100_000


def test_the_files_transformer_was_trained(run: Path, tiny_flux: Path) -> None:
    """Before its first step an adapter does nothing: the model is then as it was."""
    settings = json.loads((run / "glance.json").read_text())["settings"]
    assert settings["model"] == "acme/fetched"
    assert settings["transformer"] == "../../mine.safetensors"
    pipeline = FluxPipeline.from_pretrained(tiny_flux)
    embeds, pooled, text_ids = pipeline.encode_prompt(CAPTION, None)
    for phase in ("slow", "fast"):
        step = load_file(run / f"probe/glance-{phase}-0001.safetensors")
        _, channels, rows, columns = step["loss.prediction"].shape
        with torch.inference_mode():
            own = pipeline.transformer(
                hidden_states=step["given.hidden_states"],
                timestep=step["loss.sigmas"],
                guidance=step["given.guidance"],
                pooled_projections=pooled,
                encoder_hidden_states=embeds,
                txt_ids=text_ids,
                img_ids=pipeline._prepare_latent_image_ids(1, rows // 2, columns // 2, "cpu", None),
            ).sample
        predicted = pipeline._pack_latents(step["loss.prediction"], 1, channels, rows, columns)
        torch.testing.assert_close(predicted, own, rtol=0, atol=1e-5)


def test_what_other_runs_of_a_batch_need_too_is_kept_for_them(trained: Trained) -> None:
    shared = trained.half.parent / "shared"

    (transformer,) = shared.glob("transformer-*/*.safetensors")
    assert transformer.samefile(trained.half / "transformer" / transformer.name)
    (text,) = shared.glob("texts-*/*")
    assert [text.samefile(one) for one in (trained.half / "cache/text").iterdir()] == [True]


def test_what_was_said_is_what_simpletuner_trains(trained: Trained) -> None:
    said, half = trained.planned["pictures"], trained.half

    assert {f"{one['crop']}-{one['width']}x{one['height']}" for one in said} == set(VIEWS)
    for view in VIEWS:
        size = [int(side) for side in view.split("-")[1].split("x")]
        place = Path("cache/pictures", view)
        (file,) = (half / place).glob("aspect_ratio_bucket_metadata_*.json")
        ((name, found),) = json.loads(file.read_text()).items()
        assert name == str(trained.run / place / "two-lines.png")
        for key in ("original_size", "intermediary_size", "target_size"):
            assert found[key] == size
        assert found["crop_coordinates"] == [0, 0]
    caches = sorted(path.name for path in half.glob("cache/vae*"))
    assert caches == sorted(["vae", *(f"vae-{view}" for view in VIEWS[1:])])
    for cache in caches:
        assert len(list((half / "cache" / cache).rglob("*.pt"))) == 1, cache


def test_exactly_the_phases_noise_levels_reached_the_transformer(run: Path) -> None:
    check_noise_levels("flux", run)


def test_a_start_does_not_wait_for_torchs_compiler(run: Path) -> None:
    for phase in ("slow", "fast"):
        with safe_open(run / f"probe/glance-{phase}-{STEPS:04}.safetensors", "np") as last:
            assert last.metadata()["compiler"] == "false"


def test_two_caption_lines_are_one_caption(run: Path) -> None:
    assert len(list((run / "cache/text").glob("*.pt"))) == 1
    assert (run / "data/two-lines.txt").read_text() == f"{CAPTION}\n"


@pytest.mark.parametrize("phase", ["slow", "fast"])
def test_the_lora_has_the_last_checkpoints_effect(run: Path, phase: str) -> None:
    check_strength(run, phase)


def test_no_file_of_the_run_names_the_machine(run: Path) -> None:
    """The trainer's own words, its logs and caches, are not ours."""
    ours = [
        path
        for path in run.rglob("*")
        if path.is_file() and path.relative_to(run).parts[0] not in ("logs", "cache", "probe")
    ]

    places = [str(run).encode(), f"{run.parents[1].name}/".encode()]
    named = [path.name for path in ours if any(place in path.read_bytes() for place in places)]

    assert len(ours) > 8
    assert named == []
    assert not list(run.glob("output/*/README.md"))


def test_progress_came_from_the_trainer(run: Path) -> None:
    steps = told(run.parents[1], "StepDone")

    assert {(event["phase"], event["step"]) for event in steps} == {
        (phase, step) for phase in ("slow", "fast") for step in range(1, STEPS + 1)
    }
    assert all(event["loss"] > 0 for event in steps)


def test_sampling_with_both_equals_a_plain_loop(run: Path, tiny_flux: Path) -> None:
    check_sampling("flux", run, guidance=(3.5, 1.0), model=tiny_flux, within=1)

    assert torch.is_inference_mode_enabled() is False


def test_previews_show_the_pair_as_it_was_and_as_it_is(run: Path) -> None:
    """A checkpoint's header says how strong it is; in a preview's LoRA that is folded in."""
    slow, fast = (f"{run}/output/glance-{phase}" for phase in ("slow", "fast"))
    pairs = {
        STEPS - 1: {"slow_lora": slow, "fast_lora": f"{fast}/checkpoint-{STEPS - 1}"},
        STEPS: {"run": run},
    }
    shown = set()
    for step, pair in pairs.items():
        with Image.open(run / f"images/previews/step-{step:04}-1.png") as preview:
            asked = {"size": preview.size, "device": Device.CPU, "output": Path(f"{step}.png")}
            plan = plan_generation(InferRequest(prompts=(CAPTION,), **pair, **asked))
            image = Image.open(run_generation(plan, lambda _: None).images[0])
            assert image.tobytes() == preview.tobytes()
            shown.add(preview.tobytes())

    assert len(shown) == 2
    assert (run / "images/previews/strip.png").is_file()
