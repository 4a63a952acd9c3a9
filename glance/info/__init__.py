"""`glance info`: all that a LoRA, a run or a picture says of itself. Reads, and changes nothing."""

from glance.info.describe import describe
from glance.info.description import Description

__all__ = ["Description", "describe"]
