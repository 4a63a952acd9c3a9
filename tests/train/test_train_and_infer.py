"""The whole line on a tiny FLUX: real training of both phases, then sampling with the result."""

import json
from pathlib import Path

import pytest
from PIL import Image
from real_training import STEPS, check_noise_levels, check_sampling, check_strength, train

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


@pytest.fixture(scope="session")
def run(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `glance train`, with a probe in the trainer and a hostile environment."""
    folder = tmp_path_factory.mktemp("a folder, with spaces é")
    home = folder / "hf-home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate/default_config.yaml").write_text("distributed_type: FSDP\nnum_processes: 4")
    previews = ("--preview-every", str(STEPS - 1))
    return train("flux", tiny_flux, folder, *previews, **HOSTILE, HF_HOME=str(home))


def test_exactly_the_phases_noise_levels_reached_the_transformer(run: Path) -> None:
    check_noise_levels("flux", run)


def test_two_caption_lines_are_one_caption(run: Path) -> None:
    assert len(list((run / "cache/text").glob("*.pt"))) == 1
    assert (run / "data/two-lines.txt").read_text() == "a grey slope\nfrom dark to light\n"


@pytest.mark.parametrize("phase", ["slow", "fast"])
def test_the_lora_has_the_last_checkpoints_effect(run: Path, phase: str) -> None:
    check_strength(run, phase)


def test_no_file_of_the_run_names_the_machine(run: Path, tiny_flux: Path) -> None:
    """The trainer's own words, its logs and caches, are not ours."""
    ours = [
        path
        for path in run.rglob("*")
        if path.is_file() and path.relative_to(run).parts[0] not in ("logs", "cache", "probe")
    ]

    places = [str(run).encode(), f"{tiny_flux.parent.name}/".encode()]
    named = [path.name for path in ours if any(place in path.read_bytes() for place in places)]

    assert len(ours) > 8
    assert named == []
    assert not list(run.glob("output/*/README.md"))


def test_progress_came_from_the_trainer(run: Path) -> None:
    events = [json.loads(line) for line in (run.parents[1] / "events.jsonl").open()]
    steps = [event for event in events if event["event"] == "StepDone"]

    assert {(event["phase"], event["step"]) for event in steps} == {
        (phase, step) for phase in ("slow", "fast") for step in range(1, STEPS + 1)
    }
    assert all(event["loss"] > 0 for event in steps)


def test_sampling_with_both_equals_a_plain_loop(run: Path) -> None:
    import torch

    check_sampling("flux", run, guidance=(3.5, 1.0))

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
            prompt = (run / "data/two-lines.txt").read_text().strip()
            plan = plan_generation(InferRequest(prompts=(prompt,), **pair, **asked))
            image = Image.open(run_generation(plan, lambda _: None).images[0])
            assert image.tobytes() == preview.tobytes()
            shown.add(preview.tobytes())

    assert len(shown) == 2
    assert (run / "images/previews/strip.png").is_file()
