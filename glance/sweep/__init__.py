"""`glance sweep`: one pair trained with several settings, each point a run of its own."""

from glance.sweep.execute import run_sweep
from glance.sweep.plan import plan_sweep
from glance.sweep.request import PlannedPoint, SweepPlan, SweepRequest
from glance.sweep.result import PointResult, SweepResult

__all__ = [
    "PlannedPoint",
    "PointResult",
    "SweepPlan",
    "SweepRequest",
    "SweepResult",
    "plan_sweep",
    "run_sweep",
]
