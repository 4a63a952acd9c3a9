"""`glance train`: plan decides and touches nothing, prepare makes the run folder, execute acts."""

from glance.training.execute import TrainingResult, run_training
from glance.training.plan import plan_training
from glance.training.request import TrainingPlan, TrainRequest

__all__ = [
    "TrainRequest",
    "TrainingPlan",
    "TrainingResult",
    "plan_training",
    "run_training",
]
