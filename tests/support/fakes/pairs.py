"""Two small LoRAs of nobody's model, and a finished run that holds them; made without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from glance.core.phase import Phase
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.runs.lora import Origin
from glance.runs.manifest import Manifest, PhaseRecord, PhaseState, SampleRecord, record_schedule
from glance.runs.settings import resolve_train_settings
from glance.schedule.lists import PRESETS

LAYER = "transformer.transformer_blocks.0.attn.to_q"


def write_lora(path: Path, metadata: Mapping[str, str] | None = None, *, fill: float = 1.0) -> Path:
    """Write a LoRA of one layer and rank 2; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {"lora_A": (2, 8), "lora_B": (8, 2)}
    tensors = {
        f"{LAYER}.{half}.weight": np.full(shape, fill, np.float32) for half, shape in shapes.items()
    }
    save_file(tensors, path, metadata=dict(metadata or {"format": "pt"}))
    return path


def glance_header(phase: Phase, name: str = "guide", **more: str) -> dict[str, str]:
    """Return what glance writes into the header of a finished LoRA."""
    part = PRESETS[name].schedule.phase(phase)
    return {
        "glance.phase": phase.value,
        "glance.family": "flux",
        "glance.timesteps": json.dumps(part.timesteps),
        "glance.folded_scale": "4.0",
        **more,
    }


def make_origin(phase: Phase, **changes: Any) -> Origin:
    """Return where a LoRA comes from, as a run of FLUX.1 tells it."""
    usual = {
        "phase": phase,
        "schedule": PRESETS["guide"].schedule,
        "family": find_family("flux"),
        "model": "black-forest-labs/FLUX.1-dev",
        "base_model": "black-forest-labs/FLUX.1-dev",
        "pair": "cat-01234567",
        "pair_id": "0123456789abcdef",
        "resolution": 1024,
        "version": "1.2.3",
    }
    return Origin(**{**usual, **changes})


def write_pair(folder: Path) -> dict[str, str]:
    """Write both LoRAs as glance finishes them; return them as a request names them."""
    return {
        f"{phase}_lora": str(write_lora(folder / f"{phase}.safetensors", glance_header(phase)))
        for phase in Phase
    }


def write_run(path: Path, *, model: str = "acme/tiny", **settings: Any) -> RunFolder:
    """Write a finished run, as `glance train` leaves it."""
    run = RunFolder(path)
    for phase in Phase:
        write_lora(run.lora(phase), glance_header(phase))
    Manifest(
        sample=SampleRecord(
            image="data/x.png", caption="data/x.txt", width=64, height=64, sha256="0"
        ),
        settings=resolve_train_settings(
            **{"device": "cpu", "model": model, "rank": 2, "resolution": 64, **settings}
        ),
        base_model="unknown",
        schedule=record_schedule(PRESETS["guide"].schedule),
        versions={},
        phases={phase: PhaseRecord(state=PhaseState.DONE) for phase in Phase},
    ).save(run)
    return run
