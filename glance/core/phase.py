"""The two phases of a sampling, and so the two LoRAs of a pair."""

from enum import StrEnum


class Phase(StrEnum):
    """The two LoRAs of a pair, in the order in which they are trained and sampled."""

    SLOW = "slow"
    FAST = "fast"

    @property
    def other(self) -> "Phase":
        """The other of the two."""
        return Phase.FAST if self is Phase.SLOW else Phase.SLOW
