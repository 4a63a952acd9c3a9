"""Random LoRAs for the tiny model, and a run that looks trained; made once a session."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run_folder(tiny_flux: Path, loras: dict[str, Path], tmp_path: Path) -> Path:
    """A finished run, as `glance train` leaves it, without having trained it."""
    import shutil

    from glance.core.phase import Phase
    from glance.runs.folder import RunFolder

    run = RunFolder(tmp_path / "work" / "runs" / "made")
    shutil.copytree(tiny_flux, run.model)
    for phase in Phase:
        run.output(phase).mkdir(parents=True)
        shutil.copy(loras[phase], run.lora(phase))
    run.manifest.write_text(json.dumps(_manifest()), encoding="utf-8")
    return run.path


def _manifest() -> dict[str, Any]:
    from glance.core.phase import Phase
    from glance.runs.manifest import (
        Manifest,
        PhaseRecord,
        PhaseState,
        SampleRecord,
        record_schedule,
    )
    from glance.runs.settings import resolve_train_settings
    from glance.schedule.lists import PRESETS

    manifest = Manifest(
        sample=SampleRecord(
            image="data/x.png", caption="data/x.txt", width=64, height=64, sha256="0"
        ),
        settings=resolve_train_settings(device="cpu", model="model", rank=4, resolution=64),
        base_model="unknown",
        schedule=record_schedule(PRESETS["guide"].schedule),
        versions={},
        phases={phase: PhaseRecord(state=PhaseState.DONE) for phase in Phase},
    )
    return manifest.model_dump(mode="json")
