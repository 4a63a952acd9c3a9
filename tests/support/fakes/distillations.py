"""A model of which only the plan is known, distillations of it, and recordings that nobody made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from fakes.runs import with_options
from PIL import Image
from safetensors.numpy import save_file

from glance.core.files import write_text
from glance.models.families import find_family
from glance.runs.folder import RunFolder
from glance.training.distillation import DistillationPlan, plan_distillation
from glance.training.recording import STATES, describe_path
from glance.training.request import DistillRequest

MODEL = Path("model")
RUN = RunFolder(Path("runs/model-distilled"))
PROMPTS = ("a grey circle", "a red square")


def make_model(family: str = "flux", folder: Path = MODEL) -> Path:
    """Write as much of a model as a plan reads; return its folder."""
    row = find_family(family)
    shift = {"use_dynamic_shifting": True} if family == "flux" else {"shift": 3.0}
    files = {
        "model_index.json": {"_class_name": row.pipeline},
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            **shift,
        },
        "transformer/config.json": dict(row.transformer_config),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def distil(**changes: Any) -> DistillationPlan:
    """Plan two prompts of the model in the current folder: five steps of rank 4 at 64 pixels."""
    usual = {
        "model": str(MODEL),
        "prompts": PROMPTS,
        "sizes": ("64x64",),
        "noises": 2,
        "steps": 5,
        "batch_size": 1,
        "rank": 4,
        "device": "cpu",
        "compares": False,
    }
    return plan_distillation(DistillRequest(**{**usual, **with_options(changes)}))


def record_nothing(plan: DistillationPlan) -> None:
    """Leave what recording leaves, with zeros for states."""
    for one in plan.paths:
        recording, picture = one.recording(plan.run), one.picture(plan.run)
        for path in (recording, picture):
            path.parent.mkdir(parents=True, exist_ok=True)
        states = np.zeros((len(plan.kept_sigmas), 16, 8, 8), np.float32)
        save_file({STATES: states}, recording, metadata=dict(describe_path(plan, one)))
        write_text(picture.with_suffix(".txt"), one.settings.prompt + "\n")
        Image.new("RGB", (one.settings.width, one.settings.height)).save(picture)
