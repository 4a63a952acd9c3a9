"""Render configs/ anew: for each family, what `glance train --dry-run` shows for data/glance.png.

And flux-distill/: what `glance distill --model black-forest-labs/FLUX.1-dev --device cuda
--dry-run` shows.
`uv run python scripts/render_configs.py`. A test holds the folder to it.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glance.core.device import Device
from glance.core.files import write_json
from glance.models.families import FAMILIES
from glance.training.distillation import plan_distillation
from glance.training.plan import plan_training
from glance.training.request import DistillRequest, TrainRequest

ROOT = Path(__file__).parents[1]


def render() -> Iterator[tuple[Path, Any]]:
    """Yield each file's path below configs/ and its content; the same on every machine."""
    for family, row in FAMILIES.items():
        request = TrainRequest(
            image=(ROOT / "data/glance.png",),
            reference=ROOT / "data/by-day.png" if row.edits else None,
            family=family,
            device=Device.CUDA,
            restart=True,
        )
        for name, content in plan_training(request).files.items():
            yield Path(family) / name, content
    distilled = DistillRequest(
        model="black-forest-labs/FLUX.1-dev", device=Device.CUDA, restart=True
    )
    for name, content in plan_distillation(distilled).training.files.items():
        yield Path("flux-distill") / name, content


def main() -> None:
    """Write configs/."""
    target = ROOT / "configs"
    shutil.rmtree(target, ignore_errors=True)
    for path, content in render():
        write_json(target / path, content)


if __name__ == "__main__":
    main()
