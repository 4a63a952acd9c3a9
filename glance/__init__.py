"""glance: from one image and its caption to a slow and a fast LoRA, and to ten-step pictures.

The public names are imported when they are used: `import glance` costs nothing. docs/api.md shows
them at work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glance.compare import CompareRequest, compare_pair, plan_comparison, run_comparison
    from glance.diffusion.glance_pipeline import GlancePipeline
    from glance.errors import GlanceError
    from glance.generation.execute import load_planned, run_generation
    from glance.generation.plan import plan_generation
    from glance.generation.request import InferRequest
    from glance.phase import Phase
    from glance.provenance import read_record
    from glance.schedule import PRESETS, Schedule, resolve_schedule
    from glance.schedule.derive import derive_schedule
    from glance.schedule.shift import read_shift
    from glance.training.execute import run_training
    from glance.training.plan import plan_training
    from glance.training.request import TrainRequest

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "CompareRequest",
    "GlanceError",
    "GlancePipeline",
    "InferRequest",
    "Phase",
    "Schedule",
    "TrainRequest",
    "__version__",
    "compare_pair",
    "derive_schedule",
    "load_planned",
    "plan_comparison",
    "plan_generation",
    "plan_training",
    "read_record",
    "read_shift",
    "resolve_schedule",
    "run_comparison",
    "run_generation",
    "run_training",
]

_MODULES = {
    "PRESETS": "schedule",
    "CompareRequest": "compare",
    "GlanceError": "errors",
    "GlancePipeline": "diffusion.glance_pipeline",
    "InferRequest": "generation.request",
    "Phase": "phase",
    "Schedule": "schedule",
    "TrainRequest": "training.request",
    "compare_pair": "compare",
    "derive_schedule": "schedule.derive",
    "load_planned": "generation.execute",
    "plan_comparison": "compare",
    "plan_generation": "generation.plan",
    "plan_training": "training.plan",
    "read_record": "provenance",
    "read_shift": "schedule.shift",
    "resolve_schedule": "schedule",
    "run_comparison": "compare",
    "run_generation": "generation.execute",
    "run_training": "training.execute",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
