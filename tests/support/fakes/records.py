"""What a generated image records of its making."""

from typing import Any

from glance.core.device import Device, Precision
from glance.sampling.provenance import Record, ScheduleUse
from glance.sampling.settings import SampleSettings
from glance.schedule.lists import PRESETS


def make_record(prompt: str = "a cat", **changes: Any) -> Record:
    """A record of FLUX and the guide's list, without LoRAs."""
    usual: dict[str, Any] = {
        "versions": {"torch": "2.13.0"},
        "family": "flux",
        "model": "acme/tiny",
        "base_revision": "1",
        "device": Device.CPU,
        "dtype": Precision.FP32,
        "schedule": ScheduleUse.of(PRESETS["guide"].schedule),
        "loras": (),
        "settings": SampleSettings(
            prompt=prompt, seed=7, slow_guidance=3.5, fast_guidance=1.0, width=64, height=64
        ),
    }
    return Record(**{**usual, **changes})
