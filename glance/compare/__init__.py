"""What a pair is worth, at a glance: the same noise through the base model and through the pair.

`request` and `result` hold the objects, `plan` decides, `execute` paints what the `cache` does not
hold, `measure` compares the pictures, `summary` makes means of the figures, `sheet` and `page` show
them, `outputs` writes them, `trial` is what `glance train --compare` ends with.
"""

from glance.compare.execute import run_comparison
from glance.compare.plan import plan_comparison
from glance.compare.request import CompareRequest, ComparisonPlan, Metric, Variant
from glance.compare.result import Cell, Comparison, Judge, Row
from glance.compare.sheet import save_sheet

__all__ = [
    "Cell",
    "CompareRequest",
    "Comparison",
    "ComparisonPlan",
    "Judge",
    "Metric",
    "Row",
    "Variant",
    "plan_comparison",
    "run_comparison",
    "save_sheet",
]
