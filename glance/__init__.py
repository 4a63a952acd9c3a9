"""glance: from one image and its caption to a slow and a fast LoRA, and to ten-step pictures.

The public names are imported when they are used: `import glance` costs nothing. docs/api.md shows
them at work.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glance.batch.infer import plan_batch_infer, run_batch_infer
    from glance.batch.request import BatchInferRequest
    from glance.core.errors import GlanceError
    from glance.core.phase import Phase
    from glance.evaluation.compare import compare_pair, plan_comparison, run_comparison
    from glance.evaluation.request import CompareRequest
    from glance.sampling.generate import load_planned, run_generation
    from glance.sampling.pipeline.glance_pipeline import GlancePipeline
    from glance.sampling.plan import plan_generation
    from glance.sampling.provenance import read_record
    from glance.sampling.request import ExtraLora, InferRequest
    from glance.schedule.lists import PRESETS, Schedule, resolve_schedule
    from glance.schedule.shift import derive_schedule, read_shift
    from glance.training.execute import run_training
    from glance.training.plan import plan_training
    from glance.training.request import TrainRequest

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "BatchInferRequest",
    "CompareRequest",
    "ExtraLora",
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
    "plan_batch_infer",
    "plan_comparison",
    "plan_generation",
    "plan_training",
    "read_record",
    "read_shift",
    "resolve_schedule",
    "run_batch_infer",
    "run_comparison",
    "run_generation",
    "run_training",
]

_MODULES = {
    "PRESETS": "schedule.lists",
    "BatchInferRequest": "batch.request",
    "CompareRequest": "evaluation.request",
    "ExtraLora": "sampling.request",
    "GlanceError": "core.errors",
    "GlancePipeline": "sampling.pipeline.glance_pipeline",
    "InferRequest": "sampling.request",
    "Phase": "core.phase",
    "Schedule": "schedule.lists",
    "TrainRequest": "training.request",
    "compare_pair": "evaluation.compare",
    "derive_schedule": "schedule.shift",
    "load_planned": "sampling.generate",
    "plan_batch_infer": "batch.infer",
    "plan_comparison": "evaluation.compare",
    "plan_generation": "sampling.plan",
    "plan_training": "training.plan",
    "read_record": "sampling.provenance",
    "read_shift": "schedule.shift",
    "resolve_schedule": "schedule.lists",
    "run_batch_infer": "batch.infer",
    "run_comparison": "evaluation.compare",
    "run_generation": "sampling.generate",
    "run_training": "training.execute",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
