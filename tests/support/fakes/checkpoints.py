"""Checkpoints of the slow phase, as SimpleTuner 4.10.1 leaves them, in small."""

import json
import zipfile
from pathlib import Path

from fakes.runs import RUN
from fakes.simpletuner import LORA, pack_lora

from glance.core.phase import Phase

SLOW = Phase.SLOW
OUTPUT = RUN.output(SLOW)


def make_checkpoint(step: int) -> Path:
    """Write a whole one; return its folder."""
    folder = OUTPUT / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / LORA).write_bytes(pack_lora(4, 0.25))
    for name in ("optimizer.bin", "random_states_0.pkl", "scheduler.bin"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data.pkl", bytes(range(256)))
    (folder / "training_state.json").write_text(json.dumps({"global_step": step}))
    names = [*(path.name for path in folder.iterdir()), "training_state-glance.json"]
    (folder / "checkpoint_manifest.json").write_text(json.dumps({"files": sorted(names)}))
    (folder / ".guard").write_text("complete\n")
    return folder
