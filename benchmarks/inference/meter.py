"""Counts and times the parts of a sampling, the same for every way: it wraps diffusers' methods."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def choose_clock(device: str) -> Callable[[], float]:
    """Return what tells the seconds.

    On the CPU they are the processor's: each way runs on one thread, and what else runs on the
    machine then changes little. On a GPU it is the clock on the wall, read when the GPU has done
    all it was given.
    """
    if device == "cpu":
        return time.process_time
    import torch

    def tell() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return tell


@dataclass
class Meter:
    """What was called how often, and how many seconds that took."""

    clock: Callable[[], float]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    first_forward: float = 0.0
    last_forward: float = 0.0

    @property
    def denoising(self) -> float:
        """From the beginning of the first forward pass to the end of the last."""
        return self.last_forward - self.first_forward

    def watch(self, part: str, owner: Any, name: str) -> None:
        """Count and time every call of a method of the class `owner` as `part`."""
        method = getattr(owner, name)  # bound, where it is a class method
        self.counts[part], self.seconds[part] = 0, 0.0

        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self.clock()
            result = method(*args, **kwargs)
            ended = self.clock()
            self.counts[part] += 1
            self.seconds[part] += ended - began
            if part == "forward":
                self.first_forward = self.first_forward or began
                self.last_forward = ended
            return result

        setattr(owner, name, timed)


def watch_flux(clock: Callable[[], float]) -> Meter:
    """Watch what FLUX is sampled with from here on."""
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
    from transformers import T5EncoderModel

    meter = Meter(clock)
    meter.watch("base", FluxPipeline, "from_pretrained")
    meter.watch("move", FluxPipeline, "to")
    meter.watch("lora", FluxTransformer2DModel, "load_lora_adapter")
    meter.watch("encode", T5EncoderModel, "forward")
    meter.watch("forward", FluxTransformer2DModel, "forward")
    meter.watch("decode", AutoencoderKL, "decode")
    return meter
