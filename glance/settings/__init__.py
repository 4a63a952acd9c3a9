"""What the user asked for, resolved once: one frozen object for training, one for sampling.

They speak glance's words; `simpletuner/` translates. Every default is decided here or in the
family's row, never further down.
"""

from glance.sample import Crop
from glance.schedule import DEFAULT_SCHEDULE
from glance.settings.sample import SampleSettings, resolve_sample_settings
from glance.settings.train import (
    Layers,
    Preset,
    Teacher,
    TrainSettings,
    resolve_preset,
    resolve_train_settings,
)

__all__ = [
    "DEFAULT_SCHEDULE",
    "Crop",
    "Layers",
    "Preset",
    "SampleSettings",
    "Teacher",
    "TrainSettings",
    "resolve_preset",
    "resolve_sample_settings",
    "resolve_train_settings",
]
