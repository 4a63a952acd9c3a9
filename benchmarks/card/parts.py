"""Which parts there are, in the order of their worth, and what each is expected to take.

Seconds are guesses of an H100: nobody has run them yet. What the parts that have ended took
corrects those to come.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from benchmarks.card.runner import Part
from glance.core.device import Device

TINY: Final = "tiny"
REFERENCE: Final = 989e12
"""Operations a second of an H100, in which `Part.work` is reckoned."""
_WEIGHTS: Final = 34.0  # GB of FLUX.1-dev, T5 and CLIP in bf16
_TINY_SECONDS: Final = 3.0
_TINY_TRAINING: Final = 12.0


def _mode(quantize: str, memory: str, *, work: float, card: float, system: float) -> Part:
    is_read = quantize == "4bit"  # bitsandbytes quantises what it loads
    return Part(
        name=f"mode-{quantize}-{memory}",
        what=f"--quantize {quantize} --offload {memory}: ten steps, then on pretended cards of 24, "
        "16 and 12 GB",
        call="sampling.measure_mode",
        arguments=(quantize, memory),
        needs=(("torchao",) if quantize == "8bit" else ("bitsandbytes",) if is_read else ()),
        after="write" if is_read else None,
        fixed=60.0 if is_read else 35.0,
        work=work,
        card_gb=card,
        system_gb=system,
    )


def _training(vram: str, launcher: str, *, card: float, system: float) -> Part:
    needs = ("simpletuner", "bitsandbytes") if vram in _BY_BITSANDBYTES else ("simpletuner",)
    return Part(
        name=f"train-{vram}-{launcher}",
        what=f"real SimpleTuner, --vram {vram}, --launcher {launcher}: start, step, peaks",
        call="training.train_preset",
        arguments=(vram, launcher),
        needs=needs,
        after="write",
        fixed=200.0,
        work=15.0,
        card_gb=card,
        system_gb=system,
        disk_gb=2.0,
    )


_BY_BITSANDBYTES: Final = ("12", "16")
PARTS: Final[Sequence[Part]] = (
    Part(
        name="speed",
        what="imports; how fast the card multiplies, and copies from system memory",
        call="sampling.measure_speed",
        fixed=60.0,
        card_gb=3.0,
        is_cold=True,
    ),
    Part(
        name="small",
        what="the small model's pictures, on the card and on the CPU: read alike, how far apart",
        call="small.compare_devices",
        fixed=45.0,
        card_gb=1.0,
    ),
    Part(
        name="flux",
        what="FLUX.1-dev's size: ten and fifty steps, both LoRAs, by glance, by hand and by "
        "diffusers; encoding, decoding, switching",
        call="sampling.measure_flux",
        fixed=45.0,
        work=65.0,
        card_gb=45.0,
        system_gb=16.0,
    ),
    Part(
        name="tests",
        what="tests/gpu, all of them",
        call="small.run_tests",
        needs=("pytest", "xdist"),
        fixed=90.0,
        card_gb=1.0,
    ),
    Part(
        name="record",
        what="recording a teacher in batches of 1 to 8, next to diffusers: passes a second, bytes",
        call="sampling.measure_recording",
        fixed=35.0,
        work=80.0,
        card_gb=80.0,
        system_gb=16.0,
    ),
    _mode("8bit", "full", work=12.0, card=24.0, system=16.0),
    _mode("none", "group", work=30.0, card=10.0, system=70.0),
    _mode("8bit", "offload", work=20.0, card=18.0, system=32.0),
    _mode("none", "offload", work=30.0, card=28.0, system=45.0),
    Part(
        name="compile",
        what="--compile: the first picture, the next, next to the same not compiled",
        call="sampling.measure_compile",
        needs=("triton",),
        fixed=110.0,
        work=15.0,
        card_gb=45.0,
        system_gb=16.0,
    ),
    _mode("8bit", "group", work=25.0, card=8.0, system=50.0),
    _mode("fp8", "full", work=12.0, card=32.0, system=16.0),
    _mode("none", "full", work=12.0, card=45.0, system=16.0),
    _mode("fp8", "offload", work=20.0, card=20.0, system=45.0),
    Part(
        name="write",
        what="the model on the disk, for all that follows",
        call="training.write",
        fixed=80.0,
        card_gb=36.0,
        system_gb=32.0,
        disk_gb=_WEIGHTS + 6,
    ),
    _mode("4bit", "full", work=12.0, card=20.0, system=40.0),
    _mode("4bit", "offload", work=20.0, card=14.0, system=40.0),
    _training("24", "direct", card=24.0, system=60.0),
    Part(
        name="evidence-large",
        what="the small model's pair of four steps, more captions and steps than a CPU affords",
        call="small.distil",
        arguments=("large",),
        fixed=200.0,
        card_gb=2.0,
    ),
    _training("24", "simpletuner", card=24.0, system=60.0),
    _training("48", "direct", card=48.0, system=40.0),
    Part(
        name="teach",
        what="a distilling step of real SimpleTuner, next to one of its own",
        call="training.compare_steps",
        needs=("simpletuner",),
        after="write",
        fixed=420.0,
        work=60.0,
        card_gb=24.0,
        system_gb=60.0,
        disk_gb=4.0,
    ),
    Part(
        name="distil-small",
        what="glance distill of the small model by real SimpleTuner, with its verdict",
        call="training.distil_small",
        needs=("simpletuner",),
        fixed=240.0,
        card_gb=2.0,
    ),
    _training("16", "direct", card=16.0, system=60.0),
    _training("12", "direct", card=12.0, system=60.0),
    Part(
        name="evidence-default",
        what="the same pair as glance distill makes it by default",
        call="small.distil",
        arguments=("default",),
        fixed=90.0,
        card_gb=2.0,
    ),
    Part(
        name="evidence-rounds",
        what="the same, in four rounds from the states that its own steps come to",
        call="small.distil",
        arguments=("rounds",),
        fixed=240.0,
        card_gb=2.0,
    ),
    _mode("none", "sequential", work=240.0, card=6.0, system=45.0),
    Part(
        name="evidence-largest",
        what="the same of 4,096 captions, 8,000 steps and four rounds",
        call="small.distil",
        arguments=("largest",),
        fixed=900.0,
        card_gb=4.0,
    ),
)
_ON_CARD_ONLY: Final = ("offload", "group", "sequential", "4bit")
_ALIKE: Final = ("12", "16", "24", "48", "large", "default", "rounds", "largest")
"""Arguments that do not matter where all is tiny."""


def tiny_parts(device: Device) -> Sequence[Part]:
    """Return those that a tiny run goes through on the device, with what they take there."""

    def is_possible(part: Part) -> bool:
        return device is Device.CUDA or not set(part.arguments) & set(_ON_CARD_ONLY)

    chosen: dict[tuple[str, ...], Part] = {}
    for part in filter(is_possible, PARTS):
        fixed = _TINY_TRAINING if "simpletuner" in part.needs else _TINY_SECONDS
        needs = tuple(name for name in part.needs if name not in ("triton", "bitsandbytes"))
        kind = (part.call, *(one for one in part.arguments if one not in _ALIKE))
        small = replace(part, needs=needs, fixed=fixed, work=0.0)
        chosen.setdefault(kind, replace(small, card_gb=0.0, system_gb=1.0, disk_gb=0.1))
    return tuple(chosen.values())


def find_part(name: str) -> Part:
    """Return the part of that name."""
    return next(part for part in PARTS if part.name == name)
