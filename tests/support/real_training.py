"""Real `glance train` with real SimpleTuner, a probe in the trainer's process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from plain_loops import FAST, SLOW
from safetensors.numpy import load_file

from glance.models.families import FAMILIES, find_family
from glance.models.lora.file import read_lora

STEPS = 10
_PROBE = Path(__file__).parents[1] / "train" / "probe"
TIMESTEPS: Mapping[str, Callable[[float], float]] = {
    **dict.fromkeys(FAMILIES, lambda told: 1000 * told),
    **dict.fromkeys(("sd3", "hidream"), lambda told: told),
    **dict.fromkeys(("z_image", "lumina2"), lambda told: 1000 * (1 - told)),
}
"""The timestep (0-1000) of the number that the family's transformer is told."""
CLEAN_REFERENCE = ("qwen_image_edit_2511",)
"""Families whose transformer is told two: the picture's own, and 0 for the reference."""


def ask_glance(
    folder: Path,
    *command: str,
    meanwhile: "Callable[[subprocess.Popen[str]], object]" = lambda _: None,
    **environment: str,
) -> Any:
    """Run a command in `folder`, the probe in the trainer's process; return what it printed."""
    path = os.pathsep.join(filter(None, (str(_PROBE), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, "-m", "glance", *command, "--json", "--events", "events.jsonl"],
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        meanwhile(process)
        out, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(out)


def run_glance(folder: Path, *command: str, **options: Any) -> Path:
    """Train with a command in `folder`, options as for `ask_glance`; return the run."""
    document = ask_glance(folder, *command, **options)
    assert [phase["state"] for phase in document["phases"].values()] == ["done", "done"]
    return folder / document["run"]


def told(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind of what was run in `folder`."""
    return [one for one in _read_events(folder / "events.jsonl") if one["event"] == kind]


def _read_events(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if "\n" in line]


def train(family: str, model: Path, folder: Path, *flags: str, **environment: str) -> Path:
    """Train a tiny model on a picture in `folder` and return the run."""
    picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    picture.save(folder / "two lines.png")
    (folder / "two lines.txt").write_text("a grey slope\nfrom dark to light\n")
    command = ["train", "--image", "two lines.png", "--family", family, "--model", str(model)]
    command += ["--steps", str(STEPS), "--rank", "4", "--resolution", "64", "--device", "cpu"]
    if find_family(family).edits:
        Image.radial_gradient("L").resize((128, 64)).convert("RGB").save(folder / "before.png")
        command += ["--source-image", "before.png"]
    return run_glance(folder, *command, *flags, **environment)


def check_noise_levels(family: str, run: Path) -> None:
    """Exactly the phase's noise levels reached the transformer, each as often as the others."""
    for phase, expected in (("slow", SLOW), ("fast", FAST)):
        steps = map(load_file, sorted((run / "probe").glob(f"glance-{phase}-*")))
        told = [number for step in steps for number in step["given.timestep"].flatten().tolist()]
        if family in CLEAN_REFERENCE:
            assert set(told[1::2]) == {0}
            told = told[::2]
        counted = Counter(round(TIMESTEPS[family](number), 3) for number in told)
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


def check_sampling(
    family: str,
    run: Path,
    *,
    guidance: tuple[float, float],
    timesteps: Sequence[Sequence[float]] = (SLOW, FAST),
    is_asked_for: bool = True,
    model: Path | None = None,
    within: int = 0,
) -> None:
    """`glance infer` generates what a plain loop with the same two files generates, to the bit.

    Where the guidance is not asked for the run itself is to say it. `model`: the whole of what the
    run names two places for; weights that are read from elsewhere lie elsewhere in memory, which
    may cost a last bit: `within` so many grey levels.
    """
    from diffusers import DiffusionPipeline
    from plain_loops import furthest, generate

    from glance.core.device import Device
    from glance.sampling.generate import run_generation
    from glance.sampling.plan import plan_generation
    from glance.sampling.request import InferRequest

    reference = run.parents[1] / "before.png" if find_family(family).edits else None
    asked = {"width": 64, "height": 64, "device": Device.CPU, "seeds": (3,)}
    if is_asked_for:
        asked |= dict(zip(("slow_guidance", "fast_guidance"), guidance, strict=True))
    plan = plan_generation(
        InferRequest(prompts=("a slope",), reference=reference, run=run, **asked)
    )
    assert (plan.settings.slow_guidance, plan.settings.fast_guidance) == guidance
    image = Image.open(run_generation(plan, lambda _: None).images[0])
    pipeline = DiffusionPipeline.from_pretrained(model or plan.base.location)
    for phase in ("slow", "fast"):
        pipeline.load_lora_weights(run / f"output/glance-{phase}", adapter_name=phase)
    before = None if reference is None else Image.open(reference)
    settings = {"guidance": guidance, "timesteps": timesteps, "reference": before}
    plain = generate(family, pipeline, "a slope", seed=3, **settings)
    assert furthest(image, plain) <= within


class Started:
    """A command that trains in a folder of its own, and is started more than once."""

    def __init__(self, folder: Path, run: Path, *command: str) -> None:
        self.folder = folder
        self.run = run
        self._events = folder / "events.jsonl"
        self._command = [sys.executable, "-m", "glance", *command, "--device", "cpu", "--rank", "4"]

    def start(self, *flags: str) -> "subprocess.Popen[bytes]":
        self._events.unlink(missing_ok=True)
        own = ["--run", str(self.run), "--events", str(self._events), "--quiet", *flags]
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else a child ignores it
        try:
            command = [*self._command, *own]
            return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        finally:
            signal.signal(signal.SIGINT, before)

    def finish(self, *flags: str) -> None:
        assert self.start(*flags).wait(timeout=300) == 0

    def told(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The events since the last start, all or those of a kind."""
        return [one for one in _read_events(self._events) if kind in (None, one["event"])]

    def steps(self) -> list[int]:
        return [event["step"] for event in self.told("StepDone")]

    def slow(self) -> Any:
        return json.loads((self.run / "glance.json").read_text())["phases"]["slow"]


def kill(process: "subprocess.Popen[bytes]", number: int = signal.SIGKILL) -> int:
    """End it by a signal; nothing of it goes on. Return its exit code."""
    tree = psutil.Process(process.pid).children(recursive=True)
    assert tree
    process.send_signal(number)
    code = process.wait(timeout=60)
    _, alive = psutil.wait_procs(tree, timeout=30)
    assert alive == [], "somebody outlived glance"
    return code


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[Any]") -> None:
    """Wait until something holds while a command is running."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.1)
