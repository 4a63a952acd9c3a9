"""The ways to sample that are compared, each a function of a studio; run in a process of its own.

`python -m benchmarks.inference.ways WAY FOLDER DEVICE SIDE` prints one line of JSON.
"""

import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT = "a red circle"
SLOW = (1.0, 0.9791915, 0.9575157, 0.9349171, 0.9113354)
FAST = (0.8867053, 0.7450728, 0.5629505, 0.3200802, 0.02)
GUIDANCE = {"slow": 3.5, "fast": 1.0}


@dataclass(frozen=True)
class Studio:
    """Where the model and its LoRAs lie, where they run, how large the picture is."""

    folder: Path
    device: str
    side: int
    """Of the picture, in pixels."""

    @property
    def dtype(self) -> Any:
        """The torch.dtype that glance would choose, and everybody else here."""
        import torch

        return torch.bfloat16 if self.device == "cuda" else torch.float32


def main() -> None:
    """Import, watch, sample once, print what it took."""
    name, folder, device, side = sys.argv[1:]
    own_clock = time.process_time if device == "cpu" else time.perf_counter
    began = own_clock()
    import_for(name)
    imported = own_clock() - began
    from benchmarks.inference.meter import choose_clock, watch_flux

    clock = choose_clock(device)
    meter = watch_flux(clock)
    gc.freeze()  # no way pays for collections among what was imported: glance spares itself those
    needed_by_imports = peak_memory(device)
    wall, began = time.perf_counter(), clock()
    own = WAYS[name](Studio(Path(folder), device, int(side))) or {}
    total = clock() - began
    measured = {
        "import": imported,
        "total": total,
        "wall": time.perf_counter() - wall,
        "denoising": meter.denoising,
        "peak": peak_memory("cpu"),
        "memory": peak_memory(device) - needed_by_imports,
        **meter.seconds,
        **{f"count {part}": count for part, count in meter.counts.items()},
        **own,
    }
    sys.stdout.write(json.dumps(measured) + "\n")


def peak_memory(device: str) -> int:
    """Return the bytes that this process has held at most, of system memory or of the card."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # Linux counts kibibytes


def import_for(name: str) -> None:
    """Import what the way needs, as it does it."""
    if name == "glance":
        import glance.sampling.plan  # noqa: F401
        from glance.models.families import find_family
        from glance.sampling.generate import import_sampler

        import_sampler(find_family("flux"))
    else:
        import diffusers

        assert diffusers.FluxPipeline


def by_glance(studio: Studio) -> None:
    """Do what `glance infer` does."""
    from glance.sampling.generate import run_generation
    from glance.sampling.plan import plan_generation
    from glance.sampling.request import InferRequest
    from glance.schedule.options import ScheduleOptions

    request = InferRequest(
        prompts=(PROMPT,),
        model=str(studio.folder / "model"),
        family="flux",
        slow_lora=str(studio.folder / "slow"),
        fast_lora=str(studio.folder / "fast"),
        schedule=ScheduleOptions(name="guide"),
        slow_guidance=GUIDANCE["slow"],
        fast_guidance=GUIDANCE["fast"],
        width=studio.side,
        height=studio.side,
        device=studio.device,
        output=studio.folder / "glance.png",
        restart=True,
    )
    run_generation(plan_generation(request), lambda _: None)


def by_hand(studio: Studio) -> None:
    """Write the loop out: the floor, with nothing around it."""
    pipeline = load(studio, "slow", "fast")
    paint(pipeline, studio, "hand", pipeline.set_adapters)


def fused(studio: Studio) -> dict[str, float]:
    """As by hand, each LoRA multiplied into the weights before its phase and taken out after."""
    from benchmarks.inference.meter import choose_clock

    pipeline, clock = load(studio, "slow", "fast"), choose_clock(studio.device)
    seconds = 0.0

    def fuse(phase: str) -> None:
        nonlocal seconds
        began = clock()
        if phase == "fast":
            pipeline.unfuse_lora(components=["transformer"])
        pipeline.set_adapters(phase)
        pipeline.fuse_lora(components=["transformer"], adapter_names=[phase])
        seconds += clock() - began

    paint(pipeline, studio, "fused", fuse)
    return {"fusing": seconds}


def by_guide(studio: Studio) -> None:
    """Follow step 4 of SimpleTuner's guide: two pipelines, and all that happens twice."""
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    size = {"width": studio.side, "height": studio.side}
    pipe = load(studio, "slow")
    latents = pipe(
        prompt=PROMPT,
        num_inference_steps=len(SLOW),
        sigmas=list(SLOW),
        output_type="latent",
        generator=generator,
        **size,
    ).images
    pipe_fast = load(studio, "fast")
    image = pipe_fast(
        prompt=PROMPT,
        num_inference_steps=len(FAST),
        sigmas=list(FAST),
        latents=latents,
        guidance_scale=1.0,
        generator=generator,
        **size,
    ).images[0]
    image.save(studio.folder / "guide.png")


