"""What a picture says of its own making: written into it, and read back out of it."""

from glance.provenance.infotext import format_parameters
from glance.provenance.picture import (
    FORMATS,
    parse_record,
    read_record,
    require_room,
    write_picture,
)
from glance.provenance.record import LoraUse, Record, ScheduleUse

__all__ = [
    "FORMATS",
    "LoraUse",
    "Record",
    "ScheduleUse",
    "format_parameters",
    "parse_record",
    "read_record",
    "require_room",
    "write_picture",
]
