"""The run folder: where everything lies, and glance.json, its manifest.

A run is what people keep, move and share: no path in it leaves it, but for a base model that
lies beside it.
"""

from glance.run.folder import (
    LORA_FILE,
    RUNS,
    TRAINERS_PAGE,
    RunFolder,
    environment,
    writing,
)
from glance.run.manifest import (
    SCHEMA_VERSION,
    Attempt,
    ImportRecord,
    LoraRecord,
    Manifest,
    Measured,
    PhaseRecord,
    PhaseState,
    SampleRecord,
    ScheduleRecord,
    find_newest_run,
    iterate_runs,
    load_manifest,
    now,
    record_schedule,
)
from glance.run.reading import choose_run, read_caption, require_finished

__all__ = [
    "LORA_FILE",
    "RUNS",
    "SCHEMA_VERSION",
    "TRAINERS_PAGE",
    "Attempt",
    "ImportRecord",
    "LoraRecord",
    "Manifest",
    "Measured",
    "PhaseRecord",
    "PhaseState",
    "RunFolder",
    "SampleRecord",
    "ScheduleRecord",
    "choose_run",
    "environment",
    "find_newest_run",
    "iterate_runs",
    "load_manifest",
    "now",
    "read_caption",
    "record_schedule",
    "require_finished",
    "writing",
]
