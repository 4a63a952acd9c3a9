"""What a training takes in memory and time on the CPU, against what `--dry-run` says.

`uv run python -m benchmarks.memory`. A FLUX with random weights, 0.64 billion parameters in its
transformer and 0.4 in its T5, is trained for four steps by real SimpleTuner at four resolutions.
About five minutes on two cores. No figure of a GPU: there is none here.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from glance.device import Device, speed
from glance.families import find_family
from glance.settings import resolve_train_settings
from glance.simpletuner.duration import seconds_a_step
from glance.simpletuner.memory import estimate
from glance.weights import weigh

ROOT = Path(__file__).parents[1]
WIDTH = 1024  # of the text


def main() -> None:
    """Print the table."""
    lines = ["| resolution | GB said | GB at most | error | s a step said | s a step | error |"]
    lines.append("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder / "model")
        for resolution in (64, 256, 384, 512):
            said, said_seconds = reckon(folder, resolution)
            peak, seconds = train(folder, resolution)
            lines.append(
                f"| {resolution} | {said:.1f} | {peak:.1f} | {off(said, peak)} "
                f"| {said_seconds:.2f} | {seconds:.2f} | {off(said_seconds, seconds)} |"
            )
    sys.stdout.write("\n".join(lines) + "\n")


def make_model(folder: Path) -> None:
    """Put a large transformer and a large T5 with random weights into the small FLUX."""
    import torch
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    pipeline = FluxPipeline.from_pretrained(
        ROOT / "glance/assets/small-flux", torch_dtype=torch.float32
    )
    t5 = T5Config(
        vocab_size=pipeline.text_encoder_2.config.vocab_size,
        d_model=WIDTH,
        d_ff=4 * WIDTH,
        d_kv=64,
        num_heads=16,
        num_layers=24,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    pipeline.register_modules(
        text_encoder_2=T5EncoderModel(t5),
        transformer=FluxTransformer2DModel(
            in_channels=pipeline.transformer.config.in_channels,
            num_layers=4,
            num_single_layers=8,
            attention_head_dim=64,
            num_attention_heads=24,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=pipeline.transformer.config.pooled_projection_dim,
            guidance_embeds=True,
            axes_dims_rope=(16, 24, 24),
        ),
    )
    pipeline.save_pretrained(folder)


def off(said: float, measured: float) -> str:
    """Return how far what was said is off."""
    return f"{(said / measured - 1) * 100:+.0f} %"


def reckon(folder: Path, resolution: int) -> tuple[float, float]:
    """Return the gigabytes and the seconds a step that `--dry-run` would say."""
    settings = resolve_train_settings(device=Device.CPU, resolution=resolution)
    weights = weigh("../../model", None, family=find_family("flux"), run=folder / "runs" / "x")
    settings = settings.model_copy(update={"weights": weights})
    cpu = speed(Device.CPU)
    assert cpu is not None
    return estimate(settings).system, seconds_a_step(settings, cpu)


def train(folder: Path, resolution: int) -> tuple[float, float]:
    """Return the gigabytes that it took at most, and the seconds a step."""
    run, events = f"runs/{resolution}", folder / f"{resolution}.jsonl"
    command = [
        *(sys.executable, "-m", "glance", "train", "--image", str(ROOT / "data/glance.png")),
        *("--model", "model", "--run", run, "--resolution", str(resolution), "--phase", "slow"),
        *("--steps", "4", "--device", "cpu", "--launcher", "direct", "--quiet"),
        *("--events", str(events)),
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    used = [one for one in told if one["event"] == "MemoryUsed"]
    peak = max(one["resident"] for one in used)
    steps = [one["time"] for one in told if one["event"] == "StepDone"]
    return peak / 1e9, (steps[-1] - steps[0]) / (len(steps) - 1)


if __name__ == "__main__":
    main()
