"""Noise levels: both phases' lists, the models' own schedules, and schedules as files.

Names of `lists` are also names of this package; `shift`, `derive` and `file` are imported where
they are needed.
"""

from glance.schedule.lists import (
    DEFAULT_SCHEDULE,
    MAX_TIMESTEP,
    PRESETS,
    PhaseSchedule,
    Preset,
    Schedule,
    WrittenList,
    parse_list,
    replace_lists,
    resolve_schedule,
)

__all__ = [
    "DEFAULT_SCHEDULE",
    "MAX_TIMESTEP",
    "PRESETS",
    "PhaseSchedule",
    "Preset",
    "Schedule",
    "WrittenList",
    "parse_list",
    "replace_lists",
    "resolve_schedule",
]
