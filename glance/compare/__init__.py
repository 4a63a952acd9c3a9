"""What a pair is worth, at a glance: the same noise through the base model and through the pair.

`request` and `result` hold the objects, `plan` decides, `execute` paints what the `cache` does not
hold, `measure` compares the pictures, `summary` makes means of the figures, `verdict` says whether
the pair helps, `sheet` and `page` show all of it, `outputs` writes it, `trial` is what
`glance train --compare` ends with.
"""

from glance.compare.execute import compare_pair, run_comparison
from glance.compare.outputs import Report
from glance.compare.plan import plan_comparison
from glance.compare.request import CompareRequest, ComparisonPlan, Metric, Variant
from glance.compare.result import Cell, Comparison, Judge, Row
from glance.compare.verdict import Verdict, judge

__all__ = [
    "Cell",
    "CompareRequest",
    "Comparison",
    "ComparisonPlan",
    "Judge",
    "Metric",
    "Report",
    "Row",
    "Variant",
    "Verdict",
    "compare_pair",
    "judge",
    "plan_comparison",
    "run_comparison",
]
