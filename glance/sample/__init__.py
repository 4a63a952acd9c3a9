"""The picture and its caption: finds, examines, loads and stages the pair to train on."""

from glance.sample.caption import estimate_tokens
from glance.sample.examine import (
    Examination,
    Sample,
    examine_sample,
    load_sample,
    measure_picture,
    name_safely,
    safe_name,
)
from glance.sample.picture import fitting_area
from glance.sample.stage import Stage, stage_sample
from glance.sample.view import Crop, View, fit_reference, fit_view

__all__ = [
    "Crop",
    "Examination",
    "Sample",
    "Stage",
    "View",
    "estimate_tokens",
    "examine_sample",
    "fit_reference",
    "fit_view",
    "fitting_area",
    "load_sample",
    "measure_picture",
    "name_safely",
    "safe_name",
    "stage_sample",
]
