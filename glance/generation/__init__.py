"""`glance infer`: pair finds the LoRAs and what belongs to them, plan decides, execute samples."""

from glance.generation.execute import run_generation
from glance.generation.plan import plan_generation
from glance.generation.request import GenerationPlan, GenerationResult, InferRequest

__all__ = [
    "GenerationPlan",
    "GenerationResult",
    "InferRequest",
    "plan_generation",
    "run_generation",
]
