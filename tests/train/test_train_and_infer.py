"""The whole line on a tiny FLUX: real training of both phases, then sampling with the result."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glance.lora import read_lora

SEED = {
    "slow": [1000.0, 979.1915, 957.5157, 934.9171, 911.3354],
    "fast": [886.7053, 745.0728, 562.9505, 320.0802, 20.0],
}
STEPS = 10
HOSTILE = {
    "CONFIG_PATH": "/nonexistent/config",
    "CONFIG_BACKEND": "toml",
    "MIXED_PRECISION": "fp8",
    "TRAINING_NUM_PROCESSES": "3",
    "ACCELERATE_USE_FSDP": "true",
    "ENV": "somebody-elses",
    "SIMPLETUNER_ENV": "somebody-elses",
}


@pytest.fixture(scope="session")
def run(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `glance train`, with a probe in the trainer and a hostile environment."""
    folder = tmp_path_factory.mktemp("a folder, with spaces é")
    home = folder / "hf-home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate/default_config.yaml").write_text("distributed_type: FSDP\nnum_processes: 4")
    picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    picture.save(folder / "two lines.png")
    (folder / "two lines.txt").write_text("a grey slope\nfrom dark to light\n")
    arguments = ["--model", str(tiny_flux), "--steps", str(STEPS), "--rank", "4"]
    arguments += ["--resolution", "64", "--device", "cpu", "--json", "--events", "events.jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", "glance", "train", "--image", "two lines.png", *arguments],
        cwd=folder,
        env={
            **os.environ,
            **HOSTILE,
            "HF_HOME": str(home),
            "PYTHONPATH": str(Path(__file__).parent / "probe"),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert [phase["state"] for phase in document["phases"].values()] == ["done", "done"]
    return folder / document["run"]


def test_the_manifest_says_done_twice(run: Path) -> None:
    phases = json.loads((run / "glance.json").read_text())["phases"]

    assert [phase["state"] for phase in phases.values()] == ["done", "done"]


def test_exactly_the_phases_noise_levels_reached_the_transformer(run: Path) -> None:
    levels = [round(float(line), 3) for line in (run / "probe.txt").read_text().split()]

    # gradient checkpointing may run a forward pass twice; a phase's steps stand together
    half = len(levels) // 2
    for phase, seen in (("slow", levels[:half]), ("fast", levels[half:])):
        counted = Counter(seen)
        assert sorted(counted, reverse=True) == pytest.approx(SEED[phase], abs=0.01)
        assert len(set(counted.values())) == 1, "each value has the same share of the steps"


def test_two_caption_lines_are_one_caption(run: Path) -> None:
    assert len(list((run / "cache/text").glob("*.pt"))) == 1
    assert (run / "data/two-lines.txt").read_text() == "a grey slope\nfrom dark to light\n"


@pytest.mark.parametrize("phase", ["slow", "fast"])
def test_the_finished_lora_has_the_last_checkpoints_effect(run: Path, phase: str) -> None:
    output = run / f"output/glance-{phase}"
    final = read_lora(output / "pytorch_lora_weights.safetensors")
    last = read_lora(output / f"checkpoint-{STEPS}/pytorch_lora_weights.safetensors")
    alpha = json.loads(last.metadata["lora_adapter_metadata"])["transformer.lora_alpha"]

    assert alpha == 4 * final.rank
    for key, tensor in final.tensors.items():
        factor = alpha / final.rank if ".lora_B." in key else 1.0
        assert (tensor.to_float() == last.tensors[key].to_float() * factor).all()


def test_no_file_of_the_run_names_the_machine(run: Path) -> None:
    """The trainer's own words, its logs and caches, are not ours."""
    ours = [
        path
        for path in run.rglob("*")
        if path.is_file() and path.relative_to(run).parts[0] not in ("logs", "cache", "probe.txt")
    ]

    named = [path.name for path in ours if str(run).encode() in path.read_bytes()]

    assert len(ours) > 8
    assert named == []


def test_progress_came_from_the_trainer(run: Path) -> None:
    events = [json.loads(line) for line in (run.parents[1] / "events.jsonl").open()]
    steps = [event for event in events if event["event"] == "StepDone"]

    assert {(event["phase"], event["step"]) for event in steps} == {
        (phase, step) for phase in ("slow", "fast") for step in range(1, STEPS + 1)
    }
    assert all(event["loss"] > 0 for event in steps)


def test_sampling_with_both_equals_a_plain_loop(run: Path) -> None:
    import torch

    from glance.device import Device
    from glance.generation.execute import run_generation
    from glance.generation.plan import plan_generation
    from glance.generation.request import InferRequest

    plan = plan_generation(InferRequest(prompt="a slope", run=run, device=Device.CPU, seed=3))
    image = Image.open(run_generation(plan, lambda _: None).image)

    plain = sample_plainly(Path(plan.model), run, prompt="a slope", seed=3)
    assert image.tobytes() == plain.tobytes()
    assert torch.is_inference_mode_enabled() is False


def sample_plainly(model: Path, run: Path, *, prompt: str, seed: int) -> Any:
    """diffusers alone, as the README of any LoRA would load it; x += (s_next - s) * v."""
    import torch
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(model)
    for phase in SEED:
        pipeline.load_lora_weights(run / f"output/glance-{phase}", adapter_name=phase)
    sigmas = torch.tensor([*SEED["slow"], *SEED["fast"], 0.0]) / 1000
    with torch.inference_mode():
        embeds, pooled, text_ids = pipeline.encode_prompt(prompt, None)
        noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(seed))
        x = pipeline._pack_latents(noise, 1, 16, 8, 8)
        for step in range(10):
            pipeline.set_adapters("slow" if step < 5 else "fast")
            velocity = pipeline.transformer(
                hidden_states=x,
                timestep=sigmas[step : step + 1],
                guidance=torch.tensor([3.5 if step < 5 else 1.0]),
                pooled_projections=pooled,
                encoder_hidden_states=embeds,
                txt_ids=text_ids,
                img_ids=pipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
                return_dict=False,
            )[0]
            x = x + (sigmas[step + 1] - sigmas[step]) * velocity
        latents = pipeline._unpack_latents(x, 64, 64, pipeline.vae_scale_factor)
        latents = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        decoded = pipeline.vae.decode(latents, return_dict=False)[0]
    return pipeline.image_processor.postprocess(decoded, output_type="pil")[0]


def test_training_again_skips_what_is_done(run: Path, tiny_flux: Path) -> None:
    shutil.rmtree(run / "probe.txt", ignore_errors=True)
    arguments = ["--model", str(tiny_flux), "--steps", str(STEPS), "--rank", "4"]
    arguments += ["--resolution", "64", "--device", "cpu"]

    done = subprocess.run(
        [sys.executable, "-m", "glance", "train", "--image", "two lines.png", *arguments],
        cwd=run.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert "slow: already done\nfast: already done\n" in done.stderr