def by_diffusers(studio: Studio, *adapters: str, steps: int) -> None:
    """Sample along diffusers' own schedule, the adapters resident, the first one at work."""
    import torch

    pipeline = load(studio, *adapters)
    if adapters:
        pipeline.set_adapters(adapters[0])
    generator = torch.Generator("cpu").manual_seed(0)
    image = pipeline(
        prompt=PROMPT,
        num_inference_steps=steps,
        width=studio.side,
        height=studio.side,
        generator=generator,
    ).images[0]
    image.save(studio.folder / "base.png")


def load(studio: Studio, *adapters: str) -> Any:
    """Load the base and the adapters as diffusers does it."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(studio.folder / "model", torch_dtype=studio.dtype)
    pipeline.set_progress_bar_config(disable=True)
    for name in adapters:
        pipeline.load_lora_weights(studio.folder / name, adapter_name=name)
    return pipeline.to(studio.device)


def paint(pipeline: Any, studio: Studio, name: str, switch: Callable[[str], None]) -> None:
    """Run ten Euler steps and write `name`.png, and the final latents as `name`.npy."""
    import numpy
    import torch

    with torch.inference_mode():
        x = denoise(pipeline, studio, switch)
        numpy.save(studio.folder / f"{name}.npy", x.float().cpu().numpy())
        latents = pipeline._unpack_latents(x, studio.side, studio.side, pipeline.vae_scale_factor)
        config = pipeline.vae.config
        pixels = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor)[0]
        picture = pipeline.image_processor.postprocess(pixels)[0]
        picture.save(studio.folder / f"{name}.png")


def denoise(pipeline: Any, studio: Studio, switch: Callable[[str], None]) -> Any:
    """Return the packed latents, (1, (side / 16) squared, 64), after ten Euler steps.

    Numbers are rounded where FluxPipeline and its scheduler round them: in bf16 it shows.
    """
    import torch

    rows, device, dtype = studio.side // 8, studio.device, studio.dtype
    generator = torch.Generator("cpu").manual_seed(0)
    embeds, pooled, text_ids = pipeline.encode_prompt(PROMPT, None)
    noise = torch.randn(1, 16, rows, rows, generator=generator, dtype=dtype).to(device)
    x = pipeline._pack_latents(noise, 1, 16, rows, rows)
    places = pipeline._prepare_latent_image_ids(1, rows // 2, rows // 2, device, dtype)
    sigmas = torch.tensor([*SLOW, *FAST, 0.0], device=device)
    timesteps = (sigmas * 1000).to(dtype)
    for step in range(len(SLOW) + len(FAST)):
        phase = "slow" if step < len(SLOW) else "fast"
        if step in (0, len(SLOW)):
            switch(phase)
        velocity = pipeline.transformer(
            hidden_states=x,
            timestep=timesteps[step : step + 1] / 1000,
            guidance=torch.full([1], GUIDANCE[phase], device=device),
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=places,
            return_dict=False,
        )[0]
        x = (x.float() + (sigmas[step + 1] - sigmas[step]) * velocity).to(dtype)
    return x


WAYS: dict[str, Callable[[Studio], dict[str, float] | None]] = {
    "hand": by_hand,
    "glance": by_glance,
    "guide": by_guide,
    "fused": fused,
    "base 10": lambda studio: by_diffusers(studio, steps=10),
    "base 50": lambda studio: by_diffusers(studio, steps=50),
    "resident 50": lambda studio: by_diffusers(studio, "slow", "fast", steps=50),
}

if __name__ == "__main__":
    main()
