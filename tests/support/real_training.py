"""Real `glance train` with real SimpleTuner, a probe in the trainer's process."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image
from plain_loops import FAST, SLOW

from glance.models.families import find_family
from glance.models.lora.file import read_lora

STEPS = 10
_PROBE = Path(__file__).parents[1] / "train" / "probe"
TIMESTEPS: Mapping[str, Callable[[float], float]] = {
    **dict.fromkeys(
        (
            "flux",
            "qwen_image",
            "qwen_image_edit_2509",
            "qwen_image_edit_2511",
            "flux2",
            "flux2_klein",
            "auraflow",
            "chroma",
            "krea2",
        ),
        lambda told: 1000 * told,
    ),
    **dict.fromkeys(("sd3", "hidream"), lambda told: told),
    **dict.fromkeys(("z_image", "lumina2"), lambda told: 1000 * (1 - told)),
}
"""The timestep (0-1000) of the number that the family's transformer is told."""
CLEAN_REFERENCE = ("qwen_image_edit_2511",)
"""Families whose transformer is told two: the picture's own, and 0 for the reference."""


def arguments(family: str, model: Path) -> list[str]:
    """Return the command line but for the picture."""
    given = ["--family", family, "--model", str(model), "--steps", str(STEPS), "--rank", "4"]
    return [*given, "--resolution", "64", "--device", "cpu"]


def train(family: str, model: Path, folder: Path, *flags: str, **environment: str) -> Path:
    """Train a tiny model on a picture in `folder` and return the run."""
    picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    picture.save(folder / "two lines.png")
    (folder / "two lines.txt").write_text("a grey slope\nfrom dark to light\n")
    path = os.pathsep.join(filter(None, (str(_PROBE), os.environ.get("PYTHONPATH"))))
    more = []
    if find_family(family).edits:
        Image.radial_gradient("L").resize((128, 64)).convert("RGB").save(folder / "before.png")
        more = ["--source-image", "before.png"]
    command = [*arguments(family, model), *more, *flags, "--json", "--events", "events.jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", "glance", "train", "--image", "two lines.png", *command],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert [phase["state"] for phase in document["phases"].values()] == ["done", "done"]
    return folder / document["run"]


def check_noise_levels(family: str, run: Path) -> None:
    """Exactly the phase's noise levels reached the transformer, each as often as the others."""
    timestep = TIMESTEPS[family]
    told = [float(line) for line in (run / "probe.txt").read_text().split()]
    if family in CLEAN_REFERENCE:
        assert set(told[1::2]) == {0}
        told = told[::2]
    levels = [round(timestep(number), 3) for number in told]
    # gradient checkpointing may run a forward pass twice; a phase's steps stand together
    half = len(levels) // 2
    for expected, seen in ((SLOW, levels[:half]), (FAST, levels[half:])):
        counted = Counter(seen)
        assert sorted(counted, reverse=True) == pytest.approx(expected, abs=0.01)
        assert len(set(counted.values())) == 1, "each value has the same share of the steps"


def check_layers(family: str, run: Path) -> None:
    """The layers that got an adapter are those that the family's row names."""
    targets = find_family(family).lora_targets
    modules = read_lora(run / "output/glance-slow/pytorch_lora_weights.safetensors").modules
    ends = {target for name in modules for target in targets if name.endswith(f".{target}")}
    assert ends == set(targets)
    assert not [name for name in modules if not name.endswith(targets)]


def check_strength(run: Path, phase: str) -> None:
    """The finished LoRA, at scale 1, does what the last checkpoint does at alpha / rank."""
    output = run / f"output/glance-{phase}"
    final = read_lora(output / "pytorch_lora_weights.safetensors")
    last = read_lora(output / f"checkpoint-{STEPS}/pytorch_lora_weights.safetensors")
    alpha = json.loads(last.metadata["lora_adapter_metadata"])["transformer.lora_alpha"]
    assert alpha == 4 * final.rank
    for key, tensor in final.tensors.items():
        factor = alpha / final.rank if ".lora_B." in key else 1.0
        assert (tensor.to_float() == last.tensors[key].to_float() * factor).all()


def check_sampling(family: str, run: Path, *, guidance: Sequence[float]) -> None:
    """`glance infer` generates what a plain loop with the same two files generates, to the bit."""
    from diffusers import DiffusionPipeline
    from plain_loops import generate

    from glance.core.device import Device
    from glance.sampling.generate import run_generation
    from glance.sampling.plan import plan_generation
    from glance.sampling.request import InferRequest

    slow, fast = guidance
    reference = run.parents[1] / "before.png" if find_family(family).edits else None
    plan = plan_generation(
        InferRequest(
            prompts=("a slope",),
            reference=reference,
            width=64,
            height=64,
            run=run,
            device=Device.CPU,
            seeds=(3,),
            slow_guidance=slow,
            fast_guidance=fast,
        )
    )
    image = Image.open(run_generation(plan, lambda _: None).images[0])
    pipeline = DiffusionPipeline.from_pretrained(plan.base.location)
    for phase in ("slow", "fast"):
        pipeline.load_lora_weights(run / f"output/glance-{phase}", adapter_name=phase)
    before = None if reference is None else Image.open(reference)
    plain = generate(family, pipeline, "a slope", seed=3, guidance=(slow, fast), reference=before)
    assert image.tobytes() == plain.tobytes()


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    """Wait until something holds while a command is running."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.1)
