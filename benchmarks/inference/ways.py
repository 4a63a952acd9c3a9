"""The ways to sample that are compared, each a function of a folder; run in a process of its own.

`python -m benchmarks.inference.ways WAY FOLDER` prints one line of JSON.
"""

import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT = "a red circle"
SIDE = 256
SLOW = (1.0, 0.9791915, 0.9575157, 0.9349171, 0.9113354)
FAST = (0.8867053, 0.7450728, 0.5629505, 0.3200802, 0.02)
GUIDANCE = {"slow": 3.5, "fast": 1.0}


def main() -> None:
    """Import, watch, sample once, print what it took."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    began = time.process_time()
    import_for(name)
    imported = time.process_time() - began
    from benchmarks.inference.meter import watch_flux

    meter = watch_flux()
    gc.freeze()  # no way pays for collections among what was imported: glance spares itself those
    needed_by_imports = peak_memory()
    wall, began = time.perf_counter(), time.process_time()
    own = WAYS[name](folder) or {}
    measured = {
        "import": imported,
        "total": time.process_time() - began,
        "wall": time.perf_counter() - wall,
        "denoising": meter.denoising,
        "peak": peak_memory(),
        "peak above imports": peak_memory() - needed_by_imports,
        **meter.seconds,
        **{f"count {part}": count for part, count in meter.counts.items()},
        **own,
    }
    sys.stdout.write(json.dumps(measured) + "\n")


def peak_memory() -> int:
    """Return the bytes that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # Linux counts kibibytes


def import_for(name: str) -> None:
    """Import what the way needs, as it does it."""
    if name == "glance":
        import glance.generation.plan  # noqa: F401
        from glance.families import find_family
        from glance.generation.execute import import_sampler

        import_sampler(find_family("flux"))
    else:
        import diffusers

        assert diffusers.FluxPipeline


def by_glance(folder: Path) -> None:
    """Do what `glance infer` does."""
    from glance.generation.execute import run_generation
    from glance.generation.plan import plan_generation
    from glance.generation.request import InferRequest

    request = InferRequest(
        prompts=(PROMPT,),
        model=str(folder / "model"),
        family="flux",
        slow_lora=str(folder / "slow"),
        fast_lora=str(folder / "fast"),
        schedule="seed",
        width=SIDE,
        height=SIDE,
        device="cpu",
        output=folder / "glance.png",
        restart=True,
    )
    run_generation(plan_generation(request), lambda _: None)


def by_hand(folder: Path) -> None:
    """Write the loop out: the floor, with nothing around it."""
    pipeline = load(folder, "slow", "fast")
    paint(pipeline, folder / "hand", pipeline.set_adapters)


def fused(folder: Path) -> dict[str, float]:
    """As by hand, each LoRA multiplied into the weights before its phase and taken out after."""
    pipeline = load(folder, "slow", "fast")
    seconds = 0.0

    def fuse(phase: str) -> None:
        nonlocal seconds
        began = time.process_time()
        if phase == "fast":
            pipeline.unfuse_lora(components=["transformer"])
        pipeline.set_adapters(phase)
        pipeline.fuse_lora(components=["transformer"], adapter_names=[phase])
        seconds += time.process_time() - began

    paint(pipeline, folder / "fused", fuse)
    return {"fusing": seconds}


def by_guide(folder: Path) -> None:
    """Follow step 4 of SimpleTuner's guide: two pipelines, and all that happens twice."""
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    size = {"width": SIDE, "height": SIDE}
    pipe = load(folder, "slow")
    latents = pipe(
        prompt=PROMPT,
        num_inference_steps=len(SLOW),
        sigmas=list(SLOW),
        output_type="latent",
        generator=generator,
        **size,
    ).images
    pipe_fast = load(folder, "fast")
    image = pipe_fast(
        prompt=PROMPT,
        num_inference_steps=len(FAST),
        sigmas=list(FAST),
        latents=latents,
        guidance_scale=1.0,
        generator=generator,
        **size,
    ).images[0]
    image.save(folder / "guide.png")


def by_diffusers(folder: Path, *adapters: str, steps: int) -> None:
    """Sample along diffusers' own schedule, the adapters resident, the first one at work."""
    import torch

    pipeline = load(folder, *adapters)
    if adapters:
        pipeline.set_adapters(adapters[0])
    generator = torch.Generator("cpu").manual_seed(0)
    image = pipeline(
        prompt=PROMPT, num_inference_steps=steps, width=SIDE, height=SIDE, generator=generator
    ).images[0]
    image.save(folder / "base.png")


def load(folder: Path, *adapters: str) -> Any:
    """Load the base and the adapters as diffusers does it."""
    import torch
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for name in adapters:
        pipeline.load_lora_weights(folder / name, adapter_name=name)
    return pipeline


def paint(pipeline: Any, target: Path, switch: Callable[[str], None]) -> None:
    """Run ten Euler steps and write `target`.png, and the final latents as `target`.npy."""
    import numpy
    import torch

    rows = SIDE // 8
    with torch.inference_mode():
        embeds, pooled, text_ids = pipeline.encode_prompt(PROMPT, None)
        noise = torch.randn(1, 16, rows, rows, generator=torch.Generator("cpu").manual_seed(0))
        x = pipeline._pack_latents(noise, 1, 16, rows, rows)
        places = pipeline._prepare_latent_image_ids(1, rows // 2, rows // 2, "cpu", x.dtype)
        sigmas = torch.tensor([*SLOW, *FAST, 0.0])
        for step in range(len(SLOW) + len(FAST)):
            phase = "slow" if step < len(SLOW) else "fast"
            if step in (0, len(SLOW)):
                switch(phase)
            velocity = pipeline.transformer(
                hidden_states=x,
                timestep=sigmas[step : step + 1],
                guidance=torch.tensor([GUIDANCE[phase]]),
                pooled_projections=pooled,
                encoder_hidden_states=embeds,
                txt_ids=text_ids,
                img_ids=places,
                return_dict=False,
            )[0]
            x = x + (sigmas[step + 1] - sigmas[step]) * velocity
        numpy.save(target.with_suffix(".npy"), x.numpy())
        latents = pipeline._unpack_latents(x, SIDE, SIDE, pipeline.vae_scale_factor)
        config = pipeline.vae.config
        pixels = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor)[0]
        pipeline.image_processor.postprocess(pixels)[0].save(target.with_suffix(".png"))


WAYS: dict[str, Callable[[Path], dict[str, float] | None]] = {
    "hand": by_hand,
    "glance": by_glance,
    "guide": by_guide,
    "fused": fused,
    "base 10": lambda folder: by_diffusers(folder, steps=10),
    "base 50": lambda folder: by_diffusers(folder, steps=50),
    "resident 50": lambda folder: by_diffusers(folder, "slow", "fast", steps=50),
}

if __name__ == "__main__":
    main()
